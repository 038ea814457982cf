"""Request queues: what the device is sent, what comes back, and how callers wait."""

import gc
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest

from tests.block.queue_bench import (
    CAPACITY_SECTORS,
    LANGUAGES,
    Done,
    Header,
    Language,
    PuppetBench,
    is_in_order,
    is_packed,
    limits_of,
    make_device_bench,
    make_puppet_bench,
)
from tests.clauses import clause
from vioblk._native import DmaSpace, Doorbell
from vioblk.block.reference_queue import ReferenceBlockQueue
from vioblk.block.request import STATUS_PENDING, UNMAP, RequestType
from vioblk.errors import (
    BeyondEndError,
    DeviceGoneError,
    ForkedError,
    InvalidRequestError,
    QueueBroken,
    ReadOnlyError,
    RequestTimeoutError,
    RequestTooLongError,
    UnalignedError,
    UnsupportedError,
    ZeroLengthError,
)

IN, OUT, FLUSH = RequestType.IN, RequestType.OUT, RequestType.FLUSH
GET_ID, DISCARD, WRITE_ZEROES = RequestType.GET_ID, RequestType.DISCARD, RequestType.WRITE_ZEROES


@pytest.fixture(params=LANGUAGES)
def ring(request: pytest.FixtureRequest) -> Language:
    """Every test runs on the queues of both languages, over rings of every format."""
    chosen: Language = request.param
    return chosen


# -- What the device is sent -------------------------------------------------------------------


@pytest.mark.parametrize("indirect_table_size", [0, 3])
def test_a_read_is_header_then_writable_data_then_status(
    ring: Language, indirect_table_size: int
) -> None:
    bench = make_puppet_bench(ring, indirect_table_size=indirect_table_size)
    record = bench.record(IN, sector=77, offset=4096, length=1024)
    assert bench.queue.submit_many(record) == 1
    header, data, status = bench.puppet.follow(bench.puppet.take()[0])
    assert bench.header(header) == Header(IN, 0, 77)
    assert data == (bench.data.device_address + 4096, 1024, True)
    assert (status.length, status.device_writes) == (1, True)


def test_a_write_is_header_and_readable_data_then_status(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    bench.write_data(b"payload!" * 64)
    bench.queue.submit_many(bench.record(OUT, sector=CAPACITY_SECTORS - 1))
    header, data, status = bench.puppet.follow(bench.puppet.take()[0])
    assert bench.header(header) == Header(OUT, 0, CAPACITY_SECTORS - 1)
    assert (data.device_writes, bench.bytes_at(data)) == (False, b"payload!" * 64)
    assert (status.length, status.device_writes) == (1, True)


@clause("BLK-FLUSH-01", "BLK-FLUSH-02")
def test_a_flush_has_sector_0_and_no_data(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(FLUSH))
    header, status = bench.puppet.follow(bench.puppet.take()[0])
    assert bench.header(header) == Header(FLUSH, 0, 0)
    assert (status.length, status.device_writes) == (1, True)


@clause("BLK-REQ-03")
def test_get_id_is_given_exactly_20_bytes(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(GET_ID))
    header, data, status = bench.puppet.follow(bench.puppet.take()[0])
    assert bench.header(header) == Header(GET_ID, 0, 0)
    assert (data.length, data.device_writes) == (20, True)
    assert (status.length, status.device_writes) == (1, True)


@clause("BLK-REQ-02", "BLK-DISCARD-01", "BLK-WZ-01", "BLK-DISCARD-02")
@pytest.mark.parametrize(
    ("kind", "flags"), [(DISCARD, 0), (WRITE_ZEROES, 0), (WRITE_ZEROES, UNMAP)]
)
def test_a_range_request_has_one_segment_of_16_bytes(
    ring: Language, kind: RequestType, flags: int
) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(kind, flags=flags, sector=100, length=512 * 9))
    header, segment, status = bench.puppet.follow(bench.puppet.take()[0])
    assert bench.header(header) == Header(kind, 0, 0)
    expected = (100).to_bytes(8, "little") + (9).to_bytes(4, "little") + flags.to_bytes(4, "little")
    assert (segment.device_writes, bench.bytes_at(segment)) == (False, expected)
    assert (status.length, status.device_writes) == (1, True)


@pytest.mark.parametrize("kind", [IN, OUT])
@pytest.mark.parametrize("indirect_table_size", [0, 6])
def test_data_is_cut_into_segments_of_size_max(
    ring: Language, kind: RequestType, indirect_table_size: int
) -> None:
    bench = make_puppet_bench(
        ring,
        limits=limits_of(size_max=1000, seg_max=4),
        indirect_table_size=indirect_table_size,
    )
    bench.queue.submit_many(bench.record(kind, length=3584))
    parts = bench.puppet.follow(bench.puppet.take()[0])
    start = bench.data.device_address
    writes = kind == IN
    assert parts[1:-1] == [
        (start, 1000, writes),
        (start + 1000, 1000, writes),
        (start + 2000, 1000, writes),
        (start + 3000, 584, writes),
    ]


def test_requests_in_flight_have_slots_of_their_own(ring: Language) -> None:
    bench = make_puppet_bench(ring, 64)
    count = bench.queue.depth
    records = b"".join(bench.record(IN, sector=n, offset=512 * n) for n in range(count))
    assert bench.queue.submit_many(records) == count
    chains = [bench.puppet.follow(head) for head in bench.puppet.take()]
    assert [bench.header(chain[0]).sector for chain in chains] == list(range(count))
    assert (
        len({chain[0].address for chain in chains} | {c[-1].address for c in chains}) == 2 * count
    )


def test_status_bytes_are_pending_when_the_device_gets_them(ring: Language) -> None:
    bench = make_puppet_bench(ring, 4)
    for _ in range(6):  # slots are used again
        bench.queue.submit_many(bench.record(FLUSH))
        head = bench.puppet.take()[0]
        assert bench.bytes_at(bench.puppet.follow(head)[-1]) == bytes([STATUS_PENDING])
        bench.complete(head, status=0)
        assert [done.status for done in bench.reap()] == [0]


# -- What is refused ---------------------------------------------------------------------------

REFUSED: list[tuple[str, Callable[[PuppetBench], bytes], type[Exception], str]] = [
    ("unknown type", lambda b: b.record(FLUSH)[:0] + b"\x07" + bytes(39), UnsupportedError, "7"),
    ("huge type", lambda b: b"\xff" * 4 + bytes(36), UnsupportedError, "4294967295"),
    ("no bytes", lambda b: b.record(IN, length=0), ZeroLengthError, "0"),
    ("no bytes to discard", lambda b: b.record(DISCARD, length=0), ZeroLengthError, "0"),
    ("odd length", lambda b: b.record(OUT, length=513), UnalignedError, "513"),
    ("odd discard", lambda b: b.record(DISCARD, length=100), UnalignedError, "100"),
    ("behind the end", lambda b: b.record(IN, sector=4096), BeyondEndError, "4096"),
    ("over the end", lambda b: b.record(OUT, sector=4095, length=1024), BeyondEndError, "4095"),
    ("sector wraps", lambda b: b.record(IN, sector=(1 << 64) - 1), BeyondEndError, "18446744"),
    ("zeroes over the end", lambda b: b.record(WRITE_ZEROES, sector=4096), BeyondEndError, "4096"),
    ("long discard", lambda b: b.record(DISCARD, length=512 * 1025), RequestTooLongError, "524800"),
    (
        "long write-zeroes",
        lambda b: b.record(WRITE_ZEROES, length=512 * 513),
        RequestTooLongError,
        "262656",
    ),
    ("read flags", lambda b: b.record(IN, flags=1), InvalidRequestError, "flags is 1"),
    ("discard flags", lambda b: b.record(DISCARD, flags=UNMAP), InvalidRequestError, "flags is 1"),
    ("odd flags", lambda b: b.record(WRITE_ZEROES, flags=3), InvalidRequestError, "flags is 3"),
    ("flush sector", lambda b: b.record(FLUSH, sector=1), InvalidRequestError, "sector is 1"),
    ("flush length", lambda b: b.record(FLUSH, length=512), InvalidRequestError, "length is 512"),
    ("flush region", lambda b: b.record(FLUSH, region=5), InvalidRequestError, "region is 5"),
    ("long id", lambda b: b.record(GET_ID, length=512), InvalidRequestError, "length is 512"),
    ("id sector", lambda b: b.record(GET_ID, sector=1), InvalidRequestError, "sector is 1"),
    ("discard region", lambda b: b.record(DISCARD, region=3), InvalidRequestError, "region is 3"),
    ("discard offset", lambda b: b.record(DISCARD, offset=8), InvalidRequestError, "offset is 8"),
    ("no region", lambda b: b.record(IN, region=999_999), BufferError, "999999"),
    (
        "outside the region",
        lambda b: b.record(IN, offset=b.data.length - 511),
        InvalidRequestError,
        "not inside the region",
    ),
    (
        "offset wraps",
        lambda b: b.record(OUT, offset=(1 << 64) - 100),
        InvalidRequestError,
        "not inside the region",
    ),
]


@clause("BLK-REQ-01", "BLK-REQ-03")
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
@pytest.mark.parametrize("index", [0, 2])
def test_a_bad_record_is_refused_before_anything_reaches_the_device(
    ring: Language,
    bad: Callable[[PuppetBench], bytes],
    error: type[Exception],
    message: str,
    index: int,
) -> None:
    bench = make_puppet_bench(ring)
    good = bench.record(IN)
    with memoryview(bench.ring_region) as memory:
        before = bytes(memory)
        for submit in (
            bench.queue.submit_many,
            lambda batch: bench.queue.execute(batch, bytearray(index + 2), 1),
        ):
            with pytest.raises(error, match=f"^request {index}: .*{message}") as caught:
                submit(good * index + bad(bench) + good)
            assert type(caught.value) is error
        assert bytes(memory) == before
    assert bench.queue.in_flight == 0
    assert not bench.queue.take_kick()


@pytest.mark.parametrize("kind", [OUT, DISCARD, WRITE_ZEROES])
def test_a_read_only_disk_refuses_every_sort_of_write(ring: Language, kind: RequestType) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(read_only=True))
    with pytest.raises(ReadOnlyError, match=r"^request 1: "):
        bench.queue.submit_many(bench.record(IN) + bench.record(kind))
    assert bench.puppet.take() == []
    assert bench.queue.submit_many(bench.record(IN) + bench.record(FLUSH)) == 2


@pytest.mark.parametrize("kind", list(RequestType))
def test_a_type_that_was_not_negotiated_is_refused(ring: Language, kind: RequestType) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(request_types=set(RequestType) - {kind}))
    with pytest.raises(UnsupportedError, match=f"^request 0: type {int(kind)} "):
        bench.queue.submit_many(bench.record(kind))


def test_an_id_that_needs_more_segments_than_the_device_takes_is_refused(ring: Language) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(size_max=9, seg_max=2))
    with pytest.raises(RequestTooLongError, match="18"):
        bench.queue.submit_many(bench.record(GET_ID, length=20))
    bench = make_puppet_bench(ring, limits=limits_of(size_max=10, seg_max=2))
    assert bench.queue.submit_many(bench.record(GET_ID, length=20)) == 1


def test_more_data_than_size_max_times_seg_max_is_refused(ring: Language) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(size_max=1024, seg_max=4))
    with pytest.raises(RequestTooLongError, match=r"4608 .* 4096"):
        bench.queue.submit_many(bench.record(IN, length=4608))
    assert bench.queue.submit_many(bench.record(IN, length=4096)) == 1


def test_seg_max_0_means_one_segment(ring: Language) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(size_max=1024, seg_max=0))
    with pytest.raises(RequestTooLongError):
        bench.queue.submit_many(bench.record(IN, length=1536))
    assert bench.queue.submit_many(bench.record(IN, length=1024)) == 1


def test_data_never_needs_more_segments_than_the_ring_has(ring: Language) -> None:
    bench = make_puppet_bench(ring, 8, limits=limits_of(size_max=512, seg_max=100))
    with pytest.raises(RequestTooLongError, match=str(6 * 512)):
        bench.queue.submit_many(bench.record(IN, length=7 * 512))
    assert bench.queue.submit_many(bench.record(IN, length=6 * 512)) == 1


def test_limits_of_0_sectors_are_none(ring: Language) -> None:
    limits = limits_of(max_discard_sectors=0, max_write_zeroes_sectors=0)
    bench = make_puppet_bench(ring, limits=limits)
    whole = 512 * CAPACITY_SECTORS
    records = bench.record(DISCARD, length=whole) + bench.record(WRITE_ZEROES, length=whole)
    assert bench.queue.submit_many(records) == 2


def test_a_closed_region_is_refused(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    region = bench.space.alloc(512)
    record = bench.record(IN, region=region.handle)
    region.close()
    with pytest.raises(BufferError, match=r"^request 0: "):
        bench.queue.submit_many(record)


@pytest.mark.parametrize("length", [1, 39, 41])
def test_half_a_record_is_refused(ring: Language, length: int) -> None:
    bench = make_puppet_bench(ring)
    with pytest.raises(ValueError, match="40"):
        bench.queue.submit_many(bytes(length))


def test_new_limits_hold_for_the_next_record(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    with pytest.raises(BeyondEndError):
        bench.queue.submit_many(bench.record(IN, sector=CAPACITY_SECTORS))
    bench.queue.limits = limits_of(capacity_sectors=CAPACITY_SECTORS + 1)
    assert bench.queue.limits.capacity_sectors == CAPACITY_SECTORS + 1
    assert bench.queue.submit_many(bench.record(IN, sector=CAPACITY_SECTORS)) == 1


@pytest.mark.parametrize("size", [1, 2])
def test_a_queue_too_small_for_a_request_is_refused(ring: Language, size: int) -> None:
    with pytest.raises(ValueError, match=f"queue size {size} is too small"):
        make_puppet_bench(ring, size)


def test_slots_that_are_too_short_are_refused(ring: Language) -> None:
    bench = make_puppet_bench(ring, 16)
    with pytest.raises(ValueError, match=str(64 * 16)):
        type(bench.queue)(  # type: ignore[call-arg]
            bench.space,
            bench.space.alloc(bench.queue.layout.length),
            bench.space.alloc(64 * 16 - 1),
            16,
            limits_of(),
            packed=is_packed(ring),
        )


@pytest.mark.parametrize("ring", [each for each in LANGUAGES if is_packed(each)])
def test_the_legacy_interface_has_no_packed_ring(ring: Language) -> None:
    with pytest.raises(ValueError, match="no packed ring"):
        make_puppet_bench(ring, legacy_align=4096)


def test_the_pure_python_queue_refuses_event_idx() -> None:
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    with pytest.raises(ValueError, match="EVENT_IDX"):
        ReferenceBlockQueue(
            space, space.alloc(4096), space.alloc(1024), 16, limits_of(), event_idx=True
        )


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


# -- Waiting -----------------------------------------------------------------------------------


@pytest.fixture
def interrupt_fd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture(params=["interrupted", "polled"])
def any_interrupt_fd(request: pytest.FixtureRequest) -> int | None:
    """Waits must end in the same ways where the device gives no interrupt."""
    fd: int | None = None
    if request.param == "interrupted":
        fd = request.getfixturevalue("interrupt_fd")
    return fd


def in_thread(work: Callable[[], object]) -> Callable[[], BaseException | None]:
    """Start `work`; the function returned waits for its end and gives the exception, if any."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> BaseException | None:
        thread.join(20)
        assert not thread.is_alive(), "still waiting"
        return caught[0] if caught else None

    return join


def test_wait_gives_up_when_time_is_up(ring: Language, interrupt_fd: int) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=interrupt_fd)
    bench.queue.submit_many(bench.record(FLUSH))
    assert bench.queue.wait(0) is False
    assert bench.queue.wait(0.02) is False


def test_wait_ends_with_a_completion(ring: Language, interrupt_fd: int) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=interrupt_fd)
    bench.queue.submit_many(bench.record(FLUSH, token=4))
    head = bench.puppet.take()[0]

    def device() -> None:
        bench.complete(head)
        bench.interrupt()

    join = in_thread(device)
    assert bench.queue.wait(20) is True
    assert [done.token for done in bench.reap()] == [4]
    assert join() is None
    assert bench.queue.wait(0) is False


def test_spurious_interrupts_do_no_harm(ring: Language, interrupt_fd: int) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=interrupt_fd)
    bench.interrupt()
    assert bench.queue.wait(0.01) is False
    assert bench.reap() == []


def test_a_lost_interrupt_delays_but_does_not_hang(ring: Language, interrupt_fd: int) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=interrupt_fd)
    bench.queue.submit_many(bench.record(FLUSH))
    head = bench.puppet.take()[0]
    join = in_thread(lambda: bench.complete(head))  # and no interrupt
    assert bench.queue.wait(20) is True
    assert join() is None


def test_a_queue_without_an_interrupt_is_polled(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(FLUSH))
    head = bench.puppet.take()[0]
    join = in_thread(lambda: bench.complete(head))
    assert bench.queue.wait(20) is True
    assert join() is None


def test_a_polled_queue_finds_completions_long_before_a_wait_without_interrupts_would_end(
    ring: Language,
) -> None:
    bench = make_puppet_bench(ring)

    def run_20() -> float:
        start = time.monotonic()
        for _ in range(20):
            bench.queue.submit_many(bench.record(FLUSH))
            head = bench.puppet.take()[0]
            join = in_thread(partial(bench.complete, head))
            assert bench.queue.wait(20) is True
            assert join() is None
            assert len(bench.reap()) == 1
        return time.monotonic() - start

    # 2 s if each took one sleep of 100 ms. A busy machine makes some late, not all.
    assert any(run_20() < 0.5 for _ in range(10))


def test_waiting_for_a_device_without_interrupts_leaves_the_processor_to_others(
    ring: Language,
) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(FLUSH))
    start, busy = time.monotonic(), time.thread_time()
    assert bench.queue.wait(0.3) is False
    elapsed_s, busy_s = time.monotonic() - start, time.thread_time() - busy
    assert elapsed_s >= 0.3
    assert busy_s < elapsed_s / 3


def test_every_queue_that_shares_an_interrupt_is_woken_by_it(
    ring: Language, interrupt_fd: int
) -> None:
    benches = [make_puppet_bench(ring, interrupt_fd=interrupt_fd) for _ in range(3)]
    with select.epoll() as loop:
        for token, bench in enumerate(benches):
            loop.register(bench.queue.fileno(), select.EPOLLIN)
            bench.queue.submit_many(bench.record(FLUSH, token=token))
            assert bench.queue.arm() is False
        for bench in benches:
            bench.complete(bench.puppet.take()[0])
        benches[0].interrupt()
        ready = {fd for fd, _ in loop.poll(20)}
        assert ready == {bench.queue.fileno() for bench in benches}
    for token, bench in enumerate(benches):
        assert [done.token for done in bench.reap()] == [token]


def test_a_queue_tells_its_doorbell_how_far_it_is_where_the_doorbell_carries_data(
    ring: Language, tmp_path: Path
) -> None:
    path = tmp_path / "register"
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        bench = make_puppet_bench(
            ring, doorbell=Doorbell.file(file.fileno(), 4, 0x1234, carries_data=True)
        )
        # On a packed ring: how many descriptors, and the wrap counter.
        steps = ((1, 0x8002), (3, 0x8008)) if is_packed(ring) else ((1, 1), (3, 4))
        for count, available in steps:
            assert bench.queue.submit_many(bench.record(FLUSH) * count) == count
            assert path.read_bytes() == struct.pack("<IHH", 0, 0x1234, available)
        assert not bench.queue.take_kick(), "nothing is left to the owner"
        bench.queue.reclaim()
        assert bench.queue.submit_many(bench.record(FLUSH) * 2) == 2
        anew = 0x8004 if is_packed(ring) else 2
        assert path.read_bytes() == struct.pack("<IHH", 0, 0x1234, anew)


def test_a_doorbell_that_cannot_be_rung_is_the_end_of_the_queue(ring: Language) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        bench = make_puppet_bench(ring, doorbell=Doorbell.file(full.fileno(), 0, 1))
        why = r"the device cannot be notified: .*No space left"
        with pytest.raises(DeviceGoneError, match=why):
            bench.queue.execute(bench.record(FLUSH), bytearray(1), 20)
        with pytest.raises(DeviceGoneError, match=why):
            bench.queue.submit_many(bench.record(FLUSH))
        assert bench.queue.in_flight == 1, "the device may have seen it"


def test_execute_that_times_out_leaves_its_requests_pending_and_pinned(
    ring: Language, any_interrupt_fd: int | None
) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=any_interrupt_fd)
    region = bench.space.alloc(4096)
    record = bench.record(IN, region=region.handle)
    statuses = bytearray(2)
    with pytest.raises(RequestTimeoutError):
        bench.queue.execute(record * 2, statuses, 0.02)
    assert statuses == bytes([STATUS_PENDING] * 2)
    assert bench.queue.in_flight == 2
    with pytest.raises(BufferError):
        region.close()
    # What comes late is not handed out, and touches nothing of the caller's.
    for head in bench.puppet.take():
        bench.complete(head)
    assert bench.reap() == []
    assert statuses == bytes([STATUS_PENDING] * 2)
    assert bench.queue.in_flight == 0
    region.close()


def test_abort_sends_every_waiter_away(ring: Language, any_interrupt_fd: int | None) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=any_interrupt_fd)
    waiting = threading.Barrier(4)

    def execute() -> None:
        waiting.wait(20)
        bench.queue.execute(bench.record(FLUSH), bytearray(1))

    joins = [in_thread(execute) for _ in range(3)]
    waiting.wait(20)
    bench.queue.abort("pulled out")
    for join in joins:
        error = join()
        assert isinstance(error, DeviceGoneError)
        assert "pulled out" in str(error)
    with pytest.raises(DeviceGoneError, match="pulled out"):
        bench.queue.submit_many(bench.record(FLUSH))
    with pytest.raises(DeviceGoneError, match="pulled out"):
        bench.reap()
    assert bench.queue.broken == "pulled out"


def test_a_hang_up_ends_every_wait(ring: Language, any_interrupt_fd: int | None) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        bench = make_puppet_bench(ring, interrupt_fd=any_interrupt_fd, hangup_fd=ours.fileno())
        join = in_thread(lambda: bench.queue.execute(bench.record(FLUSH), bytearray(1)))
        theirs.close()
        assert isinstance(join(), DeviceGoneError)
        with pytest.raises(DeviceGoneError):
            bench.queue.submit_many(bench.record(FLUSH))


def test_a_signal_ends_a_wait_and_the_request_stays_owned(
    ring: Language, any_interrupt_fd: int | None
) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=any_interrupt_fd)
    bench.queue.submit_many(bench.record(IN, token=6))

    def interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            bench.queue.wait(20)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert bench.queue.in_flight == 1
    bench.complete(bench.puppet.take()[0])
    assert [done.token for done in bench.reap()] == [6]


def test_the_descriptor_is_readable_with_an_interrupt_and_quiet_once_it_is_armed(
    ring: Language, interrupt_fd: int
) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=interrupt_fd)
    bench.queue.submit_many(bench.record(FLUSH))
    assert bench.queue.arm() is False
    bench.complete(bench.puppet.take()[0])
    bench.interrupt()
    assert bench.queue.arm() is True
    bench.interrupt()
    assert select.select([bench.queue.fileno()], [], [], 20)[0]
    assert len(bench.reap()) == 1
    assert bench.queue.arm() is False
    assert not select.select([bench.queue.fileno()], [], [], 0)[0]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_fork_is_refused(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    record = bench.record(FLUSH)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            bench.queue.submit_many(record)
        except ForkedError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bench.queue.submit_many(record) == 1


def test_a_queue_leaves_no_descriptor_behind(ring: Language) -> None:
    def descriptor_count() -> int:
        gc.collect()
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = descriptor_count()
    for _ in range(10):
        make_puppet_bench(ring)
    assert descriptor_count() == before


# -- Against the software device ---------------------------------------------------------------


def pattern(seed: int, length: int) -> bytes:
    return bytes((seed * 37 + i * 11 + (i >> 8)) & 0xFF for i in range(length))


@pytest.mark.parametrize("indirect_table_size", [0, 3])
def test_what_is_written_is_read_back(ring: Language, indirect_table_size: int) -> None:
    bench = make_device_bench(ring, indirect_table_size=indirect_table_size)
    data = pattern(3, 65536)
    bench.write_data(data)
    count = 128
    for kind, base in ((OUT, 0), (IN, 65536)):
        statuses = bytearray(count)
        records = b"".join(
            bench.record(kind, sector=n, offset=base + 512 * n) for n in range(count)
        )
        bench.queue.execute(records, statuses, 20)
        assert statuses == bytes(count)
    assert bench.read_data(65536, 65536) == data
    bench.reset()


def test_requests_of_every_type_succeed(ring: Language) -> None:
    bench = make_device_bench(ring)
    records = b"".join(bench.record(kind) for kind in RequestType)
    statuses = bytearray(len(RequestType))
    bench.queue.execute(records, statuses, 20)
    assert statuses == bytes(len(RequestType))
    bench.reset()


def test_execute_of_1000_reads_keeps_the_queue_full(ring: Language) -> None:
    bench = make_device_bench(ring, 64, indirect_table_size=3, threaded=False)
    bench.device.reset_counters()
    records = b"".join(bench.record(IN, sector=n) for n in range(1000))
    statuses = bytearray(1000)
    join = in_thread(lambda: bench.queue.execute(records, statuses, 60))
    served = 0
    while served < 1000:
        while bench.queue.in_flight < min(64, 1000 - served):
            os.sched_yield()
        served += bench.device.serve()
    assert join() is None
    assert statuses == bytes(1000)
    counters = bench.device.counters()
    assert counters["chains"] == counters["indirect_chains"] == 1000
    assert counters["most_outstanding"] == 64
    assert bench.queue.kick_count == counters["batches"] == 16
    bench.reset()


def test_many_threads_share_a_queue(ring: Language) -> None:
    bench = make_device_bench(ring, 16)
    rounds, threads = 40, 4

    def work(number: int) -> None:
        base = number * 65536
        for turn in range(rounds):
            data = pattern(number * 100 + turn, 2048)
            bench.write_data(data, base)
            statuses = bytearray(4)
            for kind, offset in ((OUT, base), (IN, base + 4096)):
                records = b"".join(
                    bench.record(kind, sector=number * 64 + n, offset=offset + 512 * n)
                    for n in range(4)
                )
                bench.queue.execute(records, statuses, 60)
                assert statuses == bytes(4)
            assert bench.read_data(2048, base + 4096) == data

    joins = [in_thread(partial(work, number)) for number in range(threads)]
    for join in joins:
        error = join()
        assert error is None, error
    assert bench.queue.in_flight == 0
    bench.reset()


def test_submit_wait_and_reap_run_a_stream_of_requests(ring: Language) -> None:
    bench = make_device_bench(ring, 16)
    total = 300
    tokens: list[int] = []
    next_token = 0
    while len(tokens) < total:
        records = b"".join(
            bench.record(IN, sector=n % CAPACITY_SECTORS, token=n)
            for n in range(next_token, min(next_token + 8, total))
        )
        next_token += bench.queue.submit_many(records)
        assert bench.queue.wait(20)
        done = bench.reap()
        assert all(each.status == 0 and each.written_bytes == 512 for each in done)
        tokens += [each.token for each in done]
    assert sorted(tokens) == list(range(total))
    bench.reset()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_for_chain(bench: PuppetBench) -> int:
    taken: list[int] = []

    def came() -> bool:
        taken.extend(bench.puppet.take())
        return bool(taken)

    wait_until(came)
    (head,) = taken
    return head


def test_what_waits_for_room_is_not_overtaken(ring: Language) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(size_max=512, seg_max=10))
    long_reads = bench.record(IN, length=5120) + bench.record(IN, length=5120)
    statuses = bytearray(2)
    thread = threading.Thread(target=lambda: bench.queue.execute(long_reads, statuses, 20))
    thread.start()
    wait_until(lambda: bench.queue.in_flight == 1)  # 12 of 16 descriptors; the other read waits
    # A flush needs 2 and would fit.
    assert bench.queue.submit_many(bench.record(FLUSH)) == 0
    for _ in range(2):
        bench.complete(wait_for_chain(bench))
    thread.join(20)
    assert bytes(statuses) == bytes(2)
    assert bench.queue.submit_many(bench.record(FLUSH)) == 1


def test_a_batch_after_one_that_failed_half_way_gets_its_own_statuses(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    limits = bench.queue.limits
    many = bench.record(IN, length=4096) * 8
    failure: list[Exception] = []

    def run() -> None:
        try:
            bench.queue.execute(many, bytearray(8), 20)
        except InvalidRequestError as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: bench.queue.in_flight == 5)
    bench.queue.limits = limits_of(capacity_sectors=1)  # the disk shrinks under the batch
    for head in bench.puppet.take():
        bench.complete(head)
    thread.join(20)
    assert isinstance(failure[0], BeyondEndError)
    assert str(failure[0]).startswith("request 5: ")
    bench.queue.limits = limits
    statuses = bytearray(1)
    with pytest.raises(RequestTimeoutError):
        bench.queue.execute(bench.record(IN), statuses, 0.05)
    assert statuses == b"\xff"
