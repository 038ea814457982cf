"""Misuse of a packed ring on purpose, and what the software device makes of it."""

from collections.abc import Callable

import pytest

from tests.block.queue_bench import (
    ACKNOWLEDGE,
    CAPACITY_SECTORS,
    DRIVER,
    DRIVER_OK,
    FEATURES_OK,
    INDIRECT_DESC,
    RING_PACKED,
    VERSION_1,
)
from vioblk._native import DmaSpace, Region, SoftwareDevice
from vioblk.ring import Chain
from vioblk.ring.raw import (
    AT_DESCRIPTOR,
    AVAIL,
    INDIRECT,
    NEXT,
    USED,
    WRITE,
    PackedDescriptor,
    RawPackedRing,
)
from vioblk.ring.reference import PackedQueue

SIZE = 7
NEEDS_RESET = 64


class Misuse:
    """A software device that is served on this thread, and a ring to misuse it with."""

    def __init__(self, *, indirect: bool = True) -> None:
        self.space = DmaSpace()
        self.space.map(1 << 20, 1 << 32)
        features = VERSION_1 | INDIRECT_DESC | RING_PACKED
        self.device = SoftwareDevice(
            self.space,
            capacity_sectors=CAPACITY_SECTORS,
            features=features,
            queue_size_max=SIZE,
            threaded=False,
        )
        self.data = self.space.alloc(4096)
        region = self.space.alloc(4096)
        self.queue = PackedQueue(region, SIZE, indirect_table_size=4)
        self.raw = self.queue.raw
        self._start(region, features if indirect else VERSION_1 | RING_PACKED)

    def _start(self, region: Region, features: int) -> None:
        device, layout = self.device, self.queue.layout
        device.write_status(ACKNOWLEDGE | DRIVER)
        device.write_features(features)
        device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
        device.enable_queue(
            0,
            SIZE,
            region.device_address + layout.descriptors_offset,
            region.device_address + layout.driver_offset,
            region.device_address + layout.device_offset,
        )
        device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    @property
    def address(self) -> int:
        return self.data.device_address

    def offer(self, slot: int, address: int, length: int, flags: int = 0) -> None:
        """A descriptor that is available in the first lap."""
        self.raw.write_descriptor(slot, address, length, 3, flags | AVAIL)


def list_without_an_end(misuse: Misuse) -> None:
    for slot in range(SIZE):
        misuse.offer(slot, misuse.address, 16, NEXT)


def list_with_a_gap(misuse: Misuse) -> None:
    misuse.offer(0, misuse.address, 16, NEXT)


def no_bytes(misuse: Misuse) -> None:
    misuse.offer(0, misuse.address, 0)


def not_memory(misuse: Misuse) -> None:
    misuse.offer(0, 0xDEAD_0000, 16)


def address_wraps(misuse: Misuse) -> None:
    misuse.offer(0, (1 << 64) - 8, 16)


def readable_after_writable(misuse: Misuse) -> None:
    misuse.offer(0, misuse.address, 16, WRITE | NEXT)
    misuse.offer(1, misuse.address, 16)


def indirect_with_next(misuse: Misuse) -> None:
    misuse.offer(0, misuse.raw.table_address(0), 16, INDIRECT | NEXT)
    misuse.offer(1, misuse.address, 16)


def indirect_at_the_end_of_a_list(misuse: Misuse) -> None:
    misuse.offer(0, misuse.address, 16, NEXT)
    misuse.offer(1, misuse.raw.table_address(0), 16, INDIRECT)


def table_of_odd_length(misuse: Misuse) -> None:
    misuse.offer(0, misuse.raw.table_address(0), 17, INDIRECT)


def table_longer_than_the_queue(misuse: Misuse) -> None:
    misuse.offer(0, misuse.address, 16 * (SIZE + 1), INDIRECT)


def table_that_is_not_memory(misuse: Misuse) -> None:
    misuse.offer(0, 0xDEAD_0000, 16, INDIRECT)


def table_within_a_table(misuse: Misuse) -> None:
    misuse.raw.write_table_entry(2, 0, misuse.raw.table_address(3), 16, INDIRECT)
    misuse.offer(0, misuse.raw.table_address(2), 16, INDIRECT)


def table_that_is_linked(misuse: Misuse) -> None:
    misuse.raw.write_table_entry(2, 0, misuse.address, 16, NEXT)
    misuse.raw.write_table_entry(2, 1, misuse.address, 1, WRITE)
    misuse.offer(0, misuse.raw.table_address(2), 32, INDIRECT)


def no_status_byte(misuse: Misuse) -> None:
    misuse.offer(0, misuse.address, 16)


def short_header(misuse: Misuse) -> None:
    misuse.offer(1, misuse.address + 16, 1, WRITE)
    misuse.offer(0, misuse.address, 15, NEXT)


MISUSES: list[tuple[Callable[[Misuse], None], str]] = [
    (list_without_an_end, "loops or has more"),
    (list_with_a_gap, "descriptor 1 is not available"),
    (no_bytes, "no bytes"),
    (not_memory, "not memory"),
    (address_wraps, "not memory"),
    (readable_after_writable, "readable, but a writable one"),
    (indirect_with_next, "both INDIRECT and NEXT"),
    (indirect_at_the_end_of_a_list, "both INDIRECT and NEXT"),
    (table_of_odd_length, "17 bytes"),
    (table_longer_than_the_queue, "more descriptors than the queue size, 7"),
    (table_that_is_not_memory, "not memory"),
    (table_within_a_table, "names another"),
    (table_that_is_linked, "flags 0x1"),
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
    used = [slot for slot in range(SIZE) if victim.raw.read_flags(slot) & USED]
    assert used == []


def test_the_software_device_notices_a_table_that_was_not_negotiated() -> None:
    victim = Misuse(indirect=False)
    victim.offer(0, victim.raw.table_address(0), 16, INDIRECT)
    victim.device.serve()
    assert "without INDIRECT_DESC" in (victim.device.violation or "")


@pytest.mark.parametrize("flags", [0, USED, AVAIL | USED, USED | NEXT, AVAIL | USED | INDIRECT])
def test_what_is_not_available_is_not_looked_at(flags: int) -> None:
    victim = Misuse()
    victim.raw.write_descriptor(0, 0xDEAD_0000, 0, 0xFFFF, flags)
    assert victim.device.serve() == 0
    assert victim.device.violation is None


def test_a_request_written_word_by_word_is_served_in_the_slot_of_its_head() -> None:
    bench = Misuse()
    with memoryview(bench.data) as view:
        view[0:16] = (8).to_bytes(4, "little") + bytes(12)  # GET_ID
        view[64] = 0xFF
    # The id counts in the last descriptor; it is the driver's business, and larger than the queue.
    bench.raw.write_descriptor(2, bench.address + 64, 1, 0xBEEF, WRITE | AVAIL)
    bench.offer(1, bench.address + 32, 20, NEXT | WRITE)
    bench.offer(0, bench.address, 16, NEXT)
    assert bench.device.serve() == 1
    assert bench.raw.read_used(0) == (0xBEEF, 21)
    assert bench.raw.read_flags(0) == AVAIL | USED | WRITE
    assert bench.raw.read_flags(1) == AVAIL | NEXT | WRITE, "the others are left alone"
    with memoryview(bench.data) as view:
        assert view[64] == 0
    assert bench.device.violation is None


# -- The words themselves ----------------------------------------------------------------------


def raw_over_memory(size: int = 5, table_size: int = 2) -> tuple[RawPackedRing, Region]:
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    region = space.alloc(4096)
    return RawPackedRing(region, size, indirect_table_size=table_size), region


def test_every_word_lies_where_the_specification_puts_it() -> None:
    raw, region = raw_over_memory()
    raw.write_descriptor(1, 0x1122334455667788, 0x99AABBCC, 0xDDEE, 0xF001)
    raw.driver_event_position, raw.driver_event_flags = 0x0102, 0x0304
    raw.device_event_position, raw.device_event_flags = 0x1112, 0x1314
    raw.write_table_entry(2, 1, 0x3132333435363738, 0x393A3B3C, 0x3D3E, 0x3F40)
    layout = raw.layout
    driver, device = layout.driver_offset, layout.device_offset
    entry = layout.indirect_offset + (2 * 2 + 1) * 16
    expected = {
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
    with memoryview(region) as memory:
        found = {
            (offset, length): int.from_bytes(memory[offset : offset + length], "little")
            for offset, length in expected
        }
        assert found == expected
        assert sum(1 for byte in memory if byte) <= sum(length for _, length in expected)


def test_what_is_written_is_read_back() -> None:
    raw, _ = raw_over_memory()
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


@pytest.mark.parametrize("index", [-1, 5])
def test_a_word_that_does_not_exist_cannot_be_reached(index: int) -> None:
    raw, region = raw_over_memory()
    accesses: list[Callable[[], object]] = [
        lambda: raw.read_descriptor(index),
        lambda: raw.write_descriptor(index, 1, 1, 1, 1),
        lambda: raw.write_body(index, 1, 1, 1),
        lambda: raw.read_flags(index),
        lambda: raw.write_flags(index, 1),
        lambda: raw.read_used(index),
        lambda: raw.write_used(index, 1, 1, 1),
        lambda: raw.read_table_entry(index, 0),
        lambda: raw.write_table_entry(index, 0, 1, 1, 1),
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
        lambda: raw.write_flags(0, 1 << 16),
        lambda: setattr(raw, "device_event_position", 1 << 16),
        lambda: raw.write_used(0, 1 << 16, 0, 0),
    ]
    for store in stores:
        with pytest.raises(ValueError, match="memoryview"):
            store()


def test_the_queue_and_its_raw_words_are_one_memory() -> None:
    bench = Misuse()
    bench.queue.push(Chain([(bench.data, 0, 16)], []))
    assert bench.raw.read_flags(0) == 0
    bench.queue.publish()
    assert bench.raw.read_descriptor(0) == PackedDescriptor(bench.address, 16, 0, AVAIL)
