"""Prebuilt slots on a packed ring, a whole batch by each store of numpy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.baselines.generic_packed import AVAIL, BOTH, USED
from benches.baselines.memory import PENDING, Memory
from benches.baselines.slots_packed import PackedSlots

HALVES = 4
"""Words of 32 bits in a descriptor; the last holds id and flags."""


class NumpyPackedSlots(PackedSlots):
    """The chains of `PackedSlots`; slots are arrays of numpy's index type."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self._sector_words: NDArray[Any] = np.frombuffer(self.headers, "<u8")[1::2]
        self._status_bytes: NDArray[Any] = np.frombuffer(self.statuses, "u1")
        descriptor = np.dtype((np.void, 16))
        self._descriptors: NDArray[Any] = np.frombuffer(self._bytes, descriptor)
        self._last_halves: NDArray[Any] = np.frombuffer(self._ring.halves, "<u4")[3::HALVES]
        chain = np.dtype((np.void, 16 * self._length))
        self._chain_bytes: dict[int, NDArray[Any]] = {
            flags: np.frombuffer(b"".join(self.chains[flags]), chain) for flags in (AVAIL, USED)
        }

    def submit_arrays(self, slots: NDArray[Any], sectors: NDArray[Any]) -> bool:
        if self._framed:
            self._sector_words[slots] = sectors
            self._status_bytes[slots] = PENDING
        at, count = self.position, len(slots) * self._length
        descriptor = self._descriptors.dtype
        written = self._chain_bytes[self.flags][slots].view(descriptor)
        room = self._size - at
        if count < room:
            self._descriptors[at : at + count] = written
            self.position = at + count
        else:
            self._descriptors[at:] = written[:room]
            self.flags ^= BOTH
            written = self._chain_bytes[self.flags][slots].view(descriptor)
            self._descriptors[: count - room] = written[room:]
            self.position = count - room
        self.in_flight += len(slots)
        return self._doorbell.wanted(self.position, self.flags == AVAIL, count)

    def reap_arrays(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Slots and their statuses."""
        step, flags = self._length, self.used_flags
        found = self._last_halves[self.used : self.used + self.in_flight * step : step]
        if self.used + self.in_flight * step > self._size:
            start = self.used + len(found) * step - self._size
            others = self._last_halves[start : start + (self.in_flight - len(found)) * step : step]
            used = np.concatenate(((found & BOTH) == flags, (others & BOTH) == (flags ^ BOTH)))
            found = np.concatenate((found, others))
        else:
            used = (found & BOTH) == flags
        count = len(found) if used.all() else int(used.argmin())
        slots = (found[:count] & 0xFFFF).astype(np.intp)
        after = self.used + count * step
        if after >= self._size:
            after -= self._size
            self.used_flags ^= BOTH
        self.used = after
        self.in_flight -= count
        return slots, self._status_bytes[slots] if self._framed else np.zeros(count, "u1")
