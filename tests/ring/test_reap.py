"""Used chains: VIRTIO 1.4, 2.7.8 The Virtqueue Used Ring and 2.7.14 Receiving Used Buffers."""

import pytest

from tests.clauses import clause
from tests.ring.support import Bench, MakeBench
from vioblk.errors import QueueBroken
from vioblk.ring import Completion


def test_nothing_used_is_nothing_reaped(make: MakeBench) -> None:
    bench = make(8)
    assert bench.ring.reap() == []
    bench.publish_chains(3)
    assert bench.ring.reap() == []
    assert bench.ring.outstanding_count == 3


def test_chains_come_back_in_the_order_in_which_the_device_used_them(make: MakeBench) -> None:
    bench = make(8)
    heads = bench.publish_chains(4)
    for written, head in enumerate(reversed(heads)):
        bench.device.use(head, written)
    assert bench.ring.reap() == [
        Completion(head, written) for written, head in enumerate(reversed(heads))
    ]
    assert (bench.ring.outstanding_count, bench.ring.free_count) == (0, 8)


def test_a_limit_leaves_the_rest_for_the_next_call(make: MakeBench) -> None:
    bench = make(8)
    heads = bench.publish_chains(5)
    bench.device.use_all()
    assert bench.ring.reap(0) == []
    assert [completion.head for completion in bench.ring.reap(2)] == heads[:2]
    assert bench.ring.outstanding_count == 3
    assert [completion.head for completion in bench.ring.reap(100)] == heads[2:]


def test_reaping_writes_nothing_to_the_ring(make: MakeBench) -> None:
    bench = make(8, indirect_table_size=4)
    bench.ring.push(bench.chain((16,), (512, 1)))
    bench.ring.push(bench.writable(1))
    bench.ring.publish()
    bench.device.use_all()
    with memoryview(bench.region) as memory:
        before = bytes(memory)
        assert len(bench.ring.reap()) == 2
        assert bytes(memory) == before


@clause("SPLIT-USED-01")
@pytest.mark.parametrize(
    ("used_length", "reported"), [(0, 0), (1, 1), (512, 512), (513, 512), (0xFFFF_FFFF, 512)]
)
def test_a_used_length_is_never_more_than_the_writable_bytes(
    make: MakeBench, used_length: int, reported: int
) -> None:
    bench = make(8)
    head = bench.ring.push(bench.chain((4096,), (500, 12)))
    bench.ring.publish()
    bench.device.use(head, used_length)
    assert bench.ring.reap() == [Completion(head, reported)]
    assert bench.ring.clamped_count == (used_length > reported)


def test_a_chain_without_a_writable_part_reports_no_bytes(make: MakeBench) -> None:
    bench = make(8)
    head = bench.ring.push(bench.readable(16))
    bench.ring.publish()
    bench.device.use(head, 16)
    assert bench.ring.reap() == [Completion(head, 0)]


# -- A device that breaks the rules ------------------------------------------------------------


def is_broken(bench: Bench) -> bool:
    return bench.ring.broken is not None


def assert_broken(bench: Bench, reason: str) -> None:
    """The queue stays broken for that reason; only what cannot harm still works."""
    assert bench.ring.broken == reason
    for refused in (
        lambda: bench.ring.push(bench.writable(1)),
        lambda: bench.ring.push_many([bench.writable(1)]),
        bench.ring.publish,
        bench.ring.reap,
        bench.ring.arm,
    ):
        with pytest.raises(QueueBroken, match=f"^{reason}$"):
            refused()
    bench.ring.disarm()
    bench.ring.withdraw()
    bench.ring.reclaim()
    bench.device.restart()
    assert not is_broken(bench)
    bench.cycle(3)


@pytest.mark.parametrize("used_id", [8, 9, 0x1_0000, 0xFFFF_FFFF])
def test_a_used_id_out_of_range_breaks_the_queue(make: MakeBench, used_id: int) -> None:
    bench = make(8)
    bench.publish_chains(1)
    bench.device.use(used_id)
    reason = f"used id {used_id} is out of range, the queue size is 8"
    with pytest.raises(QueueBroken, match=f"^{reason}$"):
        bench.ring.reap()
    assert_broken(bench, reason)


def test_a_used_id_that_was_never_published_breaks_the_queue(make: MakeBench) -> None:
    bench = make(8)
    bench.publish_chains(1)
    bench.device.use(5)
    with pytest.raises(QueueBroken):
        bench.ring.reap()
    assert_broken(bench, "used id 5 is not outstanding")


def test_a_used_id_that_is_pushed_but_not_published_breaks_the_queue(make: MakeBench) -> None:
    bench = make(8)
    bench.publish_chains(1)
    unpublished = bench.ring.push(bench.writable(1))
    bench.device.use(unpublished)
    with pytest.raises(QueueBroken):
        bench.ring.reap()
    assert_broken(bench, f"used id {unpublished} is not outstanding")


def test_a_used_id_within_a_chain_breaks_the_queue(make: MakeBench) -> None:
    bench = make(8)
    head = bench.ring.push(bench.chain((16,), (512, 1)))
    bench.ring.publish()
    bench.device.use(head + 1)
    with pytest.raises(QueueBroken):
        bench.ring.reap()
    assert_broken(bench, f"used id {head + 1} is not outstanding")


def test_a_used_id_twice_gives_the_first_and_then_breaks_the_queue(make: MakeBench) -> None:
    bench = make(8)
    first = bench.publish_chains(2)[0]
    bench.device.use(first, 10)
    bench.device.use(first, 20)
    assert bench.ring.reap() == [Completion(first, 10)]
    assert bench.ring.outstanding_count == 1
    with pytest.raises(QueueBroken):
        bench.ring.reap()
    assert_broken(bench, f"used id {first} is not outstanding")


@pytest.mark.parametrize(
    ("used_index", "ahead"), [(3, 1), (8, 6), (9, 7), (0x8000, 0x7FFE), (0xFFFF, 0xFFFD)]
)
def test_a_used_index_ahead_of_what_is_outstanding_breaks_the_queue(
    make: MakeBench, used_index: int, ahead: int
) -> None:
    bench = make(8)
    bench.publish_chains(2)
    bench.device.words.used_index = used_index
    reason = f"used index {used_index} is {ahead} ahead of the 2 chains outstanding"
    with pytest.raises(QueueBroken):
        bench.ring.reap()
    assert_broken(bench, reason)


def test_a_used_index_that_moves_backwards_breaks_the_queue(make: MakeBench) -> None:
    bench = make(8)
    bench.cycle(5)
    bench.publish_chains(8)
    bench.device.words.used_index = 4
    with pytest.raises(QueueBroken, match="used index 4 is 65527 ahead"):
        bench.ring.reap()


def test_in_strict_mode_a_used_length_too_large_breaks_the_queue(make: MakeBench) -> None:
    bench = make(8, strict=True)
    first, second = bench.publish_chains(2)
    bench.device.use(first, 512)
    bench.device.use(second, 513)
    assert bench.ring.reap() == [Completion(first, 512)]
    reason = f"used length 513 is larger than the 512 writable bytes of chain {second}"
    with pytest.raises(QueueBroken):
        bench.ring.reap()
    assert bench.ring.clamped_count == 0
    assert_broken(bench, reason)


def test_a_fault_behind_the_limit_is_not_seen_yet(make: MakeBench) -> None:
    bench = make(8)
    first, _ = bench.publish_chains(2)
    bench.device.use(first)
    bench.device.use(99)
    assert [completion.head for completion in bench.ring.reap(1)] == [first]
    assert bench.ring.broken is None
    with pytest.raises(QueueBroken):
        bench.ring.reap(1)


# -- Withdraw and reclaim ----------------------------------------------------------------------


def test_withdraw_gives_back_the_unpublished_newest_first(make: MakeBench) -> None:
    bench = make(8)
    published = bench.publish_chains(1)
    first = bench.ring.push(bench.chain((1,), (1,)))
    second = bench.ring.push(bench.writable(1))
    assert bench.ring.withdraw() == [second, first]
    assert bench.ring.withdraw() == []
    assert (bench.ring.free_count, bench.ring.outstanding_count) == (7, 1)
    assert bench.ring.publish() is False
    assert bench.ring.push(bench.chain((1,), (1,))) == first
    bench.ring.publish()
    assert bench.device.take() == [*published, first]


def test_reclaim_returns_what_the_device_kept_and_the_ring_is_as_new(make: MakeBench) -> None:
    bench = make(8, indirect_table_size=4)
    bench.ring.push_many([bench.chain((16,), (512, 1))] * 5)
    bench.ring.publish()
    bench.device.use(3)
    bench.device.use(1)
    assert len(bench.ring.reap()) == 2
    unpublished = bench.ring.push(bench.writable(1))
    bench.ring.arm()
    assert bench.ring.reclaim() == sorted([0, 2, 4, unpublished])
    assert bench.ring.reclaim() == []
    assert (bench.ring.free_count, bench.ring.outstanding_count) == (8, 0)
    with memoryview(bench.region) as memory:
        assert not any(memory)
    bench.device.restart()
    assert bench.ring.push_many([bench.writable(1)] * 8) == list(range(8))
    bench.ring.publish()
    assert bench.device.take() == list(range(8))


# -- Buffers in flight -------------------------------------------------------------------------


def test_a_region_cannot_be_closed_while_a_chain_holds_it(make: MakeBench) -> None:
    bench = make(8)
    shared, single = bench.space.alloc(4096), bench.space.alloc(4096)
    first = bench.ring.push(bench.writable(1)._replace(writable=[(shared, 0, 1), (single, 0, 1)]))
    second = bench.ring.push(bench.writable(1)._replace(writable=[(shared, 8, 1)]))
    bench.ring.publish()
    for region in (shared, single):
        with pytest.raises(BufferError):
            region.close()
    bench.device.use(first)
    bench.ring.reap()
    single.close()
    with pytest.raises(BufferError):
        shared.close()
    bench.device.use(second)
    bench.ring.reap()
    shared.close()


@pytest.mark.parametrize("way", ["withdraw", "reclaim"])
def test_chains_that_are_given_up_let_go_of_their_regions(make: MakeBench, way: str) -> None:
    bench = make(8)
    region = bench.space.alloc(4096)
    bench.ring.push_many([bench.writable(1)._replace(writable=[(region, 0, 1)])] * 3)
    with pytest.raises(BufferError):
        region.close()
    getattr(bench.ring, way)()
    region.close()


def test_a_refused_batch_lets_go_of_its_regions(make: MakeBench) -> None:
    bench = make(8)
    region = bench.space.alloc(4096)
    good = bench.writable(1)._replace(writable=[(region, 0, 1)])
    with pytest.raises(ValueError, match=r"bytes"):
        bench.ring.push_many([good, good, bench.writable(0)])
    region.close()
