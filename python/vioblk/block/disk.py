"""The disk: byte offsets in, requests out."""

import os
import select
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import index
from types import TracebackType
from typing import Final, Self

from vioblk._native import Gate, Region
from vioblk.block.check import check_range, check_supported, check_writable
from vioblk.block.config import WRITEBACK, BlockConfig, Geometry, Topology
from vioblk.block.deadline import checked_timeout, queue_timeout
from vioblk.block.driver import (
    CLOSED,
    CLOSING,
    RESETTING,
    BlockDriver,
    QueueOptions,
    store_writeback,
)
from vioblk.block.features import BlockFeature
from vioblk.block.info import DiskInfo, QueueInfo
from vioblk.block.limits import DiskLimits
from vioblk.block.queue import RequestQueue
from vioblk.block.request import SECTOR_BYTES, UNMAP, RequestStatus, RequestType
from vioblk.block.slot_pool import LOOK_AFTER_S, SlotPool, open_slot_pool
from vioblk.block.transfer import Transfers
from vioblk.compat import Buffer
from vioblk.device import VirtioDevice
from vioblk.errors import (
    DeviceGoneError,
    DiskBusyError,
    QueueBroken,
    RequestFailedError,
    RequestTimeoutError,
    ResetTimeoutError,
    StateError,
    TransportError,
    UnsupportedError,
    VioblkError,
)
from vioblk.features import RING_CHOICES, Feature, feature_name
from vioblk.status import DeviceState
from vioblk.transport.base import QUEUE_RESET_TIMEOUT_S, Transport
from vioblk.wording import counted

DEFAULT_TIMEOUT_S: Final = 30.0
"""How long a batch of requests may take."""

INITIALIZE_TIMEOUT_S: Final = 5.0
"""How long the device may take over a reset."""

HASTY_DRAIN_TIMEOUT_S: Final = 1.0
"""How long requests, or else a reset, may take if an exception ends the work with the disk."""

SERIAL_TIMEOUT_S: Final = 1.0
"""How long `info` waits, once, for a serial number that nobody has asked for yet."""


class BlockDevice:
    """An open virtio block device. A context manager, which drains and closes at the end.

    Offsets and lengths are in bytes and multiples of 512. Any number of threads may use it at
    once. No call waits for ever: each batch of at most 256 requests that a call is split into
    must complete within `timeout_s` (30 s unless `open` was told otherwise), else the call raises
    RequestTimeoutError.

    Beside what each method says, all of them raise StateError after `close`, ForkedError in a
    child process, and those that reach the device QueueBroken (it broke the rules of the ring:
    `reset`), DeviceGoneError (it has gone, or the disk was reset meanwhile; QueueResetError if it
    was no more than the queue, by `reset_queue`), RequestTimeoutError, and RequestFailedError (it
    answered with an error). After these a write may have been done or not: none is sent again.
    Calls that choose no queue pass over a broken one while another works.
    """

    def __init__(
        self,
        device: VirtioDevice | Transport,
        *,
        queues: QueueOptions | None = None,
        force_on: frozenset[int] = frozenset(),
        force_off: frozenset[int] = frozenset(),
        timeout_s: float = DEFAULT_TIMEOUT_S,
        on_config_change: Callable[[BlockConfig], None] | None = None,
    ) -> None:
        """Take `device` (or the way to one) over, and bring it to life; see `vioblk.open`."""
        if isinstance(device, Transport):
            device = VirtioDevice(device)
        transport = device.transport
        try:
            if not timeout_s > 0:
                raise ValueError(f"timeout_s must be more than 0, not {timeout_s}; it bounds waits")
            self._gate = Gate()
            self._owner_pid = os.getpid()
            self._gone: str | None = None
            """Why not even a reset helps: there is nobody to ask for one."""
            self._close_interrupted = False
            self._known_serial: str | None = None
            self._serial_asked = False
            self._admin = threading.RLock()
            self._force_on, self._force_off = force_on, force_off
            self._address, self._transport_name = transport.address, transport.name
            self._driver = BlockDriver(queues or QueueOptions(), self._gate)
            self._driver.on_config_change = on_config_change
            self._timeout_s = timeout_s
            self._transfers = Transfers(self._driver, device.memory, timeout_s)
            self._device = device
        except BaseException:
            device.close()  # it has not lived yet, so nothing is waited for
            raise
        try:
            self._initialize(INITIALIZE_TIMEOUT_S)
            self._gate.open()
        except BaseException as error:
            self._close_after(error)
            raise

    # Data

    def read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes at `offset`.

        Raises ZeroLengthError, UnalignedError, BeyondEndError, RequestFailedError.
        """
        offset, length = index(offset), index(length)
        with self._gate:
            check_range("read", offset, length, self._capacity())
            return self._transfers.read_bytes(offset, length)

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Fill `buffer` from `offset` on, and return its length in bytes.

        The device writes straight into a buffer that lies in a region of `alloc`; any other is
        filled through a bounce buffer. If the call raises, the buffer may be partly filled, and
        after RequestTimeoutError or KeyboardInterrupt the device may still write to the region,
        which then cannot be closed. Raises as `read`, TypeError for a buffer that is read-only
        or not contiguous.
        """
        transfers = self._transfers
        direct = transfers.direct
        if direct is not None:
            sent = direct.read(offset, buffer, transfers.timeout_s)
            if isinstance(sent, int):
                return sent
            if sent is not None:
                return transfers.settle(RequestType.IN, offset, *sent)
        with memoryview(buffer) as whole, whole.cast("B") as view, self._gate:
            if view.readonly:
                raise TypeError("readinto() needs a writable buffer; this one is read-only")
            check_range("read", index(offset), len(view), self._capacity())
            self._transfers.move(RequestType.IN, index(offset), view)
            return len(view)

    def write(self, offset: int, data: Buffer) -> int:
        """Write all of `data` at `offset`, and return its length in bytes.

        The device reads straight from data that lies in a region of `alloc`. It is on stable
        storage only after a `flush` that began when the write had returned. Raises as `read`, and
        ReadOnlyError; if the device fails a part of a long write, other parts may be written.
        """
        transfers = self._transfers
        direct = transfers.direct
        if direct is not None:
            sent = direct.write(offset, data, transfers.timeout_s)
            if isinstance(sent, int):
                return sent
            if sent is not None:
                return transfers.settle(RequestType.OUT, offset, *sent)
        with memoryview(data) as whole, whole.cast("B") as view, self._gate:
            check_writable("write", read_only=self._driver.features.read_only)
            check_range("write", index(offset), len(view), self._capacity())
            self._transfers.move(RequestType.OUT, index(offset), view)
            return len(view)

    def flush(self) -> None:
        """Put everything that was written before on stable storage (VIRTIO 1.4, 5.2.6.2).

        A flush request is always sent where FLUSH was negotiated, whatever `writeback` reads.
        Where neither FLUSH nor CONFIG_WCE was, each write was stable when it returned, and there
        is nothing to do. Raises UnsupportedError if only CONFIG_WCE was.
        """
        with self._gate:
            self._refuse_if_gone()
            if self._driver.features.flush:
                self._transfers.flush()
            elif self._device.has(BlockFeature.CONFIG_WCE):
                raise UnsupportedError(
                    "flush: the cache may be volatile, but FLUSH was not negotiated; open the "
                    "disk without forcing flush off"
                )

    def discard(self, offset: int, length: int) -> None:
        """Tell the device that a range is not needed; what it reads as afterwards is unknown.

        Raises UnsupportedError without DISCARD, and as `write`.
        """
        self._erase(RequestType.DISCARD, "discard", index(offset), index(length), 0)

    def write_zeroes(self, offset: int, length: int, unmap: bool = False) -> None:
        """Make a range read as zeroes. With `unmap` the device may deallocate it.

        Raises UnsupportedError without WRITE_ZEROES, and as `write`.
        """
        flags = UNMAP if unmap else 0
        self._erase(RequestType.WRITE_ZEROES, "write_zeroes", index(offset), index(length), flags)

    def _erase(self, kind: RequestType, name: str, offset: int, length: int, flags: int) -> None:
        with self._gate:
            limits = self._driver.limits
            discard = kind is RequestType.DISCARD
            check_writable(name, read_only=self._driver.features.read_only)
            check_supported(name, limits.discard_bytes if discard else limits.write_zeroes_bytes)
            check_range(name, offset, length, self._capacity())
            self._transfers.erase(kind, offset, length, flags)

    # Batches

    def alloc(self, nbytes: int) -> Region:
        """`nbytes` of zeroed memory that the device can reach: a writable buffer, page-aligned.

        Close it (or use it as a context manager) to give it back. Raises ValueError, MemoryError.
        """
        with self._gate:
            return self._device.memory.alloc(index(nbytes))

    def execute(
        self,
        requests: Buffer,
        statuses: Buffer,
        timeout_s: float | None = None,
        queue: int | None = None,
    ) -> None:
        """Run a batch of request records (`vioblk.block.request`) at full depth, on one queue.

        `queue`: which, from 0; by default the queues take turns. Threads that use a queue each
        share no lock: what one of them waits for holds up none of the others.

        Does not raise for a request that the device failed: look at `statuses`, one writable byte
        per record. A byte is 0 (`RequestStatus.OK`) only for what the device did; it holds
        `STATUS_PENDING` for what did not complete, also if the call raises, unless that is
        because `statuses` or the length of `requests` cannot be used.

        Nothing is split. `timeout_s`: as for other requests if None, infinite for no bound but the
        device's hang-up. Raises as `RequestQueue.execute`, ValueError if it is negative or NaN, or
        if there is no such queue.
        """
        with self._gate:
            bound_s = queue_timeout(self._timeout_s if timeout_s is None else timeout_s)
            chosen = None if queue is None else self._queue(queue)
            self._transfers.execute(requests, statuses, bound_s, chosen)

    def submit_many(self, requests: Buffer, queue: int = 0) -> int:
        """Submit request records to one queue; how many were accepted from the front.

        Raises as `RequestQueue.submit_many`, ValueError if there is no such queue.
        """
        with self._gate:
            chosen = self._queue(queue)
            try:
                return chosen.submit_many(requests)
            except (QueueBroken, DeviceGoneError) as error:
                raise self._driver.blame(chosen, error) from None

    def reap_many(self, out: Buffer, queue: int = 0) -> int:
        """Fill `out` with completion records of one queue; how many were filled. Never waits.

        Raises as `RequestQueue.reap_many`, ValueError if there is no such queue.
        """
        with self._gate:
            chosen = self._queue(queue)
            try:
                return chosen.reap_many(out)
            except (QueueBroken, DeviceGoneError) as error:
                raise self._driver.blame(chosen, error) from None

    def wait(self, timeout_s: float | None = None, queue: int = 0) -> bool:
        """Wait until `reap_many` has something to hand out or an error to raise.

        False after `timeout_s` (as for `execute`), and at once if nothing is in flight. After 0.1 s
        or more in vain, a look at the device tells whether it needs a reset, or has gone.
        """
        self._gate.check()
        bound_s = queue_timeout(self._timeout_s if timeout_s is None else timeout_s)
        chosen = self._queue(queue)
        if chosen.wait(bound_s):
            return True
        if chosen.in_flight and (bound_s is None or bound_s >= LOOK_AFTER_S):
            try:
                self._device.look_for_cause()
            except DeviceGoneError:
                return True  # `reap_many` has that error to raise
        return False

    def slot_pool(
        self, count: int, slot_bytes: int, *, write: bool = False, queue: int = 0
    ) -> SlotPool:
        """A pool of `count` fixed buffers of `slot_bytes` each, on one queue: for reads, or all for
        writes. It is the fastest way to move blocks of one size, as most of each request is there
        already; see `vioblk.block.slot_pool.SlotPool`.

        On a split ring its slots take descriptors for themselves where there are enough, and
        `depth` is less by as many until the pool is closed: make pools before other requests are
        in flight. Raises ValueError for numbers that no pool can have, or if there is no such
        queue, ZeroLengthError, UnalignedError, BeyondEndError, RequestTooLongError, ReadOnlyError,
        MemoryError.
        """
        with self._gate:
            if write:
                check_writable("slot_pool", read_only=self._driver.features.read_only)
            chosen = self._queue(queue)
            try:
                return open_slot_pool(
                    self,
                    self._device,
                    self._driver,
                    self._gate,
                    chosen,
                    index(count),
                    index(slot_bytes),
                    write=write,
                    timeout_s=self._timeout_s,
                )
            except (QueueBroken, DeviceGoneError) as error:
                raise self._driver.blame(chosen, error) from None

    def _queue(self, number: int) -> RequestQueue:
        self._refuse_if_gone()
        return self._driver.queue(_queue_number(number))

    # Single queues

    def set_polling(self, queue: int, on: bool) -> None:
        """Let waits on one queue look at the ring again and again, instead of asking the device
        for an interrupt; or ask for interrupts again. The other queues stay as they are.

        Such a wait looks for 1 ms, for which it takes a processor that nobody else wants, and then
        naps between looks, for at most 1 ms each: it is for devices that answer within that time.
        (Where the device gives no interrupt, and nobody chose, it looks for 50 us before it naps.)

        It lasts until it is set again, whatever is reset. Raises TypeError if `on` is no bool,
        ValueError if there is no such queue, UnsupportedError for `on` false where the device gives
        the queue no interrupt, StateError in an `on_config_change` callback.
        """
        if not isinstance(on, bool):
            raise TypeError(f"on must be True or False, not {on!r}")
        self._gate.check_process()
        self._device.refuse_in_callback("set_polling")
        with self._admin, self._gate:
            self._refuse_if_gone()
            self._driver.set_polling(_queue_number(queue), on)

    def reset_queue(
        self,
        queue: int,
        size: int | None = None,
        timeout_s: float = QUEUE_RESET_TIMEOUT_S,
    ) -> Sequence[int]:
        """Reset one queue and use it again, with `size` descriptors if that is given; the other
        queues go on (VIRTIO 1.4, 2.6.1 Virtqueue Reset). It also mends a queue that the device
        broke.

        What was in flight on it is lost: whoever waits for that gets QueueResetError. Returns the
        tokens of submitted requests whose completion nobody has taken. Requests of slot pools have
        none: `SlotPool.reap` raises for those.

        Raises ValueError for a queue that there is not, or a size that it cannot have (a request
        of the disk's longest shape has to fit), UnsupportedError if RING_RESET was not negotiated,
        StateError in an `on_config_change` callback; then nothing has changed. Raises
        ResetTimeoutError if the device does not confirm the reset within `timeout_s`,
        TransportError, MemoryError. Then, or if the call is interrupted, the queue is not used any
        more, and every call for it raises QueueResetError, until another `reset_queue` succeeds,
        or `reset`; buffers of what was in flight stay pinned until then.

        Requests on other queues go on meanwhile. What has to ask the device itself
        (`writeback`, a change of its configuration) waits for the end of the reset.
        """
        self._gate.check_process()
        self._device.refuse_in_callback("reset_queue")
        checked_timeout(timeout_s)
        with self._admin, self._gate:
            self._refuse_if_gone()
            driver, number = self._driver, _queue_number(queue)
            chosen = driver.queue(number)
            self._device.require_queue_reset(number)
            if size is not None:
                size = index(size)
                driver.check_new_size(self._device, number, size)
            others = [each for each in driver.queues if each is not chosen]
            try:
                self._transfers.queues = others or driver.queues
                return driver.reset_queue(self._device, number, size, timeout_s)
            finally:
                self._transfers.queues = driver.queues

    # What it is

    @property
    def capacity_bytes(self) -> int:
        """Size of the disk; follows the device's configuration changes."""
        with self._gate:
            return self._capacity()

    @property
    def read_only(self) -> bool:
        """Whether the device offers RO, and so fails everything that writes."""
        with self._gate:
            return self._driver.features.read_only

    @property
    def block_size(self) -> int:
        """Bytes in a logical block: 512, or what BLK_SIZE says. Offsets need only 512."""
        with self._gate:
            return self._driver.config.logical_block_bytes

    @property
    def geometry(self) -> Geometry | None:
        """Cylinders, heads and sectors; None without GEOMETRY."""
        with self._gate:
            return self._driver.config.geometry

    @property
    def topology(self) -> Topology | None:
        """Physical block and preferred sizes; None without TOPOLOGY."""
        with self._gate:
            return self._driver.config.topology

    @property
    def limits(self) -> DiskLimits:
        """What one request may ask for; longer calls are split along it."""
        with self._gate:
            return self._driver.limits

    @property
    def config(self) -> BlockConfig:
        """The device's configuration, as of the start or the last change."""
        with self._gate:
            return self._driver.config

    @property
    def serial(self) -> str:
        """What the device calls itself, up to 20 characters; empty if it has no name.

        Asks the device (VIRTIO 1.4, 5.2.6, GET_ID) the first time, and remembers it. Bytes that are
        not ASCII come as escapes.
        """
        with self._gate:
            return self._serial()

    @property
    def writeback(self) -> bool:
        """Whether the cache is volatile, so that only `flush` makes writes stable.

        With CONFIG_WCE it is asked of the device each time; at the start the driver has set it,
        to True unless the disk was opened with `writeback` off. Without it, a device that has
        FLUSH is presumed to have a volatile cache, and any other has none (VIRTIO 1.4, 5.2.5.2).

        It can be set with CONFIG_WCE, else UnsupportedError. Setting it to False does not make
        earlier writes stable: flush. Raises ProtocolError if the device does not do as told.
        """
        with self._gate:
            return self._writeback()

    @writeback.setter
    def writeback(self, value: bool) -> None:
        with self._gate:
            self._refuse_if_gone()
            store_writeback(self._device, bool(value), "; its cache can be set only elsewhere")
            driver = self._driver
            driver.writeback = bool(value)
            driver.config = replace(driver.config, writeback=bool(value))

    @property
    def info(self) -> DiskInfo:
        """All that is known of the disk, as one snapshot.

        It can be had of a disk that has broken or gone as well, and does not wait for the device:
        only the serial number is asked for, if it never was and the device works, for at most 1 s.
        It is None as long as it is not known. `writeback` is as it was last set, or announced.
        """
        with self._gate:
            driver, negotiation = self._driver, self._device.negotiation
            return DiskInfo(
                address=self._address,
                transport=self._transport_name,
                transport_details=dict(self._device.transport.details()),
                ring=driver.options.ring,
                serial=self._serial_at_hand(),
                capacity_bytes=self._capacity(),
                block_size=driver.config.logical_block_bytes,
                read_only=driver.features.read_only,
                writeback=driver.features.flush
                if driver.config.writeback is None
                else driver.config.writeback,
                timeout_s=self.timeout_s,
                offered=self._device.offered,
                accepted=self._device.accepted,
                features=negotiation.decisions if negotiation else (),
                not_offered=tuple(
                    feature_name(bit)
                    for bit in RING_CHOICES
                    if negotiation and bit not in negotiation.offered
                ),
                config=driver.config,
                device_queue_count=driver.device_queue_count,
                limits=driver.limits,
                queues=tuple(self._queue_info(*each) for each in enumerate(driver.queues)),
            )

    def _queue_info(self, number: int, queue: RequestQueue) -> QueueInfo:
        return QueueInfo(
            index=number,
            size=queue.size,
            format="packed" if self._device.has(Feature.RING_PACKED) else "split",
            in_order=self._device.has(Feature.IN_ORDER),
            polling=queue.polling,
            depth=queue.depth,
            in_flight=queue.in_flight,
            clamped_count=queue.clamped_count,
            kick_count=queue.kick_count,
            broken=queue.broken,
        )

    @property
    def device(self) -> VirtioDevice:
        """The virtio device underneath: states, features, configuration, the transport."""
        self._gate.check_process()
        return self._device

    @property
    def closed(self) -> bool:
        """Whether the disk has been closed. False after a `close` that was interrupted."""
        self._gate.check_process()
        return self._gate.refusal == CLOSED

    @property
    def timeout_s(self) -> float:
        """How long a batch of requests may take."""
        self._gate.check_process()
        return self._timeout_s

    def _capacity(self) -> int:
        return self._driver.config.capacity_sectors * SECTOR_BYTES

    def _serial(self, timeout_s: float | None = None) -> str:
        if self._known_serial is None:
            try:
                raw = self._transfers.read_id(timeout_s)
            except RequestFailedError as error:
                if error.status != RequestStatus.UNSUPP:
                    raise
                raw = b""
            name = raw.partition(b"\0")[0]
            self._known_serial = name.decode("ascii", "backslashreplace")
        return self._known_serial

    def _serial_at_hand(self) -> str | None:
        """The serial number, if it is known or to be had easily."""
        works = self._device.state is DeviceState.LIVE and self._driver.healthy
        if self._known_serial is None and not self._serial_asked and works:
            self._serial_asked = True
            with suppress(VioblkError, OSError, MemoryError):
                return self._serial(min(SERIAL_TIMEOUT_S, self._timeout_s))
        return self._known_serial

    def _writeback(self) -> bool:
        self._refuse_if_gone()
        if self._device.has(BlockFeature.CONFIG_WCE):
            return self._device.read_config(WRITEBACK) != 0
        return self._driver.features.flush

    # Life

    def _initialize(self, timeout_s: float) -> None:
        self._device.initialize(
            self._driver,
            force_on=self._force_on,
            force_off=self._force_off,
            timeout_s=timeout_s,
        )
        device = self._device
        self._transfers = Transfers(
            self._driver,
            device.memory,
            self._timeout_s,
            device.transport.explain_failure,
            device.look_for_cause,
        )

    def reset(self, timeout_s: float = INITIALIZE_TIMEOUT_S) -> Mapping[int, Sequence[int]]:
        """Reset the device and bring it back to life; what was in flight is lost.

        Whoever waits for a request gets DeviceGoneError. Returns, for each queue index, the tokens
        of submitted requests that never completed. Requests of slot pools have none:
        `SlotPool.reap` raises for those. Raises ResetTimeoutError, TransportError,
        NegotiationError; then the disk can only be reset again or closed. Raises DeviceGoneError
        if the connection to the device has ended, StateError in an `on_config_change` callback,
        ValueError for a negative `timeout_s` or NaN.
        """
        self._gate.check_process()
        self._device.refuse_in_callback("reset")
        checked_timeout(timeout_s)
        with self._admin:
            self._refuse_if_ended()
            self._refuse_if_gone()
            try:
                self._gate.shut(RESETTING)
                self._driver.abort("the disk was reset")
                self._transfers.end(DeviceGoneError("the disk was reset"))
                # Who is still inside afterwards has queues that stay aborted: see Transfers.
                self._gate.wait_empty(timeout_s)
                self._device.reset(timeout_s)
                lost = self._driver.lost
                self._initialize(timeout_s)
                self._gate.open()
            except BaseException as error:
                why = str(error) or type(error).__name__
                if self._connection_ended(error):
                    self._mourn(why)
                    raise DeviceGoneError(self._gone) from error
                self._gate.shut(f"the last reset failed ({why}); reset or close the disk")
                raise
            return lost

    def _connection_ended(self, error: BaseException) -> bool:
        """Whether `error` came of a connection that has ended, so that no call can mend it."""
        if not isinstance(error, TransportError):
            return False
        hangup_fd = self._device.transport.hangup_fd
        if isinstance(error, DeviceGoneError) or hangup_fd is None:
            return isinstance(error, DeviceGoneError)
        poller = select.poll()
        poller.register(hangup_fd, select.POLLRDHUP)
        return bool(poller.poll(0))

    def _mourn(self, why: str) -> None:
        """From now on whatever needs the device raises DeviceGoneError."""
        self._gone = f"the device has gone ({why}); close the disk and open it again"
        self._driver.gone = self._gone
        # Not the transfers of before: those have told already that the disk was reset.
        transfers = Transfers(self._driver, self._device.memory, self._timeout_s)
        transfers.end(DeviceGoneError(self._gone))
        self._transfers = transfers
        # The gate knows only StateError, so the calls are let in, and told there.
        self._gate.open()

    def _refuse_if_gone(self) -> None:
        if self._gone is not None:
            raise DeviceGoneError(self._gone)

    def _refuse_if_ended(self) -> None:
        """Raise StateError if the disk is closed, or an interrupted `close` has begun it."""
        if self._gate.refusal in (CLOSED, CLOSING):
            raise StateError(self._gate.refusal)

    def close(self, *, drain: bool = True, timeout_s: float | None = None) -> None:
        """Stop the device and let go of it. Idempotent.

        Waits for what is in flight, at most `timeout_s` (as for requests if None), and as long for
        the device's reset; completions that nobody reaped are dropped. With `drain` false, raises
        DiskBusyError if anything is in flight, and the disk stays as it is. Raises
        RequestTimeoutError if requests did not complete in time, ResetTimeoutError if the device
        did not confirm its reset; the disk is closed all the same. Raises StateError in an
        `on_config_change` callback, ValueError for a negative `timeout_s` or NaN.

        If Ctrl-C or another exception interrupts the wait, the disk is not closed yet (`closed`),
        and nothing but `close` can be called any more; that waits for no request then, and at most
        1 s for the reset, unless it is given a `timeout_s`.

        At the end of a `with` block that an exception leaves, requests have 1 s to complete and
        the reset 5 s; after KeyboardInterrupt, RequestTimeoutError or ResetTimeoutError the reset
        has 1 s, and nothing else is waited for. What goes wrong is noted at the exception.
        """
        if timeout_s is None and self._close_interrupted:
            self._close(drain, 0.0, HASTY_DRAIN_TIMEOUT_S)
            return
        limit_s = self._timeout_s if timeout_s is None else checked_timeout(timeout_s)
        self._close(drain, limit_s, limit_s)

    def _close(self, drain: bool, drain_timeout_s: float, reset_timeout_s: float) -> None:
        self._gate.check_process()
        self._device.refuse_in_callback("close")
        with self._admin:
            if self.closed:
                return
            if not drain:
                self._shut_idle()
            try:
                self._gate.shut(CLOSING)
                self._device.close(timeout_s=drain_timeout_s, reset_timeout_s=reset_timeout_s)
            finally:
                if self._device.state is DeviceState.CLOSED:
                    self._transfers.end(StateError(CLOSED))
                    self._gate.shut(CLOSED)
                else:
                    self._close_interrupted = True

    def _shut_idle(self) -> None:
        """Shut the gate, or raise DiskBusyError and leave it as it is."""
        entries = self._gate.entries
        in_flight = self._device.in_flight
        if in_flight:
            raise DiskBusyError(
                f"{counted(in_flight, 'request')} in flight or not reaped; reap what there is, or "
                "close(drain=True)"
            )
        # What is in flight, somebody has submitted inside: if nobody was, it is still nothing.
        if not self._gate.shut_if_unused_since(entries, CLOSING):
            raise DiskBusyError(
                f"other threads are using the disk ({counted(self._gate.inside, 'call')} right "
                "now); wait for them, or close(drain=True)"
            )

    def __enter__(self) -> Self:
        self._gate.check_process()
        self._refuse_if_ended()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if value is None:
            self.close()
        else:
            self._close_after(value)

    def _close_after(self, error: BaseException) -> None:
        """Close soon, and let `error` be what the caller sees."""
        hopeless = isinstance(error, KeyboardInterrupt | RequestTimeoutError | ResetTimeoutError)
        drain_timeout_s = 0.0 if hopeless else min(HASTY_DRAIN_TIMEOUT_S, self._timeout_s)
        reset_timeout_s = HASTY_DRAIN_TIMEOUT_S if hopeless else INITIALIZE_TIMEOUT_S
        try:
            self._close(True, drain_timeout_s, reset_timeout_s)
        except Exception as second:
            error.add_note(f"closing the disk failed as well: {second}")

    def __del__(self) -> None:
        device = getattr(self, "_device", None)
        if device is None or self._gate.refusal == CLOSED or self._owner_pid != os.getpid():
            return  # a forked child's copy is the parent's to close
        warnings.warn(f"unclosed {self!r}; close it, or use `with`", ResourceWarning, 2, self)
        if not sys.is_finalizing():
            with suppress(Exception):
                self._close(True, 0.0, HASTY_DRAIN_TIMEOUT_S)

    def __repr__(self) -> str:
        return f"<BlockDevice {self._address}: {self._gate.refusal or self._gone or 'open'}>"


def _queue_number(queue: object) -> int:
    """Raises TypeError for what is no whole number."""
    try:
        return index(queue)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"queue must be a whole number, not {queue!r}") from None
