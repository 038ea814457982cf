"""Where the parts of a ring lie, in every format, and what a new ring holds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.clauses import clause
from tests.ring.formats import PACKED, SPLIT, Format, Language
from tests.ring.support import Make
from vioblk._native import DmaSpace, Region
from vioblk.ring import Ring, RingLayout


class Kind(NamedTuple):
    """A way to lay a ring out. IN_ORDER makes no difference to it."""

    name: str
    format: Format[Any]
    sizes: tuple[int, ...]
    options: dict[str, int]

    @property
    def is_legacy(self) -> bool:
        return bool(self.options)

    def layout(self, language: Language, size: int, table_size: int = 0) -> RingLayout:
        make_layout = self.format.layout(language)
        return make_layout(size, indirect_table_size=table_size, **self.options)

    def ring(self, language: Language, region: Region, size: int, **options: Any) -> Ring:
        return self.format.queue_class(language)(region, size, **self.options, **options)

    def parts(self, layout: RingLayout, size: int) -> list[tuple[int, int]]:
        """Offset and length of all parts but the indirect tables."""
        if self.format is SPLIT:
            driver_bytes, device_bytes = 6 + 2 * size, 6 + 8 * size
        else:
            driver_bytes = device_bytes = 4
        return [
            (layout.descriptors_offset, 16 * size),
            (layout.driver_offset, driver_bytes),
            (layout.device_offset, device_bytes),
        ]


POWERS = tuple(1 << exponent for exponent in range(16))
KINDS = [
    Kind("split", SPLIT, POWERS, {}),
    *(Kind(f"legacy-{align}", SPLIT, POWERS, {"legacy_align": align}) for align in (4, 16, 4096)),
    Kind("packed", PACKED, (1, 2, 3, 5, 7, 8, 100, 255, 256, 1000, 32767, 32768), {}),
]
EACH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
EACH_SIZE = pytest.mark.parametrize(
    ("kind", "size"),
    [pytest.param(kind, size, id=f"{kind.name}-{size}") for kind in KINDS for size in kind.sizes],
)


def space_for_rings() -> DmaSpace:
    space = DmaSpace()
    space.map(1 << 17, 1 << 32)
    return space


@clause("SPLIT-LAYOUT-01", "PACKED-LAYOUT-01")
@EACH_SIZE
def test_every_part_is_aligned_for_every_queue_size(
    language: Language, kind: Kind, size: int
) -> None:
    layout = kind.layout(language, size)
    assert layout.descriptors_offset % 16 == 0
    assert layout.driver_offset % (2 if kind.format is SPLIT else 4) == 0
    assert layout.device_offset % 4 == 0


@EACH_SIZE
def test_no_two_parts_overlap_or_share_a_cache_line(
    language: Language, kind: Kind, size: int
) -> None:
    """On the legacy interface they follow each other as its layout has it."""
    table_size = min(size, 3)
    layout = kind.layout(language, size, table_size)
    tables = (layout.indirect_offset, 16 * size * table_size)
    end = 0
    for offset, length in [*kind.parts(layout, size), tables]:
        assert offset >= end
        assert kind.is_legacy or offset % 128 == 0
        end = offset + length
    assert end == layout.length


@EACH_SIZE
def test_both_languages_lay_out_alike(kind: Kind, size: int) -> None:
    for table_size in {0, 1, min(size, 7), size}:
        native, python = (
            kind.layout(language, size, table_size) for language in ("native", "reference")
        )
        for part in ("descriptors_offset", "driver_offset", "device_offset", "length"):
            assert getattr(native, part) == getattr(python, part)
        assert not table_size or native.indirect_offset == python.indirect_offset


@EACH
def test_an_indirect_table_longer_than_the_queue_is_refused(language: Language, kind: Kind) -> None:
    with pytest.raises(ValueError, match="9"):
        kind.layout(language, 8, 9)


@EACH
def test_a_region_that_is_too_short_is_refused(language: Language, kind: Kind) -> None:
    length = kind.layout(language, 64).length
    with pytest.raises(ValueError, match=str(length)):
        kind.ring(language, space_for_rings().alloc(length - 1), 64)


@clause("SPLIT-KICK-01")
@EACH
def test_a_new_ring_is_zeroed_whatever_the_memory_held(language: Language, kind: Kind) -> None:
    size = kind.format.size
    layout = kind.layout(language, size, 4)
    region = space_for_rings().alloc(layout.length)
    with memoryview(region) as memory:
        memory[:] = b"\xff" * layout.length
        kind.ring(language, region, size, indirect_table_size=4)
        tables = (layout.indirect_offset, 16 * size * 4)
        for offset, length in [*kind.parts(layout, size), tables]:
            assert not any(memory[offset : offset + length])


Offset = Callable[[RingLayout], int]
SPLIT_KIND, PACKED_KIND = KINDS[0], KINDS[-1]


def ring_over_a_byte(language: Language, kind: Kind, offset: Offset) -> Callable[[], int]:
    """Make a ring of zeroed memory, where one byte is 1; gives a look at that byte."""
    layout = kind.layout(language, kind.format.size)
    region = space_for_rings().alloc(layout.length)
    memory = memoryview(region)
    memory[offset(layout)] = 1
    kind.ring(language, region, kind.format.size, zeroed=True)
    return lambda: memory[offset(layout)]


@pytest.mark.parametrize(
    ("kind", "offset"),
    [
        pytest.param(SPLIT_KIND, lambda layout: layout.device_offset, id="used flags"),
        pytest.param(PACKED_KIND, lambda layout: layout.device_offset + 2, id="event flags"),
    ],
)
def test_a_ring_of_a_live_device_keeps_what_the_device_wrote(
    language: Language, kind: Kind, offset: Offset
) -> None:
    """A polling device wants no kicks, from the start."""
    assert ring_over_a_byte(language, kind, offset)() == 1


@pytest.mark.parametrize(
    ("kind", "offset"),
    [
        pytest.param(SPLIT_KIND, lambda layout: layout.driver_offset + 2, id="available index"),
        pytest.param(SPLIT_KIND, lambda layout: layout.device_offset + 2, id="used index"),
        pytest.param(PACKED_KIND, lambda _: 14, id="flags of the first descriptor"),
        pytest.param(PACKED_KIND, lambda _: 16 * 6 + 15, id="flags of the last descriptor"),
        pytest.param(PACKED_KIND, lambda layout: layout.driver_offset + 2, id="our event flags"),
    ],
)
def test_a_ring_that_is_not_zeroed_after_all_is_refused(
    language: Language, kind: Kind, offset: Offset
) -> None:
    with pytest.raises(ValueError, match="not zeroed"):
        ring_over_a_byte(language, kind, offset)


def test_a_new_ring_has_all_descriptors_free_and_nothing_outstanding(make: Make) -> None:
    bench = make(16)
    assert (bench.ring.size, bench.ring.free_count) == (16, 16)
    assert (bench.ring.outstanding_count, bench.ring.clamped_count) == (0, 0)
    assert bench.ring.broken is None
    assert bench.ring.next_available == bench.device.next_available
    assert bench.ring.layout.length <= bench.region.length
