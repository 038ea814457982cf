"""Bounce buffers: a bounded pool of DMA memory for data that the device cannot reach itself."""

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from vioblk._native import Region
from vioblk.block.deadline import Deadline
from vioblk.errors import RequestTimeoutError, VioblkError

CHUNK_BYTES: Final = 256 * 1024
MAX_CHUNKS: Final = 64
"""16 MiB in all. A caller that finds none free waits for one."""

MAX_CHUNKS_PER_CALL: Final = 8
"""So that one long transfer leaves some to the other threads."""

_LOOK_AGAIN_S: Final = 0.05
"""Nobody tells when a request that was given up completes after all, so the pool looks."""


class Loan:
    """Chunks that one caller has. They are the pool's again when it is ended or has gone."""

    __slots__ = ("__weakref__", "chunks")

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []


class Chunk:
    """One bounce buffer, owned by one loan at a time."""

    __slots__ = ("handle", "loan", "region", "view")

    def __init__(self, region: Region) -> None:
        self.region = region
        self.view = memoryview(region)
        self.handle = region.handle
        self.loan: weakref.ref[Loan] | None = None

    @property
    def lent(self) -> bool:
        """Whether a loan has it."""
        return self.loan is not None and self.loan() is not None

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

    An exception may come at any instruction (Ctrl-C). So nothing is ever moved from one list to
    another: a chunk stays in the one list of all, and is free when the loan that has it is no
    more, whether it was ended or lost. There is no Condition for the same reason: those of Python
    lose their lock when the exception comes at the wrong moment. And the lock can be taken twice,
    as a signal handler may use the disk.
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
        self._lock = threading.RLock()
        self._chunks: list[Chunk] = []
        self._closed: VioblkError | None = None
        self._bell = threading.Lock()
        """Free: chunks may have become free. Whoever waits for one waits for this, but not
        longer than _LOOK_AGAIN_S: somebody may have heard it and gone."""

    @property
    def free_count(self) -> int:
        """Chunks that could be lent now, of those that have been made."""
        with self._lock:
            return sum(chunk.idle and not chunk.lent for chunk in self._chunks)

    @property
    def chunk_count(self) -> int:
        """Chunks that have been made."""
        return len(self._chunks)

    def lend(self, wanted: int, deadline: Deadline) -> Loan:
        """From 1 to `wanted` chunks, as many as are free; waits only for the first.

        Raises RequestTimeoutError if none became free in time, MemoryError if not even one can
        be made, and what `close` was given once the pool is closed.
        """
        loan = Loan()
        waited = False
        while not self._fill(loan, wanted):
            left_s = deadline.remaining_s()
            if not left_s:
                raise RequestTimeoutError(self._nothing_free(deadline.timeout_s))
            waited = True
            self._bell.acquire(timeout=min(left_s, _LOOK_AGAIN_S))
        if waited:
            self._ring()  # there may be more than this caller took
        return loan

    def end(self, loan: Loan) -> None:
        """The loan's chunks are free; those that the device still has, when it is done."""
        with self._lock:
            for chunk in loan.chunks:
                chunk.loan = None
                if self._closed:
                    chunk.close()
        self._ring()

    def close(self, reason: VioblkError) -> None:
        """Free all memory that nobody has, and the rest as it comes back.

        Who waits for a chunk, and whoever asks for one later, gets `reason`.
        """
        with self._lock:
            self._closed = self._closed or reason
            for chunk in self._chunks:
                if not chunk.lent:
                    chunk.close()
            self._chunks.clear()
        self._ring()

    def _fill(self, loan: Loan, wanted: int) -> bool:
        """Put up to `wanted` free chunks into a loan; whether there was one."""
        with self._lock:
            if self._closed:
                self._ring()
                raise type(self._closed)(*self._closed.args)
            mine = weakref.ref(loan)
            for chunk in self._chunks:
                if len(loan.chunks) == wanted:
                    break
                if chunk.lent:
                    continue
                # Taken first and looked at then: a signal handler may come in between.
                chunk.loan = mine
                if chunk.idle:
                    loan.chunks.append(chunk)
                else:
                    chunk.loan = None
            while len(loan.chunks) < wanted and self._make(loan, mine):
                pass
            return bool(loan.chunks)

    def _make(self, loan: Loan, mine: "weakref.ref[Loan]") -> bool:
        """Put a new chunk into a loan; whether there can be one more."""
        if len(self._chunks) >= self.max_chunks:
            return False
        try:
            chunk = Chunk(self._alloc(self.chunk_bytes))
        except MemoryError:
            if not self._chunks:
                raise
            return False  # make do with those that there are
        chunk.loan = mine
        self._chunks.append(chunk)
        loan.chunks.append(chunk)
        return True

    def _ring(self) -> None:
        if self._bell.locked():
            with suppress(RuntimeError):  # somebody else was faster
                self._bell.release()

    def _nothing_free(self, timeout_s: float) -> str:
        held = sum(chunk.region.in_flight > 0 for chunk in self._chunks)
        return (
            f"no bounce buffer became free within {timeout_s:g} s: all {len(self._chunks)} are in "
            f"use, {held} of them by requests in flight; reset() the disk if it has stopped "
            f"answering, or use buffers of alloc(), which need none"
        )
