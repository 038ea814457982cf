"""What a driver for one type of device is, and what it is handed to build its queues from.

A driver has two halves: a `BusDriver`, one for all devices of its type, which is registered with a
bus and makes what a user holds; and a `Driver`, one for each device, which the device layer calls
through the device's life.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain
from operator import methodcaller
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from vioblk._native import DmaSpace, Region
from vioblk.address import Option
from vioblk.errors import StateError
from vioblk.features import FeatureSet, Wish
from vioblk.memory import DmaMemory
from vioblk.ring import RingLayout
from vioblk.transport.base import QueueWires

if TYPE_CHECKING:
    from vioblk.device import VirtioDevice


class Virtqueue(Protocol):
    """What the device layer needs of a queue that a driver builds."""

    @property
    def in_flight(self) -> int:
        """What the device owns, or has given back without anybody having looked yet."""

    @property
    def broken(self) -> str | None:
        """Why the queue can no longer be used; None while it can."""

    def abort(self, reason: str) -> None:
        """Fail every waiter and every later call with DeviceGoneError(reason)."""

    def reclaim(self) -> list[int]:
        """After a confirmed reset: the tokens of what never completed."""


@dataclass(frozen=True)
class QueueParts:
    """Everything that a queue object is built from."""

    index: int
    size: int
    """Descriptors in the ring."""
    space: DmaSpace
    memory: DmaMemory
    """For further regions (request slots)."""
    ring: Region
    """Zeroed, laid out as `layout` says, and known to the device already."""
    layout: RingLayout
    wires: QueueWires
    hangup_fd: int | None
    packed: bool
    """Whether the ring is a packed one (RING_PACKED was accepted)."""
    legacy_align: int | None
    indirect_table_size: int
    """Descriptors in one indirect table; 0 without, as where INDIRECT_DESC was declined."""
    event_idx: bool
    """Whether EVENT_IDX was accepted."""
    in_order: bool
    """Whether IN_ORDER was accepted: the device uses chains in the order in which they were made
    available."""


Q = TypeVar("Q", bound=Virtqueue)


class QueueHandle(Generic[Q]):
    """A queue that was asked for with `add_queue`; the queue itself exists while the device is
    live.
    """

    def __init__(self, parts: QueueParts, build: Callable[[QueueParts], Q]) -> None:
        self.index = parts.index
        self.size = parts.size
        self.indirect_table_size = parts.indirect_table_size
        self.lost: list[int] = []
        """Tokens that a reset of the queue has brought, and nobody has been told of yet."""
        self._parts: QueueParts | None = parts
        self._build: Callable[[QueueParts], Q] | None = build
        self._queue: Q | None = None

    @property
    def queue(self) -> Q:
        """Raises StateError before DRIVER_OK and after a reset of the device; after a reset of the
        queue it is another one."""
        if self._queue is None:
            raise StateError(
                f"queue {self.index} does not exist "
                + ("yet; wait for DRIVER_OK" if self._build else "any more; the device was reset")
            )
        return self._queue

    @property
    def exists(self) -> bool:
        """Whether `queue` would return one."""
        return self._queue is not None

    def bring_up(self) -> None:
        """Build the queue; the device layer does so after DRIVER_OK."""
        if self._queue is not None or self._build is None or self._parts is None:
            raise StateError(f"queue {self.index} was built before")
        self._queue = self._build(self._parts)

    def replace(self, parts: QueueParts) -> None:
        """Build the queue anew, of other parts, after a reset of the queue before."""
        if self._build is None:
            raise StateError(f"queue {self.index} does not exist any more; the device was reset")
        self._queue = self._build(parts)
        self._parts, self.size = parts, parts.size

    def take_back(self) -> None:
        """After a confirmed reset: take back what is in flight on the queue, for `lost`."""
        # One call of C, so that no exception of a signal handler comes between the two.
        self.lost.extend(chain.from_iterable(map(methodcaller("reclaim"), (self.queue,))))

    def forget(self) -> None:
        """Drop the queue and its memory; the device layer does so once it may be reused."""
        self._queue = self._build = self._parts = None


class Driver(Protocol):
    """A driver for one type of device. The device layer calls it, one call at a time, in this
    order: wish, check, start, live; then config_changed as it comes; then drain and stopped.
    """

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def device_type(self) -> int:
        """The virtio device ID that it drives (VIRTIO 1.4, 5 Device Types)."""

    def wish(self, offered: FeatureSet) -> Wish:
        """Which device-type features are wanted and required. A pure function of `offered`,
        which holds only bits that mean something for this device type and transport.
        """

    def check(self, device: "VirtioDevice") -> None:
        """Judge the choice (`device.accepted`) before it is written to the device. May read
        configuration, not write it. Raises NegotiationError to refuse the device.
        """

    def start(self, device: "VirtioDevice") -> None:
        """After FEATURES_OK, before DRIVER_OK: read (if need be write) configuration, and ask
        for queues with `device.add_queue`.
        """

    def live(self, device: "VirtioDevice") -> None:
        """After DRIVER_OK: the queues that were asked for exist now, and may be used."""

    def config_changed(self, device: "VirtioDevice") -> Callable[[], None] | None:
        """The device says that its configuration changed: read it again. Called from any thread.

        What is returned is called next, without the device's lock: the place to tell the user.
        """

    def drain(self, device: "VirtioDevice", timeout_s: float) -> bool:
        """Take no new requests, and wait for those in flight; whether all have completed."""

    def stopped(self, device: "VirtioDevice", lost: Mapping[int, Sequence[int]]) -> None:
        """The device has been reset or is gone, and its queues are no more. `lost`: for each
        queue index, the tokens of the requests that never completed; a queue that the device
        might still be using is not in it.
        """


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """What a driver is told of a device before it attaches: what it is, and nothing of the bus
    that it was found on."""

    address: str
    """What a user would call it."""
    device_type: int
    """The virtio device ID (VIRTIO 1.4, 5 Device Types)."""
    type_name: str
    transport: str
    """How it is reached: "software", "qemu"."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked of the driver of one device."""

    options: Mapping[str, object] = field(default_factory=dict)
    """As `BusDriver.options` has read them; those that were given."""
    force_on: frozenset[int] = frozenset()
    force_off: frozenset[int] = frozenset()


class Attached(Protocol):
    """What a driver makes of a device, and a user holds: a disk, a source of random bytes. A
    context manager, which closes it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    @property
    def closed(self) -> bool:
        """Whether it has let go of the device."""

    def close(self, *, drain: bool = True, timeout_s: float | None = None) -> None:
        """Stop the device and let go of it, as `VirtioDevice.close` does. With `drain` false,
        raise DeviceBusyError if it is in use, and change nothing."""


@dataclass(frozen=True)
class BusDriver:
    """A driver for one type of device, as it is registered with a bus."""

    name: str
    device_type: int
    """The virtio device ID that it drives."""
    attach: Callable[["VirtioDevice", DeviceIdentity, Settings], Attached]
    """Bring the device to life. It is handed over; if this raises, the bus closes it."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """What it takes beside the options of the transport and the names of features."""
    features: type[IntEnum] | None = None
    """The feature bits of its device type; without them none of these is ever accepted."""
    legacy_only_features: frozenset[int] = frozenset()
