"""Moving data: zero copy where the buffer is DMA memory, through bounce buffers elsewhere."""

import itertools
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Final

from vioblk._native import BlockQueue, DirectTransfers
from vioblk.block.batch import check_statuses, pieces, range_batch, transfer_batch
from vioblk.block.bounce import MAX_CHUNKS_PER_CALL, BouncePool, Chunk
from vioblk.block.deadline import Deadline
from vioblk.block.driver import NO_QUEUES, BlockDriver
from vioblk.block.queue import RequestQueue
from vioblk.block.request import (
    ID_BYTES,
    REQUEST_RECORD,
    SECTOR_BYTES,
    STATUS_PENDING,
    RequestType,
)
from vioblk.compat import Buffer
from vioblk.errors import (
    DeviceGoneError,
    QueueBroken,
    QueueResetError,
    RequestTimeoutError,
    StateError,
    VioblkError,
)
from vioblk.memory import DmaMemory

MAX_BATCH_REQUESTS: Final = 256
"""Longer calls are several batches, so that `timeout_s` bounds a batch and not the whole of a
call that may take long because it asks for much."""


class Transfers:
    """Splits calls into requests and runs them, a batch at a time. Thread-safe.

    It belongs to one life of the disk: from one start of the device to the next reset. A call
    that was on its way at a reset goes on with queues and buffers that are no more, and gets
    DeviceGoneError; nothing of it reaches the disk in its next life.
    """

    def __init__(
        self,
        driver: BlockDriver,
        memory: DmaMemory,
        timeout_s: float,
        explain_failure: Callable[[], str | None] | None = None,
        look_for_cause: Callable[[], str | None] | None = None,
    ) -> None:
        """With the queues that `driver` has now.

        `explain_failure`: what else is known of an I/O error. `look_for_cause`: what the device
        shows after a time-out, as `VirtioDevice.look_for_cause`.
        """
        self.timeout_s = timeout_s
        self.pool = BouncePool(memory.alloc)
        self.direct: DirectTransfers | None = None
        """The short way of transfers that need no more than one request and no bounce buffer."""
        self._driver = driver
        self._memory = memory
        self._queues: Sequence[RequestQueue] = ()
        self.queues = driver.queues
        self._explain_failure = explain_failure
        self._look_for_cause = look_for_cause
        self._gone_because: str | None = None
        """Asked once: afterwards the device is not live, and would not be looked at."""
        self._turn = itertools.count()
        self._ended: VioblkError | None = None

    @property
    def queues(self) -> Sequence[RequestQueue]:
        """Over which requests are spread; others are put here when one of them is reset."""
        return self._queues

    @queues.setter
    def queues(self, queues: Sequence[RequestQueue]) -> None:
        native = [queue for queue in queues if isinstance(queue, BlockQueue)]
        if native and len(native) == len(queues):
            self.direct = DirectTransfers(self._driver.gate, self._memory.space, native)
        else:
            self.direct = None
        self._queues = queues

    def end(self, reason: VioblkError) -> None:
        """Let go of the queues, and of the bounce buffers that nobody has.

        Who waits for a buffer gets `reason`, and so do later calls.
        """
        self._ended = self._ended or reason
        self.pool.close(reason)
        self.queues = ()
        self._explain_failure = self._look_for_cause = None

    def next_queue(self) -> RequestQueue:
        """The queues take turns; one that is broken or given up is passed over while another
        works. Raises StateError if there are none, and the reason of `end`."""
        queues = self.queues
        if self._ended is not None:
            raise type(self._ended)(*self._ended.args)
        if not queues or not self._driver.queues:
            raise StateError(NO_QUEUES)
        turn = next(self._turn)
        for step in range(len(queues)):
            chosen = queues[(turn + step) % len(queues)]
            if chosen.broken is None:
                return chosen
        return queues[turn % len(queues)]

    def execute(
        self,
        requests: Buffer,
        statuses: Buffer,
        timeout_s: float | None,
        queue: RequestQueue | None = None,
    ) -> None:
        """`RequestQueue.execute` on `queue`, or on the next one; a time-out says how long the wait
        was, and what the device shows then.

        Raises DeviceGoneError in the place of a time-out if the device is found to need a reset,
        or to have gone; and says why it hung up, where that is known. Raises QueueResetError if
        the queue was reset meanwhile: nothing is sent a second time, as it may have been done.
        """
        chosen = self.next_queue() if queue is None else queue
        try:
            chosen.execute(requests, statuses, timeout_s)
        except (QueueBroken, RequestTimeoutError, DeviceGoneError) as error:
            failed = error
        else:
            return
        raise self._explained(chosen, failed, timeout_s)

    def _explained(
        self,
        queue: RequestQueue,
        error: QueueBroken | RequestTimeoutError | DeviceGoneError,
        timeout_s: float | None,
    ) -> VioblkError:
        """What `queue` raised, as the user is told of it."""
        if isinstance(error, QueueBroken):
            return self._driver.blame(queue, error)
        if isinstance(error, DeviceGoneError):
            blamed = self._driver.blame(queue, error)
            why = None if isinstance(blamed, QueueResetError) else self._why_gone()
            return DeviceGoneError(f"{why} ({error})") if why else blamed
        timed_out = f"after {timeout_s:g} s: {error}"
        look = self._look_for_cause
        try:
            shown = look() if look else None
        except DeviceGoneError as seen:
            return DeviceGoneError(f"{seen}; seen {timed_out}")
        return RequestTimeoutError(f"{timed_out}; {shown}" if shown else timed_out)

    def settle(
        self,
        kind: RequestType,
        offset: int,
        queue: BlockQueue,
        length: int,
        outcome: int | Exception,
    ) -> int:
        """What came of a transfer that `direct` has sent and that did not end well: the exception
        that `run` would raise."""
        if isinstance(outcome, int):
            record = REQUEST_RECORD.pack(kind, 0, offset // SECTOR_BYTES, 0, length, 0, 0)
            check_statuses(bytearray(record), bytearray([outcome]), self._explain_failure)
            return length
        if isinstance(outcome, QueueBroken | RequestTimeoutError | DeviceGoneError):
            raise self._explained(queue, outcome, self.timeout_s)
        raise outcome

    def _why_gone(self) -> str | None:
        """What the queues cannot know: they see no more than a hang-up."""
        look = self._look_for_cause
        if self._gone_because is None and look:
            try:
                look()
            except DeviceGoneError as error:
                self._gone_because = str(error)
        return self._gone_because

    def run(self, batch: bytearray) -> None:
        """Run a batch of records on one queue and wait for it.

        Raises RequestFailedError for the first request that did not end well, and whatever
        `RequestQueue.execute` does.
        """
        statuses = bytearray([STATUS_PENDING]) * (len(batch) // REQUEST_RECORD.size)
        self.execute(batch, statuses, self.timeout_s)
        check_statuses(batch, statuses, self._explain_failure)

    def move(self, kind: RequestType, offset: int, view: memoryview) -> None:
        """Read from the disk into `view`, or write `view` to it; its length is the transfer's."""
        where = self._memory.space.locate(view)
        if where is None:
            self._bounce(kind, offset, view)
        else:
            self._move_region(kind, offset, *where, len(view))

    def read_bytes(self, offset: int, length: int) -> bytes:
        """Read into fresh bytes."""
        if length > self.pool.chunk_bytes:
            return self._read_long(offset, length)
        loan = self.pool.lend(1, Deadline(self.timeout_s))
        try:
            [chunk] = loan.chunks
            with chunk.view[:length] as part:
                if not self._read_directly(offset, part):
                    self._move_region(RequestType.IN, offset, chunk.handle, 0, length)
                return bytes(part)
        finally:
            self.pool.end(loan)

    def _read_directly(self, offset: int, view: memoryview) -> bool:
        """Fill `view`, which lies in DMA memory, by one native call; whether that could be done."""
        direct = self.direct
        sent = None if direct is None else direct.read(offset, view, self.timeout_s)
        if sent is None:
            return False
        if not isinstance(sent, int):
            self.settle(RequestType.IN, offset, *sent)
        return True

    def _read_long(self, offset: int, length: int) -> bytes:
        # Unlike a bytearray, a stream gives away what it holds without a copy.
        stream = BytesIO()
        stream.seek(length - 1)
        stream.write(b"\0")
        with stream.getbuffer() as view:
            self._bounce(RequestType.IN, offset, view)
        return stream.getvalue()

    def erase(self, kind: RequestType, offset: int, length: int, flags: int) -> None:
        """Discard or write zeroes."""
        limits = self._driver.limits
        piece, align = limits.write_zeroes_bytes, 0
        if kind is RequestType.DISCARD:
            piece, align = limits.discard_bytes, limits.discard_alignment_bytes
        ranges = pieces(offset, length, piece, align)
        while batch := range_batch(kind, itertools.islice(ranges, MAX_BATCH_REQUESTS), flags):
            self.run(batch)

    def flush(self) -> None:
        """One flush request; no data, and sector 0."""
        self.run(bytearray(REQUEST_RECORD.pack(RequestType.FLUSH, 0, 0, 0, 0, 0, 0)))

    def read_id(self, timeout_s: float | None = None) -> bytes:
        """The 20 bytes of GET_ID. A device may fill fewer, so they are zeroed before."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        loan = self.pool.lend(1, Deadline(timeout_s))
        try:
            [chunk] = loan.chunks
            chunk.view[:ID_BYTES] = bytes(ID_BYTES)
            record = REQUEST_RECORD.pack(RequestType.GET_ID, 0, 0, 0, ID_BYTES, chunk.handle, 0)
            status = bytearray([STATUS_PENDING])
            self.execute(record, status, timeout_s)
            check_statuses(bytearray(record), status, self._explain_failure)
            return bytes(chunk.view[:ID_BYTES])
        finally:
            self.pool.end(loan)

    def _move_region(
        self, kind: RequestType, offset: int, region: int, region_offset: int, length: int
    ) -> None:
        piece = self._driver.limits.request_bytes
        for start, part in pieces(0, length, piece * MAX_BATCH_REQUESTS):
            self.run(
                transfer_batch(kind, offset + start, region, region_offset + start, part, piece)
            )

    def _bounce(self, kind: RequestType, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            wanted = min(-(-(len(view) - done) // self.pool.chunk_bytes), MAX_CHUNKS_PER_CALL)
            loan = self.pool.lend(wanted, Deadline(self.timeout_s))
            try:
                done += self._bounce_window(kind, offset + done, view[done:], loan.chunks)
            finally:
                self.pool.end(loan)

    def _bounce_window(
        self, kind: RequestType, offset: int, view: memoryview, chunks: list[Chunk]
    ) -> int:
        """Move as much of `view` as fits in `chunks`; how much that was."""
        size = self.pool.chunk_bytes
        window = min(len(view), len(chunks) * size)
        spans = list(zip(chunks, pieces(0, window, size), strict=True))
        batch = bytearray()
        for chunk, (start, length) in spans:
            if kind is RequestType.OUT:
                chunk.view[:length] = view[start : start + length]
            batch += transfer_batch(
                kind, offset + start, chunk.handle, 0, length, self._driver.limits.request_bytes
            )
        self.run(batch)
        if kind is RequestType.IN:
            for chunk, (start, length) in spans:
                view[start : start + length] = chunk.view[:length]
        return window
