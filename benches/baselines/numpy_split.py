"""Prebuilt slots on a split ring, a whole batch by each store of numpy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.baselines.memory import PENDING, Memory
from benches.baselines.slots_split import SplitSlots


class NumpySplitSlots(SplitSlots):
    """The chains of `SplitSlots`; slots are arrays of numpy's index type."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self._sector_words: NDArray[Any] = np.frombuffer(self.headers, "<u8")[1::2]
        self._status_bytes: NDArray[Any] = np.frombuffer(self.statuses, "u1")
        self._entries: NDArray[Any] = np.frombuffer(self._ring.available, "<u2")
        self._used_ids: NDArray[Any] = np.frombuffer(self._ring.used, "<u4")[::2]
        self._heads: NDArray[Any] = np.array(self.heads, "<u2")
        self._slots: NDArray[Any] = np.array(self._slot_of)

    def submit_arrays(self, slots: NDArray[Any], sectors: NDArray[Any]) -> bool:
        if self._framed:
            self._sector_words[slots] = sectors
            self._status_bytes[slots] = PENDING
        start, count, size = self.position, len(slots), self._size
        at = start % size
        if at + count <= size:
            self._entries[at : at + count] = self._heads[slots]
        else:
            heads = self._heads[slots]
            self._entries[at:] = heads[: size - at]
            self._entries[: at + count - size] = heads[size - at :]
        self.position = (start + count) & 0xFFFF
        return self._doorbell.publish(self.position)

    def reap_arrays(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Slots and their statuses."""
        start, end, size = self.used, self._ring.used_index[0], self._size
        count = (end - start) & 0xFFFF
        at = start % size
        self.used = end
        if at + count <= size:
            slots = self._slots[self._used_ids[at : at + count]]
        else:
            ids = self._used_ids
            slots = self._slots[np.concatenate((ids[at:], ids[: at + count - size]))]
        return slots, self._status_bytes[slots] if self._framed else np.zeros(count, "u1")
