"""Slot pools of a disk: fixed buffers, read or written again and again at the least cost."""

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Final, Self

from vioblk._native import Gate, Region
from vioblk.block.deadline import queue_timeout
from vioblk.block.driver import RESETTING, BlockDriver
from vioblk.block.queue import QueueSlotPool, RequestQueue
from vioblk.block.request import RequestStatus
from vioblk.compat import Buffer
from vioblk.device import VirtioDevice
from vioblk.errors import (
    DeviceGoneError,
    QueueBroken,
    RequestFailedError,
    StateError,
)

if TYPE_CHECKING:
    from vioblk.block.disk import BlockDevice

LOOK_AFTER_S: Final = 0.1
"""A wait in vain that was shorter is no reason to look at the device: somebody polls."""


class SlotPool:
    """`count` buffers of `slot_bytes` each, all for reads or all for writes; made by
    `BlockDevice.slot_pool`. A context manager, which closes the pool. Thread-safe.

    Slot n is at n * slot_bytes of `buffer`, where the device reads and writes; a numpy view of it
    is `numpy.frombuffer(pool.buffer, numpy.uint8).reshape(pool.count, pool.slot_bytes)`.

    Requests are numbers in arrays: `submit` takes slots and offsets, `reap` gives the slots back
    whose requests the device has finished. What lies between the two is the device's. After
    `close` of the disk the calls raise StateError, after a reset of the disk or of the queue
    DeviceGoneError (QueueResetError): make a new pool then.
    """

    # A dict, so that `help` has a text for what are no methods of this class.
    __slots__: ClassVar[dict[str, str | None]] = {
        "__weakref__": None,
        "_disk": None,
        "_look_for_cause": None,
        "_pool": None,
        "_timeout_s": None,
        "reap": """reap(slots, statuses=None, /) -> int

        Fill `slots` (uint32) with slots that came back, and `statuses` (uint8, equally long) with
        their status bytes; how many there were. Never waits.

        Without `statuses` those that succeeded come first, and then each other raises
        RequestFailedError, with its `slot`. Raises as `submit`, after all that came back was
        handed out; BufferError for an array that is read-only. What a reset lost does not come
        back: the error that says so, DeviceGoneError or QueueResetError, stands for all of it.
        """,
        "submit": """submit(slots, offsets, /) -> int

        Read into these slots from these byte offsets of the disk, or write them there. `slots`: a
        contiguous array of uint32; `offsets`: one of uint64, equally long, multiples of 512.

        All are checked before anything is sent. Returns how many were accepted from the front, as
        the ring has room. Raises InvalidRequestError (its subclass says why, its message which
        request), ValueError for arrays of another kind, TypeError for what is no array,
        QueueBroken, DeviceGoneError, StateError, ForkedError.
        """,
    }

    submit: Callable[[Buffer, Buffer], int]
    reap: Callable[..., int]

    def __init__(
        self,
        disk: "BlockDevice",
        pool: QueueSlotPool,
        timeout_s: float,
        look_for_cause: Callable[[], str | None],
    ) -> None:
        self._disk = disk
        self._pool = pool
        self._timeout_s = timeout_s
        self._look_for_cause = look_for_cause
        # The very methods of the queue's pool: nothing of Python lies between it and the caller.
        self.submit = pool.submit
        self.reap = pool.reap

    @property
    def disk(self) -> "BlockDevice":
        """The disk, which is not dropped before its pools."""
        return self._disk

    @property
    def buffer(self) -> Region:
        """The buffers. They cannot be closed before the pool, and are there as long as a view."""
        return self._pool.buffer

    @property
    def count(self) -> int:
        """Slots."""
        return self._pool.count

    @property
    def slot_bytes(self) -> int:
        """Bytes of each slot's buffer, and so of each request."""
        return self._pool.slot_bytes

    @property
    def write(self) -> bool:
        """Whether the slots are for writes."""
        return self._pool.write

    @property
    def way(self) -> str | None:
        """How requests reach the ring: "direct", "indirect", "table" or "general", the cheapest
        first; what each means stands at `vioblk.block.queue.QueueSlotPool`. None once closed."""
        return self._pool.way

    @property
    def in_flight(self) -> int:
        """Requests that the device owns or whose completion has not been reaped; and those that a
        reset lost, until `reap` or `submit` has raised why."""
        return self._pool.in_flight

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until `reap` has something to hand out or an error to raise.

        False after `timeout_s` (as for other requests if None), and at once if nothing of the pool
        is in flight. Raises ValueError if it is negative or NaN.
        """
        bound_s = queue_timeout(self._timeout_s if timeout_s is None else timeout_s)
        if self._pool.wait(bound_s):
            return True
        if self._pool.in_flight and (bound_s is None or bound_s >= LOOK_AFTER_S):
            try:
                self._look_for_cause()
            except DeviceGoneError:
                return True  # `reap` has that error to raise
        return False

    def close(self) -> None:
        """Give the pool up, and its share of the ring. Idempotent.

        Raises StateError while requests are in flight or not reaped, unless the queue is of no
        more use: what a reset lost is then forgotten, told or not. The memory is given back when
        the last view of `buffer` has gone.
        """
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.__exit__(kind, value, traceback)

    def __repr__(self) -> str:
        what = "writes" if self.write else "reads"
        closed = ", closed" if self.way is None else ""
        return f"<SlotPool: {self.count} {what} of {self.slot_bytes} bytes{closed}>"


def open_slot_pool(
    disk: "BlockDevice",
    device: VirtioDevice,
    driver: BlockDriver,
    gate: Gate,
    queue: RequestQueue,
    count: int,
    slot_bytes: int,
    *,
    write: bool,
    timeout_s: float,
) -> SlotPool:
    """A pool on one queue of a disk, with memory of its own. Raises as `BlockDevice.slot_pool`."""
    frames_bytes = queue.slot_frames_length(count, slot_bytes)
    # The queue refuses slots of 0 bytes.
    buffer = device.memory.alloc(max(1, count * slot_bytes))
    frames = device.memory.alloc(frames_bytes)
    explain = partial(explain_error, driver, gate, queue, device.transport.explain_failure)
    pool = queue.slot_pool(buffer, frames, count, slot_bytes, write=write, explain=explain)
    return SlotPool(disk, pool, timeout_s, device.look_for_cause)


def explain_error(
    driver: BlockDriver,
    gate: Gate,
    queue: RequestQueue,
    explain_failure: Callable[[], str | None],
    error: Exception,
) -> BaseException:
    """What the queue raised, as the user of a pool is told of it."""
    if not isinstance(error, RequestFailedError):
        # While the disk is being reset, the pool says what it will say afterwards.
        if gate.refusal not in (None, RESETTING):
            return StateError(gate.refusal)
        if driver.gone is not None:
            return DeviceGoneError(driver.gone)
    if isinstance(error, QueueBroken | DeviceGoneError):
        return driver.blame(queue, error)
    if isinstance(error, RequestFailedError) and error.status == RequestStatus.IOERR:
        cause = explain_failure()
        if cause is not None:
            return RequestFailedError(f"{error.strerror}; {cause}", error.status, error.slot)
    return error
