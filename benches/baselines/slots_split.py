"""Prebuilt slots on a split ring: a chain for each slot, written once.

A submit is a sector and a status byte for each slot, and one slice of available entries; a reap is
one slice of used elements and a status byte for each slot.
"""

from array import array
from collections.abc import Sequence

from benches.baselines.memory import (
    HEADER_BYTES,
    PENDING,
    Memory,
    SplitDoorbell,
    SplitWords,
    words,
)
from benches.shapes import SEGMENT_BYTES

NEXT, WRITE, INDIRECT = 1, 2, 4


class SplitSlots:
    """Reads of one buffer for each slot, as many slots as a batch has."""

    def __init__(self, memory: Memory) -> None:
        shape = memory.shape
        self._ring = SplitWords(memory)
        self._size = shape.queue_size
        self._framed = shape.framed
        self._doorbell = SplitDoorbell(self._ring, shape.event_idx)
        count = shape.batch
        self.headers = words(memory.slots, "Q", 0, HEADER_BYTES * count)
        self.statuses = words(memory.slots, "B", HEADER_BYTES * count, count)
        self.heads = [slot * shape.ring_descriptors for slot in range(count)]
        self._slot_of = [n // shape.ring_descriptors for n in range(self._size)]
        self.position = self.used = 0
        for slot in range(count):
            self._build(memory, slot)

    def _build(self, memory: Memory, slot: int) -> None:
        ring, shape, start = self._ring, memory.shape, self.heads[slot]
        addresses, halves, first = ring.addresses, ring.halves, start
        if shape.indirect:
            tables = memory.ring.device_address + memory.layout.indirect_offset
            self._describe(
                start, tables + 16 * slot * shape.descriptors, 16 * shape.descriptors, INDIRECT
            )
            addresses, halves = ring.table_addresses, ring.table_halves
            start, first = slot * shape.descriptors, 0
        parts = chain_parts(memory, slot)
        for n, (address, length, writable) in enumerate(parts):
            more = n + 1 < len(parts)
            addresses[2 * (start + n)] = address
            halves[4 * (start + n) + 2] = length
            halves[4 * (start + n) + 3] = (
                (WRITE if writable else 0) | (NEXT if more else 0) | (first + n + 1) * more << 16
            )

    def _describe(self, index: int, address: int, length: int, flags: int) -> None:
        self._ring.addresses[2 * index] = address
        self._ring.halves[4 * index + 2] = length
        self._ring.halves[4 * index + 3] = flags

    def submit(self, slots: Sequence[int], sectors: Sequence[int]) -> bool:
        if self._framed:
            headers, statuses = self.headers, self.statuses
            for slot, sector in zip(slots, sectors, strict=True):
                headers[2 * slot + 1] = sector
                statuses[slot] = PENDING
        start, count, size = self.position, len(slots), self._size
        at = start % size
        heads = self.heads
        entries = memoryview(array("H", [heads[slot] for slot in slots]))
        if at + count <= size:
            self._ring.available[at : at + count] = entries
        else:
            self._ring.available[at:] = entries[: size - at]
            self._ring.available[: at + count - size] = entries[size - at :]
        self.position = (start + count) & 0xFFFF
        return self._doorbell.publish(self.position)

    def reap(self) -> tuple[list[int], list[int]]:
        """Slots and their statuses."""
        start, end, size, slot_of = self.used, self._ring.used_index[0], self._size, self._slot_of
        count = (end - start) & 0xFFFF
        at = start % size
        if at + count <= size:
            heads = self._ring.used[2 * at : 2 * (at + count)].tolist()[::2]
        else:
            heads = self._ring.used[2 * at :].tolist()[::2]
            heads += self._ring.used[: 2 * (at + count - size)].tolist()[::2]
        self.used = end
        slots = [slot_of[head] for head in heads]
        if not self._framed:
            return slots, [0] * count
        statuses = self.statuses
        return slots, [statuses[slot] for slot in slots]


def chain_parts(memory: Memory, slot: int) -> list[tuple[int, int, bool]]:
    """Address, length and whether the device writes, of each descriptor of a slot's chain."""
    shape, slots = memory.shape, memory.slots.device_address
    data = [
        (memory.data_address(slot, segment), SEGMENT_BYTES, True)
        for segment in range(shape.segments)
    ]
    if not shape.framed:
        return data
    header = (slots + HEADER_BYTES * slot, HEADER_BYTES, False)
    return [header, *data, (slots + HEADER_BYTES * shape.batch + slot, 1, True)]
