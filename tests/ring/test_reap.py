"""Used chains, in every format: VIRTIO 1.4, 2.7.8 The Virtqueue Used Ring, 2.7.14 and 2.8.22
Receiving Used Buffers From The Device."""

import random
from contextlib import suppress

import pytest

from tests.clauses import clause
from tests.ring.puppet import Puppet
from tests.ring.support import Bench, Make, heads_of
from vioblk.errors import QueueBroken
from vioblk.ring import Chain, Completion

AnyBench = Bench[Puppet]


def test_nothing_used_is_nothing_reaped(make: Make) -> None:
    bench = make()
    assert bench.ring.reap() == []
    bench.publish_chains(3)
    assert bench.ring.reap() == []
    assert bench.ring.outstanding_count == 3


def test_chains_come_back_in_the_order_in_which_the_device_used_them(make: Make) -> None:
    bench = make()
    for _ in range(5):
        heads = bench.publish_all([bench.writable(*[9] * count) for count in (1, 3, 2)])
        used = heads if bench.format.in_order else heads[::-1]
        for written, head in enumerate(used):
            bench.device.use(head, written)
        assert bench.ring.reap() == [Completion(head, written) for written, head in enumerate(used)]
        assert (bench.ring.outstanding_count, bench.ring.free_count) == (0, bench.size)


@pytest.mark.parametrize("size", [2, 8, 64])
@pytest.mark.parametrize("tables", [False, True])
def test_many_laps_give_every_chain_back_once(make: Make, size: int, tables: bool) -> None:
    size += 1 if make.format.name.startswith("packed") else 0
    bench = make(size, indirect_table_size=min(size, 3) if tables else 0)
    chance = random.Random(size)
    outstanding: list[int] = []
    pushed = reaped = 0
    while pushed < 20 * size:
        chains = [
            bench.writable(*[1] * chance.randint(1, min(3, size)))
            for _ in range(chance.randint(1, 5))
        ]
        heads = bench.ring.push_many(chains)
        bench.ring.publish()
        assert bench.device.take() == heads
        assert not set(heads) & set(outstanding)
        outstanding += heads
        pushed += len(heads)
        if not bench.format.in_order:
            chance.shuffle(outstanding)
        used = [outstanding.pop(0) for _ in range(chance.randint(0, len(outstanding)))]
        for head in used:
            bench.device.use(head, head % 2)
        assert bench.ring.reap() == [Completion(head, head % 2) for head in used]
        reaped += len(used)
        assert bench.ring.outstanding_count == pushed - reaped == len(outstanding)


def test_a_limit_leaves_the_rest_for_the_next_call(make: Make) -> None:
    bench = make()
    heads = bench.publish_chains(5)
    for head in heads:
        bench.device.use(head)
    assert bench.ring.reap(0) == []
    assert heads_of(bench.ring.reap(2)) == heads[:2]
    assert bench.ring.outstanding_count == 3
    assert heads_of(bench.ring.reap(100)) == heads[2:]


def test_reaping_writes_nothing_to_the_ring(make: Make) -> None:
    bench = make(indirect_table_size=4)
    heads = bench.publish_all([bench.chain((16,), (512, 1)), bench.writable(1)])
    for head in heads:
        bench.device.use(head)
    before = bench.memory()
    assert len(bench.ring.reap()) == 2
    assert bench.memory() == before


@clause("SPLIT-USED-01")
@pytest.mark.parametrize(
    ("used_length", "reported"), [(0, 0), (1, 1), (512, 512), (513, 512), (0xFFFF_FFFF, 512)]
)
def test_a_used_length_is_never_more_than_the_writable_bytes(
    make: Make, used_length: int, reported: int
) -> None:
    bench = make()
    (head,) = bench.publish_all([bench.chain((4096,), (500, 12))])
    bench.device.use(head, used_length)
    assert bench.ring.reap() == [Completion(head, reported)]
    assert bench.ring.clamped_count == (used_length > reported)


def test_a_chain_without_a_writable_part_reports_no_bytes(make: Make) -> None:
    bench = make()
    (head,) = bench.publish_all([bench.readable(16)])
    bench.device.use(head, 16)
    assert bench.ring.reap() == [Completion(head, 0)]


# -- A device that breaks the rules ------------------------------------------------------------


def assert_breaks(bench: AnyBench, reason: str) -> None:
    """Reaping tells why, and the ring stays broken for that reason; only what cannot harm still
    works, until a reset."""
    with pytest.raises(QueueBroken, match=f"^{reason}$"):
        bench.ring.reap()
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
    assert_whole(bench)


def assert_whole(bench: AnyBench) -> None:
    assert bench.ring.broken is None
    bench.cycle(3 * bench.size + 1)


@pytest.mark.parametrize("beyond", [0, 1, 0x100, 0x8000, 0xFFFF - 8])
def test_a_used_id_out_of_range_breaks_the_queue(make: Make, beyond: int) -> None:
    bench = make()
    bench.publish_chains(1)
    used_id = bench.size + beyond
    bench.device.use(used_id)
    assert_breaks(bench, f"used id {used_id} is out of range, the queue size is {bench.size}")


def test_a_used_id_that_was_never_published_breaks_the_queue(make: Make) -> None:
    bench = make()
    bench.publish_chains(1)
    bench.device.use(5)
    assert_breaks(bench, "used id 5 is not outstanding")


def test_a_used_id_that_is_pushed_but_not_published_breaks_the_queue(make: Make) -> None:
    bench = make()
    bench.publish_chains(1)
    unpublished = bench.ring.push(bench.writable(1))
    bench.device.use(unpublished)
    assert_breaks(bench, f"used id {unpublished} is not outstanding")


def test_a_used_id_twice_gives_the_first_and_then_breaks_the_queue(make: Make) -> None:
    bench = make()
    first = bench.publish_chains(2)[0]
    bench.device.use(first, 10)
    bench.device.use(first, 20)
    assert bench.ring.reap() == [Completion(first, 10)]
    assert bench.ring.outstanding_count == 1
    assert_breaks(bench, f"used id {first} is not outstanding")


def test_in_strict_mode_a_used_length_too_large_breaks_the_queue(make: Make) -> None:
    bench = make(strict=True)
    first, second = bench.publish_chains(2)
    bench.device.use(first, 512)
    bench.device.use(second, 513)
    assert bench.ring.reap() == [Completion(first, 512)]
    assert bench.ring.clamped_count == 0
    assert_breaks(bench, f"used length 513 is larger than the 512 writable bytes of chain {second}")
    assert bench.ring.clamped_count == 0


def test_a_fault_behind_the_limit_is_not_seen_yet(make: Make) -> None:
    bench = make()
    first, _ = bench.publish_chains(2)
    bench.device.use(first)
    bench.device.use(99)
    assert heads_of(bench.ring.reap(1)) == [first]
    assert bench.ring.broken is None
    with pytest.raises(QueueBroken):
        bench.ring.reap(1)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_device_writes_a_reset_makes_the_ring_as_new(make: Make, seed: int) -> None:
    chance = random.Random(seed)
    bench = make.small(indirect_table_size=2, strict=bool(seed % 2), event_idx=seed % 3 > 0)
    size = bench.size
    for _ in range(200):
        if bench.ring.broken is None:
            bench.ring.push_many([bench.writable(1, 1)] * chance.randint(0, 3))
            bench.ring.publish()
        bench.device.write_anything(chance)
        with suppress(QueueBroken):
            bench.ring.reap(chance.choice([None, 1, 2]))
        with suppress(QueueBroken):
            bench.ring.arm()
        assert bench.ring.outstanding_count == size - bench.ring.free_count
    bench.ring.reclaim()
    bench.device.restart()
    assert_whole(bench)


# -- Withdraw and reclaim ----------------------------------------------------------------------


def test_withdraw_gives_back_the_unpublished_newest_first(make: Make) -> None:
    bench = make.small()
    bench.cycle(3)
    (published,) = bench.publish_chains(1)
    first = bench.ring.push(bench.chain((1,), (1,)))
    second = bench.ring.push(bench.writable(1))
    assert bench.ring.withdraw() == [second, first]
    assert bench.ring.withdraw() == []
    assert (bench.ring.free_count, bench.ring.outstanding_count) == (bench.size - 1, 1)
    assert bench.ring.publish() is False
    assert bench.ring.push(bench.chain((1,), (1,))) == first
    bench.ring.publish()
    assert bench.device.take() == [first]
    for head in (published, first):
        bench.device.use(head)
    assert heads_of(bench.ring.reap()) == [published, first]


def test_reclaim_returns_what_the_device_kept_and_the_ring_is_as_new(make: Make) -> None:
    bench = make(indirect_table_size=4)
    bench.cycle(10)
    as_new = make(indirect_table_size=4).ring.next_available
    heads = bench.publish_all([bench.chain((16,), (512, 1))] * 5)
    used = heads[:2] if bench.format.in_order else [heads[3], heads[1]]
    for head in used:
        bench.device.use(head)
    assert heads_of(bench.ring.reap()) == used
    unpublished = bench.ring.push(bench.writable(1))
    bench.ring.arm()
    assert bench.ring.reclaim() == sorted({*heads, unpublished} - ({*used} - {unpublished}))
    assert bench.ring.reclaim() == []
    assert (bench.ring.free_count, bench.ring.outstanding_count) == (bench.size, 0)
    assert bench.ring.next_available == as_new
    assert not any(bench.memory())
    bench.device.restart()
    assert bench.publish_chains(bench.size) == [*range(bench.size)]


# -- Buffers in flight -------------------------------------------------------------------------


def test_a_region_cannot_be_closed_while_a_chain_holds_it(make: Make) -> None:
    bench = make()
    shared, single = bench.space.alloc(4096), bench.space.alloc(4096)
    first = bench.ring.push(Chain([], [(shared, 0, 1), (single, 0, 1)]))
    for region in (shared, single):
        with pytest.raises(BufferError):
            region.close()
    second = bench.ring.push(Chain([(shared, 8, 1)], []))
    bench.ring.publish()
    assert bench.device.take() == [first, second]
    bench.device.use(first)
    for region in (shared, single):
        with pytest.raises(BufferError):
            region.close()
    bench.ring.reap()
    single.close()
    with pytest.raises(BufferError):
        shared.close()
    bench.device.use(second)
    bench.ring.reap()
    shared.close()


@pytest.mark.parametrize("way", ["withdraw", "reclaim"])
def test_chains_that_are_given_up_let_go_of_their_regions(make: Make, way: str) -> None:
    bench = make()
    region = bench.space.alloc(4096)
    bench.ring.push_many([Chain([], [(region, 0, 1)])] * 3)
    with pytest.raises(BufferError):
        region.close()
    getattr(bench.ring, way)()
    region.close()


def test_a_refused_batch_lets_go_of_its_regions(make: Make) -> None:
    bench = make()
    region = bench.space.alloc(4096)
    good = Chain([], [(region, 0, 1)])
    with pytest.raises(ValueError, match=r"bytes"):
        bench.ring.push_many([good, good, bench.writable(0)])
    region.close()
