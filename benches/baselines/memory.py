"""Memory for a ring, for headers and status bytes, and for data; and views of it by width."""

from typing import Final

from benches.shapes import Shape
from vioblk._native import DmaSpace, Region
from vioblk.ring import RingLayout, reference

DEVICE_ADDRESS: Final = 1 << 32
HEADER_BYTES: Final = 16
SLOT_BYTES: Final = 64
"""What a request queue of the package keeps for each head."""
PENDING: Final = 0xFF
"""A status byte that the device has not written."""


class Memory:
    """Three regions of one space, laid out for rings of this shape."""

    def __init__(self, shape: Shape) -> None:
        layout_of = reference.packed_layout if shape.packed else reference.split_layout
        self.shape = shape
        self.layout: RingLayout = layout_of(shape.queue_size, indirect_table_size=shape.table_size)
        slots_bytes = SLOT_BYTES * shape.queue_size
        data_bytes = shape.batch * shape.data_bytes
        frames_bytes = shape.batch * (16 * shape.descriptors + 256)  # those of a slot pool
        parts = (self.layout.length, slots_bytes, data_bytes, frames_bytes)
        total = sum(-(-each // 4096) for each in parts)
        self.space = DmaSpace()
        self.space.map(4096 * (total + 16), DEVICE_ADDRESS)
        self.ring = self.space.alloc(self.layout.length)
        self.slots = self.space.alloc(slots_bytes)
        self.data = self.space.alloc(data_bytes)

    def data_address(self, slot: int, segment: int = 0) -> int:
        """Of a segment of the buffer of a slot."""
        per_segment = self.shape.data_bytes // self.shape.segments
        return self.data.device_address + slot * self.shape.data_bytes + segment * per_segment


def words(region: Region, width: str, offset: int, length: int) -> "memoryview[int]":
    """Part of a region, in bytes, as words of the width that `memoryview.cast` calls so."""
    return memoryview(region)[offset : offset + length].cast(width)  # type: ignore[call-overload,no-any-return]


class SplitWords:
    """A split ring's words, each by its own width."""

    def __init__(self, memory: Memory) -> None:
        ring, layout, size = memory.ring, memory.layout, memory.shape.queue_size
        driver, device = layout.driver_offset, layout.device_offset
        self.addresses = words(ring, "Q", 0, 16 * size)
        """Of descriptors: every second one."""
        self.halves = words(ring, "I", 0, 16 * size)
        """Of descriptors: length is 4n + 2; flags and next are 4n + 3."""
        self.available = words(ring, "H", driver + 4, 2 * size)
        self.available_index = words(ring, "H", driver + 2, 2)
        self.available_flags = words(ring, "H", driver, 2)
        self.used = words(ring, "I", device + 4, 8 * size)
        """Of used elements: id is 2n, length is 2n + 1."""
        self.used_index = words(ring, "H", device + 2, 2)
        self.used_flags = words(ring, "H", device, 2)
        self.available_event = words(ring, "H", device + 4 + 8 * size, 2)
        tables = size * memory.shape.table_size * 16
        self.table_addresses = words(ring, "Q", layout.indirect_offset, tables)
        self.table_halves = words(ring, "I", layout.indirect_offset, tables)
        self.available_flags[0] = 1  # NO_INTERRUPT: they poll


class PackedWords:
    """A packed ring's words, each by its own width."""

    def __init__(self, memory: Memory) -> None:
        ring, layout, size = memory.ring, memory.layout, memory.shape.queue_size
        self.addresses = words(ring, "Q", 0, 16 * size)
        self.halves = words(ring, "I", 0, 16 * size)
        """Of descriptors: length is 4n + 2; id and flags are 4n + 3."""
        self.driver_event = words(ring, "H", layout.driver_offset, 4)
        self.device_event = words(ring, "H", layout.device_offset, 4)
        """Position (offset and wrap counter), flags."""
        tables = size * memory.shape.table_size * 16
        self.table_addresses = words(ring, "Q", layout.indirect_offset, tables)
        self.table_halves = words(ring, "I", layout.indirect_offset, tables)
        self.driver_event[1] = 1  # DISABLE: they poll


class SplitDoorbell:
    """Whether the device wants to be notified of what was published (VIRTIO 1.4, 2.7.10)."""

    def __init__(self, ring: SplitWords, event_idx: bool) -> None:
        self._ring = ring
        self._event_idx = event_idx
        self._old = 0

    def publish(self, position: int) -> bool:
        """Move the available index."""
        ring = self._ring
        ring.available_index[0] = position
        if not self._event_idx:
            return not ring.used_flags[0]
        old, self._old = self._old, position
        return (position - ring.available_event[0] - 1) & 0xFFFF < (position - old) & 0xFFFF


class PackedDoorbell:
    """The same for a packed ring (VIRTIO 1.4, 2.8.10)."""

    def __init__(self, ring: PackedWords, size: int) -> None:
        self._event = ring.device_event
        self._size = size

    def wanted(self, position: int, wrap: bool, count: int) -> bool:
        """After `count` descriptors were made available and `position` is the next one."""
        flags = self._event[1]
        if flags != 2:
            return flags == 0
        event = self._event[0]
        offset = event & 0x7FFF
        if (event >> 15) != wrap:
            offset -= self._size
        return (position - offset - 1) & 0xFFFF < count
