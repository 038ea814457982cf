"""The raw words of a ring: where each lies, and what is refused."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ring.formats import PACKED, SPLIT, Format, Language
from tests.ring.support import Maker
from vioblk._native import DmaSpace, Region
from vioblk.ring.raw import (
    AT_DESCRIPTOR,
    AVAIL,
    Descriptor,
    PackedDescriptor,
    RawPackedRing,
    RawSplitRing,
    UsedEntry,
)

Expected = dict[tuple[int, int], int]
"""(offset, length in bytes) to what is there."""


def new_region() -> Region:
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    return space.alloc(4096)


def new_split() -> tuple[RawSplitRing, Region]:
    region = new_region()
    return RawSplitRing(region, 4, indirect_table_size=2), region


def new_packed() -> tuple[RawPackedRing, Region]:
    region = new_region()
    return RawPackedRing(region, 5, indirect_table_size=2), region


def write_split_words(raw: RawSplitRing) -> Expected:
    raw.write_descriptor(1, 0x1122334455667788, 0x99AABBCC, 0xDDEE, 0xF001)
    raw.available_flags, raw.available_index, raw.used_event = 0x0102, 0x0304, 0x0506
    raw.write_available(3, 0x0708)
    raw.used_flags, raw.used_index, raw.avail_event = 0x1112, 0x1314, 0x1516
    raw.write_used(3, 0x21222324, 0x25262728)
    raw.write_table_entry(2, 1, 0x3132333435363738, 0x393A3B3C, 0x3D3E, 0x3F40)
    available, used = raw.layout.available_offset, raw.layout.used_offset
    entry = raw.layout.indirect_offset + (2 * 2 + 1) * 16
    return {
        (16, 8): 0x1122334455667788,
        (24, 4): 0x99AABBCC,
        (28, 2): 0xDDEE,  # flags
        (30, 2): 0xF001,  # next
        (available, 2): 0x0102,
        (available + 2, 2): 0x0304,
        (available + 4 + 2 * 3, 2): 0x0708,
        (available + 4 + 2 * 4, 2): 0x0506,
        (used, 2): 0x1112,
        (used + 2, 2): 0x1314,
        (used + 4 + 8 * 3, 4): 0x21222324,
        (used + 8 + 8 * 3, 4): 0x25262728,
        (used + 4 + 8 * 4, 2): 0x1516,
        (entry, 8): 0x3132333435363738,
        (entry + 8, 4): 0x393A3B3C,
        (entry + 12, 2): 0x3D3E,
        (entry + 14, 2): 0x3F40,
    }


def write_packed_words(raw: RawPackedRing) -> Expected:
    raw.write_descriptor(1, 0x1122334455667788, 0x99AABBCC, 0xDDEE, 0xF001)
    raw.driver_event_position, raw.driver_event_flags = 0x0102, 0x0304
    raw.device_event_position, raw.device_event_flags = 0x1112, 0x1314
    raw.write_table_entry(2, 1, 0x3132333435363738, 0x393A3B3C, 0x3D3E, 0x3F40)
    driver, device = raw.layout.driver_offset, raw.layout.device_offset
    entry = raw.layout.indirect_offset + (2 * 2 + 1) * 16
    return {
        (16, 8): 0x1122334455667788,
        (24, 4): 0x99AABBCC,
        (28, 2): 0xDDEE,  # id
        (30, 2): 0xF001,  # flags
        (driver, 2): 0x0102,
        (driver + 2, 2): 0x0304,
        (device, 2): 0x1112,
        (device + 2, 2): 0x1314,
        (entry, 8): 0x3132333435363738,
        (entry + 8, 4): 0x393A3B3C,
        (entry + 12, 2): 0x3F40,
        (entry + 14, 2): 0x3D3E,
    }


@pytest.mark.parametrize(
    ("new", "write"),
    [(new_split, write_split_words), (new_packed, write_packed_words)],
    ids=["split", "packed"],
)
def test_every_word_lies_where_the_specification_puts_it(
    new: Callable[[], tuple[Any, Region]], write: Callable[[Any], Expected]
) -> None:
    raw, region = new()
    expected = write(raw)
    with memoryview(region) as memory:
        found = {
            (offset, length): int.from_bytes(memory[offset : offset + length], "little")
            for offset, length in expected
        }
        assert found == expected
        written = sum(length for _, length in expected)
        assert sum(1 for byte in memory if byte) <= written


def test_what_is_written_to_a_split_ring_is_read_back() -> None:
    raw, _ = new_split()
    raw.write_descriptor(3, 5, 6, 7, 8)
    raw.write_table_entry(3, 1, 9, 10, 11, 12)
    raw.write_available(2, 13)
    raw.write_used(1, 14, 15)
    assert raw.read_descriptor(3) == Descriptor(5, 6, 7, 8)
    assert raw.read_table_entry(3, 1) == Descriptor(9, 10, 11, 12)
    assert raw.read_available(2) == 13
    assert raw.read_used(1) == UsedEntry(14, 15)


def test_what_is_written_to_a_packed_ring_is_read_back() -> None:
    raw, _ = new_packed()
    raw.write_descriptor(3, 5, 6, 7, 8)
    assert raw.read_descriptor(3) == PackedDescriptor(5, 6, 7, 8)
    assert (raw.read_flags(3), raw.read_used(3)) == (8, (7, 6))
    raw.write_flags(3, 9)
    raw.write_body(3, 10, 11, 12)
    assert raw.read_descriptor(3) == PackedDescriptor(10, 11, 12, 9)
    raw.write_used(3, 13, 14, 15)
    assert raw.read_descriptor(3) == PackedDescriptor(10, 14, 13, 15)
    raw.write_table_entry(3, 1, 16, 17, 18, 19)
    assert raw.read_table_entry(3, 1) == PackedDescriptor(16, 17, 19, 18)
    raw.device_event_flags = AT_DESCRIPTOR
    assert (raw.driver_event_flags, raw.device_event_flags) == (0, AT_DESCRIPTOR)


# -- What is refused ---------------------------------------------------------------------------


def accesses_of_both(raw: RawSplitRing | RawPackedRing, index: int) -> list[Callable[[], object]]:
    return [
        lambda: raw.read_descriptor(index),
        lambda: raw.write_descriptor(index, 1, 1, 1, 1),
        lambda: raw.read_used(index),
        lambda: raw.read_table_entry(index, 0),
        lambda: raw.write_table_entry(index, 0, 1, 1, 1),
        lambda: raw.read_table_entry(0, 2),
    ]


def split_accesses(raw: RawSplitRing, index: int) -> list[Callable[[], object]]:
    return [
        *accesses_of_both(raw, index),
        lambda: raw.read_available(index),
        lambda: raw.write_available(index, 1),
        lambda: raw.write_used(index, 1, 1),
    ]


def packed_accesses(raw: RawPackedRing, index: int) -> list[Callable[[], object]]:
    return [
        *accesses_of_both(raw, index),
        lambda: raw.write_body(index, 1, 1, 1),
        lambda: raw.read_flags(index),
        lambda: raw.write_flags(index, 1),
        lambda: raw.write_used(index, 1, 1, 1),
    ]


def accesses_of_no_word() -> Iterator[tuple[list[Callable[[], object]], Region]]:
    split, region = new_split()
    for index in (-1, split.size):
        yield split_accesses(split, index), region
    packed, region = new_packed()
    for index in (-1, packed.size):
        yield packed_accesses(packed, index), region


def test_a_word_that_does_not_exist_cannot_be_reached() -> None:
    for accesses, region in accesses_of_no_word():
        for access in accesses:
            with pytest.raises(IndexError):
                access()
        with memoryview(region) as memory:
            assert not any(memory)


def test_a_value_that_does_not_fit_its_word_is_refused() -> None:
    split, _ = new_split()
    packed, _ = new_packed()
    stores: list[Callable[[], None]] = [
        lambda: split.write_descriptor(0, 1 << 64, 0),
        lambda: split.write_available(0, 1 << 16),
        lambda: setattr(split, "available_index", 1 << 16),
        lambda: split.write_used(0, 1 << 32, 0),
        lambda: packed.write_descriptor(0, 1 << 64, 0),
        lambda: packed.write_flags(0, 1 << 16),
        lambda: setattr(packed, "device_event_position", 1 << 16),
        lambda: packed.write_used(0, 1 << 16, 0, 0),
    ]
    for store in stores:
        with pytest.raises(ValueError, match="memoryview"):
            store()


# -- The raw words of a queue ------------------------------------------------------------------

REFERENCE: Language = "reference"


def pushed(form: Format[Any]) -> tuple[Any, Any]:
    """A queue with one chain, and its raw words."""
    bench = Maker(REFERENCE, form)()
    ring: Any = bench.ring
    ring.push(bench.chain((16,), (1,)))
    return ring, ring.raw


def test_a_split_queue_and_its_raw_words_are_one_memory() -> None:
    queue, raw = pushed(SPLIT)
    assert (raw.read_available(0), raw.available_index) == (0, 0)
    assert raw.read_descriptor(0).length == 16
    queue.publish()
    assert raw.available_index == 1


def test_a_packed_queue_and_its_raw_words_are_one_memory() -> None:
    queue, raw = pushed(PACKED)
    assert raw.read_flags(0) == 0
    queue.publish()
    assert raw.read_descriptor(0).length == 16
    assert raw.read_flags(0) & AVAIL
