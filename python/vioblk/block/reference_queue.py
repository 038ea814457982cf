"""The request queue in pure Python, over the pure-Python ring: for tests and for study.

`ReferenceBlockQueue` is the twin of `vioblk._native.BlockQueue`; what the calls mean stands at
`vioblk.block.queue.RequestQueue`. It does with a loop over requests what Rust does with a batch.

Python has no fences (see `vioblk.ring.reference`), so against a device that runs at the same time
this queue leaves out every optimisation that needs one. It notifies after each publish, whatever
the device's flags say. It refuses EVENT_IDX. It never switches interrupts off. And each of its
waits looks again after 100 ms at the latest. With a doorbell it runs on x86-64 only, where stores
become visible in program order.

An asynchronous exception (KeyboardInterrupt) in the middle of a submit takes the batch back; in
the middle of a reap it can lose completions, or break the queue until a reset, which the Rust queue
does not. It never leaves a lock held.
"""

import os
import platform
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from vioblk._native import BlockLimits, DmaSpace, Doorbell, Region
from vioblk.block.reference_pool import (
    Explain,
    Pool,
    ReferenceSlotPool,
    check_shape,
    check_slot,
    failure,
    frames_length,
    pool_way,
)
from vioblk.block.reference_records import CheckedRequest, check_requests, record_count
from vioblk.block.reference_slots import SLOT_BYTES, Slots
from vioblk.block.request import (
    COMPLETION_RECORD,
    REQUEST_RECORD,
    STATUS_PENDING,
    RequestStatus,
    RequestType,
)
from vioblk.compat import Buffer
from vioblk.errors import (
    DeviceGoneError,
    ForkedError,
    QueueBroken,
    QueueFull,
    RequestTimeoutError,
    StateError,
    UnsupportedError,
)
from vioblk.ring import Chain, Completion
from vioblk.ring.reference import PackedLayout, PackedQueue, SplitLayout, SplitQueue

WAIT_SLICE_S: Final = 0.1
"""The longest sleep before the ring is looked at again."""

POLL_SLICE_S: Final = 0.001
"""The same for a queue without an interrupt."""

LOOK_S: Final = 0.001
"""How long a queue that is polled by choice is looked at before the first sleep."""

_FRAME_DESCRIPTORS: Final = 2  # header and status
_SIZE_MIN: Final = 3  # header, data and status

LOST: Final = "the queue was reset, and the slot pool is lost; make a new one"
"""What those are told who have a slot pool of a queue that goes on."""


class _Batch:
    """One call of execute, as long as it runs."""

    def __init__(self, statuses: memoryview, request_count: int) -> None:
        self.statuses: memoryview | None = statuses
        self.pending_count = request_count

    def complete(self, index: int, status: int) -> None:
        self.pending_count -= 1
        if self.statuses is not None:  # None: the caller gave up, and the result is dropped
            self.statuses[index] = status

    def give_up(self) -> None:
        if self.statuses is not None:
            self.statuses.release()
            self.statuses = None


@dataclass(slots=True)
class _InFlight:
    """What we remember of a request that the device owns."""

    token: int
    batch: _Batch | None
    """The execute call that waits for it; None if reap_many hands it out."""
    index: int
    """Of its record in the batch."""
    data_writable_bytes: int


@dataclass(slots=True)
class _SlotInFlight:
    """The same of a request of a slot pool."""

    pool: Pool
    slot: int


class ReferenceBlockQueue:
    """Block requests, a batch at a time, in pure Python. Thread-safe.

    Documented at `vioblk.block.queue.RequestQueue`; the constructor is that of
    `vioblk._native.BlockQueue`. Raises ValueError for `event_idx`, for regions that are too
    short and for a queue too small for a request, NotImplementedError for a doorbell on another
    architecture than x86-64.
    """

    def __init__(
        self,
        space: DmaSpace,
        ring: Region,
        slots: Region,
        size: int,
        limits: BlockLimits,
        *,
        packed: bool = False,
        legacy_align: int | None = None,
        indirect_table_size: int = 0,
        event_idx: bool = False,
        in_order: bool = False,
        strict: bool = False,
        doorbell: Doorbell | None = None,
        interrupt_fd: int | None = None,
        hangup_fd: int | None = None,
    ) -> None:
        if event_idx:
            raise ValueError(
                "the pure-Python queue cannot use EVENT_IDX, which needs a fence;"
                " negotiate without it"
            )
        if doorbell is not None and platform.machine() != "x86_64":
            raise NotImplementedError(
                f"the pure-Python queue relies on the store order of x86-64, this is"
                f" {platform.machine()}; use the native queue"
            )
        if packed and legacy_align is not None:
            raise ValueError("the legacy interface has no packed ring")
        # In both cases the device has been told of the ring, and may be live.
        self._ring: Final = (
            PackedQueue(
                ring,
                size,
                indirect_table_size=indirect_table_size,
                in_order=in_order,
                strict=strict,
                zeroed=True,
            )
            if packed
            else SplitQueue(
                ring,
                size,
                legacy_align=legacy_align,
                indirect_table_size=indirect_table_size,
                in_order=in_order,
                strict=strict,
                zeroed=True,
            )
        )
        self._space: Final = space
        self._slots: Final = Slots(slots, size)
        self._indirect_table_size: Final = indirect_table_size
        self._limits = limits
        if size < _SIZE_MIN:
            raise ValueError(f"queue size {size} is too small: a request needs 3 descriptors")
        self._legacy: Final = legacy_align is not None
        self._doorbell: Final = doorbell
        self._kick_count = 0
        self._kick_wanted = False
        self._wakeups: Final = _Wakeups(interrupt_fd, hangup_fd)
        self._polling = not self._wakeups.interrupts
        self._looked = False
        """Since something was submitted or came back; of a queue that is polled by choice."""
        self._process_id: Final = os.getpid()
        # One lock for all that follows. Not with a Condition: those of Python lose their lock when
        # a signal handler raises at the wrong moment. And one that can be taken twice, as a
        # handler may use the queue.
        self._lock: Final = threading.RLock()
        self._sleepers: list[threading.Lock] = []
        self._somebody_waits = False
        self._reset_count = 0
        self._in_flight: dict[int, _InFlight] = {}
        self._pools: list[Pool] = []
        self._slots_in_flight: dict[int, _SlotInFlight] = {}
        self._slot_descriptors = 0
        """In use by slots that have descriptors to themselves."""
        # Elsewhere the place of a descriptor says when it is used.
        self._reservable: Final = not (packed or in_order)
        self._completed: deque[tuple[int, int, int]] = deque()
        # Batches of which not all was submitted, in the order of their arrival.
        self._backlog: deque[_Batch] = deque()
        self._gone: str | None = None

    @staticmethod
    def slots_length(size: int) -> int:
        """Bytes that the slots region of a queue of `size` must have."""
        return SLOT_BYTES * size

    # -- State -------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Descriptors in the ring."""
        return self._ring.size

    @property
    def layout(self) -> SplitLayout | PackedLayout:
        """Where the parts of the ring lie."""
        return self._ring.layout

    @property
    def depth(self) -> int:
        """Requests of the longest shape that are sure to fit at once."""
        descriptors = _FRAME_DESCRIPTORS + self._segments_max()
        return self._unreserved_count // self._needed(descriptors)

    @property
    def in_flight(self) -> int:
        """Requests that the device owns or whose completion has not been reaped."""
        with self._lock:
            pools = sum(pool.in_flight for pool in self._pools)
            return len(self._in_flight) + len(self._completed) + pools

    @property
    def broken(self) -> str | None:
        """Why the queue can no longer be used until a reset; None while it can."""
        if self._gone is None and self._ring.broken is not None:
            return _breach(self._ring.broken)
        return self._gone

    @property
    def clamped_count(self) -> int:
        """Completions whose used length was larger than the request's writable part."""
        return self._ring.clamped_count

    @property
    def kick_count(self) -> int:
        """How often the device was notified, or was to be."""
        return self._kick_count

    @property
    def limits(self) -> BlockLimits:
        """What every record is held to."""
        return self._limits

    @limits.setter
    def limits(self, limits: BlockLimits, /) -> None:
        self._limits = limits

    @property
    def polling(self) -> bool:
        """Whether waits look at the ring again and again, and never ask for an interrupt."""
        return self._polling

    @polling.setter
    def polling(self, polling: bool, /) -> None:
        if not isinstance(polling, bool):
            raise TypeError(f"polling must be True or False, not {polling!r}")
        if not self._wakeups.interrupts:
            if not polling:
                raise UnsupportedError(
                    "the device gives this queue no interrupt, so it is polled in any case"
                )
            return
        with self._lock:
            self._polling = polling
            if polling:
                self._ring.disarm()
            elif self._gone is None and self._ring.broken is None:
                self._ring.arm()
            self._wake_sleepers()
        self._wakeups.wake()  # who waits goes on in the other way

    def fileno(self) -> int:
        """An epoll descriptor that becomes readable with a completion interrupt or a hang-up."""
        return self._wakeups.fileno()

    # -- Requests ----------------------------------------------------------------------------

    def take_kick(self) -> bool:
        """For a queue without a doorbell: whether the device must be notified, and forget it."""
        with self._lock:
            wanted, self._kick_wanted = self._kick_wanted, False
            return wanted

    def submit_many(self, requests: Buffer, /) -> int:
        """Submit records in order; how many were accepted from the front."""
        self._refuse_after_fork()
        with self._lock:
            checked = self._check(requests)
            # What waits for room keeps its place in the order.
            return 0 if self._backlog else self._submit(checked, 0, None)

    def reap_many(self, out: Buffer, /) -> int:
        """Fill `out` with completion records; how many were filled."""
        self._refuse_after_fork()
        with memoryview(out).cast("B") as records, self._lock:
            room = len(records) // COMPLETION_RECORD.size
            if len(self._completed) < room:
                self._reap()
            count = min(len(self._completed), room)
            for index in range(count):
                completion = self._completed.popleft()
                COMPLETION_RECORD.pack_into(records, index * COMPLETION_RECORD.size, *completion)
            if room and not count:
                self._refuse_if_unusable()
            return count

    def execute(self, requests: Buffer, statuses: Buffer, timeout_s: float | None = None) -> None:
        """Run a whole batch at full depth and wait for it; one status byte per record."""
        self._refuse_after_fork()
        deadline = _deadline(timeout_s)
        with self._lock:
            with memoryview(requests) as view:
                records = view.tobytes()
            count = record_count(records)
            # Pending before anything can be refused: an old byte must not pass for a status.
            batch = _Batch(_status_bytes(statuses, count), count)
            try:
                checked = self._check(records)
                self._backlog.append(batch)
                self._run(records, checked, batch, deadline)
            finally:
                self._leave_backlog(batch)
                batch.give_up()

    def _run(
        self,
        records: bytes,
        checked: list[CheckedRequest],
        batch: _Batch,
        deadline: float | None,
    ) -> None:
        submitted_count = 0
        limits = self._limits
        reset_count = self._reset_count
        while True:
            if self._backlog and self._backlog[0] is batch:
                if self._limits is not limits:  # the disk may have shrunk under the batch
                    limits = self._limits
                    checked[submitted_count:] = self._check(records, first=submitted_count)
                submitted_count += self._submit(checked, submitted_count, batch)
                if submitted_count == len(checked):
                    self._leave_backlog(batch)
            reaped_count = self._reap()
            if not batch.pending_count:
                return
            self._refuse_if_unusable()
            if reaped_count and submitted_count < len(checked):
                continue  # there is room again
            if not self._sleep(deadline):
                raise RequestTimeoutError(
                    f"timed out with {len(checked) - batch.pending_count} of {len(checked)}"
                    " requests completed; the device may still use the buffers of the others"
                    " until it is reset"
                )
            if reset_count != self._reset_count:
                raise DeviceGoneError(
                    self._gone or "the device was reset while the request was in flight"
                )
            self._refuse_if_unusable()

    def _leave_backlog(self, batch: _Batch) -> None:
        if batch in self._backlog:
            self._backlog.remove(batch)
            self._wake_sleepers()  # the next may be submitted

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until reap_many has something to hand out, an error included.

        False after `timeout_s`, and at once if nothing is in flight.
        """
        self._refuse_after_fork()
        deadline = _deadline(timeout_s)
        with self._lock:
            while True:
                self._reap()
                if self._completed or self.broken is not None:
                    return True
                if not self._in_flight and not any(
                    pool.forgotten and pool.owned_count for pool in self._pools
                ):
                    return False
                if not self._sleep(deadline):
                    return False

    def arm(self) -> bool:
        """Whether reap_many has something already. (Interrupts are always on here.)"""
        self._refuse_after_fork()
        with self._lock:
            if not self._somebody_waits:
                self._look_for_hangup(0)  # takes out what woke the caller: `fileno` is quiet again
            self._refuse_if_unusable()
            if self._polling:
                self._reap()
                return self._has_kept
            return self._ring.arm() or self._has_kept

    def abort(self, reason: str) -> None:
        """Give the queue up for good: every waiter and later call gets DeviceGoneError(reason)."""
        with self._lock:
            self._gone = self._gone or reason
            self._wake_sleepers()
        self._wakeups.wake()

    def reclaim(self) -> list[int]:
        """After a confirmed reset only: the tokens of submitted requests that never completed."""
        with self._lock:
            self._ring.reclaim()
            lost = [self._in_flight[head] for head in sorted(self._in_flight)]
            self._in_flight.clear()
            self._slots_in_flight.clear()
            for pool in self._pools:
                pool.end(*((DeviceGoneError, self._gone) if self._gone else (StateError, LOST)))
            self._slot_descriptors = 0
            self._drop_pools()
            self._kick_wanted = False
            self._reset_count += 1
            self._wake_sleepers()
            return [request.token for request in lost if request.batch is None]

    # -- Slot pools (see `vioblk.block.reference_pool`) ----------------------------------------

    def slot_frames_length(self, count: int, slot_bytes: int, /) -> int:
        """Bytes that the frames of such a pool need."""
        check_shape(count, slot_bytes)
        return frames_length(count, slot_bytes, self._limits)

    def slot_pool(
        self,
        buffer: Region,
        frames: Region,
        count: int,
        slot_bytes: int,
        *,
        write: bool = False,
        explain: Explain | None = None,
    ) -> ReferenceSlotPool:
        """Make a pool whose buffers are in `buffer`, and their frames in `frames`."""
        self._refuse_after_fork()
        check_shape(count, slot_bytes)
        needed = self.slot_frames_length(count, slot_bytes)
        if frames.length < needed:
            raise ValueError(f"the frames need {needed} bytes, their region has {frames.length}")
        kind = RequestType.OUT if write else RequestType.IN
        with self._lock:
            self._refuse_if_unusable()
            segments_max = self._segments_max()
            record = REQUEST_RECORD.pack(kind, 0, 0, 0, slot_bytes, buffer.handle, 0)
            request = check_slot(record, count, self._limits, self._space, segments_max)
            segments = _FRAME_DESCRIPTORS + len(request.data)
            longest = _FRAME_DESCRIPTORS + segments_max
            way, descriptors = pool_way(
                count=count,
                segments=segments,
                room=self._free_for_all - self._needed(longest),
                reservable=self._reservable,
                table_size=self._indirect_table_size,
            )
            pool = Pool(buffer, frames, request, count, way, descriptors)
            self._pools.append(pool)
        return ReferenceSlotPool(self, pool, buffer, slot_bytes, write, explain)

    def end_pools(self, reason: str) -> None:
        """Every later call for a pool raises StateError(reason)."""
        self._refuse_after_fork()
        with self._lock:
            for pool in self._pools:
                pool.die(StateError, reason)
                pool.forget()
            self._wake_sleepers()
        self._wakeups.wake()

    def submit_slots(self, pool: Pool, slots: Sequence[int], offsets: Sequence[int]) -> int:
        """Submit requests of a pool; how many fit."""
        with self._lock:
            pool.refuse_if_dead()
            self._refuse_if_unusable()
            pool.check(slots, offsets, self._limits)
            if self._backlog and not pool.descriptors:
                return 0  # what waits for room keeps its place in the order
            return self._push_slots(pool, slots, offsets)

    def _push_slots(self, pool: Pool, slots: Sequence[int], offsets: Sequence[int]) -> int:
        pushed: dict[int, _SlotInFlight] = {}
        try:
            for slot, offset in zip(slots, offsets, strict=True):
                chain = pool.write(slot, offset)
                if not pool.descriptors and self._needed(_length(chain)) > self._free_for_all:
                    break
                pushed[self._ring.push(chain)] = _SlotInFlight(pool, slot)
        except BaseException:
            self._ring.withdraw()
            raise
        if pushed:
            self._looked = False
            self._slots_in_flight.update(pushed)
            pool.note_published([each.slot for each in pushed.values()])
            if pool.descriptors:
                self._slot_descriptors += len(pushed) * self._needed(pool.segments)
            self._ring.publish()
            self._notify()
        return len(pushed)

    def reap_slots(self, pool: Pool, limit: int, good_only: bool) -> list[tuple[int, int]]:
        """Take at most `limit` completions of a pool, slot and status."""
        with self._lock:
            if len(pool.parked) < limit:
                self._reap()
            taken = pool.take(limit, good_only)
            if limit and not taken:
                if pool.parked:
                    raise failure(*pool.take(1, good_only=False)[0])
                pool.refuse_if_dead()
                self._refuse_if_unusable()
            return taken

    def wait_for_slots(self, pool: Pool, timeout_s: float | None) -> bool:
        """Wait until there is something to take of a pool, an error included."""
        deadline = _deadline(timeout_s)
        with self._lock:
            while True:
                self._reap()
                if pool.parked or pool.dead is not None or self.broken is not None:
                    return True
                if not pool.owned_count or not self._sleep(deadline):
                    return False

    def close_pool(self, pool: Pool) -> None:
        """Let go of a pool. Raises StateError while requests of it are in flight."""
        with self._lock:
            usable = pool.dead is None and self.broken is None
            if usable and pool.in_flight:
                requests = "request" if pool.in_flight == 1 else "requests"
                raise StateError(
                    f"{pool.in_flight} {requests} of the slot pool in flight, or not reaped;"
                    " reap what there is, then close it"
                )
            pool.drop()
            self._drop_pools()
            self._wake_sleepers()

    def _drop_pools(self) -> None:
        """Let go of those that nobody can name, once the device owns nothing of them."""
        if any(pool.dropped for pool in self._pools):
            gone = [each for each in self._pools if each.dropped and not each.owned_count]
            self._pools = [each for each in self._pools if each not in gone]
            for pool in gone:
                pool.release()

    def refuse_after_fork(self) -> None:
        """Raise ForkedError in a child of fork()."""
        self._refuse_after_fork()

    @property
    def _reserved_count(self) -> int:
        """Descriptors that are kept for slots."""
        live = (pool for pool in self._pools if not pool.dropped or pool.owned_count)
        return sum(pool.count * pool.descriptors for pool in live)

    @property
    def _unreserved_count(self) -> int:
        return self.size - self._reserved_count

    @property
    def _free_for_all(self) -> int:
        """Descriptors that are free and not kept for slots; those in flight have theirs."""
        if not self._pools:
            return self._ring.free_count
        return self._ring.free_count + self._slot_descriptors - self._reserved_count

    def _needed(self, segments: int) -> int:
        """Descriptors of the ring for a chain of so many segments."""
        return 1 if 2 <= segments <= self._indirect_table_size else segments

    @property
    def _has_kept(self) -> bool:
        """Whether there are completions that nobody has taken."""
        return bool(self._completed) or any(pool.parked for pool in self._pools)

    # -- Submitting and reaping, with the lock held -------------------------------------------

    def _submit(self, checked: Sequence[CheckedRequest], start: int, batch: _Batch | None) -> int:
        """Push from `start` on as many as fit, with one publish and one notification."""
        pushed: dict[int, _InFlight] = {}
        try:
            for index in range(start, len(checked)):
                if not self._ring.free_count:
                    break
                request = checked[index]
                # The slot of a free head is not in use, so it may be written before the push.
                head = self._ring.next_head
                self._slots.write(head, request)
                chain = self._slots.chain(head, request)
                if self._needed(_length(chain)) > self._free_for_all:
                    break
                self._ring.push(chain)
                data_writable = 0 if request.type == RequestType.OUT else _data_bytes(request)
                pushed[head] = _InFlight(request.token, batch, index, data_writable)
        except QueueFull:
            pass  # the rest keeps its place in the order
        except BaseException:
            self._ring.withdraw()
            raise
        if pushed:
            self._looked = False
            self._in_flight.update(pushed)
            self._ring.publish()
            self._notify()
        return len(pushed)

    def _notify(self) -> None:
        """Always: whether the device wants it cannot be told without a fence."""
        self._kick_count += 1
        if self._doorbell is None:
            self._kick_wanted = True
            return
        try:
            self._doorbell.ring(self._ring.next_available)
        except (OSError, StateError) as error:
            # What was published stays published, so this is the end of the queue.
            self._gone = self._gone or f"the device cannot be notified: {error}"
            self._wake_sleepers()

    def _reap(self) -> int:
        """Take back what the device has used, for whoever waits for it; how many there were."""
        try:
            completions = self._ring.reap()
        except QueueBroken:
            return 0  # the callers look at `broken` once they have handed out what is good
        for completion in completions:
            self._complete(completion)
        self._drop_pools()
        if completions:
            self._looked = False
            self._wake_sleepers()
        return len(completions)

    def _complete(self, completion: Completion) -> None:
        of_slot = self._slots_in_flight.pop(completion.head, None)
        if of_slot is not None:
            pool = of_slot.pool
            self._slot_descriptors -= self._needed(pool.segments) if pool.descriptors else 0
            pool.complete(of_slot.slot, completion, not self._legacy)
            return
        request = self._in_flight.pop(completion.head)
        status = self._slots.status(completion.head)
        # The status is the last writable byte. Success that lies past the used length was not
        # reported, whatever the byte holds (VIRTIO 1.4, 2.7.8.3 Driver Requirements: The
        # Virtqueue Used Ring). Legacy devices do not set the length reliably, and on a packed
        # ring a device need not give one.
        written_bytes = completion.written_bytes or 0
        length_counts = completion.written_bytes is not None and not self._legacy
        status_was_written = written_bytes > request.data_writable_bytes
        if status == RequestStatus.OK and length_counts and not status_was_written:
            status = STATUS_PENDING
        if request.batch is not None:
            request.batch.complete(request.index, status)
        else:
            data_bytes = min(written_bytes, request.data_writable_bytes)
            self._completed.append((request.token, data_bytes, status))

    # -- Waiting, with the lock held ----------------------------------------------------------

    def _sleep(self, deadline: float | None) -> bool:
        """Let go of the lock until something may have changed; False once it is too late.

        One thread waits for the device and reaps for all; the others wait for it to do so.
        """
        slice_s = POLL_SLICE_S if self._polling else WAIT_SLICE_S
        if deadline is not None:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return False
            slice_s = min(slice_s, remaining_s)
        if self._somebody_waits:
            bell = threading.Lock()
            bell.acquire()
            self._sleepers.append(bell)
            self._outside(lambda: bell.acquire(timeout=slice_s))
            return True
        self._somebody_waits = True
        try:
            if self._polling and self._wakeups.interrupts and not self._looked:
                self._looked = True
                until = time.monotonic() + min(LOOK_S, slice_s)
                self._outside(lambda: self._look(until))
            else:
                self._look_for_hangup(slice_s)
        finally:
            self._somebody_waits = False
            self._wake_sleepers()  # the role is free
        return True

    def _look(self, until: float) -> bool:
        """Look until something was used, or it is `until`; others may have the lock."""
        while time.monotonic() < until:
            if self._ring.has_used:
                return True
            time.sleep(0)  # who has something to submit, or a signal handler, goes first
        return False

    def _wake_sleepers(self) -> None:
        """Something has changed. One who sleeps on unawares looks again after a slice of time."""
        sleepers, self._sleepers = self._sleepers, []
        for bell in sleepers:
            bell.release()

    def _look_for_hangup(self, timeout_s: float) -> None:
        """Wait for a wake-up of any kind; the lock is free meanwhile."""
        hung_up = self._outside(lambda: self._wakeups.wait(timeout_s))
        if hung_up and self._gone is None:
            self._gone = "the device hung up; close the disk and open it again"

    def _outside(self, wait: Callable[[], bool]) -> bool:
        """Run `wait` without the lock, and have it again whatever happens."""
        interruption: BaseException | None = None
        try:
            self._lock.release()
            return wait()
        finally:
            # An exception of a signal handler may come in the middle of the acquisition, or right
            # after it; the `with` around it all will release the lock in any case.
            while True:
                try:
                    while not self._lock._is_owned():  # type: ignore[attr-defined]
                        self._lock.acquire()
                    break
                except BaseException as error:
                    interruption = error
            if interruption is not None:
                raise interruption

    # -- Checks ------------------------------------------------------------------------------

    def _check(self, requests: Buffer, first: int = 0) -> list[CheckedRequest]:
        self._refuse_if_unusable()
        segments_max = self._segments_max()
        return check_requests(requests, self._limits, self._space, segments_max, first)

    def _segments_max(self) -> int:
        """Data segments of a request: what the device takes, what the ring takes.

        A region is contiguous for the device, so without size_max its data is one segment.
        """
        wanted = max(self._limits.seg_max, 1) if self._limits.size_max else 1
        return min(wanted, self.size - _FRAME_DESCRIPTORS)

    def _refuse_if_unusable(self) -> None:
        if self._gone is not None:
            raise DeviceGoneError(self._gone)
        if self._ring.broken is not None:
            raise QueueBroken(_breach(self._ring.broken))

    def _refuse_after_fork(self) -> None:
        if os.getpid() != self._process_id:
            raise ForkedError("this queue was made before a fork; open the disk in the child")


class _Wakeups:
    """What ends a sleep: the device's interrupt, its hang-up, or `wake`."""

    def __init__(self, interrupt_fd: int | None, hangup_fd: int | None) -> None:
        self.interrupts: Final = interrupt_fd is not None
        self._epoll: Final = select.epoll()
        self._wake_fd: Final = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._wake_fd)
        self._hangup_fd: Final = None if hangup_fd is None else _duplicate(self, hangup_fd)
        # Edge-triggered, because nobody reads these descriptors: each write is an edge.
        self._epoll.register(self._wake_fd, select.EPOLLIN | select.EPOLLET)
        if interrupt_fd is not None:
            own_fd = _duplicate(self, interrupt_fd)
            self._epoll.register(own_fd, select.EPOLLIN | select.EPOLLET)
        if self._hangup_fd is not None:
            self._epoll.register(self._hangup_fd, select.EPOLLRDHUP)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)

    def wait(self, timeout_s: float) -> bool:
        """Sleep at most `timeout_s`; whether the other side has hung up."""
        return any(fd == self._hangup_fd for fd, _ in self._epoll.poll(timeout_s))


def _duplicate(owner: object, fd: int) -> int:
    """A descriptor that lives as long as `owner`, whatever becomes of the original."""
    own_fd = os.dup(fd)
    weakref.finalize(owner, os.close, own_fd)
    return own_fd


def _breach(reason: str) -> str:
    return f"the device broke the rules of the ring: {reason}"


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _status_bytes(statuses: Buffer, count: int) -> memoryview:
    """The caller's status bytes, all pending."""
    view = memoryview(statuses).cast("B")
    if view.readonly or len(view) != count:
        raise ValueError(f"statuses must be {count} writable bytes, one per record")
    view[:] = bytes([STATUS_PENDING]) * count
    return view


def _data_bytes(request: CheckedRequest) -> int:
    return sum(length for _, _, length in request.data)


def _length(chain: Chain) -> int:
    return len(chain.readable) + len(chain.writable)
