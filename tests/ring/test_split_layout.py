"""Where the parts of a split ring lie, the legacy interface's too: VIRTIO 1.4, 2.7 Split
Virtqueues and 2.7.2 Legacy Interfaces: A Note on Virtqueue Layout."""

import sys

import pytest

from tests.clauses import clause
from tests.ring.formats import SPLIT, Language
from tests.ring.support import MakeSplit
from vioblk._native import DmaSpace
from vioblk.ring import RingLayout


def numbers(layout: RingLayout) -> tuple[int, int, int, int]:
    return (
        layout.descriptors_offset,
        layout.driver_offset,
        layout.device_offset,
        layout.length,
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, (0, 128, 256, 270)),
        (8, (0, 128, 256, 326)),
        (256, (0, 4096, 4736, 6790)),
        (32768, (0, 524288, 589952, 852102)),
    ],
)
def test_modern_parts_start_on_pairs_of_cache_lines(
    language: Language, size: int, expected: tuple[int, int, int, int]
) -> None:
    assert numbers(SPLIT.layout(language)(size)) == expected


@clause("SPLIT-LEG-02", "SPLIT-LEG-03")
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, (0, 16, 4096, 8192)),
        (64, (0, 1024, 4096, 8192)),
        (128, (0, 2048, 4096, 8192)),
        (256, (0, 4096, 8192, 12288)),
        (512, (0, 8192, 12288, 20480)),
        (1024, (0, 16384, 20480, 32768)),
        (32768, (0, 524288, 593920, 860160)),
    ],
)
def test_legacy_parts_are_contiguous_and_rounded_to_the_queue_alignment(
    language: Language, size: int, expected: tuple[int, int, int, int]
) -> None:
    assert numbers(SPLIT.layout(language)(size, legacy_align=4096)) == expected


@pytest.mark.parametrize("size", [0, 3, 6, 65536, 32769])
def test_a_queue_size_that_is_no_power_of_two_in_range_is_refused(
    language: Language, size: int
) -> None:
    with pytest.raises(ValueError, match=str(size)):
        SPLIT.layout(language)(size)


@pytest.mark.parametrize("legacy_align", [0, 1, 2, 3, 12, 4095])
def test_a_legacy_alignment_that_is_no_power_of_two_from_four_is_refused(
    language: Language, legacy_align: int
) -> None:
    with pytest.raises(ValueError, match=str(legacy_align)):
        SPLIT.layout(language)(8, legacy_align=legacy_align)


def test_a_region_that_the_device_does_not_see_aligned_is_refused(language: Language) -> None:
    queue_class = SPLIT.queue_class(language)
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    first = space.alloc(64, 64)
    region = space.alloc(1 << 14, 64)
    assert region.device_address == first.device_address + 64
    with pytest.raises(ValueError, match="multiple of 4096"):
        queue_class(region, 8, legacy_align=4096)
    queue_class(region, 8, legacy_align=64)


@clause("SPLIT-LEG-04")
def test_the_words_of_a_legacy_ring_are_in_the_byte_order_of_the_processor(
    make_split: MakeSplit,
) -> None:
    bench = make_split(8, legacy_align=4096)
    bench.ring.push_many([bench.chain((16,), (0x1234,))] * 2)
    bench.ring.publish()
    layout = bench.ring.layout
    with memoryview(bench.region) as memory:

        def word(offset: int, length: int) -> int:
            return int.from_bytes(memory[offset : offset + length], sys.byteorder)

        assert word(layout.descriptors_offset, 8) == bench.address(0)
        assert word(layout.descriptors_offset + 16 + 8, 4) == 0x1234
        assert word(layout.descriptors_offset + 14, 2) == 1
        assert word(layout.driver_offset + 2, 2) == 2
        assert word(layout.driver_offset + 6, 2) == 2
