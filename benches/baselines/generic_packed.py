"""A lean packed ring for any request: a list of free ids, and every descriptor written anew.

Available descriptors say so by two bits of their flags, which are kept ready for both values of the
wrap counter and change when the ring's end is passed.
"""

from collections.abc import Sequence

from benches.baselines.generic_split import Chain, Done, Request
from benches.baselines.memory import (
    HEADER_BYTES,
    PENDING,
    SLOT_BYTES,
    Memory,
    PackedDoorbell,
    PackedWords,
    words,
)

NEXT, WRITE, INDIRECT = 1 << 16, 2 << 16, 4 << 16
AVAIL, USED = 1 << 23, 1 << 31
BOTH = AVAIL | USED
OUT = 1


class GenericPackedRing:
    """Chains of segments."""

    def __init__(self, memory: Memory) -> None:
        self._size = size = memory.shape.queue_size
        self._ring = PackedWords(memory)
        self._doorbell = PackedDoorbell(self._ring, size)
        self._table_size = memory.shape.table_size
        self._tables = memory.ring.device_address + memory.layout.indirect_offset
        self._free = list(range(size))
        self._counts = [0] * size
        self._position = self._used = 0
        self._flags = AVAIL
        """Of a descriptor that is made available now."""
        self._used_flags = BOTH
        """Of a descriptor that has been used, on this round."""
        self._published = self._position, self._flags
        self._pushed_count = 0

    def push(self, chains: Sequence[Chain]) -> list[int]:
        """Write chains; their ids. The first one's flags count, as the device runs in turns."""
        if self._table_size:
            return self._push_indirect(chains)
        addresses, halves = self._ring.addresses, self._ring.halves
        pop, counts, size = self._free.pop, self._counts, self._size
        position, flags = self._position, self._flags
        ids = []
        for readable, writable in chains:
            buffer_id = pop()
            ids.append(buffer_id)
            count = len(readable) + len(writable)
            counts[buffer_id] = count
            self._pushed_count += count
            for segments, word in (
                (readable, buffer_id | NEXT),
                (writable, buffer_id | NEXT | WRITE),
            ):
                for address, length in segments:
                    count -= 1
                    addresses[2 * position] = address
                    halves[4 * position + 2] = length
                    halves[4 * position + 3] = word | flags if count else (word | flags) ^ NEXT
                    position += 1
                    if position == size:
                        position = 0
                        flags ^= BOTH
        self._position, self._flags = position, flags
        return ids

    def _push_indirect(self, chains: Sequence[Chain]) -> list[int]:
        table_addresses, table_halves = self._ring.table_addresses, self._ring.table_halves
        addresses, halves = self._ring.addresses, self._ring.halves
        position, flags = self._position, self._flags
        ids = []
        for readable, writable in chains:
            buffer_id = self._free.pop()
            ids.append(buffer_id)
            self._counts[buffer_id] = 1
            start = at = buffer_id * self._table_size
            for segments, word in ((readable, 0), (writable, WRITE)):
                for address, length in segments:
                    table_addresses[2 * at] = address
                    table_halves[4 * at + 2] = length
                    table_halves[4 * at + 3] = word
                    at += 1
            addresses[2 * position] = self._tables + 16 * start
            halves[4 * position + 2] = 16 * (at - start)
            halves[4 * position + 3] = buffer_id | INDIRECT | flags
            position += 1
            if position == self._size:
                position = 0
                flags ^= BOTH
        self._position, self._flags = position, flags
        self._pushed_count += len(chains)
        return ids

    def withdraw(self, ids: Sequence[int]) -> None:
        """Give all back that was pushed and not published. Its descriptors keep their flags, so
        that nothing may be published before they are written again."""
        self._free.extend(reversed(ids))
        self._position, self._flags = self._published
        self._pushed_count = 0

    def publish(self) -> bool:
        self._published = self._position, self._flags
        count, self._pushed_count = self._pushed_count, 0
        return self._doorbell.wanted(self._position, bool(self._flags & AVAIL), count)

    def reap(self) -> list[tuple[int, int]]:
        """Ids and written lengths of what was used."""
        halves, counts, free, size = self._ring.halves, self._counts, self._free, self._size
        position, flags = self._used, self._used_flags
        done = []
        while (word := halves[4 * position + 3]) & BOTH == flags and len(free) < size:
            buffer_id = word & 0xFFFF
            done.append((buffer_id, halves[4 * position + 2]))
            free.append(buffer_id)
            position += counts[buffer_id]
            if position >= size:
                position -= size
                flags ^= BOTH
        self._used, self._used_flags = position, flags
        return done


class GenericPackedQueue:
    """Block requests: the same with header and status byte of each, in one pass."""

    def __init__(self, memory: Memory) -> None:
        self._size = size = memory.shape.queue_size
        self._ring = PackedWords(memory)
        self._doorbell = PackedDoorbell(self._ring, size)
        self._table_size = memory.shape.table_size
        self._tables = memory.ring.device_address + memory.layout.indirect_offset
        self._headers = words(memory.slots, "Q", 0, SLOT_BYTES * size)
        self._statuses = words(memory.slots, "B", 0, SLOT_BYTES * size)
        self._slots = [memory.slots.device_address + SLOT_BYTES * n for n in range(size)]
        self._free = list(range(size))
        self._requests = [(0, 0)] * size
        self._position = self._used = 0
        self._flags = AVAIL
        self._used_flags = BOTH
        self.submit = self._submit_indirect if self._table_size else self._submit_direct

    def _submit_direct(self, requests: Sequence[Request]) -> bool:
        addresses, halves = self._ring.addresses, self._ring.halves
        headers, statuses, slots, taken = (
            self._headers,
            self._statuses,
            self._slots,
            self._requests,
        )
        pop, size, flags = self._free.pop, self._size, self._flags
        start = position = self._position
        for kind, sector, data, token in requests:
            buffer_id = pop()
            at = 8 * buffer_id
            headers[at] = kind
            headers[at + 1] = sector
            statuses[8 * at + HEADER_BYTES] = PENDING
            addresses[2 * position] = slot = slots[buffer_id]
            at = 4 * position
            halves[at + 2] = HEADER_BYTES
            halves[at + 3] = buffer_id | flags | NEXT
            position += 1
            if position == size:
                position = 0
                flags ^= BOTH
            word = buffer_id | flags | (NEXT if kind == OUT else NEXT | WRITE)
            for address, length in data:
                addresses[2 * position] = address
                at = 4 * position
                halves[at + 2] = length
                halves[at + 3] = word
                position += 1
                if position == size:
                    position = 0
                    flags ^= BOTH
                    word ^= BOTH
            addresses[2 * position] = slot + HEADER_BYTES
            at = 4 * position
            halves[at + 2] = 1
            halves[at + 3] = buffer_id | flags | WRITE
            position += 1
            if position == size:
                position = 0
                flags ^= BOTH
            taken[buffer_id] = token, len(data) + 2
        self._position, self._flags = position, flags
        return self._doorbell.wanted(
            position, flags & AVAIL != 0, (position - start - 1) % size + 1
        )

    def _submit_indirect(self, requests: Sequence[Request]) -> bool:
        addresses, halves = self._ring.addresses, self._ring.halves
        table_addresses, table_halves = self._ring.table_addresses, self._ring.table_halves
        headers, statuses, slots, taken = (
            self._headers,
            self._statuses,
            self._slots,
            self._requests,
        )
        pop, size, flags, position = self._free.pop, self._size, self._flags, self._position
        table_size, tables = self._table_size, self._tables
        for kind, sector, data, token in requests:
            buffer_id = pop()
            at = 8 * buffer_id
            headers[at] = kind
            headers[at + 1] = sector
            statuses[8 * at + HEADER_BYTES] = PENDING
            start = at = buffer_id * table_size
            table_addresses[2 * at] = slot = slots[buffer_id]
            table_halves[4 * at + 2] = HEADER_BYTES
            table_halves[4 * at + 3] = 0
            word = 0 if kind == OUT else WRITE
            for address, length in data:
                at += 1
                table_addresses[2 * at] = address
                table_halves[4 * at + 2] = length
                table_halves[4 * at + 3] = word
            at += 1
            table_addresses[2 * at] = slot + HEADER_BYTES
            table_halves[4 * at + 2] = 1
            table_halves[4 * at + 3] = WRITE
            addresses[2 * position] = tables + 16 * start
            halves[4 * position + 2] = 16 * (at + 1 - start)
            halves[4 * position + 3] = buffer_id | flags | INDIRECT
            position += 1
            if position == size:
                position = 0
                flags ^= BOTH
            taken[buffer_id] = token, 1
        self._position, self._flags = position, flags
        return self._doorbell.wanted(position, flags & AVAIL != 0, len(requests))

    def reap(self) -> list[Done]:
        halves, statuses, taken = self._ring.halves, self._statuses, self._requests
        free, size = self._free, self._size
        position, flags = self._used, self._used_flags
        done: list[Done] = []
        add, give_back = done.append, free.append
        in_flight = size - len(free)
        while in_flight and (word := halves[4 * position + 3]) & BOTH == flags:
            buffer_id = word & 0xFFFF
            token, count = taken[buffer_id]
            add((token, halves[4 * position + 2], statuses[SLOT_BYTES * buffer_id + HEADER_BYTES]))
            give_back(buffer_id)
            in_flight -= 1
            position += count
            if position >= size:
                position -= size
                flags ^= BOTH
        self._used, self._used_flags = position, flags
        return done
