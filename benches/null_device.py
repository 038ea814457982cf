"""A device half that uses chains of one descriptor as they come, and does nothing else."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.baselines.generic_packed import AVAIL, BOTH
from benches.baselines.memory import Memory, PackedWords, SplitWords


class NullDevice:
    """Gives back what is available, as written in full."""

    def __init__(self, memory: Memory) -> None:
        self._size = memory.shape.queue_size
        self._length = memory.shape.data_bytes
        self._event_idx = memory.shape.event_idx
        self._position = 0
        if memory.shape.packed:
            self._packed = PackedWords(memory)
            self._flags = AVAIL
            self._lengths: NDArray[Any] = np.frombuffer(self._packed.halves, "<u4")[2::4]
            self._words: NDArray[Any] = np.frombuffer(self._packed.halves, "<u4")[3::4]
            self.serve = self._serve_packed
        else:
            self._split = SplitWords(memory)
            self._available: NDArray[Any] = np.frombuffer(self._split.available, "<u2")
            self._used: NDArray[Any] = np.frombuffer(self._split.used, "<u4").reshape(-1, 2)
            self._used[:, 1] = self._length
            self.serve = self._serve_split

    def _serve_split(self) -> int:
        end = self._split.available_index[0]
        count = (end - self._position) & 0xFFFF
        at, size = self._position % self._size, self._size
        first = min(count, size - at)
        self._used[at : at + first, 0] = self._available[at : at + first]
        self._used[: count - first, 0] = self._available[: count - first]
        self._position = end
        self._split.used_index[0] = end
        if self._event_idx:
            self._split.available_event[0] = end
        return count

    def _serve_packed(self) -> int:
        served = 0
        while True:
            words = self._words[self._position :]
            available = (words & BOTH) == self._flags
            count = len(words) if available.all() else int(available.argmin())
            end = self._position + count
            used = BOTH if self._flags == AVAIL else 0
            self._lengths[self._position : end] = self._length
            self._words[self._position : end] = (words[:count] & 0xFFFF) | used
            served += count
            self._position = end
            if end == self._size:
                self._position = 0
                self._flags ^= BOTH
            if count < len(words):
                return served
