"""What a transport must do: the way to one device's registers, queues and memory.

The device layer drives these calls in the order of VIRTIO 1.4, 3.1.1 Driver Requirements: Device
Initialization; a transport carries them out and decides nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from vioblk._native import DmaSpace, Doorbell
from vioblk._native import Mapping as DmaMapping
from vioblk.errors import UnsupportedError

QUEUE_RESET_TIMEOUT_S: Final = 5.0
"""How long a device may take over the reset of one queue."""


class QueueAddresses(NamedTuple):
    """Where a queue lies, as the device sees it, and how many descriptors it has."""

    size: int
    descriptors_address: int
    driver_address: int
    device_address: int


class QueueWires(NamedTuple):
    """How to notify the device of a queue, and how it notifies us. Owned by the transport."""

    doorbell: Doorbell | None
    interrupt_fd: int | None
    """An eventfd; None: the device is polled. Several queues may share one."""


class Transport(ABC):
    """One device, reached in one way."""

    address: str
    """What the user gave to open()."""
    name: str
    """Of the transport: "software", "vhost-user"."""
    device_type: int
    """The virtio device ID; 2 is a block device (VIRTIO 1.4, 5 Device Types)."""
    space: DmaSpace
    hangup_fd: int | None = None
    """A descriptor whose hang-up means that the device has gone."""
    legacy_align: int | None = None
    """The ring alignment of the legacy interface; None on the modern one."""
    transport_features: frozenset[int] = frozenset()
    """Feature bits that mean something only to some transports, and do to this one (2.2.1)."""

    status_at_hand: bool = True
    """The status is a register, and reading it waits for nobody: it can be looked at whenever
    something is odd."""

    makes_device: bool = False
    """The transport makes the device itself, as the options of its address say: with others it
    would offer other features and sizes."""

    mapping_count_max: int = 8
    """How many mappings of memory the device can be told of."""
    maps_while_live: bool = True
    """Memory can be mapped while queues run; else only before, so it has to be plenty."""
    memory_safe_after_close: bool = False
    """After `close`, a device that never confirmed a reset can no longer reach the mappings of
    this process, so that they may be unmapped."""

    @abstractmethod
    def map_memory(self, length_bytes: int) -> DmaMapping:
        """Make `length_bytes` more memory reachable for the device and add it to `space`."""

    @abstractmethod
    def read_status(self) -> int:
        """The device status."""

    @abstractmethod
    def write_status(self, value: int) -> None:
        """Write the device status; 0 asks for a reset, which `read_status` then confirms."""

    @abstractmethod
    def read_features(self) -> int:
        """All feature bits that the device offers."""

    @abstractmethod
    def write_features(self, accepted: int) -> None:
        """Tell the device which features both sides use."""

    @abstractmethod
    def read_config(self, offset: int, length_bytes: int) -> bytes:
        """Read device configuration: one field of 1, 2, 4 or 8 bytes, naturally aligned."""

    @abstractmethod
    def write_config(self, offset: int, data: bytes) -> None:
        """Write one field of the device configuration."""

    @abstractmethod
    def config_generation(self) -> int:
        """A counter that changes whenever the configuration did; constant if there is none."""

    @abstractmethod
    def queue_count(self) -> int:
        """How many queues the transport knows of (the device may use fewer)."""

    @abstractmethod
    def queue_size_max(self, index: int) -> int:
        """The largest size of queue `index`; 0 if it does not exist."""

    @abstractmethod
    def enable_queue(self, index: int, addresses: QueueAddresses) -> QueueWires:
        """Tell the device where queue `index` lies, and enable it; a reset disables it, and so
        does `reset_queue`."""

    def reset_queue(self, index: int, timeout_s: float = QUEUE_RESET_TIMEOUT_S) -> None:
        """Reset queue `index`, and wait until the device confirms that: then it no longer touches
        the queue's memory, and `enable_queue` can be called again, with other settings too
        (VIRTIO 1.4, 2.6.1 Virtqueue Reset). Only where RING_RESET was accepted, which a transport
        that can do this has in `transport_features`. Called again after a reset that was not
        confirmed, or was interrupted, it waits for that one; a queue that is disabled is left so.

        Raises ResetTimeoutError if the device does not confirm within `timeout_s`, TransportError,
        UnsupportedError.
        """
        raise UnsupportedError(
            f"{self.name} cannot reset single queues; reset the whole device instead"
        )

    @abstractmethod
    def on_config_change(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` after each configuration change notification (from any thread).

        Replaces the callback before. With None: once this returns, no call is under way, unless
        it is itself called by the callback, or a call has not returned within about a second:
        that one is left behind, and is the last.
        """

    def details(self) -> Mapping[str, str]:
        """What is worth knowing of the way to the device, by name, for people to read: a bus
        address, the register interface, how it interrupts."""
        return {}

    def explain_failure(self) -> str | None:
        """What the transport knows of why the device last failed a request, if anything."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Let go of the device. The device layer has reset it before; idempotent, never raises."""
