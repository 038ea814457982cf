"""Used chains of a packed ring: VIRTIO 1.4, 2.8.22 Receiving Used Buffers From The Device."""

import random
from contextlib import suppress

import pytest

from tests.ring.support import MakePackedBench, PackedBench
from vioblk.errors import QueueBroken
from vioblk.ring import Completion
from vioblk.ring.raw import AVAIL, NEXT, USED, WRITE


def test_nothing_used_is_nothing_reaped(make_packed: MakePackedBench) -> None:
    bench = make_packed(7)
    assert bench.ring.reap() == []
    bench.publish_chains(3)
    assert bench.ring.reap() == []
    assert bench.ring.outstanding_count == 3


def test_chains_come_back_in_the_order_in_which_the_device_used_them(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(7)
    for _ in range(5):
        lengths = (1, 3, 2)
        heads = bench.ring.push_many([bench.writable(*[9] * length) for length in lengths])
        bench.ring.publish()
        bench.device.take()
        for written, head in enumerate(reversed(heads)):
            bench.device.use(head, written)
        assert bench.ring.reap() == [
            Completion(head, written) for written, head in enumerate(reversed(heads))
        ]
        assert (bench.ring.outstanding_count, bench.ring.free_count) == (0, 7)


def test_slots_are_free_as_soon_as_a_later_chain_came_back_in_their_place(
    make_packed: MakePackedBench,
) -> None:
    """The first chain stays with the device for many laps; the others pass it by."""
    bench = make_packed(5)
    first = bench.ring.push(bench.chain((16,), (512, 1)))
    bench.ring.publish()
    bench.device.take()
    for lap in range(20):
        head = bench.ring.push(bench.chain((16,), (lap + 1,)))
        bench.ring.publish()
        assert bench.device.take() == [head]
        assert [part.length for part in bench.device.follow(head)] == [16, lap + 1]
        bench.device.use(head, 1)
        assert bench.ring.reap() == [Completion(head, 1)]
        assert bench.ring.free_count == 2
    bench.device.use(first, 513)
    assert bench.ring.reap() == [Completion(first, 513)]
    assert bench.ring.free_count == 5


@pytest.mark.parametrize("size", [3, 7, 64])
@pytest.mark.parametrize("table_size", [0, 3])
def test_any_order_of_completion_gives_every_chain_back_once(
    make_packed: MakePackedBench, size: int, table_size: int
) -> None:
    bench, chance = make_packed(size, indirect_table_size=table_size), random.Random(size)
    outstanding: list[int] = []
    pushed = reaped = 0
    while pushed < 20 * size:
        chains = [bench.writable(*[1] * chance.randint(1, 3)) for _ in range(chance.randint(1, 5))]
        heads = bench.ring.push_many(chains)
        bench.ring.publish()
        assert bench.device.take() == heads
        assert not set(heads) & set(outstanding)
        outstanding += heads
        pushed += len(heads)
        chance.shuffle(outstanding)
        used = [outstanding.pop() for _ in range(chance.randint(0, len(outstanding)))]
        for head in used:
            bench.device.use(head, head % 2)
        assert bench.ring.reap() == [Completion(head, head % 2) for head in used]
        reaped += len(used)
        assert bench.ring.outstanding_count == pushed - reaped == len(outstanding)


def test_a_limit_leaves_the_rest_for_the_next_call(make_packed: MakePackedBench) -> None:
    bench = make_packed(7)
    heads = bench.publish_chains(5)
    bench.device.use_all()
    assert bench.ring.reap(0) == []
    assert [completion.head for completion in bench.ring.reap(2)] == heads[:2]
    assert bench.ring.outstanding_count == 3
    assert [completion.head for completion in bench.ring.reap(100)] == heads[2:]


def test_reaping_writes_nothing_to_the_ring(make_packed: MakePackedBench) -> None:
    bench = make_packed(7, indirect_table_size=4)
    bench.ring.push(bench.chain((16,), (512, 1)))
    bench.ring.push(bench.writable(1))
    bench.ring.publish()
    bench.device.use_all()
    with memoryview(bench.region) as memory:
        before = bytes(memory)
        assert len(bench.ring.reap()) == 2
        assert bytes(memory) == before


@pytest.mark.parametrize(
    ("used_length", "reported"), [(0, 0), (1, 1), (512, 512), (513, 512), (0xFFFF_FFFF, 512)]
)
def test_a_used_length_is_never_more_than_the_writable_bytes(
    make_packed: MakePackedBench, used_length: int, reported: int
) -> None:
    bench = make_packed(7)
    head = bench.ring.push(bench.chain((4096,), (500, 12)))
    bench.ring.publish()
    bench.device.take()
    bench.device.use(head, used_length)
    assert bench.ring.reap() == [Completion(head, reported)]
    assert bench.ring.clamped_count == (used_length > reported)


@pytest.mark.parametrize("strict", [False, True])
def test_a_used_length_without_the_write_flag_means_nothing(
    make_packed: MakePackedBench, strict: bool
) -> None:
    bench = make_packed(7, strict=strict)
    (head,) = bench.publish_chains(1)
    bench.device.take()
    bench.device.use(head, 0xFFFF_FFFF, write_flag=False)
    assert bench.ring.reap() == [Completion(head, None)]
    assert bench.ring.clamped_count == 0


def test_the_next_flag_of_a_used_descriptor_means_nothing(make_packed: MakePackedBench) -> None:
    bench = make_packed(7)
    for _ in range(10):
        first, second = bench.publish_chains(2)
        bench.device.take()
        for head in (first, second):
            slot, flags = bench.device.used.slot, bench.device.used.used_flags
            bench.device.use(head, 1)
            bench.device.words.write_flags(slot, flags | WRITE | NEXT)
        assert bench.ring.reap() == [Completion(first, 1), Completion(second, 1)]


# -- A device that breaks the rules ------------------------------------------------------------


def is_broken(bench: PackedBench) -> bool:
    return bench.ring.broken is not None


def assert_broken(bench: PackedBench, reason: str) -> None:
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


@pytest.mark.parametrize("used_id", [7, 8, 0x8000, 0xFFFF])
def test_a_buffer_id_out_of_range_breaks_the_queue(
    make_packed: MakePackedBench, used_id: int
) -> None:
    bench = make_packed(7)
    bench.publish_chains(1)
    bench.device.use(used_id)
    reason = f"used id {used_id} is out of range, the queue size is 7"
    with pytest.raises(QueueBroken, match=f"^{reason}$"):
        bench.ring.reap()
    assert_broken(bench, reason)


def test_a_buffer_id_that_was_never_published_breaks_the_queue(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(7)
    bench.publish_chains(1)
    bench.device.use(5)
    with pytest.raises(QueueBroken):
        bench.ring.reap()
    assert_broken(bench, "used id 5 is not outstanding")


def test_a_buffer_id_that_is_pushed_but_not_published_breaks_the_queue(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(7)
    bench.publish_chains(1)
    unpublished = bench.ring.push(bench.writable(1))
    bench.device.use(unpublished)
    with pytest.raises(QueueBroken):
        bench.ring.reap()
    assert_broken(bench, f"used id {unpublished} is not outstanding")


def test_a_buffer_id_twice_gives_the_first_and_then_breaks_the_queue(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(7)
    first = bench.publish_chains(2)[0]
    bench.device.use(first, 10)
    bench.device.use(first, 20)
    assert bench.ring.reap() == [Completion(first, 10)]
    assert bench.ring.outstanding_count == 1
    with pytest.raises(QueueBroken):
        bench.ring.reap()
    assert_broken(bench, f"used id {first} is not outstanding")


@pytest.mark.parametrize("laps", [0, 1, 2, 3])
@pytest.mark.parametrize("pushed", [0, 2])
def test_a_descriptor_used_without_being_available_breaks_the_queue(
    make_packed: MakePackedBench, laps: int, pushed: int
) -> None:
    bench = make_packed(7)
    bench.cycle(7 * laps + 4)
    bench.ring.push_many([bench.writable(1)] * pushed)
    bench.device.use(0)
    reason = "descriptor 4 is marked used, but no chain is outstanding"
    with pytest.raises(QueueBroken, match=f"^{reason}$"):
        bench.ring.reap()
    assert_broken(bench, reason)


def test_one_used_too_many_gives_the_others_and_then_breaks_the_queue(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(7)
    heads = bench.publish_chains(6)
    bench.device.use_all()
    bench.device.use(0)
    assert [completion.head for completion in bench.ring.reap()] == heads
    with pytest.raises(QueueBroken):
        bench.ring.reap()
    assert_broken(bench, "descriptor 6 is marked used, but no chain is outstanding")


@pytest.mark.parametrize("flags", [0, USED, AVAIL | WRITE])
def test_flags_that_do_not_say_used_are_waited_for(
    make_packed: MakePackedBench, flags: int
) -> None:
    bench = make_packed(7)
    (head,) = bench.publish_chains(1)
    bench.device.take()
    bench.device.words.write_flags(0, flags)
    assert bench.ring.reap() == []
    assert bench.ring.arm() is False
    bench.device.use(head)
    assert bench.ring.reap() == [Completion(head, 0)]


def test_in_strict_mode_a_used_length_too_large_breaks_the_queue(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(7, strict=True)
    first, second = bench.publish_chains(2)
    bench.device.use(first, 512)
    bench.device.use(second, 513)
    assert bench.ring.reap() == [Completion(first, 512)]
    reason = f"used length 513 is larger than the 512 writable bytes of chain {second}"
    with pytest.raises(QueueBroken):
        bench.ring.reap()
    assert bench.ring.clamped_count == 0
    assert_broken(bench, reason)


def test_a_fault_behind_the_limit_is_not_seen_yet(make_packed: MakePackedBench) -> None:
    bench = make_packed(7)
    first, _ = bench.publish_chains(2)
    bench.device.use(first)
    bench.device.use(99)
    assert [completion.head for completion in bench.ring.reap(1)] == [first]
    assert bench.ring.broken is None
    with pytest.raises(QueueBroken):
        bench.ring.reap(1)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_device_writes_a_reset_makes_the_ring_as_new(
    make_packed: MakePackedBench, seed: int
) -> None:
    chance = random.Random(seed)
    bench = make_packed(5, indirect_table_size=2, strict=bool(seed % 2))
    for _ in range(200):
        if bench.ring.broken is None:
            bench.ring.push_many([bench.writable(1, 1)] * chance.randint(0, 3))
            bench.ring.publish()
        words, slot = bench.device.words, chance.randrange(5)
        words.write_used(slot, chance.randrange(8), chance.randrange(4), chance.getrandbits(16))
        words.device_event_flags, words.device_event_position = (
            chance.getrandbits(16),
            chance.getrandbits(16),
        )
        with suppress(QueueBroken):
            bench.ring.reap()
        outstanding, free = bench.ring.outstanding_count, bench.ring.free_count
        assert (outstanding, free) == (5 - free, 5 - outstanding)
    bench.ring.reclaim()
    bench.device.restart()
    assert bench.ring.broken is None
    bench.cycle(11)


# -- Withdraw and reclaim ----------------------------------------------------------------------


def test_withdraw_gives_back_the_unpublished_newest_first(make_packed: MakePackedBench) -> None:
    bench = make_packed(5)
    bench.cycle(3)
    (published,) = bench.publish_chains(1)
    first = bench.ring.push(bench.chain((1,), (1,)))
    second = bench.ring.push(bench.writable(1))
    assert bench.ring.withdraw() == [second, first]
    assert bench.ring.withdraw() == []
    assert (bench.ring.free_count, bench.ring.outstanding_count) == (4, 1)
    assert bench.ring.publish() is False
    assert bench.ring.push(bench.chain((1,), (1,))) == first
    bench.ring.publish()
    assert bench.device.take() == [published, first]


def test_reclaim_returns_what_the_device_kept_and_the_ring_is_as_new(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(7, indirect_table_size=4)
    bench.cycle(10)
    heads = bench.ring.push_many([bench.chain((16,), (512, 1))] * 5)
    bench.ring.publish()
    bench.device.take()
    bench.device.use(heads[3])
    bench.device.use(heads[1])
    assert len(bench.ring.reap()) == 2
    unpublished = bench.ring.push(bench.writable(1))
    bench.ring.arm()
    assert bench.ring.reclaim() == sorted([heads[0], heads[2], heads[4], unpublished])
    assert bench.ring.reclaim() == []
    assert (bench.ring.free_count, bench.ring.outstanding_count) == (7, 0)
    assert bench.ring.next_available == 1 << 15
    with memoryview(bench.region) as memory:
        assert not any(memory)
    bench.device.restart()
    assert bench.ring.push_many([bench.writable(1)] * 7) == list(range(7))
    bench.ring.publish()
    assert bench.device.take() == list(range(7))


# -- Buffers in flight -------------------------------------------------------------------------


def test_a_region_cannot_be_closed_while_a_chain_holds_it(make_packed: MakePackedBench) -> None:
    bench = make_packed(7)
    region = bench.space.alloc(4096)
    head = bench.ring.push(bench.writable(1)._replace(writable=[(region, 0, 1)]))
    with pytest.raises(BufferError):
        region.close()
    bench.ring.publish()
    bench.device.take()
    bench.device.use(head)
    with pytest.raises(BufferError):
        region.close()
    bench.ring.reap()
    region.close()


@pytest.mark.parametrize("way", ["withdraw", "reclaim"])
def test_chains_that_are_given_up_let_go_of_their_regions(
    make_packed: MakePackedBench, way: str
) -> None:
    bench = make_packed(7)
    region = bench.space.alloc(4096)
    bench.ring.push_many([bench.writable(1)._replace(writable=[(region, 0, 1)])] * 3)
    with pytest.raises(BufferError):
        region.close()
    getattr(bench.ring, way)()
    region.close()
