"""The words of a packed ring in memory: where each lies, and access to it under its name.

VIRTIO 1.4, 2.8 Packed Virtqueues. Both sides write the descriptor ring; of the event suppression
structures the driver writes the first and the device the second:

    descriptor ring             size x {le64 address, le32 length, le16 id, le16 flags}
    driver event suppression    le16 position, le16 flags
    device event suppression    le16 position, le16 flags

There are no rules here: those are in `vioblk.ring.reference`.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from vioblk._native import Region
from vioblk.ring.raw.words import (
    CACHE_LINE_PAIR,
    DESCRIPTOR_BYTES,
    SIZE_MAX,
    DescriptorWords,
    align_up,
    check_index,
    check_indirect_table_size,
    check_ring_region,
)

# Descriptor flags (VIRTIO 1.4, 2.8.1 Driver and Device Ring Wrap Counters).
AVAIL: Final = 1 << 7
"""Available descriptors: the driver's wrap counter. Used ones: the device's."""
USED: Final = 1 << 15
"""Available descriptors: the inverse of the driver's wrap counter. Used ones: the device's."""

# Flags of an event suppression structure (VIRTIO 1.4, 2.8.10).
ENABLE: Final = 0
"""Notifications are wanted."""
DISABLE: Final = 1
"""Notifications are not wanted."""
AT_DESCRIPTOR: Final = 2
"""With EVENT_IDX: one is wanted for the descriptor at `position`."""
EVENT_FLAGS_MASK: Final = 3
"""The bits that count; the others are reserved."""

WRAP: Final = 1 << 15
"""In a position: the wrap counter. The bits below are the offset in the descriptor ring."""

_EVENT_BYTES: Final = 4
_POSITION: Final = 0
_FLAGS: Final = 1


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Offsets, in bytes, of the parts of a packed ring in its region."""

    descriptors_offset: int
    driver_offset: int
    """Of the driver event suppression structure (the driver area)."""
    device_offset: int
    """Of the device event suppression structure (the device area)."""
    indirect_offset: int
    length: int
    """Bytes that the region must have."""


def packed_layout(size: int, *, indirect_table_size: int = 0) -> PackedLayout:
    """Where the parts of a packed ring of `size` descriptors lie; any size from 1 to 32768.

    Every part starts on a cache line of its own, so that the two sides do not write to the same
    line. With `indirect_table_size` > 0, one table of that many descriptors per buffer id
    follows. Raises ValueError for numbers that make no ring.
    """
    if not 1 <= size <= SIZE_MAX:
        raise ValueError(f"queue size {size} is not a number from 1 to {SIZE_MAX}")
    check_indirect_table_size(indirect_table_size, size)
    driver_offset = align_up(DESCRIPTOR_BYTES * size, CACHE_LINE_PAIR)
    device_offset = driver_offset + CACHE_LINE_PAIR
    indirect_offset = device_offset + CACHE_LINE_PAIR
    length = indirect_offset + size * indirect_table_size * DESCRIPTOR_BYTES
    return PackedLayout(0, driver_offset, device_offset, indirect_offset, length)


class PackedDescriptor(NamedTuple):
    """One entry of the descriptor ring, or of an indirect table."""

    address: int
    """Of the buffer part, as the device sees it."""
    length: int
    """Bytes; of a used descriptor with WRITE, those that the device wrote."""
    id: int
    """The buffer id."""
    flags: int


class RawPackedRing:
    """Every word of a packed ring under its name, and no rules: for misuse on purpose.

    Nothing is checked except that the word exists (IndexError) and that the value fits into it
    (ValueError). Each word is read and written by one access of its own width.

    Take it from a queue (`PackedQueue.raw`) or make it over a region: making it writes nothing.
    """

    def __init__(self, region: Region, size: int, *, indirect_table_size: int = 0) -> None:
        """Raises ValueError if the region is too short or its device address not aligned."""
        self.layout: Final = packed_layout(size, indirect_table_size=indirect_table_size)
        self.size: Final = size
        self.indirect_table_size: Final = indirect_table_size
        self.device_address: Final = region.device_address
        check_ring_region(region, self.layout.length, DESCRIPTOR_BYTES)
        self._memory: Final = memoryview(region)
        self._descriptors: Final = DescriptorWords(
            self._part(self.layout.descriptors_offset, size * DESCRIPTOR_BYTES)
        )
        self._driver: Final = self._part(self.layout.driver_offset, _EVENT_BYTES).cast("H")
        self._device: Final = self._part(self.layout.device_offset, _EVENT_BYTES).cast("H")
        # The tables of all ids, one after the other: entry i of id n is n * table size + i.
        self._tables: Final = DescriptorWords(
            self._part(self.layout.indirect_offset, size * indirect_table_size * DESCRIPTOR_BYTES)
        )

    def zero(self) -> None:
        """Zero all parts of the ring. Only while the device does not use it."""
        layout = self.layout
        self._zero_part(layout.descriptors_offset, self.size * DESCRIPTOR_BYTES)
        self._zero_part(layout.driver_offset, _EVENT_BYTES)
        self._zero_part(layout.device_offset, _EVENT_BYTES)
        tables_bytes = self.size * self.indirect_table_size * DESCRIPTOR_BYTES
        self._zero_part(layout.indirect_offset, tables_bytes)

    @property
    def is_zeroed(self) -> bool:
        """Whether all flags that the driver writes are 0, so that nothing is available or used."""
        return not self.driver_event_flags and not any(map(self.read_flags, range(self.size)))

    # -- Descriptors -------------------------------------------------------------------------

    def read_descriptor(self, slot: int) -> PackedDescriptor:
        """The descriptor in `slot` of the ring."""
        return PackedDescriptor(*self._descriptors.read(slot))

    def write_descriptor(
        self, slot: int, address: int, length: int, buffer_id: int = 0, flags: int = 0
    ) -> None:
        """Write all four fields of the descriptor in `slot`, the flags last."""
        self._descriptors.write(slot, address, length, buffer_id, flags)

    def write_body(self, slot: int, address: int, length: int, buffer_id: int) -> None:
        """Write all fields but the flags."""
        self._descriptors.write_body(slot, address, length, buffer_id)

    def read_flags(self, slot: int) -> int:
        """The flags in `slot`."""
        return self._descriptors.read_fourth(slot)

    def write_flags(self, slot: int, flags: int) -> None:
        """Write the flags in `slot`."""
        self._descriptors.write_fourth(slot, flags)

    def read_used(self, slot: int) -> tuple[int, int]:
        """Buffer id and length in `slot`, each read once."""
        return self._descriptors.read_third(slot), self._descriptors.read_length(slot)

    def write_used(self, slot: int, buffer_id: int, length: int, flags: int) -> None:
        """Put what a device puts where it uses a buffer, the flags last; the address stays."""
        self._descriptors.write_length(slot, length)
        self._descriptors.write_third(slot, buffer_id)
        self._descriptors.write_fourth(slot, flags)

    def table_address(self, buffer_id: int) -> int:
        """Where the device sees the indirect table of `buffer_id`."""
        offset = buffer_id * self.indirect_table_size * DESCRIPTOR_BYTES
        return self.device_address + self.layout.indirect_offset + offset

    def read_table_entry(self, buffer_id: int, index: int) -> PackedDescriptor:
        """Entry `index` of the indirect table of `buffer_id` (2.8.7 Indirect Flag)."""
        return PackedDescriptor(*self._tables.read(self._table_entry(buffer_id, index)))

    def write_table_entry(
        self,
        buffer_id: int,
        index: int,
        address: int,
        length: int,
        flags: int = 0,
        entry_id: int = 0,
    ) -> None:
        """Write all four fields of entry `index` of the indirect table of `buffer_id`."""
        entry = self._table_entry(buffer_id, index)
        self._tables.write(entry, address, length, entry_id, flags)

    # -- Event suppression (VIRTIO 1.4, 2.8.10 Driver and Device Event Suppression) -----------

    @property
    def driver_event_position(self) -> int:
        """Of which used descriptor we want to be notified: offset and, in bit 15, wrap counter."""
        return self._driver[_POSITION]

    @driver_event_position.setter
    def driver_event_position(self, position: int) -> None:
        self._driver[_POSITION] = position

    @property
    def driver_event_flags(self) -> int:
        """ENABLE, DISABLE or AT_DESCRIPTOR: whether we want to be notified."""
        return self._driver[_FLAGS]

    @driver_event_flags.setter
    def driver_event_flags(self, flags: int) -> None:
        self._driver[_FLAGS] = flags

    @property
    def device_event_position(self) -> int:
        """Of which available descriptor the device wants to be notified."""
        return self._device[_POSITION]

    @device_event_position.setter
    def device_event_position(self, position: int) -> None:
        self._device[_POSITION] = position

    @property
    def device_event_flags(self) -> int:
        """ENABLE, DISABLE or AT_DESCRIPTOR: whether the device wants to be notified."""
        return self._device[_FLAGS]

    @device_event_flags.setter
    def device_event_flags(self, flags: int) -> None:
        self._device[_FLAGS] = flags

    # -- Memory ------------------------------------------------------------------------------

    def _part(self, offset: int, length: int) -> memoryview:
        return self._memory[offset : offset + length]

    def _zero_part(self, offset: int, length: int) -> None:
        self._memory[offset : offset + length] = bytes(length)

    def _table_entry(self, buffer_id: int, index: int) -> int:
        check_index("entry", index, self.indirect_table_size, "table")
        return buffer_id * self.indirect_table_size + index
