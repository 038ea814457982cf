"""What a request queue offers: a ring with request slots, a doorbell and a way to wait."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from vioblk._native import BlockLimits, Region
from vioblk.compat import Buffer
from vioblk.ring import RingLayout


class QueueSlotPool(Protocol):
    """Requests of fixed buffers, whose chains are written once. Thread-safe.

    Two implementations: `vioblk._native.SlotPool` and, in pure Python,
    `vioblk.block.reference_pool.ReferenceSlotPool`. A context manager, which closes the pool.
    One that goes without being closed gives its descriptors and its memory back once the device
    has given back what is in flight.
    """

    @property
    def count(self) -> int:
        """Slots."""

    @property
    def slot_bytes(self) -> int:
        """Bytes of each slot's buffer."""

    @property
    def write(self) -> bool:
        """Whether the slots are for writes; else they are for reads."""

    @property
    def buffer(self) -> Region:
        """The buffers: slot n from n * slot_bytes on. It cannot be closed before the pool."""

    @property
    def way(self) -> str | None:
        """How a request reaches the ring; None once the pool is closed.

        "direct": each slot has a chain of descriptors to itself; "indirect": one descriptor, which
        points to a table of its own; "table": a table, to which a descriptor is pointed for each
        request; "general": a chain is written for each request.
        """

    @property
    def in_flight(self) -> int:
        """Requests that the device owns or whose completion has not been reaped; and those that a
        reset lost, until `reap` or `submit` has raised why."""

    def submit(self, slots: Buffer, offsets: Buffer, /) -> int:
        """Read into slots from byte offsets of the disk, or write them there; with one publish and
        at most one notification.

        `slots`: a contiguous array of uint32; `offsets`: one of uint64, equally long, multiples of
        512. All are checked before anything is sent. Returns how many were accepted from the
        front: all, where slots have descriptors to themselves ("direct", "indirect"); else as many
        as fit, and none while a batch of `execute` waits for room.

        Raises InvalidRequestError (its subclass says why, its message which request: a slot that
        is not there, in flight or named twice, an offset that is not aligned or reaches past the
        end), ValueError for arrays that are none, QueueBroken, DeviceGoneError, StateError if the
        pool was closed or is lost, ForkedError.
        """

    def reap(self, slots: Buffer, statuses: Buffer | None = None, /) -> int:
        """Fill `slots` (uint32) with slots that came back, and `statuses` (uint8, equally long)
        with their status bytes; how many there were. Never waits.

        Without `statuses` only those that succeeded are handed out, and when there are no more,
        each other raises RequestFailedError, with its `status` and `slot`; either way the slot can
        be submitted again. A status of 0 that the used length does not reach is none: see
        `RequestQueue.execute`. Raises as `submit`, but only after all completions were handed out;
        BufferError for an array that is read-only.
        """

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until `reap` has something to hand out, an error included.

        False after `timeout_s`, and at once if nothing of the pool is in flight.
        """

    def close(self) -> None:
        """Give the descriptors back. Idempotent.

        Raises StateError while requests are in flight, unless the queue is of no more use.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


class RequestQueue(Protocol):
    """Block requests, a batch at a time. Thread-safe.

    Two implementations: `vioblk._native.BlockQueue` and, in pure Python,
    `vioblk.block.reference_queue.ReferenceBlockQueue`.
    """

    @property
    def size(self) -> int:
        """Descriptors in the ring."""

    @property
    def layout(self) -> RingLayout:
        """Where the parts of the ring lie in its region."""

    @property
    def depth(self) -> int:
        """Requests of the longest shape that are sure to fit at once."""

    @property
    def in_flight(self) -> int:
        """Requests that the device owns or whose completion has not been reaped."""

    @property
    def broken(self) -> str | None:
        """Why the queue can no longer be used until a reset; None while it can."""

    @property
    def clamped_count(self) -> int:
        """Completions whose used length was larger than the request's writable part."""

    @property
    def kick_count(self) -> int:
        """How often the device was notified, or was to be (`take_kick`)."""

    @property
    def limits(self) -> BlockLimits:
        """What every record is held to; it can be set again when the disk changes."""

    @limits.setter
    def limits(self, limits: BlockLimits, /) -> None: ...

    @property
    def polling(self) -> bool:
        """Whether waits look at the ring again and again, and never ask for an interrupt.

        Setting it takes effect at once, for those who wait too; who waits on `fileno()` elsewhere
        is woken, and has to look by himself from then on. A wait on a queue that polls by choice
        looks for 1 ms before it sleeps between looks, one without an interrupt for 50 us (the
        queue in pure Python: not at all). False raises UnsupportedError where the
        device gives no interrupt, as such a queue is polled in any case.
        """

    @polling.setter
    def polling(self, polling: bool, /) -> None: ...

    def fileno(self) -> int:
        """An epoll descriptor that becomes readable with a completion interrupt or a hang-up.

        Where the device gives no interrupt it tells of the hang-up alone; look again (`arm`) now
        and then. `wait` and `execute` do so by themselves.
        """

    def take_kick(self) -> bool:
        """For a queue without a doorbell: whether the device must be notified, and forget it."""

    def submit_many(self, requests: Buffer, /) -> int:
        """Submit REQUEST_RECORDs, in order, with one publish and at most one notification.

        All records are copied and validated first: if any is bad, nothing is submitted.
        Returns how many were accepted from the front, as many as fit; none while a batch of
        `execute` waits for room, which nothing overtakes.
        Raises InvalidRequestError (its subclass says why, its message which record),
        BufferError (region closed), QueueBroken, DeviceGoneError, ForkedError.
        """

    def reap_many(self, out: Buffer, /) -> int:
        """Fill `out` with COMPLETION_RECORDs of submitted requests; how many were filled.

        Raises QueueBroken or DeviceGoneError, but only after every good completion was handed out.
        """

    def execute(self, requests: Buffer, statuses: Buffer, timeout_s: float | None = None) -> None:
        """Run a whole batch at full depth and wait for it.

        `statuses`: one writable byte per record; a record that did not complete keeps
        STATUS_PENDING, and so does one that the device calls a success while its used length
        does not reach the status byte (VIRTIO 1.4, 2.7.8.2; not on the legacy interface).

        Raises as `submit_many` does, RequestTimeoutError after `timeout_s` (None: no bound but
        the device's hang-up), KeyboardInterrupt from a signal handler; then what the device owns
        it still owns, and its buffers stay pinned.
        """

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until `reap_many` has something to hand out, an error included.

        False after `timeout_s`, and at once if nothing is in flight.
        """

    def arm(self) -> bool:
        """Ask for an interrupt at the next completion, before waiting on `fileno()` elsewhere.

        Whether `reap_many` has something already, or a pool. It stays asked for, whatever other
        threads do, until `reap_many` finds something while no pool has anything in flight, or the
        `reap` of a pool does while nobody else has.
        """

    def slot_frames_length(self, count: int, slot_bytes: int, /) -> int:
        """Bytes that the frames of a slot pool need. Raises ValueError for what no pool can be."""

    def slot_pool(
        self,
        buffer: Region,
        frames: Region,
        count: int,
        slot_bytes: int,
        *,
        write: bool = False,
        explain: Callable[[Exception], BaseException] | None = None,
    ) -> QueueSlotPool:
        """Make a pool of `count` slots of `slot_bytes`, one behind the other in `buffer`.

        `frames`: a region of its own, of `slot_frames_length` bytes, for headers, status bytes and
        tables. `explain` turns an error of the queue, or of a request, into what the calls of the
        pool raise; it must not refer to the pool.

        Raises as `submit_many` for a request that the slots would make, ValueError for what no
        pool can be, BufferError.
        """

    def end_pools(self, reason: str) -> None:
        """Make all pools useless: every later call raises StateError(reason).

        What they have in flight is forgotten when it comes back; `in_flight` counts it, and `wait`
        waits for it, until then.
        """

    def abort(self, reason: str) -> None:
        """Give the queue up for good: every waiter and every later call gets DeviceGoneError.

        With `reason`, or with an earlier one (the device hung up).
        """

    def reclaim(self) -> list[int]:
        """After a confirmed reset only: the tokens of submitted requests that never completed.

        Unpins all buffers. Completions that nobody has taken are kept, and a queue that was given
        up stays so; apart from that it is as new.
        """
