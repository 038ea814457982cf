"""Prebuilt slots on a packed ring: the bytes of each slot's descriptors, for both wrap counters.

A submit copies them to where the ring stands: one slice for each slot, of one descriptor with an
indirect table, or of the whole chain.
"""

from array import array
from collections.abc import Sequence

from benches.baselines.generic_packed import AVAIL, BOTH, INDIRECT, NEXT, USED, WRITE
from benches.baselines.memory import (
    HEADER_BYTES,
    PENDING,
    Memory,
    PackedDoorbell,
    PackedWords,
    words,
)
from benches.baselines.slots_split import chain_parts


class PackedSlots:
    """Reads of one buffer for each slot, as many slots as a batch has. Their ids are the slots."""

    def __init__(self, memory: Memory) -> None:
        shape = memory.shape
        self._memory = memory
        self._ring = PackedWords(memory)
        self._bytes = words(memory.ring, "B", 0, 16 * shape.queue_size)
        self._size = shape.queue_size
        self._framed = shape.framed
        self._length = shape.ring_descriptors
        self._doorbell = PackedDoorbell(self._ring, self._size)
        count = shape.batch
        self.headers = words(memory.slots, "Q", 0, HEADER_BYTES * count)
        self.statuses = words(memory.slots, "B", HEADER_BYTES * count, count)
        self.chains = {
            flags: [self._chain(slot, flags) for slot in range(count)] for flags in (AVAIL, USED)
        }
        """For each value of the wrap counter, as the flags of what is available show it."""
        self.flags = AVAIL
        self.used_flags = BOTH
        self.position = self.used = self.in_flight = 0

    def _chain(self, slot: int, flags: int) -> bytes:
        memory, shape = self._memory, self._memory.shape
        parts = chain_parts(memory, slot)
        described: list[int] = []
        if shape.indirect:
            start = slot * shape.descriptors
            for n, (address, length, writable) in enumerate(parts, start):
                self._ring.table_addresses[2 * n] = address
                self._ring.table_halves[4 * n + 2] = length
                self._ring.table_halves[4 * n + 3] = WRITE if writable else 0
            table = memory.ring.device_address + memory.layout.indirect_offset + 16 * start
            described += (table, 16 * len(parts) | (slot | INDIRECT | flags) << 32)
        else:
            for n, (address, length, writable) in enumerate(parts, 1):
                word = slot | flags | (WRITE if writable else 0) | (NEXT if n < len(parts) else 0)
                described += (address, length | word << 32)
        return array("Q", described).tobytes()

    def submit(self, slots: Sequence[int], sectors: Sequence[int]) -> bool:
        if self._framed:
            headers, statuses = self.headers, self.statuses
            for slot, sector in zip(slots, sectors, strict=True):
                headers[2 * slot + 1] = sector
                statuses[slot] = PENDING
        ring, position, end = self._bytes, 16 * self.position, 16 * self._size
        chains, step = self.chains[self.flags], 16 * self._length
        for slot in slots:
            after = position + step
            if after <= end:
                ring[position:after] = chains[slot]
                position = after
            else:  # the chain goes on at the front, with the other flags
                position = self._turn(slot, position)
                chains = self.chains[self.flags]
        if position == end:
            position = 0
            self.flags ^= BOTH
        self.position = position // 16
        self.in_flight += len(slots)
        count = len(slots) * self._length
        return self._doorbell.wanted(self.position, self.flags == AVAIL, count)

    def _turn(self, slot: int, position: int) -> int:
        room = 16 * self._size - position
        self._bytes[position:] = self.chains[self.flags][slot][:room]
        self.flags ^= BOTH
        rest = self.chains[self.flags][slot][room:]
        self._bytes[: len(rest)] = rest
        return len(rest)

    def reap(self) -> tuple[list[int], list[int]]:
        """Slots and their statuses."""
        halves, step, end = self._ring.halves, 4 * self._length, 4 * self._size
        at, flags = 4 * self.used + 3, self.used_flags
        slots: list[int] = []
        add = slots.append
        for _ in range(self.in_flight):
            word = halves[at]
            if word & BOTH != flags:
                break
            add(word & 0xFFFF)
            at += step
            if at >= end:
                at -= end
                flags ^= BOTH
        self.in_flight -= len(slots)
        self.used, self.used_flags = at // 4, flags
        if not self._framed:
            return slots, [0] * len(slots)
        statuses = self.statuses
        return slots, [statuses[slot] for slot in slots]
