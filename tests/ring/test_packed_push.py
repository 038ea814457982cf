"""Chains as the device finds them on a packed ring: VIRTIO 1.4, 2.8.5 to 2.8.7 and 2.8.16 to
2.8.19."""

from collections.abc import Callable

import pytest

from tests.clauses import clause
from tests.ring.packed_puppet import Cursor
from tests.ring.puppet import Part
from tests.ring.support import DATA_BYTES, MakePackedBench, PackedBench
from vioblk.errors import ChainTooLong, QueueFull
from vioblk.ring import Chain
from vioblk.ring.raw import AVAIL, INDIRECT, NEXT, USED, WRITE, PackedDescriptor

SHAPES = [
    ((16,), ()),
    ((), (1,)),
    ((16,), (1,)),
    ((16,), (512, 1)),
    ((16, 4096, 512), (1,)),
    ((16,), (512, 512, 512, 512, 1)),
    ((1, 1, 1), (1, 1, 1, 1)),
]


def published_parts(bench: PackedBench, chain: Chain) -> list[Part]:
    head = bench.ring.push(chain)
    bench.ring.publish()
    assert bench.device.take() == [head]
    return bench.device.follow(head)


@clause("PACKED-SG-03")
@pytest.mark.parametrize("indirect_table_size", [0, 4, 7])
@pytest.mark.parametrize(("readable", "writable"), SHAPES)
def test_the_device_finds_one_part_per_segment_and_readable_ones_first(
    make_packed: MakePackedBench,
    readable: tuple[int, ...],
    writable: tuple[int, ...],
    indirect_table_size: int,
) -> None:
    bench = make_packed(7, indirect_table_size=indirect_table_size)
    bench.cycle(5)
    parts = published_parts(bench, bench.chain(readable, writable))
    offset = 0
    for part, length in zip(parts, (*readable, *writable), strict=True):
        assert (part.address, part.length) == (bench.address(offset), length)
        offset += length
    assert [part.device_writes for part in parts] == [False] * len(readable) + [True] * len(
        writable
    )


def test_lists_stand_one_behind_the_other_with_the_buffer_id_in_each_descriptor(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(7)
    assert bench.ring.push(bench.chain((16,), (512, 1))) == 0
    assert bench.ring.push(bench.chain((16, 1), ())) == 1
    bench.ring.publish()
    assert [bench.device.words.read_descriptor(slot) for slot in range(6)] == [
        PackedDescriptor(bench.address(0), 16, 0, AVAIL | NEXT),
        PackedDescriptor(bench.address(16), 512, 0, AVAIL | NEXT | WRITE),
        PackedDescriptor(bench.address(528), 1, 0, AVAIL | WRITE),
        PackedDescriptor(bench.address(0), 16, 1, AVAIL | NEXT),
        PackedDescriptor(bench.address(16), 1, 1, AVAIL),
        PackedDescriptor(0, 0, 0, 0),
    ]
    assert bench.ring.free_count == 2


def test_a_list_over_the_end_of_the_ring_flips_the_wrap_counter_within(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(5)
    bench.cycle(4)
    parts = published_parts(bench, bench.chain((16,), (512, 1)))
    assert [part.length for part in parts] == [16, 512, 1]
    flags = [bench.device.words.read_flags(slot) for slot in (4, 0, 1)]
    assert flags == [AVAIL | NEXT, USED | NEXT | WRITE, USED | WRITE]
    assert bench.ring.next_available == 2


@clause("PACKED-INDIR-02", "PACKED-INDIR-04")
@pytest.mark.parametrize("segment_count", [2, 3, 7])
def test_an_indirect_chain_is_one_descriptor_and_a_table_in_a_row(
    make_packed: MakePackedBench, segment_count: int
) -> None:
    bench = make_packed(7, indirect_table_size=7)
    head = bench.ring.push(bench.chain((16,) * (segment_count - 1), (1,)))
    bench.ring.publish()
    words = bench.device.words
    assert words.read_descriptor(0) == PackedDescriptor(
        words.table_address(head), 16 * segment_count, head, AVAIL | INDIRECT
    )
    last = segment_count - 1
    for index in range(last):
        entry = PackedDescriptor(bench.address(16 * index), 16, 0, 0)
        assert words.read_table_entry(head, index) == entry
    assert words.read_table_entry(head, last) == PackedDescriptor(
        bench.address(16 * last), 1, 0, WRITE
    )
    assert bench.ring.free_count == 6


def test_every_buffer_id_has_a_table_of_its_own(make_packed: MakePackedBench) -> None:
    bench = make_packed(3, indirect_table_size=2)
    heads = bench.ring.push_many([bench.chain((16,), (length,)) for length in (1, 2, 3)])
    bench.ring.publish()
    assert bench.device.take() == heads == [0, 1, 2]
    assert [bench.device.follow(head)[1].length for head in heads] == [1, 2, 3]


def test_a_single_segment_needs_no_table(make_packed: MakePackedBench) -> None:
    bench = make_packed(7, indirect_table_size=7)
    bench.publish_chains(1, writable_bytes=7)
    assert bench.device.words.read_descriptor(0) == PackedDescriptor(
        bench.address(0), 7, 0, AVAIL | WRITE
    )


@clause("PACKED-INDIR-04")
def test_a_chain_longer_than_the_table_is_a_list_without_indirect_in_it(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(7, indirect_table_size=2)
    parts = published_parts(bench, bench.chain((16, 16), (1,)))
    assert [part.length for part in parts] == [16, 16, 1]
    assert bench.ring.free_count == 4
    assert not any(bench.device.words.read_flags(slot) & INDIRECT for slot in range(7))


@clause("PACKED-INDIR-01")
def test_without_indirect_desc_no_descriptor_has_the_flag(make_packed: MakePackedBench) -> None:
    bench = make_packed(13, indirect_table_size=0)
    for readable, writable in SHAPES:
        head = bench.ring.push(bench.chain(readable, writable))
        bench.ring.publish()
        flags = [bench.device.words.read_flags(slot) for slot in range(13)]
        assert not any(value & INDIRECT for value in flags)
        bench.device.use_all()
        assert [completion.head for completion in bench.ring.reap()] == [head]


def test_a_reaped_buffer_id_is_reused_next(make_packed: MakePackedBench) -> None:
    bench = make_packed(7)
    assert bench.publish_chains(4) == [0, 1, 2, 3]
    bench.device.take()
    for head in (2, 0):
        bench.device.use(head)
    assert [completion.head for completion in bench.ring.reap()] == [2, 0]
    assert bench.ring.push_many([bench.writable(1)] * 8) == [0, 2, 4, 5, 6]


def test_nothing_that_the_device_can_write_decides_what_is_free(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(7)
    head = bench.ring.push(bench.chain((16,), (512, 1)))
    bench.ring.publish()
    bench.device.take()
    for slot in range(1, 7):
        bench.device.words.write_descriptor(slot, 0, 0, 0xFFFF, NEXT | INDIRECT)
    bench.device.use(head)
    assert bench.ring.reap()[0].head == head
    assert bench.ring.free_count == 7
    assert bench.ring.push_many([bench.writable(1)] * 8) == list(range(7))


@clause("PACKED-SG-04", "PACKED-SG-05")
def test_a_list_is_begun_only_where_there_is_room_for_all_of_it(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(5)
    head = bench.ring.push(bench.readable(1, 1, 1))
    bench.ring.publish()
    with memoryview(bench.region) as memory:
        before = bytes(memory)
        with pytest.raises(QueueFull, match="3"):
            bench.ring.push(bench.readable(1, 1, 1))
        assert bytes(memory) == before
    assert bench.ring.free_count == 2
    bench.device.take()
    bench.device.use(head)
    bench.ring.reap()
    bench.ring.push(bench.readable(1, 1, 1))


@clause("PACKED-SG-06", "PACKED-ADD-01")
def test_a_list_becomes_available_as_a_whole_or_not_at_all(make_packed: MakePackedBench) -> None:
    """Nothing is available before publish; after it the puppet checks each descriptor."""
    bench = make_packed(5)
    for _ in range(7):
        head = bench.ring.push(bench.chain((16,), (512, 1)))
        cursor = Cursor(5, bench.device.available.slot, bench.device.available.counter)
        for _ in range(3):
            flags = bench.device.words.read_flags(cursor.slot)
            assert flags & (AVAIL | USED) != cursor.available_flags
            cursor.step()
        bench.ring.publish()
        assert bench.device.take() == [head]
        assert len(bench.device.follow(head)) == 3
        bench.device.use(head)
        assert len(bench.ring.reap()) == 1


@clause("PACKED-DESC-01", "PACKED-DESC-02")
@pytest.mark.parametrize("indirect_table_size", [0, 3])
def test_what_is_the_devices_is_not_touched_until_it_was_reaped(
    make_packed: MakePackedBench, indirect_table_size: int
) -> None:
    bench = make_packed(7, indirect_table_size=indirect_table_size)
    bench.cycle(4)
    head = bench.ring.push(bench.chain((16,), (512, 1)))
    first = bench.device.available.slot
    bench.ring.publish()
    slots = [(first + n) % 7 for n in range(1 if indirect_table_size else 3)]

    def descriptors() -> list[PackedDescriptor]:
        return [bench.device.words.read_descriptor(slot) for slot in slots]

    def everything_but_reap() -> None:
        bench.ring.push_many([bench.writable(1)] * 9)
        bench.ring.withdraw()
        bench.ring.push_many([bench.writable(1)] * 9)
        bench.ring.publish()
        with pytest.raises(QueueFull):
            bench.ring.push(bench.writable(1))
        bench.ring.disarm()
        bench.ring.arm()

    before = descriptors()
    everything_but_reap()
    assert descriptors() == before
    bench.device.take()
    bench.device.use(head, 3)
    used = descriptors()
    everything_but_reap()
    assert descriptors() == used
    assert [completion.head for completion in bench.ring.reap()] == [head]
    assert descriptors() == used
    bench.ring.push(bench.writable(1))
    bench.ring.publish()
    assert descriptors() != used


# -- What is refused ---------------------------------------------------------------------------


def assert_untouched(bench: PackedBench) -> None:
    """Nothing was pushed, and nothing was written."""
    assert bench.ring.free_count == bench.ring.size
    assert bench.ring.withdraw() == []
    with memoryview(bench.region) as memory:
        assert not any(memory)


@pytest.mark.parametrize(
    "chain_of",
    [
        pytest.param(lambda b: Chain([], []), id="empty chain"),
        pytest.param(lambda b: b.writable(0), id="no bytes"),
        pytest.param(
            lambda b: Chain([b.segment(0, DATA_BYTES + 1)], []), id="longer than the region"
        ),
        pytest.param(
            lambda b: Chain([b.segment((1 << 64) - 1, 2)], []), id="offset and length wrap"
        ),
        pytest.param(lambda b: Chain([b.segment(0, 1 << 32)], []), id="length above 32 bits"),
    ],
)
def test_an_invalid_chain_is_refused_and_nothing_is_written(
    make_packed: MakePackedBench, chain_of: Callable[[PackedBench], Chain]
) -> None:
    bench = make_packed(7)
    with pytest.raises(ValueError, match=r"empty|bytes|region") as caught:
        bench.ring.push(chain_of(bench))
    assert not isinstance(caught.value, ChainTooLong)
    assert_untouched(bench)


@clause("PACKED-SG-02", "PACKED-INDIR-03")
@pytest.mark.parametrize("indirect_table_size", [0, 5])
def test_a_chain_longer_than_the_queue_never_fits(
    make_packed: MakePackedBench, indirect_table_size: int
) -> None:
    bench = make_packed(5, indirect_table_size=indirect_table_size)
    with pytest.raises(ChainTooLong, match="6"):
        bench.ring.push(bench.readable(1, 1, 1, 1, 1, 1))
    assert_untouched(bench)
    bench.ring.push(bench.readable(1, 1, 1, 1, 1))


def test_a_chain_of_more_than_four_gibibytes_never_fits(make_packed: MakePackedBench) -> None:
    bench = make_packed(200)
    bench.space.map(1 << 25, 1 << 40)
    large = bench.space.alloc(1 << 25)
    half = [(large, 0, 1 << 25)] * 64
    parts = published_parts(bench, Chain(half, half))
    assert sum(part.length for part in parts) == 1 << 32
    with pytest.raises(ChainTooLong, match=str((1 << 32) + 1)):
        bench.ring.push(Chain(half, [*half, (large, 0, 1)]))
    assert bench.ring.free_count == 72


# -- Batches -----------------------------------------------------------------------------------


def test_push_many_takes_from_the_front_as_many_as_fit(make_packed: MakePackedBench) -> None:
    bench = make_packed(7)
    chains = [bench.readable(1, 1, 1)] * 3
    # The last would fit, but its turn has not come.
    assert bench.ring.push_many([*chains, bench.readable(1)]) == [0, 1]
    assert bench.ring.free_count == 1
    assert bench.ring.push_many([bench.readable(1)] * 3) == [2]
    assert bench.ring.push_many([bench.readable(1)]) == []
    assert bench.ring.push_many([]) == []


@pytest.mark.parametrize("position", [0, 1, 20])
def test_one_invalid_chain_anywhere_refuses_the_whole_batch(
    make_packed: MakePackedBench, position: int
) -> None:
    bench = make_packed(7)
    chains = [bench.readable(1)] * 20
    chains.insert(position, bench.readable(*[1] * 8))
    with pytest.raises(ChainTooLong):
        bench.ring.push_many(chains)
    assert_untouched(bench)
