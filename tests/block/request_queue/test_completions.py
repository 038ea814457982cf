"""Batches and completions of request queues, what breaks them, and what a reset takes back."""

import pytest

from tests.block.queue_bench import (
    LANGUAGES,
    Done,
    Language,
    is_in_order,
    is_packed,
    limits_of,
    make_puppet_bench,
)
from tests.clauses import clause
from vioblk.block.request import STATUS_PENDING, RequestType
from vioblk.errors import (
    DeviceGoneError,
    QueueBroken,
)

IN, OUT, FLUSH = RequestType.IN, RequestType.OUT, RequestType.FLUSH
GET_ID, DISCARD, WRITE_ZEROES = RequestType.GET_ID, RequestType.DISCARD, RequestType.WRITE_ZEROES


# -- Batches -----------------------------------------------------------------------------------


def test_a_batch_is_one_publish_and_one_kick(ring: Language) -> None:
    bench = make_puppet_bench(ring, 16)
    assert not bench.queue.take_kick()
    assert bench.queue.submit_many(bench.record(FLUSH) * 8) == 8
    assert len(bench.puppet.take()) == 8
    assert bench.queue.kick_count == 1
    assert bench.queue.take_kick()
    assert not bench.queue.take_kick()


def test_submit_accepts_from_the_front_as_many_as_fit(ring: Language) -> None:
    bench = make_puppet_bench(ring, 16)
    records = [bench.record(IN, sector=n, token=n) for n in range(9)]
    assert bench.queue.submit_many(b"".join(records)) == 5
    assert bench.queue.submit_many(records[5]) == 0
    used = 0 if is_in_order(ring) else 2
    bench.complete(bench.puppet.take()[used])
    assert [done.token for done in bench.reap()] == [used]
    assert bench.queue.submit_many(b"".join(records[5:])) == 1
    chain = bench.puppet.follow(bench.puppet.take()[0])
    assert bench.header(chain[0]).sector == 5


def test_submitting_nothing_is_nothing(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    assert bench.queue.submit_many(b"") == 0
    assert not bench.queue.take_kick()
    bench.queue.execute(b"", bytearray())


@pytest.mark.parametrize(
    ("size", "indirect_table_size", "size_max", "seg_max", "depth"),
    [
        (64, 0, 0, 126, 21),
        (64, 3, 0, 126, 64),
        (64, 0, 4096, 2, 16),
        (64, 3, 4096, 2, 16),
        (64, 4, 4096, 2, 64),
        (4, 0, 0, 0, 1),
        (4, 0, 512, 126, 1),
    ],
)
def test_depth_is_how_many_of_the_longest_requests_fit(
    ring: Language, size: int, indirect_table_size: int, size_max: int, seg_max: int, depth: int
) -> None:
    bench = make_puppet_bench(
        ring,
        size,
        limits=limits_of(size_max=size_max, seg_max=seg_max),
        indirect_table_size=indirect_table_size,
    )
    assert bench.queue.depth == depth
    length = size_max * min(seg_max, size - 2) if size_max else 4096
    records = bench.record(IN, length=length) * (depth + 1)
    assert bench.queue.submit_many(records) == depth


# -- Completions -------------------------------------------------------------------------------


def test_a_completion_tells_token_status_and_written_bytes(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    token = (1 << 64) - 2
    records = [
        bench.record(IN, length=1024, token=token),
        bench.record(OUT, length=1024, token=1),
        bench.record(GET_ID, token=2),
    ]
    bench.queue.submit_many(b"".join(records))
    read, write, get_id = bench.puppet.take()
    expected = [Done(token, 1024, 0), Done(1, 0, 1), Done(2, 20, 2)]
    order = [0, 1, 2] if is_in_order(ring) else [2, 1, 0]
    for position in order:
        bench.complete((read, write, get_id)[position], expected[position].status)
    assert bench.queue.in_flight == 3
    assert bench.reap() == [expected[position] for position in order]
    assert bench.queue.in_flight == 0


@pytest.mark.parametrize(("used_length", "written_bytes"), [(513, 512), (0xFFFF_FFFF, 512)])
def test_the_status_byte_does_not_count_as_written_data(
    ring: Language, used_length: int, written_bytes: int
) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(IN, token=3))
    bench.complete(bench.puppet.take()[0], used_length=used_length)
    assert bench.reap() == [Done(3, written_bytes, 0)]


@clause("SPLIT-USED-01", "SPLIT-USED-02")
@pytest.mark.parametrize("used_length", [0, 1, 511, 512])
@pytest.mark.parametrize(("status", "reported"), [(0, STATUS_PENDING), (1, 1), (2, 2)])
def test_success_past_the_used_length_is_not_believed(
    ring: Language, used_length: int, status: int, reported: int
) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(IN, token=3))
    bench.complete(bench.puppet.take()[0], status=status, used_length=used_length)
    assert bench.reap() == [Done(3, used_length, reported)]


def test_a_device_that_need_not_give_a_used_length_is_believed_without(ring: Language) -> None:
    """On the legacy interface it is unreliable; on a packed ring it counts with WRITE alone, which
    QEMU's devices do not set."""
    bench = make_puppet_bench(ring, legacy_align=None if is_packed(ring) else 4096)
    bench.queue.submit_many(bench.record(IN, token=3))
    bench.complete(bench.puppet.take()[0], used_length=0, write_flag=False)
    assert bench.reap() == [Done(3, 0, 0)]


def test_a_status_that_the_device_did_not_write_stays_pending(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(FLUSH))
    bench.puppet.use(bench.puppet.take()[0], 1)
    assert [done.status for done in bench.reap()] == [STATUS_PENDING]


@pytest.mark.parametrize("ring", [each for each in LANGUAGES if is_in_order(each)])
def test_in_order_one_used_element_completes_all_requests_before_it_as_well(
    ring: Language,
) -> None:
    """A skipped request counts as written completely; what became of it, its status byte says."""
    bench = make_puppet_bench(ring, 16)
    records = [
        bench.record(IN, length=1024, token=1),
        bench.record(OUT, length=1024, token=2),
        bench.record(FLUSH, token=3),
        bench.record(GET_ID, token=4),
    ]
    bench.queue.submit_many(b"".join(records))
    heads = bench.puppet.take()
    for head, status in ((heads[0], 0), (heads[1], 1), (heads[3], 0)):
        bench.write_status(head, status)
    bench.puppet.use_batch(heads, 21)
    assert bench.reap(1) == [Done(1, 1024, 0)]
    assert bench.queue.in_flight == 3
    assert bench.reap() == [Done(2, 0, 1), Done(3, 0, STATUS_PENDING), Done(4, 20, 0)]


def test_reap_fills_what_there_is_room_for_and_keeps_the_rest(ring: Language) -> None:
    bench = make_puppet_bench(ring, 16)
    bench.queue.submit_many(b"".join(bench.record(FLUSH, token=n) for n in range(5)))
    for head in bench.puppet.take():
        bench.complete(head)
    assert [done.token for done in bench.reap(2)] == [0, 1]
    assert bench.queue.in_flight == 3
    assert [done.token for done in bench.reap(2)] == [2, 3]
    assert [done.token for done in bench.reap(2)] == [4]
    assert bench.reap(2) == []


def test_data_stays_pinned_until_its_completion_is_reaped(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    region = bench.space.alloc(512)
    bench.queue.submit_many(bench.record(IN, region=region.handle))
    head = bench.puppet.take()[0]
    with pytest.raises(BufferError):
        region.close()
    bench.complete(head)
    bench.reap()
    region.close()


# -- A device that breaks the rules ------------------------------------------------------------


def test_good_completions_come_before_the_breach(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(FLUSH, token=5) * 2)
    bench.complete(bench.puppet.take()[0])
    bench.puppet.use(99)
    assert [done.token for done in bench.reap()] == [5]
    reason = "used id 99 is out of range, the queue size is 16"
    for call in (
        bench.reap,
        lambda: bench.queue.submit_many(bench.record(FLUSH)),
        lambda: bench.queue.execute(bench.record(FLUSH), bytearray(1), 5),
    ):
        with pytest.raises(QueueBroken, match=reason):
            call()
    assert reason in (bench.queue.broken or "")
    bench.queue.reclaim()
    bench.puppet.restart()
    assert not bench.queue.broken
    assert bench.queue.submit_many(bench.record(FLUSH)) == 1


def test_execute_tells_of_a_breach_at_once(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(FLUSH))
    bench.puppet.use(7)
    statuses = bytearray(1)
    with pytest.raises(QueueBroken, match="used id 7 is not outstanding"):
        bench.queue.execute(bench.record(FLUSH), statuses, 5)
    assert statuses == bytes([STATUS_PENDING])


@pytest.mark.parametrize("old", [0, 1])
def test_what_is_refused_leaves_no_old_byte_that_passes_for_a_status(
    ring: Language, old: int
) -> None:
    bench = make_puppet_bench(ring)
    statuses = bytearray([old, old])
    bad = bench.record(FLUSH) + bench.record(IN, region=0xFFFF_FFFF)
    with pytest.raises(BufferError):
        bench.queue.execute(bad, statuses, 5)
    assert statuses == bytes([STATUS_PENDING] * 2)
    bench.queue.abort("enough")
    statuses[:] = bytes([old, old])
    with pytest.raises(DeviceGoneError):
        bench.queue.execute(bench.record(FLUSH) * 2, statuses, 5)
    assert statuses == bytes([STATUS_PENDING] * 2)
    too_long = bytearray([old] * 3)
    with pytest.raises(ValueError, match="2"):
        bench.queue.execute(bench.record(FLUSH) * 2, too_long, 5)
    assert too_long == bytes([old] * 3)
    assert bench.queue.in_flight == 0


# -- Reset -------------------------------------------------------------------------------------


def test_reclaim_returns_the_tokens_that_never_completed_and_unpins(ring: Language) -> None:
    bench = make_puppet_bench(ring, 16)
    region = bench.space.alloc(4096)
    records = [bench.record(IN, region=region.handle, token=100 + n) for n in range(4)]
    bench.queue.submit_many(b"".join(records))
    first = 0 if is_in_order(ring) else 1
    bench.complete(bench.puppet.take()[first])
    assert [done.token for done in bench.reap()] == [100 + first]
    assert sorted(bench.queue.reclaim()) == [100 + n for n in range(4) if n != first]
    assert bench.queue.reclaim() == []
    assert bench.queue.in_flight == 0
    region.close()
    bench.puppet.restart()
    assert bench.queue.submit_many(bench.record(FLUSH, token=9)) == 1
    bench.complete(bench.puppet.take()[0])
    assert bench.reap() == [Done(9, 0, 0)]
