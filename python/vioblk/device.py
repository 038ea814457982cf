"""The life of one virtio device: initialization, configuration, queues, reset and closing.

This is the bus side. It owns the status register and every resource of the device; a driver is
handed the device, asks it for what it needs and never touches the status or the transport.
Nothing here knows of blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from vioblk._native import DmaSpace, Region, SplitLayout
from vioblk.features import FeatureSet, Negotiation, Wish
from vioblk.memory import DmaMemory
from vioblk.status import DeviceState
from vioblk.transport.base import QueueWires, Transport


@dataclass(frozen=True)
class ConfigField:
    """One field of a device's configuration structure, little-endian."""

    name: str
    offset: int
    """Bytes."""
    width: int
    """Bytes: 1, 2, 4 or 8."""
    feature: int | None = None
    """The bit that must be offered for the field to exist; None: it always does."""
    after_features_ok: bool = False
    """It may not be read before FEATURES_OK has been set."""


class Virtqueue(Protocol):
    """What the device layer needs of a queue that a driver builds."""

    @property
    def in_flight(self) -> int: ...

    @property
    def broken(self) -> str | None: ...

    def abort(self, reason: str) -> None:
        """Fail every waiter and every later call with DeviceGoneError(reason)."""

    def reclaim(self) -> list[int]:
        """After a confirmed reset: the tokens of what never completed."""


Q = TypeVar("Q", bound=Virtqueue)


class QueueParts(NamedTuple):
    """Everything that a queue object is built from."""

    index: int
    size: int
    """Descriptors in the ring."""
    space: DmaSpace
    memory: DmaMemory
    """For further regions (request slots)."""
    ring: Region
    """Zeroed, laid out as `layout` says, and known to the device already."""
    layout: SplitLayout
    wires: QueueWires
    hangup_fd: int | None
    legacy_align: int | None
    indirect_table_size: int
    """Descriptors in one indirect table; 0: none, for instance because INDIRECT_DESC was declined."""
    event_idx: bool


class QueueHandle(Generic[Q]):
    """A queue that was asked for with `add_queue`; the queue itself exists once the device is live."""

    index: int
    size: int

    @property
    def queue(self) -> Q:
        """Raises StateError before DRIVER_OK and after a reset."""
        raise NotImplementedError


class Driver(Protocol):
    """A driver for one type of device. It is called under the device's lock, in this order:
    wish, check, start, live; then config_changed as it comes; then drain and stopped.
    """

    @property
    def name(self) -> str: ...

    @property
    def device_type(self) -> int:
        """The virtio device ID that it drives (VIRTIO 1.4, 5 Device Types)."""

    def wish(self, offered: FeatureSet) -> Wish:
        """Which device-type features are wanted and required. A pure function of `offered`,
        which holds only bits that mean something for this device type and transport."""

    def check(self, device: "VirtioDevice") -> None:
        """Judge the choice (`device.accepted`) before it is written to the device. May read
        configuration, not write it. Raises NegotiationError to refuse the device."""

    def start(self, device: "VirtioDevice") -> None:
        """After FEATURES_OK, before DRIVER_OK: read (if need be write) configuration, and ask
        for queues with `device.add_queue`."""

    def live(self, device: "VirtioDevice") -> None:
        """After DRIVER_OK: the queues that were asked for exist now, and may be used."""

    def config_changed(self, device: "VirtioDevice") -> None:
        """The device says that its configuration changed. Called from any thread."""

    def drain(self, device: "VirtioDevice", timeout_s: float) -> bool:
        """Take no new requests, and wait for those in flight; whether all have completed."""

    def stopped(self, device: "VirtioDevice", lost: Mapping[int, Sequence[int]]) -> None:
        """The device has been reset or is gone, and its queues are no more. `lost`: for each
        queue index, the tokens of the requests that never completed."""


class VirtioDevice:
    """One virtio device, and the only place where its status is written.

    Thread-safe. A call in the wrong state raises StateError, in a forked child ForkedError.
    """

    transport: Transport
    memory: DmaMemory

    def __init__(self, transport: Transport) -> None: ...

    @property
    def state(self) -> DeviceState: ...

    @property
    def offered(self) -> FeatureSet:
        """What the device offers, every bit of it; empty before negotiation."""

    @property
    def accepted(self) -> FeatureSet:
        """What both sides have settled on; empty before negotiation."""

    @property
    def negotiation(self) -> Negotiation | None:
        """What was offered, wanted, forced and accepted, and why; None before."""

    def has(self, bit: int) -> bool:
        """Whether feature `bit` was accepted."""

    def initialize(
        self,
        driver: Driver,
        *,
        force_on: frozenset[int] = frozenset(),
        force_off: frozenset[int] = frozenset(),
        timeout_s: float = 5.0,
    ) -> None:
        """Bring the device to life with `driver` (allowed in CREATED, RESET, FAILED).

        The whole of VIRTIO 1.4, 3.1.1 Driver Requirements: Device Initialization, from the reset
        to DRIVER_OK. Raises NegotiationError, ResetTimeoutError, TransportError, or what the
        driver raises; then the device is FAILED, and says so in its status.
        """
        raise NotImplementedError

    def queue_count(self) -> int:
        """How many queues the transport knows of; the device may have fewer."""
        raise NotImplementedError

    def queue_size_max(self, index: int) -> int:
        """The largest size of queue `index` in descriptors; 0 if there is no such queue."""
        raise NotImplementedError

    def read_config(self, field: ConfigField) -> int:
        """Read one configuration field (allowed in DRIVER, FEATURES_OK, LIVE).

        Raises UnsupportedError if the field depends on a feature that the device does not offer.
        """
        raise NotImplementedError

    def read_config_fields(self, fields: Sequence[ConfigField]) -> dict[str, int]:
        """Read several fields as one snapshot: all of them belong to one generation.

        Fields whose feature is not offered are left out of the result. Allowed as `read_config`.
        Raises TransportError if the configuration does not hold still.
        """
        raise NotImplementedError

    def write_config(self, field: ConfigField, value: int) -> None:
        """Write one configuration field (allowed in FEATURES_OK, LIVE).

        Raises UnsupportedError as `read_config` does, ValueError if `value` does not fit.
        """
        raise NotImplementedError

    def add_queue(
        self,
        index: int,
        size: int,
        build: Callable[[QueueParts], Q],
        *,
        indirect_table_size: int = 0,
    ) -> QueueHandle[Q]:
        """Set up queue `index` with `size` descriptors (allowed in FEATURES_OK, so in `start`).

        Allocates the ring and makes it known to the device now. `build` is called once the
        device is live: an object that can notify does not exist before DRIVER_OK (VIRTIO 1.4,
        3.1.1: no notification before DRIVER_OK). `size` must be a power of two and at most
        `queue_size_max(index)`. `indirect_table_size` is dropped to 0 where INDIRECT_DESC was not
        accepted. Raises ValueError, MemoryError, TransportError.
        """
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        """Requests in flight on all queues."""
        raise NotImplementedError

    def refresh_state(self) -> DeviceState:
        """Look at the status: a LIVE device that asks for a reset becomes NEEDS_RESET, its queues
        are aborted with that reason, and its waiters get DeviceGoneError."""
        raise NotImplementedError

    def reset(self, timeout_s: float = 5.0) -> None:
        """Reset the device and wait until it confirms (allowed in every state but CLOSED).

        Its queues are reclaimed and gone afterwards, the driver's `stopped` says what was lost,
        and the state is RESET; `initialize` brings the device back. Memory stays as it is.
        Raises ResetTimeoutError (then the state is FAILED and no memory is reused), TransportError.
        """
        raise NotImplementedError

    def close(self, *, drain: bool = True, timeout_s: float = 5.0) -> None:
        """Drain, reset, reclaim, and let go of the device. Idempotent; allowed in every state.

        With `drain` false, raises DeviceBusyError if requests are in flight, and changes nothing.
        Raises RequestTimeoutError if they did not complete in time: the device is closed all the
        same, and they count as lost. Memory that the device might still reach is never reused.
        """
        raise NotImplementedError
