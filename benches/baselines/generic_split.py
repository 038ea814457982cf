"""A lean split ring for any request: a free list, and every word of each chain written anew.

The free list is linked through `_next`, as the descriptors are, so that a chain is taken from its
front as it is, and given back by one link. The words that hold flags and next of a descriptor are
kept ready beside it.
"""

from collections.abc import Sequence
from typing import TypeAlias

from benches.baselines.memory import (
    HEADER_BYTES,
    PENDING,
    SLOT_BYTES,
    Memory,
    SplitDoorbell,
    SplitWords,
    words,
)

Segment: TypeAlias = tuple[int, int]
"""Address, length."""
Request: TypeAlias = tuple[int, int, Sequence[Segment], int]
"""Type, sector, data, token."""
Done: TypeAlias = tuple[int, int, int]
"""Token, length that the device says it wrote, status."""
Chain: TypeAlias = tuple[Sequence[Segment], Sequence[Segment]]
"""What the device reads, what it writes."""

NEXT, WRITE, INDIRECT = 1, 2, 4
OUT = 1


class _FreeList:
    """Descriptors that are free, and the words that link them."""

    def __init__(self, size: int) -> None:
        self.free = 0
        self.next = [n + 1 for n in range(size)]
        self.readable = [(n + 1) << 16 | NEXT for n in range(size)]
        self.writable = [(n + 1) << 16 | NEXT | WRITE for n in range(size)]
        self.position = self.used = 0


class GenericSplitRing(_FreeList):
    """Chains of segments."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory.shape.queue_size)
        self._ring = SplitWords(memory)
        self._mask = memory.shape.queue_size - 1
        self._doorbell = SplitDoorbell(self._ring, memory.shape.event_idx)
        self._table_size = memory.shape.table_size
        self._tables = memory.ring.device_address + memory.layout.indirect_offset
        self._last = [0] * memory.shape.queue_size

    def push(self, chains: Sequence[Chain]) -> list[int]:
        """Write chains and their available entries; their heads. Nothing is published."""
        if self._table_size:
            return self._push_indirect(chains)
        addresses, halves, available = self._ring.addresses, self._ring.halves, self._ring.available
        links, index, position = self.next, self.free, self.position
        heads = []
        for readable, writable in chains:
            available[position & self._mask] = head = index
            heads.append(head)
            position += 1
            for address, length in readable:
                addresses[2 * index] = address
                halves[4 * index + 2] = length
                halves[4 * index + 3] = self.readable[index]
                last, index = index, links[index]
            for address, length in writable:
                addresses[2 * index] = address
                halves[4 * index + 2] = length
                halves[4 * index + 3] = self.writable[index]
                last, index = index, links[index]
            halves[4 * last + 3] = WRITE if writable else 0
            self._last[head] = last
        self.free, self.position = index, position & 0xFFFF
        return heads

    def _push_indirect(self, chains: Sequence[Chain]) -> list[int]:
        addresses, halves, available = self._ring.addresses, self._ring.halves, self._ring.available
        table_addresses, table_halves = self._ring.table_addresses, self._ring.table_halves
        links, index, position = self.next, self.free, self.position
        heads = []
        for readable, writable in chains:
            available[position & self._mask] = index
            heads.append(index)
            position += 1
            start = at = index * self._table_size
            n = 1
            for address, length in readable:
                table_addresses[2 * at] = address
                table_halves[4 * at + 2] = length
                table_halves[4 * at + 3] = n << 16 | NEXT
                at += 1
                n += 1
            for address, length in writable:
                table_addresses[2 * at] = address
                table_halves[4 * at + 2] = length
                table_halves[4 * at + 3] = n << 16 | NEXT | WRITE
                at += 1
                n += 1
            table_halves[4 * at - 1] = WRITE if writable else 0
            addresses[2 * index] = self._tables + 16 * start
            halves[4 * index + 2] = 16 * (at - start)
            halves[4 * index + 3] = INDIRECT
            self._last[index] = index
            index = links[index]
        self.free, self.position = index, position & 0xFFFF
        return heads

    def withdraw(self, heads: Sequence[int]) -> None:
        """Give chains back that were pushed last and not published."""
        for head in heads:
            self._give_back(head)
        self.position = (self.position - len(heads)) & 0xFFFF

    def publish(self) -> bool:
        return self._doorbell.publish(self.position)

    def reap(self) -> list[tuple[int, int]]:
        """Heads and written lengths of what was used."""
        used, mask = self._ring.used, self._mask
        start, end = self.used, self._ring.used_index[0]
        self.used = end
        done = []
        for n in range(start, end if end >= start else end + 0x10000):
            at = 2 * (n & mask)
            head = used[at]
            self._give_back(head)
            done.append((head, used[at + 1]))
        return done

    def _give_back(self, head: int) -> None:
        last, free = self._last[head], self.free
        self.next[last] = free
        self.readable[last] = free << 16 | NEXT
        self.writable[last] = free << 16 | NEXT | WRITE
        self.free = head


class GenericSplitQueue(_FreeList):
    """Block requests: the same with header and status byte of each, in one pass."""

    def __init__(self, memory: Memory) -> None:
        size = memory.shape.queue_size
        super().__init__(size)
        self._ring = SplitWords(memory)
        self._mask = size - 1
        self._doorbell = SplitDoorbell(self._ring, memory.shape.event_idx)
        self._table_size = memory.shape.table_size
        self._tables = memory.ring.device_address + memory.layout.indirect_offset
        self._headers = words(memory.slots, "Q", 0, SLOT_BYTES * size)
        self._statuses = words(memory.slots, "B", 0, SLOT_BYTES * size)
        self._slots = [memory.slots.device_address + SLOT_BYTES * n for n in range(size)]
        self._requests = [(0, 0)] * size
        self.submit = self._submit_indirect if self._table_size else self._submit_direct

    def _submit_direct(self, requests: Sequence[Request]) -> bool:
        ring, links = self._ring, self.next
        addresses, halves, available = ring.addresses, ring.halves, ring.available
        headers, statuses, slots, taken = (
            self._headers,
            self._statuses,
            self._slots,
            self._requests,
        )
        to_device, to_driver, mask = self.readable, self.writable, self._mask
        index, position = self.free, self.position
        for kind, sector, data, token in requests:
            head = index
            at = 8 * head
            headers[at] = kind
            headers[at + 1] = sector
            statuses[8 * at + HEADER_BYTES] = PENDING
            addresses[2 * head] = slot = slots[head]
            halves[4 * head + 2] = HEADER_BYTES
            halves[4 * head + 3] = to_device[head]
            index = links[head]
            link = to_device if kind == OUT else to_driver
            for address, length in data:
                addresses[2 * index] = address
                at = 4 * index
                halves[at + 2] = length
                halves[at + 3] = link[index]
                index = links[index]
            addresses[2 * index] = slot + HEADER_BYTES
            at = 4 * index
            halves[at + 2] = 1
            halves[at + 3] = WRITE
            taken[head] = token, index
            index = links[index]
            available[position & mask] = head
            position += 1
        self.free, self.position = index, position & 0xFFFF
        return self._doorbell.publish(self.position)

    def _submit_indirect(self, requests: Sequence[Request]) -> bool:
        ring, links = self._ring, self.next
        addresses, halves, available = ring.addresses, ring.halves, ring.available
        table_addresses, table_halves = ring.table_addresses, ring.table_halves
        headers, statuses, slots, taken = (
            self._headers,
            self._statuses,
            self._slots,
            self._requests,
        )
        mask, table_size, tables = self._mask, self._table_size, self._tables
        index, position = self.free, self.position
        for kind, sector, data, token in requests:
            at = 8 * index
            headers[at] = kind
            headers[at + 1] = sector
            statuses[8 * at + HEADER_BYTES] = PENDING
            start = at = index * table_size
            table_addresses[2 * at] = slot = slots[index]
            table_halves[4 * at + 2] = HEADER_BYTES
            table_halves[4 * at + 3] = 0x10000 | NEXT
            word = 0x20000 | NEXT if kind == OUT else 0x20000 | NEXT | WRITE
            for address, length in data:
                at += 1
                table_addresses[2 * at] = address
                table_halves[4 * at + 2] = length
                table_halves[4 * at + 3] = word
                word += 0x10000
            at += 1
            table_addresses[2 * at] = slot + HEADER_BYTES
            table_halves[4 * at + 2] = 1
            table_halves[4 * at + 3] = WRITE
            addresses[2 * index] = tables + 16 * start
            halves[4 * index + 2] = 16 * (at + 1 - start)
            halves[4 * index + 3] = INDIRECT
            taken[index] = token, index
            available[position & mask] = index
            position += 1
            index = links[index]
        self.free, self.position = index, position & 0xFFFF
        return self._doorbell.publish(self.position)

    def reap(self) -> list[Done]:
        start, end = self.used, self._ring.used_index[0]
        used, statuses, taken = self._ring.used, self._statuses, self._requests
        links, to_device, to_driver, mask = self.next, self.readable, self.writable, self._mask
        free = self.free
        done: list[Done] = []
        add = done.append
        for n in range(start, end if end >= start else end + 0x10000):
            at = 2 * (n & mask)
            head = used[at]
            token, last = taken[head]
            links[last] = free
            link = free << 16 | NEXT
            to_device[last] = link
            to_driver[last] = link | WRITE
            free = head
            add((token, used[at + 1], statuses[SLOT_BYTES * head + HEADER_BYTES]))
        self.free, self.used = free, end
        return done
