"""The words of a split ring in memory: where each lies, and access to it under its name.

VIRTIO 1.4, 2.7 Split Virtqueues. Three areas make a split ring. The driver writes the first two,
the device the third:

    descriptor table    size x {le64 address, le32 length, le16 flags, le16 next}
    available ring      le16 flags, le16 index, le16 head[size], le16 used_event
    used ring           le16 flags, le16 index, {le32 id, le32 length}[size], le16 avail_event

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

NO_INTERRUPT: Final = 1
"""Available flags: a hint that no used buffer notifications are wanted (2.7.7)."""
NO_NOTIFY: Final = 1
"""Used flags: no available buffer notifications are wanted (2.7.10)."""

_LEGACY_ALIGN_MAX: Final = 1 << 31
"""The largest power of two that the 32-bit register QueueAlign can hold (VIRTIO 1.4, 4.2.4)."""

# Where the words of the two rings lie, counted in words of 16 bits from the start of each.
_FLAGS: Final = 0
_INDEX: Final = 1
_RING: Final = 2


@dataclass(frozen=True, slots=True)
class SplitLayout:
    """Offsets, in bytes, of the parts of a split ring in its region."""

    descriptors_offset: int
    available_offset: int
    used_offset: int
    indirect_offset: int
    length: int
    """Bytes that the region must have."""

    @property
    def driver_offset(self) -> int:
        """Of the driver area: the available ring."""
        return self.available_offset

    @property
    def device_offset(self) -> int:
        """Of the device area: the used ring."""
        return self.used_offset


def split_layout(
    size: int, *, legacy_align: int | None = None, indirect_table_size: int = 0
) -> SplitLayout:
    """Where the parts of a ring of `size` descriptors lie.

    Modern (`legacy_align` None): every part starts on a cache line of its own, so that the two
    sides do not write to the same line. Legacy: the one contiguous area of VIRTIO 1.4, 2.7.2
    Legacy Interfaces: A Note on Virtqueue Layout. With `indirect_table_size` > 0, one table of
    that many descriptors per head follows. Raises ValueError for numbers that make no ring.
    """
    if not 1 <= size <= SIZE_MAX or size & (size - 1):
        raise ValueError(f"queue size {size} is not a power of two from 1 to {SIZE_MAX}")
    if legacy_align is not None and not _is_legacy_align(legacy_align):
        raise ValueError(f"legacy alignment {legacy_align} is not a power of two from 4 on")
    check_indirect_table_size(indirect_table_size, size)
    available_bytes = 6 + 2 * size
    used_bytes = 6 + 8 * size
    available_offset = DESCRIPTOR_BYTES * size
    if legacy_align is None:
        available_offset = align_up(available_offset, CACHE_LINE_PAIR)
        used_offset = align_up(available_offset + available_bytes, CACHE_LINE_PAIR)
        end = used_offset + used_bytes
    else:
        used_offset = align_up(available_offset + available_bytes, legacy_align)
        end = align_up(used_offset + used_bytes, legacy_align)
    indirect_offset = align_up(end, CACHE_LINE_PAIR)
    if indirect_table_size:
        end = indirect_offset + size * indirect_table_size * DESCRIPTOR_BYTES
    return SplitLayout(0, available_offset, used_offset, indirect_offset, end)


class Descriptor(NamedTuple):
    """One entry of the descriptor table, or of an indirect table."""

    address: int
    """Of the buffer part, as the device sees it."""
    length: int
    """Bytes."""
    flags: int
    next: int
    """Index of the next descriptor, if `flags` has NEXT."""


class UsedEntry(NamedTuple):
    """One entry of the used ring, as the device wrote it."""

    id: int
    length: int


class RawSplitRing:
    """Every word of a split ring under its name, and no rules: for misuse on purpose.

    Whoever tests a device writes here what no correct driver writes: descriptors that loop, heads
    out of range, an index that runs ahead. Nothing is checked except that the word exists
    (IndexError) and that the value fits into it (ValueError). Each word is read and written by
    one access of its own width.

    Take it from a queue (`SplitQueue.raw`) or make it over a region: making it writes nothing.
    """

    def __init__(
        self,
        region: Region,
        size: int,
        *,
        legacy_align: int | None = None,
        indirect_table_size: int = 0,
    ) -> None:
        """Raises ValueError if the region is too short or its device address not aligned."""
        self.layout: Final = split_layout(
            size, legacy_align=legacy_align, indirect_table_size=indirect_table_size
        )
        self.size: Final = size
        self.indirect_table_size: Final = indirect_table_size
        self.device_address: Final = region.device_address
        align = max(DESCRIPTOR_BYTES, legacy_align or 0)
        check_ring_region(region, self.layout.length, align)
        self._memory: Final = memoryview(region)
        # Each word is only ever accessed through one of these views, so by one width.
        self._available: Final = self._part(self.layout.available_offset, 6 + 2 * size).cast("H")
        used = self._part(self.layout.used_offset, 6 + 8 * size)
        self._used: Final = used[: 6 + 8 * size].cast("H")
        self._used_entries: Final = used[4 : 4 + 8 * size].cast("I")
        self._descriptors: Final = DescriptorWords(
            self._part(self.layout.descriptors_offset, size * DESCRIPTOR_BYTES)
        )
        # The tables of all heads, one after the other: entry i of head h is h * table size + i.
        self._tables: Final = DescriptorWords(
            self._part(self.layout.indirect_offset, size * indirect_table_size * DESCRIPTOR_BYTES)
        )
        self._used_event: Final = _RING + size
        self._avail_event: Final = _RING + 4 * size

    def zero(self) -> None:
        """Zero all parts of the ring. Only while the device does not use it."""
        layout = self.layout
        self._zero_part(layout.descriptors_offset, self.size * DESCRIPTOR_BYTES)
        self._zero_part(layout.available_offset, 6 + 2 * self.size)
        self._zero_part(layout.used_offset, 6 + 8 * self.size)
        tables_bytes = self.size * self.indirect_table_size * DESCRIPTOR_BYTES
        self._zero_part(layout.indirect_offset, tables_bytes)

    @property
    def is_zeroed(self) -> bool:
        """Whether both indices are 0, so that nothing is available or used."""
        return not self.used_index and not self.available_index

    # -- Descriptors (VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor Table) ----------------------

    def read_descriptor(self, index: int) -> Descriptor:
        """Descriptor `index` of the table."""
        return Descriptor(*self._descriptors.read(index))

    def write_descriptor(
        self, index: int, address: int, length: int, flags: int = 0, next_index: int = 0
    ) -> None:
        """Write all four fields of descriptor `index`."""
        self._descriptors.write(index, address, length, flags, next_index)

    def table_address(self, head: int) -> int:
        """Where the device sees the indirect table of `head`."""
        offset = head * self.indirect_table_size * DESCRIPTOR_BYTES
        return self.device_address + self.layout.indirect_offset + offset

    def read_table_entry(self, head: int, index: int) -> Descriptor:
        """Entry `index` of the indirect table of `head` (2.7.5.3 Indirect Descriptors)."""
        return Descriptor(*self._tables.read(self._table_entry(head, index)))

    def write_table_entry(
        self,
        head: int,
        index: int,
        address: int,
        length: int,
        flags: int = 0,
        next_index: int = 0,
    ) -> None:
        """Write all four fields of entry `index` of the indirect table of `head`."""
        self._tables.write(self._table_entry(head, index), address, length, flags, next_index)

    # -- Available ring (VIRTIO 1.4, 2.7.6 The Virtqueue Available Ring) ---------------------

    @property
    def available_flags(self) -> int:
        """Bit 0 is NO_INTERRUPT."""
        return self._available[_FLAGS]

    @available_flags.setter
    def available_flags(self, flags: int) -> None:
        self._available[_FLAGS] = flags

    @property
    def available_index(self) -> int:
        """Where the driver will put its next entry, modulo 65536. Setting it publishes."""
        return self._available[_INDEX]

    @available_index.setter
    def available_index(self, index: int) -> None:
        self._available[_INDEX] = index

    def read_available(self, slot: int) -> int:
        """The head in `slot` of the available ring."""
        return self._available[_RING + self._slot(slot)]

    def write_available(self, slot: int, head: int) -> None:
        """Put `head` in `slot` of the available ring; the index stays."""
        self._available[_RING + self._slot(slot)] = head

    @property
    def used_event(self) -> int:
        """With EVENT_IDX: notify us of the used entry of this index (2.7.7)."""
        return self._available[self._used_event]

    @used_event.setter
    def used_event(self, index: int) -> None:
        self._available[self._used_event] = index

    # -- Used ring (VIRTIO 1.4, 2.7.8 The Virtqueue Used Ring) -------------------------------

    @property
    def used_flags(self) -> int:
        """Bit 0 is NO_NOTIFY."""
        return self._used[_FLAGS]

    @used_flags.setter
    def used_flags(self, flags: int) -> None:
        self._used[_FLAGS] = flags

    @property
    def used_index(self) -> int:
        """Where the device will put its next entry, modulo 65536."""
        return self._used[_INDEX]

    @used_index.setter
    def used_index(self, index: int) -> None:
        self._used[_INDEX] = index

    def read_used(self, slot: int) -> UsedEntry:
        """The entry in `slot` of the used ring; each of its words is read once."""
        word = 2 * self._slot(slot)
        return UsedEntry(self._used_entries[word], self._used_entries[word + 1])

    def write_used(self, slot: int, used_id: int, length: int) -> None:
        """Put an entry in `slot` of the used ring, as a device does; the index stays."""
        word = 2 * self._slot(slot)
        self._used_entries[word] = used_id
        self._used_entries[word + 1] = length

    @property
    def avail_event(self) -> int:
        """With EVENT_IDX: notify the device of the available entry of this index (2.7.10)."""
        return self._used[self._avail_event]

    @avail_event.setter
    def avail_event(self, index: int) -> None:
        self._used[self._avail_event] = index

    # -- Memory ------------------------------------------------------------------------------

    def _part(self, offset: int, length: int) -> memoryview:
        return self._memory[offset : offset + length]

    def _zero_part(self, offset: int, length: int) -> None:
        self._memory[offset : offset + length] = bytes(length)

    def _table_entry(self, head: int, index: int) -> int:
        check_index("entry", index, self.indirect_table_size, "table")
        return head * self.indirect_table_size + index

    def _slot(self, slot: int) -> int:
        return check_index("slot", slot, self.size, "ring")


def _is_legacy_align(align: int) -> bool:
    return 4 <= align <= _LEGACY_ALIGN_MAX and not align & (align - 1)
