"""The words that a chain on a split ring is: VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor Table and
2.7.6 The Virtqueue Available Ring."""

import random

import pytest

from tests.clauses import clause
from tests.ring.formats import SPLIT, SPLIT_IN_ORDER, Language
from tests.ring.support import Maker, MakeSplit
from vioblk.ring.raw import INDIRECT, NEXT, WRITE, Descriptor


def test_a_direct_chain_takes_descriptors_in_order_and_ends_with_next_zero(
    make_split: MakeSplit,
) -> None:
    bench = make_split(8)
    assert bench.ring.push(bench.chain((16,), (512, 1))) == 0
    assert bench.ring.push(bench.chain((16, 1), ())) == 3
    words = bench.device.words
    assert [words.read_descriptor(index) for index in range(5)] == [
        Descriptor(bench.address(0), 16, NEXT, 1),
        Descriptor(bench.address(16), 512, NEXT | WRITE, 2),
        Descriptor(bench.address(528), 1, WRITE, 0),
        Descriptor(bench.address(0), 16, NEXT, 4),
        Descriptor(bench.address(16), 1, 0, 0),
    ]
    assert bench.ring.free_count == 3


@clause("SPLIT-INDIR-02", "SPLIT-INDIR-04", "SPLIT-INDIR-05")
@pytest.mark.parametrize("segment_count", [2, 3, 8])
def test_an_indirect_chain_is_one_descriptor_and_a_table_linked_in_order(
    make_split: MakeSplit, segment_count: int
) -> None:
    bench = make_split(8, indirect_table_size=8)
    head = bench.ring.push(bench.chain((16,) * (segment_count - 1), (1,)))
    words = bench.device.words
    assert words.read_descriptor(head) == Descriptor(
        words.table_address(head), 16 * segment_count, INDIRECT, 0
    )
    last = segment_count - 1
    for index in range(last):
        assert words.read_table_entry(head, index) == Descriptor(
            bench.address(16 * index), 16, NEXT, index + 1
        )
    assert words.read_table_entry(head, last) == Descriptor(bench.address(16 * last), 1, WRITE, 0)
    assert bench.ring.free_count == 7


def test_a_single_segment_needs_no_table(make_split: MakeSplit) -> None:
    bench = make_split(8, indirect_table_size=8)
    head = bench.ring.push(bench.writable(7))
    assert bench.device.words.read_descriptor(head) == Descriptor(bench.address(0), 7, WRITE, 0)


@clause("SPLIT-ADD-02")
def test_the_head_goes_to_the_slot_of_the_available_index_modulo_the_queue_size(
    make_split: MakeSplit,
) -> None:
    bench = make_split(4)
    for index in range(11):
        head = bench.ring.push(bench.writable(1))
        assert bench.device.words.read_available(index % 4) == head
        bench.ring.publish()
        assert bench.device.use_all() == [head]
        bench.ring.reap()


def test_a_reaped_chain_is_reused_next_in_the_same_order(language: Language) -> None:
    bench = Maker(language, SPLIT)()
    first, second = bench.publish_all([bench.chain((1, 2), (3,)), bench.chain((1,), (2,))])
    assert (first, second) == (0, 3)
    bench.device.use(first)
    bench.device.use(second)
    bench.ring.reap()
    assert bench.ring.push_many([bench.writable(1)] * 8) == [3, 4, 0, 1, 2, 5, 6, 7]


@clause("INORDER-SPLIT-01", "INORDER-SPLIT-02")
@pytest.mark.parametrize("size", [1, 2, 4, 8, 64])
@pytest.mark.parametrize("indirect_table_size", [0, 2])
def test_in_order_descriptors_are_taken_in_the_order_of_the_table_and_around(
    language: Language, size: int, indirect_table_size: int
) -> None:
    bench = Maker(language, SPLIT_IN_ORDER)(
        size, indirect_table_size=min(size, indirect_table_size)
    )
    chance, slot = random.Random(size), 0
    for _ in range(6 * size):
        lengths = [1] * chance.randint(1, min(5, size))
        (head,) = bench.publish_all([bench.writable(*lengths)])
        assert head == slot % size
        words = bench.device.words
        while (descriptor := words.read_descriptor(slot % size)).flags & NEXT:
            assert descriptor.next == (slot + 1) % size
            slot += 1
        slot += 1
        bench.device.use(head)
        bench.ring.reap()
    assert slot > 3 * size, "several times around"


def test_in_order_what_was_withdrawn_took_no_descriptors(language: Language) -> None:
    bench = Maker(language, SPLIT_IN_ORDER)()
    bench.cycle(6)
    for _ in range(3):
        assert bench.ring.push_many([bench.writable(1, 1, 1)] * 3) == [6, 1]
        assert bench.ring.withdraw() == [1, 6]
    (head,) = bench.publish_chains(1)
    assert head == 6
    assert bench.ring.push(bench.writable(1)) == 7
