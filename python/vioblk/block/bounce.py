"""Bounce buffers: a bounded pool of DMA memory for data that the device cannot reach itself."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from vioblk._native import Region
from vioblk.block.deadline import Deadline
from vioblk.errors import RequestTimeoutError, StateError

CHUNK_BYTES: Final = 256 * 1024
MAX_CHUNKS: Final = 64
"""16 MiB in all. A caller that finds none free waits for one."""

MAX_CHUNKS_PER_CALL: Final = 8
"""So that one long transfer leaves some to the other threads."""

_LOOK_AGAIN_S: Final = 0.05
"""Nobody tells when a request that was given up completes after all, so the pool looks."""


class Chunk:
    """One bounce buffer, owned by one caller at a time."""

    __slots__ = ("handle", "region", "view")

    def __init__(self, region: Region) -> None:
        self.region = region
        self.view = memoryview(region)
        self.handle = region.handle

    @property
    def idle(self) -> bool:
        """Whether no request holds the memory: it is not in flight, and the export is ours."""
        return not self.region.in_flight and self.region.exports <= 1

    def close(self) -> None:
        """Let go of the memory. What the device may still be using is kept until it is done."""
        self.view.release()
        with suppress(BufferError):
            self.region.close()


class BouncePool:
    """Chunks of `chunk_bytes`, made when they are first needed and kept. Thread-safe.

    A chunk whose request was given up (a time-out, Ctrl-C) stays with the device: it is used
    again only when the request has completed, or a reset has taken it back.
    """

    def __init__(
        self,
        alloc: Callable[[int], Region],
        *,
        chunk_bytes: int = CHUNK_BYTES,
        max_chunks: int = MAX_CHUNKS,
    ) -> None:
        self._alloc = alloc
        self.chunk_bytes = chunk_bytes
        self.max_chunks = max_chunks
        self._changed = threading.Condition(threading.Lock())
        self._free: list[Chunk] = []
        self._abandoned: list[Chunk] = []
        self._made = 0
        self._closed = False

    def take(self, wanted: int, deadline: Deadline) -> list[Chunk]:
        """From 1 to `wanted` chunks, as many as are free; waits only for the first.

        Raises RequestTimeoutError if none became free in time, MemoryError if not even one can
        be made, StateError when the pool was closed.
        """
        with self._changed:
            while True:
                picked = self._pick(wanted)
                if picked:
                    return picked
                left_s = deadline.remaining_s()
                if not left_s:
                    raise RequestTimeoutError(self._nothing_free(deadline.timeout_s))
                self._changed.wait(min(left_s, _LOOK_AGAIN_S) if self._abandoned else left_s)

    def give_back(self, chunks: list[Chunk]) -> None:
        """Return chunks; those that the device still owns are set aside until it is done."""
        with self._changed:
            for chunk in chunks:
                if self._closed:
                    chunk.close()
                elif chunk.idle:
                    self._free.append(chunk)
                else:
                    self._abandoned.append(chunk)
            self._changed.notify_all()

    def close(self) -> None:
        """Free all memory that nobody uses, and the rest as it comes back."""
        with self._changed:
            self._closed = True
            for chunk in self._free + self._abandoned:
                chunk.close()
            self._free.clear()
            self._abandoned.clear()
            self._changed.notify_all()

    def _pick(self, wanted: int) -> list[Chunk]:
        if self._closed:
            raise StateError("the disk has been closed; open it again")
        self._sweep()
        picked: list[Chunk] = []
        while len(picked) < wanted:
            chunk = self._free.pop() if self._free else self._make()
            if chunk is None:
                break
            picked.append(chunk)
        return picked

    def _make(self) -> Chunk | None:
        if self._made >= self.max_chunks:
            return None
        try:
            chunk = Chunk(self._alloc(self.chunk_bytes))
        except MemoryError:
            if not self._made:
                raise
            return None  # make do with those that there are
        self._made += 1
        return chunk

    def _sweep(self) -> None:
        abandoned, self._abandoned = self._abandoned, []
        for chunk in abandoned:
            (self._free if chunk.idle else self._abandoned).append(chunk)

    def _nothing_free(self, timeout_s: float) -> str:
        return (
            f"no bounce buffer became free within {timeout_s} s: all {self._made} are in use, "
            f"{len(self._abandoned)} of them by requests that were given up; reset() the disk if "
            f"it has stopped answering, or use buffers of alloc(), which need none"
        )
