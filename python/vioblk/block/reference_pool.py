"""Slot pools in pure Python: what they promise, without the speed.

The twin of `vioblk._native.SlotPool`. Its chains are written anew for each request, as those of
other requests are; a pool that has descriptors of the ring to itself is one for which the others
leave so many free.
"""

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias, TypeVar

from vioblk._native import BlockLimits, DmaSpace, Region
from vioblk.block.batch import describe_status
from vioblk.block.reference_records import CheckedRequest, check_requests
from vioblk.block.reference_slots import SLOT_BYTES, Slots
from vioblk.block.request import SECTOR_BYTES, STATUS_PENDING, RequestStatus, RequestType
from vioblk.compat import Buffer
from vioblk.errors import (
    BeyondEndError,
    DeviceGoneError,
    InvalidRequestError,
    QueueBroken,
    ReadOnlyError,
    RequestFailedError,
    StateError,
    UnalignedError,
    UnsupportedError,
)
from vioblk.ring import Chain, Completion, Segment

if TYPE_CHECKING:
    from vioblk.block.reference_queue import ReferenceBlockQueue

T = TypeVar("T")

PoolWay: TypeAlias = Literal["direct", "indirect", "table", "general"]

Explain: TypeAlias = Callable[[Exception], BaseException]

DESCRIPTOR_BYTES: Final = 16
_NUMBER_MAX: Final = 0xFFFF_FFFF

_CLOSED: Final = "the slot pool has been closed"


class _Slot(Enum):
    FREE = auto()
    BUSY = auto()
    """From the submit until its completion is taken."""


class Pool:
    """What a queue knows of a pool. The queue's lock guards it."""

    def __init__(
        self,
        buffer: Region,
        frames: Region,
        request: CheckedRequest,
        count: int,
        way: PoolWay,
        descriptors: int,
    ) -> None:
        self.count: Final = count
        self.way: Final = way
        self.descriptors = descriptors
        """Of the ring that are kept for each slot; 0: none."""
        self.segments: Final = 2 + len(request.data)
        """Of a chain."""
        self.owned_count = 0
        """Requests that the device owns."""
        self.parked: deque[tuple[int, int]] = deque()
        """Slot and status of what came back and nobody has taken."""
        self.lost_count = 0
        """Requests that a reset lost, until somebody is told why."""
        self.forgotten = False
        """Nobody will take what comes back."""
        self.dropped = False
        """And nobody can name it any more."""
        self.dead: tuple[type[Exception], str] | None = None
        """Why it is of no more use."""
        self._request: Final = request
        self._data_writable_bytes: Final = 0 if request.type == RequestType.OUT else request.length
        self._buffer: Final = buffer
        self._frames: Final = Slots(frames, count)
        self._states = [_Slot.FREE] * count
        # As long as it is exported it cannot be closed.
        self._hold: Final = memoryview(buffer)

    @property
    def in_flight(self) -> int:
        """Requests that the device owns, or whose completion nobody has taken."""
        return self.owned_count + len(self.parked)

    @property
    def untold(self) -> int:
        """The same, and those that a reset lost and nobody has been told of."""
        return self.in_flight + self.lost_count

    def check(self, slots: Sequence[int], offsets: Sequence[int], limits: BlockLimits) -> None:
        """Raise InvalidRequestError for the first request that cannot be."""
        if self._request.type not in limits.request_types:
            raise UnsupportedError(
                f"type {int(self._request.type)} is unknown, or the feature that it needs was not"
                " negotiated"
            )
        if self._request.type == RequestType.OUT and limits.read_only:
            raise ReadOnlyError("the disk is read-only")
        named: set[int] = set()
        for index, (slot, offset) in enumerate(zip(slots, offsets, strict=True)):
            if slot >= self.count:
                raise InvalidRequestError(
                    f"request {index}: there is no slot {slot}: the pool has {self.count}, from 0"
                    " on"
                )
            if slot in named:
                raise InvalidRequestError(f"request {index}: slot {slot} is named twice")
            if self._states[slot] is not _Slot.FREE:
                raise InvalidRequestError(
                    f"request {index}: slot {slot} is in flight; reap it first"
                )
            self._check_offset(index, offset, limits.capacity_sectors)
            named.add(slot)

    def _check_offset(self, index: int, offset: int, capacity_sectors: int) -> None:
        if offset % SECTOR_BYTES:
            raise UnalignedError(
                f"request {index}: offset {offset} is not a multiple of the sector size, 512 bytes"
            )
        length = self._request.length
        if offset + length > capacity_sectors * SECTOR_BYTES:
            raise BeyondEndError(
                f"request {index}: {length} bytes from sector {offset // SECTOR_BYTES} reach past"
                f" the end of the disk, which has {capacity_sectors} sectors"
            )

    def write(self, slot: int, offset: int) -> Chain:
        """Write the frame of a slot that is free; its chain."""
        start = slot * self._request.length
        data: tuple[Segment, ...] = tuple(
            (self._buffer, start + at, length) for _, at, length in self._request.data
        )
        request = self._request._replace(sector=offset // SECTOR_BYTES, data=data)
        self._frames.write(slot, request)
        return self._frames.chain(slot, request)

    def note_published(self, slots: Sequence[int]) -> None:
        """Requests of these slots are the device's."""
        for slot in slots:
            self._states[slot] = _Slot.BUSY
        self.owned_count += len(slots)

    def complete(self, slot: int, completion: Completion, lengths_count: bool) -> None:
        """The device has given the request of a slot back."""
        self.owned_count -= 1
        status = self._frames.status(slot)
        written = completion.written_bytes
        unwritten = written is not None and written <= self._data_writable_bytes
        if status == RequestStatus.OK and lengths_count and unwritten:
            status = STATUS_PENDING
        if self.forgotten:
            self._states[slot] = _Slot.FREE
        else:
            self.parked.append((slot, status))

    def take(self, limit: int, good_only: bool) -> list[tuple[int, int]]:
        """At most `limit` completions, the oldest first; with `good_only` others stay."""
        taken: list[tuple[int, int]] = []
        for _ in range(len(self.parked)):
            slot, status = self.parked.popleft()
            if len(taken) == limit or (good_only and status != RequestStatus.OK):
                self.parked.append((slot, status))
            else:
                self._states[slot] = _Slot.FREE
                taken.append((slot, status))
        return taken

    def forget(self) -> None:
        """Nobody takes completions any more."""
        self.forgotten = True
        self.take(len(self.parked), good_only=False)

    def drop(self) -> None:
        """Nobody can name it any more."""
        self.forget()
        self.dropped = True

    def die(self, kind: type[Exception], why: str) -> None:
        """Every later call raises this, or what it raised already."""
        self.dead = self.dead or (kind, why)

    def refuse_if_dead(self) -> None:
        """Raise why it is of no more use; then its user knows of what was lost."""
        if self.dead is not None:
            self.lost_count = 0
            kind, why = self.dead
            raise kind(why)

    def end(self, kind: type[Exception], why: str) -> None:
        """After a confirmed reset: the device owns nothing any more."""
        self.die(kind, why)
        self.lost_count += self.owned_count
        self.owned_count = self.descriptors = 0
        self.release()

    def release(self) -> None:
        """The device can reach the memory no more."""
        self._hold.release()


class ReferenceSlotPool:
    """Requests of fixed buffers, in pure Python. Thread-safe.

    Made by `ReferenceBlockQueue.slot_pool`; documented at `vioblk.block.queue.QueueSlotPool`.
    """

    def __init__(
        self,
        queue: "ReferenceBlockQueue",
        pool: Pool,
        buffer: Region,
        slot_bytes: int,
        write: bool,
        explain: Explain | None,
    ) -> None:
        self._queue: Final = queue
        self._pool: Final = pool
        self._explain: Final = explain
        self._closed = False
        self.buffer: Final = buffer
        self.count: Final = pool.count
        self.slot_bytes: Final = slot_bytes
        self.write: Final = write
        # What is in flight then is forgotten when it comes back.
        weakref.finalize(self, pool.drop)

    @property
    def way(self) -> PoolWay | None:
        """How its requests reach the ring; None once it is closed."""
        return None if self._closed else self._pool.way

    @property
    def in_flight(self) -> int:
        """Requests whose end the user of the pool has not been told of."""
        self._queue.refuse_after_fork()
        return 0 if self._closed else self._pool.untold

    def submit(self, slots: Buffer, offsets: Buffer, /) -> int:
        """Read into these slots from these offsets (or write them there); how many fit."""
        self._queue.refuse_after_fork()
        numbers = _items(slots, "slots", "IL", 4, "uint32")
        places = _items(offsets, "offsets", "LQN", 8, "uint64")
        if len(places) != len(numbers):
            raise ValueError(f"{len(numbers)} slots need as many offsets, not {len(places)}")
        return self._explained(lambda: self._queue.submit_slots(self._pool, numbers, places))

    def reap(self, slots: Buffer, statuses: Buffer | None = None, /) -> int:
        """Fill `slots` with those that came back, `statuses` with their status bytes."""
        self._queue.refuse_after_fork()
        out = _writable(slots, "slots", "IL", 4, "uint32")
        status_out = None if statuses is None else _writable(statuses, "statuses", "B", 1, "uint8")
        limit = out.nbytes // 4
        if status_out is not None and status_out.nbytes != limit:
            raise ValueError(f"{limit} slots need as many statuses, not {status_out.nbytes}")
        taken = self._explained(
            lambda: self._queue.reap_slots(self._pool, limit, good_only=status_out is None)
        )
        if not taken:
            return 0
        numbers = out.cast("B").cast("I")
        for index, (slot, _) in enumerate(taken):
            numbers[index] = slot
        if status_out is not None:
            for index, (_, status) in enumerate(taken):
                status_out[index] = status
        return len(taken)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until `reap` has something to hand out, an error included."""
        self._queue.refuse_after_fork()
        return self._closed or self._queue.wait_for_slots(self._pool, timeout_s)

    def close(self) -> None:
        """Give the descriptors back. Raises StateError while requests are in flight."""
        self._queue.refuse_after_fork()
        if not self._closed:
            self._queue.close_pool(self._pool)
            self._closed = True

    def _explained(self, call: Callable[[], T]) -> T:
        if self._closed:
            raise self._told(StateError(_CLOSED))
        try:
            return call()
        except (QueueBroken, DeviceGoneError, StateError, RequestFailedError) as error:
            raise self._told(error) from None

    def _told(self, error: Exception) -> BaseException:
        return error if self._explain is None else self._explain(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception as error:
            if value is None:
                raise
            value.add_note(f"the slot pool could not be closed: {error}")


def frames_length(count: int, slot_bytes: int, limits: BlockLimits) -> int:
    """Bytes that the frames of such a pool need, with a table for each behind them."""
    return count * (SLOT_BYTES + DESCRIPTOR_BYTES * chain_length(slot_bytes, limits))


def chain_length(slot_bytes: int, limits: BlockLimits) -> int:
    """Segments of the chain of a slot: header, data in pieces that the device takes, status."""
    return 2 + (-(-slot_bytes // limits.size_max) if limits.size_max else 1)


def check_shape(count: int, slot_bytes: int) -> None:
    """Raise ValueError for numbers that no pool can have."""
    for name, number in (("count", count), ("slot_bytes", slot_bytes)):
        if not 0 <= number <= _NUMBER_MAX:
            raise ValueError(f"{name} is {number}, not from 0 to 2^32 - 1")
    if count == 0:
        raise ValueError("count is 0: a pool has one slot at least")


def failure(slot: int, status: int) -> RequestFailedError:
    """What is raised for the request of a slot."""
    why = describe_status(status)
    return RequestFailedError(f"the request of slot {slot} failed: {why}", status, slot)


def check_slot(
    record: bytes, count: int, limits: BlockLimits, space: DmaSpace, segments_max: int
) -> CheckedRequest:
    """The request that the first slot makes of the first sector.

    Raises InvalidRequestError if it cannot be, or not all of its `count` slots are in its region.
    """
    try:
        [request] = check_requests(record, limits, space, segments_max)
    except (InvalidRequestError, BufferError) as error:
        raise type(error)(str(error).removeprefix("request 0: ")) from None
    [(region, *_), *_] = request.data
    length = request.length
    fitting = region.length // length
    if fitting < count:
        raise InvalidRequestError(
            f"{length} bytes at offset {fitting * length} are not inside the region of"
            f" {region.length} bytes"
        )
    return request


def pool_way(
    *, count: int, segments: int, room: int, reservable: bool, table_size: int
) -> tuple[PoolWay, int]:
    """How a pool's requests reach the ring, and how many descriptors each slot has to itself.

    `room`: descriptors that are free and need not be left to others; `reservable`: descriptors
    can be kept at all (on a split ring, not in order); `table_size`: of the longest indirect
    table, 0 without.
    """
    tables = segments <= table_size
    if reservable and count * segments <= room:
        return "direct", segments
    if reservable and tables and count <= room:
        return "indirect", 1
    return ("table" if tables else "general"), 0


def _view(array: Buffer, name: str, formats: str, size: int, what: str) -> memoryview:
    view = memoryview(array)
    letter = view.format.lstrip("@=<") if view.format[0] in "@=<" else view.format
    if len(letter) != 1 or letter not in formats or view.itemsize != size:
        raise ValueError(
            f"{name} must be an array of {what}, not of items '{view.format}' of {view.itemsize}"
            " bytes"
        )
    if view.ndim != 1 or not view.c_contiguous:
        raise ValueError(f"{name} must be a contiguous array of one dimension")
    return view


def _items(array: Buffer, name: str, formats: str, size: int, what: str) -> Sequence[int]:
    """A copy, so that what is checked is what is sent."""
    with _view(array, name, formats, size, what) as view:
        return memoryview(view.tobytes()).cast("I" if size == 4 else "Q")


def _writable(array: Buffer, name: str, formats: str, size: int, what: str) -> memoryview:
    view = _view(array, name, formats, size, what)
    if view.readonly:
        raise BufferError(f"{name}: the array is read-only")
    return view
