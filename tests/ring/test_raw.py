"""Misuse on purpose: what no correct driver writes, and what the software device makes of it."""

from collections.abc import Callable

import pytest

from tests.block.queue_bench import (
    ACKNOWLEDGE,
    CAPACITY_SECTORS,
    DRIVER,
    DRIVER_OK,
    FEATURES_OK,
    INDIRECT_DESC,
    VERSION_1,
)
from vioblk._native import DmaSpace, Region, SoftwareDevice
from vioblk.ring import Chain
from vioblk.ring.raw import INDIRECT, NEXT, WRITE, Descriptor, RawSplitRing, UsedEntry
from vioblk.ring.reference import SplitQueue

SIZE = 8
NEEDS_RESET = 64


class Misuse:
    """A software device that is served on this thread, and a ring to misuse it with."""

    def __init__(self, *, indirect: bool = True) -> None:
        self.space = DmaSpace()
        self.space.map(1 << 20, 1 << 32)
        features = VERSION_1 | INDIRECT_DESC
        self.device = SoftwareDevice(
            self.space, capacity_sectors=CAPACITY_SECTORS, features=features, threaded=False
        )
        self.data = self.space.alloc(4096)
        region = self.space.alloc(4096)
        self.queue = SplitQueue(region, SIZE, indirect_table_size=4)
        self.raw = self.queue.raw
        self._start(region, features if indirect else VERSION_1)

    def _start(self, region: Region, features: int) -> None:
        device, layout = self.device, self.queue.layout
        device.write_status(ACKNOWLEDGE | DRIVER)
        device.write_features(features)
        device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
        device.enable_queue(
            0,
            SIZE,
            region.device_address + layout.descriptors_offset,
            region.device_address + layout.available_offset,
            region.device_address + layout.used_offset,
        )
        device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    @property
    def address(self) -> int:
        return self.data.device_address

    def expose(self, head: int) -> None:
        """Make one chain available, whatever it is."""
        self.raw.write_available(0, head)
        self.raw.available_index = 1


def chain_loops(misuse: Misuse) -> None:
    misuse.raw.write_descriptor(0, misuse.address, 16, NEXT, 1)
    misuse.raw.write_descriptor(1, misuse.address, 16, NEXT, 0)
    misuse.expose(0)


def chain_names_itself(misuse: Misuse) -> None:
    misuse.raw.write_descriptor(3, misuse.address, 16, NEXT, 3)
    misuse.expose(3)


def head_out_of_range(misuse: Misuse) -> None:
    misuse.expose(SIZE)


def next_out_of_range(misuse: Misuse) -> None:
    misuse.raw.write_descriptor(0, misuse.address, 16, NEXT, 0xFFFF)
    misuse.expose(0)


def index_ahead(misuse: Misuse) -> None:
    misuse.raw.available_index = SIZE + 1


def index_backwards(misuse: Misuse) -> None:
    misuse.raw.available_index = 0xFFFF


def no_bytes(misuse: Misuse) -> None:
    misuse.raw.write_descriptor(0, misuse.address, 0)
    misuse.expose(0)


def not_memory(misuse: Misuse) -> None:
    misuse.raw.write_descriptor(0, 0xDEAD_0000, 16)
    misuse.expose(0)


def address_wraps(misuse: Misuse) -> None:
    misuse.raw.write_descriptor(0, (1 << 64) - 8, 16)
    misuse.expose(0)


def readable_after_writable(misuse: Misuse) -> None:
    misuse.raw.write_descriptor(0, misuse.address, 16, WRITE | NEXT, 1)
    misuse.raw.write_descriptor(1, misuse.address, 16)
    misuse.expose(0)


def indirect_with_next(misuse: Misuse) -> None:
    misuse.raw.write_descriptor(0, misuse.raw.table_address(0), 16, INDIRECT | NEXT, 1)
    misuse.expose(0)


def table_of_odd_length(misuse: Misuse) -> None:
    misuse.raw.write_descriptor(0, misuse.raw.table_address(0), 17, INDIRECT)
    misuse.expose(0)


def table_within_a_table(misuse: Misuse) -> None:
    misuse.raw.write_table_entry(2, 0, misuse.raw.table_address(3), 16, INDIRECT)
    misuse.raw.write_descriptor(2, misuse.raw.table_address(2), 16, INDIRECT)
    misuse.expose(2)


def chain_leaves_its_table(misuse: Misuse) -> None:
    misuse.raw.write_table_entry(0, 0, misuse.address, 16, NEXT, 2)
    misuse.raw.write_descriptor(0, misuse.raw.table_address(0), 32, INDIRECT)
    misuse.expose(0)


def no_status_byte(misuse: Misuse) -> None:
    misuse.raw.write_descriptor(0, misuse.address, 16)
    misuse.expose(0)


def short_header(misuse: Misuse) -> None:
    misuse.raw.write_descriptor(0, misuse.address, 15, NEXT, 1)
    misuse.raw.write_descriptor(1, misuse.address + 16, 1, WRITE)
    misuse.expose(0)


MISUSES: list[tuple[Callable[[Misuse], None], str]] = [
    (chain_loops, "loops"),
    (chain_names_itself, "loops"),
    (head_out_of_range, "descriptor 8"),
    (next_out_of_range, "descriptor 65535"),
    (index_ahead, "claims 9 chains"),
    (index_backwards, "claims 65535 chains"),
    (no_bytes, "no bytes"),
    (not_memory, "not memory"),
    (address_wraps, "not memory"),
    (readable_after_writable, "readable, but a writable one"),
    (indirect_with_next, "both INDIRECT and NEXT"),
    (table_of_odd_length, "17 bytes"),
    (table_within_a_table, "names another"),
    (chain_leaves_its_table, "descriptor 2"),
    (no_status_byte, "status"),
    (short_header, "15 readable bytes"),
]


@pytest.mark.parametrize(
    ("misuse", "violation"), MISUSES, ids=[misuse.__name__ for misuse, _ in MISUSES]
)
def test_the_software_device_notices_misuse(
    misuse: Callable[[Misuse], None], violation: str
) -> None:
    victim = Misuse()
    misuse(victim)
    victim.device.serve()
    assert victim.device.read_status() & NEEDS_RESET
    assert violation in (victim.device.violation or "")
    assert victim.raw.used_index == 0


def test_the_software_device_notices_a_table_that_was_not_negotiated() -> None:
    victim = Misuse(indirect=False)
    victim.raw.write_table_entry(0, 0, victim.address, 16)
    victim.raw.write_descriptor(0, victim.raw.table_address(0), 16, INDIRECT)
    victim.expose(0)
    victim.device.serve()
    assert "without INDIRECT_DESC" in (victim.device.violation or "")


def test_a_request_written_word_by_word_is_served() -> None:
    bench = Misuse()
    with memoryview(bench.data) as view:
        view[0:16] = (8).to_bytes(4, "little") + bytes(12)  # GET_ID
        view[64] = 0xFF
    bench.raw.write_descriptor(5, bench.address, 16, NEXT, 6)
    bench.raw.write_descriptor(6, bench.address + 32, 20, NEXT | WRITE, 7)
    bench.raw.write_descriptor(7, bench.address + 64, 1, WRITE)
    bench.expose(5)
    assert bench.device.serve() == 1
    assert bench.raw.used_index == 1
    assert bench.raw.read_used(0) == UsedEntry(5, 21)
    with memoryview(bench.data) as view:
        assert view[64] == 0
    assert bench.device.violation is None


# -- The words themselves ----------------------------------------------------------------------


def raw_over_memory(size: int = 4, table_size: int = 2) -> tuple[RawSplitRing, Region]:
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    region = space.alloc(4096)
    return RawSplitRing(region, size, indirect_table_size=table_size), region


def test_every_word_lies_where_the_specification_puts_it() -> None:
    raw, region = raw_over_memory()
    raw.write_descriptor(1, 0x1122334455667788, 0x99AABBCC, 0xDDEE, 0xF001)
    raw.available_flags, raw.available_index, raw.used_event = 0x0102, 0x0304, 0x0506
    raw.write_available(3, 0x0708)
    raw.used_flags, raw.used_index, raw.avail_event = 0x1112, 0x1314, 0x1516
    raw.write_used(3, 0x21222324, 0x25262728)
    raw.write_table_entry(2, 1, 0x3132333435363738, 0x393A3B3C, 0x3D3E, 0x3F40)
    layout = raw.layout
    available, used = layout.available_offset, layout.used_offset
    entry = layout.indirect_offset + (2 * 2 + 1) * 16
    expected = {
        (16, 8): 0x1122334455667788,
        (24, 4): 0x99AABBCC,
        (28, 2): 0xDDEE,
        (30, 2): 0xF001,
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
    with memoryview(region) as memory:
        found = {
            (offset, length): int.from_bytes(memory[offset : offset + length], "little")
            for offset, length in expected
        }
        assert found == expected
        written = sum(length for _, length in expected)
        assert sum(1 for byte in memory if byte) <= written


def test_what_is_written_is_read_back() -> None:
    raw, _ = raw_over_memory()
    raw.write_descriptor(3, 5, 6, 7, 8)
    raw.write_table_entry(3, 1, 9, 10, 11, 12)
    raw.write_available(2, 13)
    raw.write_used(1, 14, 15)
    assert raw.read_descriptor(3) == Descriptor(5, 6, 7, 8)
    assert raw.read_table_entry(3, 1) == Descriptor(9, 10, 11, 12)
    assert raw.read_available(2) == 13
    assert raw.read_used(1) == UsedEntry(14, 15)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_word_that_does_not_exist_cannot_be_reached(index: int) -> None:
    raw, region = raw_over_memory()
    accesses: list[Callable[[], object]] = [
        lambda: raw.read_descriptor(index),
        lambda: raw.write_descriptor(index, 0, 0),
        lambda: raw.read_available(index),
        lambda: raw.write_available(index, 1),
        lambda: raw.read_used(index),
        lambda: raw.write_used(index, 1, 1),
        lambda: raw.read_table_entry(index, 0),
        lambda: raw.write_table_entry(index, 0, 1, 1),
        lambda: raw.read_table_entry(0, 2),
    ]
    for access in accesses:
        with pytest.raises(IndexError):
            access()
    with memoryview(region) as memory:
        assert not any(memory)


def test_a_value_that_does_not_fit_its_word_is_refused() -> None:
    raw, _ = raw_over_memory()
    stores: list[Callable[[], None]] = [
        lambda: raw.write_descriptor(0, 1 << 64, 0),
        lambda: raw.write_available(0, 1 << 16),
        lambda: setattr(raw, "available_index", 1 << 16),
        lambda: raw.write_used(0, 1 << 32, 0),
    ]
    for store in stores:
        with pytest.raises(ValueError, match="memoryview"):
            store()


def test_the_queue_and_its_raw_words_are_one_memory() -> None:
    bench = Misuse()
    head = bench.queue.push(Chain([(bench.data, 0, 16)], [(bench.data, 16, 1)]))
    assert bench.raw.read_available(0) == head
    assert bench.raw.available_index == 0
    bench.queue.publish()
    assert bench.raw.available_index == 1
