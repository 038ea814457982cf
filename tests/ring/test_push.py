"""Chains as the device finds them: VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor Table."""

from collections.abc import Callable

import pytest

from tests.clauses import clause
from tests.ring.puppet import Part
from tests.ring.support import DATA_BYTES, Bench, MakeBench
from vioblk.errors import ChainTooLong, QueueFull
from vioblk.ring import Chain
from vioblk.ring.raw import INDIRECT, NEXT, WRITE, Descriptor

SHAPES = [
    ((16,), ()),
    ((), (1,)),
    ((16,), (1,)),
    ((16,), (512, 1)),
    ((16, 4096, 512), (1,)),
    ((16,), (512, 512, 512, 512, 1)),
    ((1, 1, 1, 1), (1, 1, 1, 1)),
]


def published_parts(bench: Bench, chain: Chain) -> list[Part]:
    head = bench.ring.push(chain)
    bench.ring.publish()
    assert bench.device.take() == [head]
    return bench.device.follow(head)


@clause("FRAME-01", "FRAME-02")
@pytest.mark.parametrize("indirect_table_size", [0, 4, 8])
@pytest.mark.parametrize(("readable", "writable"), SHAPES)
def test_the_device_finds_one_part_per_segment_and_readable_ones_first(
    make: MakeBench,
    readable: tuple[int, ...],
    writable: tuple[int, ...],
    indirect_table_size: int,
) -> None:
    bench = make(8, indirect_table_size=indirect_table_size)
    parts = published_parts(bench, bench.chain(readable, writable))
    offset = 0
    for part, length in zip(parts, (*readable, *writable), strict=True):
        assert (part.address, part.length) == (bench.address(offset), length)
        offset += length
    assert [part.device_writes for part in parts] == [False] * len(readable) + [True] * len(
        writable
    )


def test_a_direct_chain_takes_descriptors_in_order_and_ends_with_next_zero(
    make: MakeBench,
) -> None:
    bench = make(8)
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


@clause("SPLIT-INDIR-02", "SPLIT-INDIR-04")
@pytest.mark.parametrize("segment_count", [2, 3, 8])
def test_an_indirect_chain_is_one_descriptor_and_a_table_linked_in_order(
    make: MakeBench, segment_count: int
) -> None:
    bench = make(8, indirect_table_size=8)
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


def test_every_head_has_a_table_of_its_own(make: MakeBench) -> None:
    bench = make(4, indirect_table_size=2)
    heads = bench.ring.push_many([bench.chain((16,), (length,)) for length in (1, 2, 3, 4)])
    bench.ring.publish()
    assert bench.device.take() == heads == [0, 1, 2, 3]
    assert [bench.device.follow(head)[1].length for head in heads] == [1, 2, 3, 4]


def test_a_single_segment_needs_no_table(make: MakeBench) -> None:
    bench = make(8, indirect_table_size=8)
    head = bench.ring.push(bench.writable(7))
    assert bench.device.words.read_descriptor(head) == Descriptor(bench.address(0), 7, WRITE, 0)


def test_a_chain_longer_than_the_table_is_direct(make: MakeBench) -> None:
    bench = make(8, indirect_table_size=2)
    head = bench.ring.push(bench.chain((16, 16), (1,)))
    assert bench.ring.free_count == 5
    assert [part.length for part in bench.device.follow(head)] == [16, 16, 1]


@clause("SPLIT-INDIR-01")
def test_without_indirect_desc_no_descriptor_has_the_flag(make: MakeBench) -> None:
    bench = make(16, indirect_table_size=0)
    for readable, writable in SHAPES:
        head = bench.ring.push(bench.chain(readable, writable))
        bench.ring.publish()
        flags = [bench.device.words.read_descriptor(index).flags for index in range(16)]
        assert not any(value & INDIRECT for value in flags)
        bench.device.use_all()
        assert [completion.head for completion in bench.ring.reap()] == [head]


def test_a_reaped_chain_is_reused_next_in_the_same_order(make: MakeBench) -> None:
    bench = make(8)
    first = bench.ring.push(bench.chain((1, 2), (3,)))
    second = bench.ring.push(bench.chain((1,), (2,)))
    assert (first, second) == (0, 3)
    bench.ring.publish()
    bench.device.use(first)
    bench.device.use(second)
    bench.ring.reap()
    assert bench.ring.push_many([bench.writable(1)] * 8) == [3, 4, 0, 1, 2, 5, 6, 7]


def test_the_free_list_does_not_lie_where_the_device_can_write(make: MakeBench) -> None:
    bench = make(8)
    head = bench.ring.push(bench.chain((16,), (512, 1)))
    bench.ring.publish()
    for index in range(8):
        bench.device.words.write_descriptor(index, 0, 0, NEXT | INDIRECT, 0xFFFF)
    bench.device.use(head)
    assert bench.ring.reap()[0].head == head
    assert bench.ring.free_count == 8
    assert bench.ring.push_many([bench.writable(1)] * 8) == list(range(8))


@clause("SPLIT-ADD-02")
def test_the_head_goes_to_the_slot_of_the_available_index_modulo_the_queue_size(
    make: MakeBench,
) -> None:
    bench = make(4)
    for index in range(11):
        head = bench.ring.push(bench.writable(1))
        assert bench.device.words.read_available(index % 4) == head
        bench.ring.publish()
        assert bench.device.use_all() == [head]
        bench.ring.reap()


def test_a_push_is_invisible_until_it_is_published(make: MakeBench) -> None:
    bench = make(8)
    bench.ring.push(bench.writable(1))
    assert bench.device.words.available_index == 0
    assert bench.ring.outstanding_count == 0
    bench.ring.publish()
    assert bench.device.words.available_index == 1
    assert bench.ring.outstanding_count == 1


# -- What is refused ---------------------------------------------------------------------------


def assert_untouched(bench: Bench) -> None:
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
        pytest.param(lambda b: b.chain((16, 0), (1,)), id="no bytes in the middle"),
        pytest.param(
            lambda b: Chain([b.segment(0, DATA_BYTES + 1)], []), id="longer than the region"
        ),
        pytest.param(lambda b: Chain([b.segment(DATA_BYTES, 1)], []), id="behind the region"),
        pytest.param(lambda b: Chain([b.segment(1 << 63, 1)], []), id="far behind the region"),
        pytest.param(
            lambda b: Chain([b.segment((1 << 64) - 1, 2)], []), id="offset and length wrap"
        ),
        pytest.param(lambda b: Chain([b.segment(0, 1 << 32)], []), id="length above 32 bits"),
    ],
)
def test_an_invalid_chain_is_refused_and_nothing_is_written(
    make: MakeBench, chain_of: Callable[[Bench], Chain]
) -> None:
    bench = make(8)
    with pytest.raises(ValueError, match=r"empty|bytes|region") as caught:
        bench.ring.push(chain_of(bench))
    assert not isinstance(caught.value, ChainTooLong)
    assert_untouched(bench)


def test_a_closed_region_is_refused(make: MakeBench) -> None:
    bench = make(8)
    closed = bench.space.alloc(4096)
    closed.close()
    with pytest.raises(BufferError):
        bench.ring.push(Chain([bench.segment(0, 16)], [(closed, 0, 512)]))
    assert_untouched(bench)


@clause("SPLIT-INDIR-03")
@pytest.mark.parametrize("indirect_table_size", [0, 4])
def test_a_chain_longer_than_the_queue_never_fits(
    make: MakeBench, indirect_table_size: int
) -> None:
    bench = make(4, indirect_table_size=indirect_table_size)
    with pytest.raises(ChainTooLong, match="5"):
        bench.ring.push(bench.readable(1, 1, 1, 1, 1))
    assert_untouched(bench)
    bench.ring.push(bench.readable(1, 1, 1, 1))


def test_a_chain_that_does_not_fit_now_is_refused_whole(make: MakeBench) -> None:
    bench = make(4)
    head = bench.ring.push(bench.readable(1, 1))
    with memoryview(bench.region) as memory:
        before = bytes(memory)
        with pytest.raises(QueueFull, match="3"):
            bench.ring.push(bench.readable(1, 1, 1))
        assert bytes(memory) == before
    assert bench.ring.free_count == 2
    bench.ring.publish()
    bench.device.use(head)
    bench.ring.reap()
    bench.ring.push(bench.readable(1, 1, 1))


@clause("SPLIT-DESC-01")
def test_a_chain_of_more_than_four_gibibytes_never_fits(make: MakeBench) -> None:
    bench = make(256)
    # The same memory may stand in a chain more than once, so little memory makes a long chain.
    bench.space.map(1 << 25, 1 << 40)
    large = bench.space.alloc(1 << 25)
    half = [(large, 0, 1 << 25)] * 64
    exactly = bench.ring.push(Chain(half, half))
    assert sum(part.length for part in bench.device.follow(exactly)) == 1 << 32
    with pytest.raises(ChainTooLong, match=str((1 << 32) + 1)):
        bench.ring.push(Chain(half, [*half, (large, 0, 1)]))
    assert bench.ring.free_count == 128


# -- Batches -----------------------------------------------------------------------------------


def test_push_many_takes_from_the_front_as_many_as_fit(make: MakeBench) -> None:
    bench = make(8)
    chains = [bench.readable(1, 1, 1), bench.readable(1, 1, 1), bench.readable(1, 1, 1)]
    # The last would fit, but its turn has not come.
    assert bench.ring.push_many([*chains, bench.readable(1)]) == [0, 3]
    assert bench.ring.free_count == 2
    assert bench.ring.push_many([bench.readable(1)] * 3) == [6, 7]
    assert bench.ring.push_many([bench.readable(1)]) == []
    assert bench.ring.push_many([]) == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        pytest.param(lambda b: Chain([], []), ValueError, id="empty"),
        pytest.param(lambda b: b.readable(0), ValueError, id="no bytes"),
        pytest.param(lambda b: b.readable(*[1] * 9), ChainTooLong, id="too long"),
    ],
)
@pytest.mark.parametrize("position", [0, 1, 20])
def test_one_invalid_chain_anywhere_refuses_the_whole_batch(
    make: MakeBench, bad: Callable[[Bench], Chain], error: type[Exception], position: int
) -> None:
    bench = make(8)
    chains = [bench.readable(1)] * 20
    chains.insert(position, bad(bench))
    with pytest.raises(error):
        bench.ring.push_many(chains)
    assert_untouched(bench)
