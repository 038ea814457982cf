"""What a request queue offers: a ring with request slots, a doorbell and a way to wait."""

from typing import Protocol

from vioblk._native import BlockLimits
from vioblk.compat import Buffer
from vioblk.ring import RingLayout


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

        Whether `reap_many` has something already. It stays asked for until `reap_many` finds
        something, whatever other threads do.
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
