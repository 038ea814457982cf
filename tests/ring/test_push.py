"""Chains as the device finds them, in every format: VIRTIO 1.4, 2.7.4 Message Framing, 2.7.5 The
Virtqueue Descriptor Table and 2.8.5 to 2.8.7 and 2.8.16 to 2.8.19 of the packed ring."""

from collections.abc import Callable

import pytest

from tests.clauses import clause
from tests.ring.puppet import Puppet
from tests.ring.support import DATA_BYTES, Bench, Make, heads_of
from vioblk.errors import ChainTooLong, QueueFull
from vioblk.ring import Chain
from vioblk.ring.raw import INDIRECT, NEXT

AnyBench = Bench[Puppet]

SHAPES = [
    ((16,), ()),
    ((), (1,)),
    ((16,), (1,)),
    ((16,), (512, 1)),
    ((16, 4096, 512), (1,)),
    ((16,), (512, 512, 512, 512, 1)),
    ((1, 1, 1), (1, 1, 1, 1)),
]


@clause("FRAME-01", "FRAME-02", "PACKED-SG-03")
@pytest.mark.parametrize("indirect_table_size", [0, 4, 7])
@pytest.mark.parametrize(("readable", "writable"), SHAPES)
def test_the_device_finds_one_part_per_segment_and_readable_ones_first(
    make: Make,
    readable: tuple[int, ...],
    writable: tuple[int, ...],
    indirect_table_size: int,
) -> None:
    bench = make(indirect_table_size=indirect_table_size)
    bench.cycle(5)
    parts = bench.publish_and_follow(bench.chain(readable, writable))
    offset = 0
    for part, length in zip(parts, (*readable, *writable), strict=True):
        assert (part.address, part.length) == (bench.address(offset), length)
        offset += length
    assert [part.device_writes for part in parts] == [False] * len(readable) + [True] * len(
        writable
    )


@pytest.mark.parametrize("tables", [False, True])
def test_a_chain_may_have_as_many_segments_as_the_queue_has_descriptors(
    make: Make, tables: bool
) -> None:
    bench = make(indirect_table_size=make.format.size if tables else 0)
    bench.cycle(3)
    parts = bench.publish_and_follow(bench.chain((1,) * (bench.size - 4), (1,) * 4))
    assert len(parts) == bench.size
    assert bench.ring.free_count == (bench.size - 1 if tables else 0)


def test_every_head_has_a_table_of_its_own(make: Make) -> None:
    bench = make.small(indirect_table_size=2)
    lengths = [*range(1, bench.size + 1)]
    heads = bench.publish_all([bench.chain((16,), (length,)) for length in lengths])
    assert sorted(heads) == [*range(bench.size)]
    assert [bench.device.follow(head)[1].length for head in heads] == lengths


@clause("SPLIT-INDIR-04", "PACKED-INDIR-04")
def test_a_chain_longer_than_the_table_is_direct_and_none_of_it_is_indirect(make: Make) -> None:
    bench = make(indirect_table_size=2)
    parts = bench.publish_and_follow(bench.chain((16, 16), (1,)))
    assert [part.length for part in parts] == [16, 16, 1]
    assert bench.ring.free_count == bench.size - 3
    assert not any(each.flags & INDIRECT for each in bench.device.descriptors())


@clause("SPLIT-INDIR-01", "PACKED-INDIR-01")
def test_without_indirect_desc_no_descriptor_has_the_flag(make: Make) -> None:
    bench = make(indirect_table_size=0)
    for _ in range(3):
        for readable, writable in SHAPES:
            heads = bench.publish_all([bench.chain(readable, writable)])
            assert not any(each.flags & INDIRECT for each in bench.device.descriptors())
            bench.device.use(heads[0])
            assert heads_of(bench.ring.reap()) == heads


@clause("SPLIT-DESC-01", "PACKED-SG-02")
def test_a_chain_ends_and_names_no_descriptor_twice(make: Make) -> None:
    """The puppet asserts that a chain is no longer than the queue, so it does not loop."""
    bench = make()
    for _ in range(4):
        chains = [bench.readable(1, 1), bench.writable(1, 1, 1)]
        heads = bench.publish_all(chains)
        parts = [part for head in heads for part in bench.device.follow(head)]
        assert len(parts) == 5
        for head in heads:
            bench.device.use(head)
        bench.ring.reap()


def test_nothing_that_the_device_can_write_decides_what_is_free(make: Make) -> None:
    bench = make()
    (head,) = bench.publish_all([bench.chain((16,), (512, 1))])
    for index in range(bench.size):
        bench.device.scribble(index, NEXT | INDIRECT, 0xFFFF)
    bench.device.use(head)
    assert heads_of(bench.ring.reap()) == [head]
    assert bench.ring.free_count == bench.size
    first = {"split-in-order": 3, "packed-in-order": 1}.get(bench.format.name, 0)
    assert bench.ring.push_many([bench.writable(1)] * bench.size) == [
        (first + n) % bench.size for n in range(bench.size)
    ]


def test_a_push_is_invisible_until_it_is_published(make: Make) -> None:
    bench = make()
    head = bench.ring.push(bench.writable(1))
    assert bench.device.take() == []
    assert bench.ring.outstanding_count == 0
    bench.ring.publish()
    assert bench.device.take() == [head]
    assert bench.ring.outstanding_count == 1


# -- What is refused ---------------------------------------------------------------------------


def assert_untouched(bench: AnyBench) -> None:
    """Nothing was pushed, and nothing was written."""
    assert bench.ring.free_count == bench.size
    assert bench.ring.withdraw() == []
    assert not any(bench.memory())


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
    make: Make, chain_of: Callable[[AnyBench], Chain]
) -> None:
    bench = make()
    with pytest.raises(ValueError, match=r"empty|bytes|region") as caught:
        bench.ring.push(chain_of(bench))
    assert not isinstance(caught.value, ChainTooLong)
    assert_untouched(bench)


def test_a_closed_region_is_refused(make: Make) -> None:
    bench = make()
    closed = bench.space.alloc(4096)
    closed.close()
    with pytest.raises(BufferError):
        bench.ring.push(Chain([bench.segment(0, 16)], [(closed, 0, 512)]))
    assert_untouched(bench)


@clause("SPLIT-INDIR-03", "PACKED-SG-02", "PACKED-INDIR-03")
@pytest.mark.parametrize("tables", [False, True])
def test_a_chain_longer_than_the_queue_never_fits(make: Make, tables: bool) -> None:
    bench = make.small(indirect_table_size=make.format.small_size if tables else 0)
    with pytest.raises(ChainTooLong, match=str(bench.size + 1)):
        bench.ring.push(bench.readable(*[1] * (bench.size + 1)))
    assert_untouched(bench)
    bench.ring.push(bench.readable(*[1] * bench.size))


@clause("PACKED-SG-04", "PACKED-SG-05")
def test_a_chain_that_does_not_fit_now_is_refused_whole(make: Make) -> None:
    bench = make.small()
    (head,) = bench.publish_all([bench.readable(*[1] * (bench.size - 2))])
    before = bench.memory()
    with pytest.raises(QueueFull, match="needs 3 descriptors, 2 are free"):
        bench.ring.push(bench.readable(1, 1, 1))
    assert bench.memory() == before
    assert bench.ring.free_count == 2
    bench.device.use(head)
    bench.ring.reap()
    bench.ring.push(bench.readable(1, 1, 1))


@clause("SPLIT-DESC-01")
def test_a_chain_of_more_than_four_gibibytes_never_fits(make: Make) -> None:
    bench = make(256)
    # The same memory may stand in a chain more than once, so little memory makes a long chain.
    bench.space.map(1 << 25, 1 << 40)
    large = bench.space.alloc(1 << 25)
    half = [(large, 0, 1 << 25)] * 64
    exactly = bench.publish_and_follow(Chain(half, half))
    assert sum(part.length for part in exactly) == 1 << 32
    with pytest.raises(ChainTooLong, match=str((1 << 32) + 1)):
        bench.ring.push(Chain(half, [*half, (large, 0, 1)]))
    assert bench.ring.free_count == 128


# -- Batches -----------------------------------------------------------------------------------


def test_push_many_takes_from_the_front_as_many_as_fit(make: Make) -> None:
    bench = make()
    chains = [bench.readable(1, 1, 1)] * 3
    # The last would fit, but its turn has not come.
    assert len(bench.ring.push_many([*chains, bench.readable(1)])) == 2
    assert bench.ring.free_count == bench.size - 6
    assert len(bench.ring.push_many([bench.readable(1)] * 3)) == bench.size - 6
    assert bench.ring.push_many([bench.readable(1)]) == []
    assert bench.ring.push_many([]) == []
    bench.ring.publish()
    lengths = [len(bench.device.follow(head)) for head in bench.device.take()]
    assert lengths == [3, 3] + [1] * (bench.size - 6)


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
    make: Make, bad: Callable[[AnyBench], Chain], error: type[Exception], position: int
) -> None:
    bench = make()
    chains = [bench.readable(1)] * 20
    chains.insert(position, bad(bench))
    with pytest.raises(error):
        bench.ring.push_many(chains)
    assert_untouched(bench)
