"""Where the parts of a packed ring lie: VIRTIO 1.4, 2.8 Packed Virtqueues."""

import pytest

from tests.clauses import clause
from tests.ring.support import Language, MakePackedBench
from vioblk import _native
from vioblk._native import DmaSpace
from vioblk.ring import RingLayout, reference

SIZES = [1, 2, 3, 5, 7, 8, 100, 255, 256, 1000, 32767, 32768]


def layout_of(language: Language, size: int, *, indirect_table_size: int = 0) -> RingLayout:
    function = _native.packed_layout if language == "native" else reference.packed_layout
    return function(size, indirect_table_size=indirect_table_size)


def numbers(layout: RingLayout) -> tuple[int, int, int, int, int]:
    return (
        layout.descriptors_offset,
        layout.driver_offset,
        layout.device_offset,
        layout.indirect_offset,
        layout.length,
    )


@clause("PACKED-LAYOUT-01")
@pytest.mark.parametrize("size", SIZES)
def test_every_part_is_aligned_for_every_queue_size(language: Language, size: int) -> None:
    layout = layout_of(language, size)
    assert layout.descriptors_offset % 16 == 0
    assert layout.driver_offset % 4 == 0
    assert layout.device_offset % 4 == 0


@pytest.mark.parametrize("size", SIZES)
def test_no_two_parts_share_a_cache_line(language: Language, size: int) -> None:
    layout = layout_of(language, size, indirect_table_size=min(size, 3))
    starts = numbers(layout)[:4]
    assert [start % 64 for start in starts] == [0, 0, 0, 0]
    assert layout.descriptors_offset + 16 * size <= layout.driver_offset
    assert layout.driver_offset + 4 <= layout.device_offset
    assert layout.device_offset + 4 <= layout.indirect_offset
    assert layout.indirect_offset + 16 * size * min(size, 3) == layout.length


@pytest.mark.parametrize("size", SIZES)
def test_both_languages_lay_out_alike(size: int) -> None:
    for table_size in {0, 1, min(size, 7)}:
        native, python = (
            layout_of(language, size, indirect_table_size=table_size)
            for language in ("native", "reference")
        )
        assert numbers(native) == numbers(python)


@pytest.mark.parametrize("size", [0, 32769, 65536])
def test_a_queue_size_out_of_range_is_refused(language: Language, size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} is not a number from 1 to 32768"):
        layout_of(language, size)


def test_an_indirect_table_longer_than_the_queue_is_refused(language: Language) -> None:
    with pytest.raises(ValueError, match="9"):
        layout_of(language, 8, indirect_table_size=9)


def test_a_region_that_is_too_short_is_refused(language: Language) -> None:
    queue_class = _native.PackedQueue if language == "native" else reference.PackedQueue
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    length = layout_of(language, 65).length
    with pytest.raises(ValueError, match=str(length)):
        queue_class(space.alloc(length - 1), 65)


def test_a_new_ring_is_zeroed_whatever_the_memory_held(language: Language) -> None:
    queue_class = _native.PackedQueue if language == "native" else reference.PackedQueue
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    layout = layout_of(language, 7, indirect_table_size=4)
    region = space.alloc(layout.length)
    with memoryview(region) as memory:
        memory[:] = b"\xff" * layout.length
        queue_class(region, 7, indirect_table_size=4)
        parts = [
            (layout.descriptors_offset, 16 * 7),
            (layout.driver_offset, 4),
            (layout.device_offset, 4),
            (layout.indirect_offset, 16 * 7 * 4),
        ]
        for offset, length in parts:
            assert not any(memory[offset : offset + length])


def test_a_ring_of_a_live_device_keeps_what_the_device_wrote(language: Language) -> None:
    queue_class = _native.PackedQueue if language == "native" else reference.PackedQueue
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    layout = layout_of(language, 7)
    region = space.alloc(layout.length)
    with memoryview(region) as memory:
        memory[layout.device_offset + 2] = 1  # a polling device wants no kicks, from the start
        queue_class(region, 7, zeroed=True)
        assert memory[layout.device_offset + 2] == 1


@pytest.mark.parametrize("offset", [14, 16 * 6 + 15])
def test_a_ring_that_is_not_zeroed_after_all_is_refused(language: Language, offset: int) -> None:
    queue_class = _native.PackedQueue if language == "native" else reference.PackedQueue
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    region = space.alloc(layout_of(language, 7).length)
    with memoryview(region) as memory:
        memory[offset] = 0x80
    with pytest.raises(ValueError, match="not zeroed"):
        queue_class(region, 7, zeroed=True)


def test_a_new_ring_has_all_descriptors_free_and_nothing_outstanding(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(13)
    assert (bench.ring.size, bench.ring.free_count) == (13, 13)
    assert (bench.ring.outstanding_count, bench.ring.clamped_count) == (0, 0)
    assert bench.ring.broken is None
    assert bench.ring.next_available == 1 << 15  # slot 0, and the counter starts at 1
    assert bench.ring.layout.length <= bench.region.length
