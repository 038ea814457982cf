"""The driver of entropy devices: random bytes from the host (VIRTIO 1.4, 5.4 Entropy Device).

It is short on purpose: all that a driver for another type of device needs is here. It has one
queue; a request is one buffer that the device writes to, and how much of it, the device says.
"""

import itertools
import os
import select
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, cast

from vioblk._native import Region, SplitQueue
from vioblk.address import choice, seconds
from vioblk.device import VirtioDevice
from vioblk.device_types import ENTROPY
from vioblk.driver import BusDriver, DeviceIdentity, QueueHandle, QueueParts, Settings
from vioblk.errors import (
    DeviceGoneError,
    ProtocolError,
    RequestTimeoutError,
    StateError,
    ZeroLengthError,
)
from vioblk.features import RING, Feature, FeatureSet, Wish
from vioblk.locks import acquire
from vioblk.ring import Chain, Completion, Ring, reference
from vioblk.status import DeviceState

RingName: TypeAlias = Literal["native", "reference"]

DEFAULT_TIMEOUT_S: Final = 30.0
"""How long one request may take: the host may have to wait for entropy."""

RING_SIZE_MAX: Final = 8
"""Descriptors; one request at a time is in flight, and those that timed out keep theirs."""

REQUEST_BYTES_MAX: Final = 1 << 16
"""Asked for at once. The device may give less, and is asked again."""

WAIT_STEP_S: Final = 0.1
"""The longest wait without a look at the ring: signal handlers run, and nothing is missed."""

POLL_STEP_S: Final = 0.5e-3
"""The same where the device cannot interrupt."""


class EntropyQueue:
    """A ring of one request at a time, with a doorbell and a way to wait."""

    def __init__(self, parts: QueueParts, ring: RingName) -> None:
        make = SplitQueue if ring == "native" else reference.SplitQueue
        self._ring: Ring = make(
            parts.ring,
            parts.size,
            legacy_align=parts.legacy_align,
            event_idx=parts.event_idx,
            in_order=parts.in_order,
            strict=True,
            zeroed=True,
        )
        # Python has no fence before the look at what the device wants, so it is always notified.
        self._always_notify = ring == "reference"
        self._wires, self._hangup_fd = parts.wires, parts.hangup_fd
        self._poller = select.epoll()
        for fd in (self._wires.interrupt_fd, self._hangup_fd):
            if fd is not None:
                # Edges, as nobody reads the eventfd, and others may share it. Registered now: who
                # waits while the transport is closed must not name a descriptor that has gone.
                self._poller.register(fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        self._lock = Lock()
        self._aborted: str | None = None
        self._published = itertools.count(1)

    @property
    def in_flight(self) -> int:
        """Requests that the device owns, or has given back without anybody having looked yet."""
        return self._ring.outstanding_count

    @property
    def broken(self) -> str | None:
        """Why the queue can no longer be used; None while it can."""
        return self._aborted or self._ring.broken

    def abort(self, reason: str) -> None:
        """Send who waits, and who comes later, away with DeviceGoneError(reason)."""
        self._aborted = self._aborted or reason

    def reclaim(self) -> list[int]:
        """After a confirmed reset: the heads of what never completed."""
        with self._lock:
            return self._ring.reclaim()

    def fill(self, region: Region, timeout_s: float) -> int:
        """Let the device write to all of `region`; how many bytes it says it wrote.

        Raises RequestTimeoutError, DeviceGoneError, QueueBroken, QueueFull if all requests of
        before have timed out, ProtocolError if it gives the buffer back empty.
        """
        deadline = time.monotonic() + timeout_s
        held: list[bool] = []
        try:
            if not acquire(self._lock, timeout_s, held):
                raise RequestTimeoutError(
                    f"other threads used the device for all of {timeout_s:g} s"
                )
            self._refuse_if_aborted()
            head = self._ring.push(Chain([], [(region, 0, region.length)]))
            wanted = self._ring.publish()
            position = next(self._published) & 0xFFFF
            if self._wires.doorbell is not None and (wanted or self._always_notify):
                self._wires.doorbell.ring(position)
            written_bytes = self._await(head, deadline, timeout_s)
        finally:
            if True in held:
                self._lock.release()
        if written_bytes == 0:
            raise ProtocolError("the device gave a buffer back without a single byte in it")
        return written_bytes

    def _await(self, head: int, deadline: float, timeout_s: float) -> int:
        while True:
            for done in self._reap():
                if done.head == head:
                    return done.written_bytes or 0
            self._refuse_if_aborted()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise RequestTimeoutError(
                    f"the device gave no random bytes within {timeout_s:g} s; it may still own "
                    "the buffer"
                )
            self._wait(min(left_s, self._step_s))

    @property
    def _step_s(self) -> float:
        return POLL_STEP_S if self._wires.interrupt_fd is None else WAIT_STEP_S

    def _reap(self) -> list[Completion]:
        """What is done, with an interrupt asked for if it is nothing."""
        if self._wires.interrupt_fd is None:
            return self._ring.reap()
        return self._ring.reap() or (self._ring.reap() if self._ring.arm() else [])

    def _wait(self, timeout_s: float) -> None:
        for fd, events in self._poller.poll(timeout_s):
            if fd == self._hangup_fd and events & (select.EPOLLHUP | select.EPOLLRDHUP):
                self.abort("the device hung up")

    def _refuse_if_aborted(self) -> None:
        if self._aborted is not None:
            raise DeviceGoneError(self._aborted)


class EntropyDriver:
    """Drives one entropy device. The device object calls it (see `vioblk.driver`)."""

    name = "virtio-rng"
    device_type = ENTROPY

    def __init__(self, ring: RingName) -> None:
        self._ring_name = ring
        self._handle: QueueHandle[EntropyQueue] | None = None

    @property
    def queue(self) -> EntropyQueue:
        """Raises StateError while the device is not live."""
        if self._handle is None:
            raise StateError("the device has been closed; attach it again")
        return self._handle.queue

    def wish(self, offered: FeatureSet) -> Wish:
        """The device type has no features of its own (VIRTIO 1.4, 5.4.3 Feature bits)."""
        ring_features = RING | {Feature.IN_ORDER}
        if self._ring_name == "reference":
            ring_features -= {Feature.EVENT_IDX}  # That takes a fence, and Python has none.
        return Wish(ring_features=ring_features)

    def check(self, device: VirtioDevice) -> None:
        """Nothing to object to."""

    def start(self, device: VirtioDevice) -> None:
        """Ask for the one queue; there is no configuration to read.

        Raises ProtocolError if the device has none.
        """
        size = device.queue_size_max(0) if device.queue_count() else 0
        if size == 0:
            raise ProtocolError("the device says that it has no queue, and this type has one")
        if not device.legacy:
            # The device may give any number, and a ring has a power of two.
            size = 1 << (min(size, RING_SIZE_MAX).bit_length() - 1)
        self._handle = device.add_queue(0, size, lambda parts: EntropyQueue(parts, self._ring_name))

    def live(self, device: VirtioDevice) -> None:
        """The queue can be used now."""

    def config_changed(self, device: VirtioDevice) -> None:
        """There is no configuration that could change."""

    def drain(self, device: VirtioDevice, timeout_s: float) -> bool:
        """Random bytes that are still to come are of no use to anybody."""
        self.queue.abort("the device is being closed")
        return True

    def stopped(self, device: VirtioDevice, lost: Mapping[int, Sequence[int]]) -> None:
        """The queue is no more."""
        self._handle = None


class EntropyDevice:
    """A source of random bytes. A context manager, which closes it. Thread-safe."""

    def __init__(
        self,
        device: VirtioDevice,
        *,
        ring: RingName = "native",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        force_on: frozenset[int] = frozenset(),
        force_off: frozenset[int] = frozenset(),
    ) -> None:
        """Take `device` over, and bring it to life; see `vioblk.attach`."""
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be more than 0, not {timeout_s}; it bounds waits")
        self._driver = EntropyDriver(ring)
        device.initialize(self._driver, force_on=force_on, force_off=force_off)
        # Last: a device that could not be brought to life is still the caller's to close.
        self._device, self._timeout_s = device, timeout_s

    def read(self, length: int) -> bytes:
        """`length` random bytes, as the device makes them up.

        The device may take `timeout_s` for each of the requests that this takes, of which each
        brings a byte at least. Raises RequestTimeoutError, ProtocolError for an empty answer,
        QueueBroken if the device says that it wrote more than there is room for, DeviceGoneError,
        StateError after `close`, ZeroLengthError.
        """
        if length <= 0:
            raise ZeroLengthError(f"at least one byte has to be asked for, not {length}")
        pieces: list[bytes] = []
        while length:
            pieces.append(self._request(min(length, REQUEST_BYTES_MAX)))
            length -= len(pieces[-1])
        return b"".join(pieces)

    def _request(self, length: int) -> bytes:
        queue = self._driver.queue
        region = self._device.memory.alloc(length)
        try:
            written_bytes = queue.fill(region, self._timeout_s)
            with memoryview(region) as view:
                return bytes(view[:written_bytes])
        finally:
            # One that the device still owns goes with its request.
            with suppress(BufferError):
                region.close()

    @property
    def device(self) -> VirtioDevice:
        """The virtio device underneath."""
        return self._device

    @property
    def closed(self) -> bool:
        """Whether `close` has let go of the device."""
        return self._device.state is DeviceState.CLOSED

    def close(self, *, drain: bool = True, timeout_s: float | None = None) -> None:
        """Stop the device and let go of it; who waits gets DeviceGoneError. Idempotent.

        With `drain` false, raises DeviceBusyError if a request is in flight, and changes nothing.
        Raises ResetTimeoutError if the device does not confirm its reset within `timeout_s` (as
        for requests if None); it is closed all the same.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        self._device.close(drain=drain, timeout_s=limit_s)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<EntropyDevice {self._device.transport.address}: {state}>"

    def __del__(self) -> None:
        device = getattr(self, "_device", None)
        unusable = (None, DeviceState.CREATED, DeviceState.CLOSED)
        if device is None or device.state in unusable or device.owner_pid != os.getpid():
            return
        warnings.warn(f"unclosed {self!r}; close it, or use `with`", ResourceWarning, 2, self)
        with suppress(Exception):
            self.close(timeout_s=1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def attach(device: VirtioDevice, identity: DeviceIdentity, settings: Settings) -> EntropyDevice:
    """Bring an entropy device to life. Raises as `EntropyDevice` does."""
    return EntropyDevice(
        device,
        ring=cast(RingName, settings.options.get("ring", "native")),
        timeout_s=cast(float, settings.options.get("timeout_s", DEFAULT_TIMEOUT_S)),
        force_on=settings.force_on,
        force_off=settings.force_off,
    )


DRIVER: Final = BusDriver(
    name=EntropyDriver.name,
    device_type=ENTROPY,
    attach=attach,
    options={
        "ring": choice(("native", "reference"), "the ring in Rust, or the one in Python; native"),
        "timeout_s": seconds("how long one request may take; 30"),
    },
)
