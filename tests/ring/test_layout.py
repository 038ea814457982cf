"""Where the parts of a split ring lie."""

import sys

import pytest

from tests.clauses import clause
from tests.ring.support import Language, MakeBench
from vioblk import _native
from vioblk._native import DmaSpace
from vioblk.ring import RingLayout, reference

ALL_SIZES = [1 << exponent for exponent in range(16)]


def layout_of(
    language: Language,
    size: int,
    *,
    legacy_align: int | None = None,
    indirect_table_size: int = 0,
) -> RingLayout:
    function = _native.split_layout if language == "native" else reference.split_layout
    return function(size, legacy_align=legacy_align, indirect_table_size=indirect_table_size)


def numbers(layout: RingLayout) -> tuple[int, int, int, int]:
    return (
        layout.descriptors_offset,
        layout.driver_offset,
        layout.device_offset,
        layout.length,
    )


@clause("SPLIT-LAYOUT-01")
@pytest.mark.parametrize("size", ALL_SIZES)
@pytest.mark.parametrize("legacy_align", [None, 4, 16, 4096])
def test_every_part_is_aligned_for_every_queue_size(
    language: Language, size: int, legacy_align: int | None
) -> None:
    layout = layout_of(language, size, legacy_align=legacy_align)
    assert layout.descriptors_offset % 16 == 0
    assert layout.driver_offset % 2 == 0
    assert layout.device_offset % 4 == 0


@pytest.mark.parametrize("size", ALL_SIZES)
@pytest.mark.parametrize("legacy_align", [None, 4, 16, 4096])
def test_no_two_parts_overlap(language: Language, size: int, legacy_align: int | None) -> None:
    table_size = min(size, 4)
    layout = layout_of(language, size, legacy_align=legacy_align, indirect_table_size=table_size)
    assert layout.descriptors_offset + 16 * size <= layout.driver_offset
    assert layout.driver_offset + 6 + 2 * size <= layout.device_offset
    assert layout.device_offset + 6 + 8 * size <= layout.indirect_offset
    assert layout.indirect_offset + 16 * size * table_size <= layout.length


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, (0, 64, 128, 142)),
        (8, (0, 128, 192, 262)),
        (256, (0, 4096, 4672, 6726)),
        (32768, (0, 524288, 589888, 852038)),
    ],
)
def test_modern_parts_start_on_cache_lines(
    language: Language, size: int, expected: tuple[int, int, int, int]
) -> None:
    assert numbers(layout_of(language, size)) == expected


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
    assert numbers(layout_of(language, size, legacy_align=4096)) == expected


@pytest.mark.parametrize("size", ALL_SIZES)
@pytest.mark.parametrize("legacy_align", [None, 4, 64, 4096])
def test_both_languages_lay_out_alike(size: int, legacy_align: int | None) -> None:
    for table_size in {0, 1, size}:
        native, python = (
            layout_of(language, size, legacy_align=legacy_align, indirect_table_size=table_size)
            for language in ("native", "reference")
        )
        assert numbers(native) == numbers(python)
        if table_size:
            assert native.indirect_offset == python.indirect_offset


@pytest.mark.parametrize("size", [0, 3, 6, 65536, 32769])
def test_a_queue_size_that_is_no_power_of_two_in_range_is_refused(
    language: Language, size: int
) -> None:
    with pytest.raises(ValueError, match=str(size)):
        layout_of(language, size)


@pytest.mark.parametrize("legacy_align", [0, 1, 2, 3, 12, 4095])
def test_a_legacy_alignment_that_is_no_power_of_two_from_four_is_refused(
    language: Language, legacy_align: int
) -> None:
    with pytest.raises(ValueError, match=str(legacy_align)):
        layout_of(language, 8, legacy_align=legacy_align)


def test_an_indirect_table_longer_than_the_queue_is_refused(language: Language) -> None:
    with pytest.raises(ValueError, match="9"):
        layout_of(language, 8, indirect_table_size=9)


@pytest.mark.parametrize("legacy_align", [None, 4096])
def test_a_region_that_is_too_short_is_refused(
    language: Language, legacy_align: int | None
) -> None:
    queue_class = _native.SplitQueue if language == "native" else reference.SplitQueue
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    length = layout_of(language, 64, legacy_align=legacy_align).length
    with pytest.raises(ValueError, match=str(length)):
        queue_class(space.alloc(length - 1), 64, legacy_align=legacy_align)


def test_a_region_that_the_device_does_not_see_aligned_is_refused(language: Language) -> None:
    queue_class = _native.SplitQueue if language == "native" else reference.SplitQueue
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    first = space.alloc(64, 64)
    region = space.alloc(1 << 14, 64)
    assert region.device_address == first.device_address + 64
    with pytest.raises(ValueError, match="multiple of 4096"):
        queue_class(region, 8, legacy_align=4096)
    queue_class(region, 8, legacy_align=64)


@clause("SPLIT-KICK-01")
@pytest.mark.parametrize("legacy_align", [None, 4096])
def test_a_new_ring_is_zeroed_whatever_the_memory_held(
    language: Language, legacy_align: int | None
) -> None:
    queue_class = _native.SplitQueue if language == "native" else reference.SplitQueue
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    layout = layout_of(language, 8, legacy_align=legacy_align, indirect_table_size=4)
    region = space.alloc(layout.length)
    with memoryview(region) as memory:
        memory[:] = b"\xff" * layout.length
        queue_class(region, 8, legacy_align=legacy_align, indirect_table_size=4)
        parts = [
            (layout.descriptors_offset, 16 * 8),
            (layout.driver_offset, 6 + 2 * 8),
            (layout.device_offset, 6 + 8 * 8),
            (layout.indirect_offset, 16 * 8 * 4),
        ]
        for offset, length in parts:
            assert not any(memory[offset : offset + length])


def test_a_ring_of_a_live_device_keeps_what_the_device_wrote(language: Language) -> None:
    queue_class = _native.SplitQueue if language == "native" else reference.SplitQueue
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    layout = layout_of(language, 8)
    region = space.alloc(layout.length)
    with memoryview(region) as memory:
        memory[layout.device_offset] = 1  # a polling device wants no kicks, from the start
        queue_class(region, 8, zeroed=True)
        assert memory[layout.device_offset] == 1


@pytest.mark.parametrize("part", ["available", "used"])
def test_a_ring_that_is_not_zeroed_after_all_is_refused(language: Language, part: str) -> None:
    queue_class = _native.SplitQueue if language == "native" else reference.SplitQueue
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    layout = layout_of(language, 8)
    region = space.alloc(layout.length)
    with memoryview(region) as memory:
        memory[getattr(layout, f"{part}_offset") + 2] = 1
    with pytest.raises(ValueError, match="not zeroed"):
        queue_class(region, 8, zeroed=True)


@clause("SPLIT-LEG-04")
def test_the_words_of_a_legacy_ring_are_in_the_byte_order_of_the_processor(
    make: MakeBench,
) -> None:
    bench = make(8, legacy_align=4096)
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


def test_a_new_ring_has_all_descriptors_free_and_nothing_outstanding(make: MakeBench) -> None:
    bench = make(16)
    assert (bench.ring.size, bench.ring.free_count) == (16, 16)
    assert (bench.ring.outstanding_count, bench.ring.clamped_count) == (0, 0)
    assert bench.ring.broken is None
    assert bench.ring.layout.length <= bench.region.length
