"""The words that a chain on a packed ring is: VIRTIO 1.4, 2.8.5 to 2.8.7 and 2.8.16 to 2.8.19."""

import random

import pytest

from tests.clauses import clause
from tests.ring.formats import PACKED, PACKED_IN_ORDER, Language
from tests.ring.packed_puppet import Cursor
from tests.ring.support import MakePacked, Maker, heads_of
from vioblk.errors import QueueFull
from vioblk.ring.raw import AVAIL, INDIRECT, NEXT, USED, WRITE, PackedDescriptor


def test_lists_stand_one_behind_the_other_with_the_buffer_id_in_each_descriptor(
    make_packed: MakePacked,
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
    make_packed: MakePacked,
) -> None:
    bench = make_packed(5)
    bench.cycle(4)
    parts = bench.publish_and_follow(bench.chain((16,), (512, 1)))
    assert [part.length for part in parts] == [16, 512, 1]
    flags = [bench.device.words.read_flags(slot) for slot in (4, 0, 1)]
    assert flags == [AVAIL | NEXT, USED | NEXT | WRITE, USED | WRITE]
    assert bench.ring.next_available == 2


@clause("PACKED-INDIR-02", "PACKED-INDIR-04")
@pytest.mark.parametrize("segment_count", [2, 3, 7])
def test_an_indirect_chain_is_one_descriptor_and_a_table_in_a_row(
    make_packed: MakePacked, segment_count: int
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


def test_a_single_segment_needs_no_table(make_packed: MakePacked) -> None:
    bench = make_packed(7, indirect_table_size=7)
    bench.publish_chains(1, writable_bytes=7)
    assert bench.device.words.read_descriptor(0) == PackedDescriptor(
        bench.address(0), 7, 0, AVAIL | WRITE
    )


def test_a_reaped_buffer_id_is_reused_next(language: Language) -> None:
    bench = Maker(language, PACKED)(7)
    assert bench.publish_chains(4) == [0, 1, 2, 3]
    for head in (2, 0):
        bench.device.use(head)
    assert heads_of(bench.ring.reap()) == [2, 0]
    assert bench.ring.push_many([bench.writable(1)] * 8) == [0, 2, 4, 5, 6]


@clause("PACKED-SG-06", "PACKED-ADD-01")
def test_a_list_becomes_available_as_a_whole_or_not_at_all(make_packed: MakePacked) -> None:
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
    make_packed: MakePacked, indirect_table_size: int
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
    assert heads_of(bench.ring.reap()) == [head]
    assert descriptors() == used
    bench.ring.push(bench.writable(1))
    bench.ring.publish()
    assert descriptors() != used


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 100])
def test_in_order_buffer_ids_are_given_in_turn(language: Language, size: int) -> None:
    """The id of the chain with the number n is n modulo the queue size."""
    bench, chance, pushed = Maker(language, PACKED_IN_ORDER)(size), random.Random(size), 0
    for _ in range(6 * size):
        lengths = [1] * chance.randint(1, min(3, size))
        heads = bench.ring.push_many([bench.writable(*lengths)] * chance.randint(1, 4))
        assert heads == [(pushed + n) % size for n in range(len(heads))]
        if chance.random() < 0.2:
            bench.ring.withdraw()
            continue
        pushed += len(heads)
        bench.ring.publish()
        bench.device.use_all()
        assert heads_of(bench.ring.reap()) == heads
    assert pushed > 3 * size, "several times around"
