"""What the PCI code needs of a machine: configuration bytes, registers of BARs, interrupts."""

from typing import NamedTuple, Protocol

from vioblk._native import DmaSpace, Doorbell, Mapping


class ConfigSpace(Protocol):
    """The configuration space of one PCI function (PCI Local Bus 3.0, 6.1).

    Sources: sysfs, VFIO, port I/O, ECAM, a recorded dump, a modelled device.
    """

    @property
    def length(self) -> int:
        """Bytes that can be read: 256, or 4096 with PCI Express; 64 for an unprivileged reader of
        sysfs; any number for a recorded dump."""

    def read(self, offset: int, width: int) -> int:
        """`width` is 1, 2 or 4, and `offset` a multiple of it. What lies beyond `length` reads as
        all ones, as does a function that is not there. Raises OSError, TransportError."""

    def write(self, offset: int, width: int, value: int) -> None:
        """Raises UnsupportedError for a source that only reads, OSError, TransportError."""


class Registers(Protocol):
    """The registers of one BAR, or of a part of it, by accesses of exact width."""

    @property
    def length(self) -> int:
        """Bytes."""

    def read(self, offset: int, width: int) -> int:
        """`width` is 1, 2 or 4, and `offset` a multiple of it. Raises ValueError for anything
        else or beyond the end, TransportError, DeviceGoneError."""

    def write(self, offset: int, width: int, value: int) -> None:
        """As `read`."""


class NotifyPlace(NamedTuple):
    """Where a queue's doorbell is, and what is to be stored there (VIRTIO 1.4, 4.1.5.2)."""

    bar: int
    offset: int
    """Bytes from the start of the BAR."""
    value: int
    """16 bits: the queue's index, or its queue_notif_config_data."""
    carries_data: bool
    """NOTIFICATION_DATA: 4 bytes are stored, with `value` as the lower half."""


class PciPlatform(Protocol):
    """The machine around one PCI function: its memory, its interrupts, the way to its BARs.

    VFIO is one, a QEMU driven by qtest another, and a software device with a modelled BAR a third.
    A transport owns it and closes it.
    """

    name: str
    """Of the transport: "qemu", "software", "vfio"."""
    config: ConfigSpace
    space: DmaSpace
    hangup_fd: int | None
    """A stream socket that hangs up when the platform sees that the device has gone; None if it
    cannot see that. The transport shuts it down when the registers say it."""
    mapping_count_max: int
    maps_while_live: bool
    memory_safe_after_close: bool
    transport_features: frozenset[int]
    """What the platform can do of the features that ask something of it (ACCESS_PLATFORM,
    ORDER_PLATFORM, NOTIFICATION_DATA, NOTIF_CONFIG_DATA)."""
    vector_count_max: int
    """How many MSI-X vectors can be delivered; 0: none."""

    def registers(self, bar: int) -> Registers:
        """The whole of a BAR (0 to 5). Raises TransportError if it is not there or not set up."""

    def map_memory(self, length_bytes: int) -> Mapping:
        """Make more memory reachable for the device (see `Transport.map_memory`)."""

    def doorbell(self, index: int, place: NotifyPlace) -> Doorbell:
        """A doorbell for queue `index`. It stays valid until `close`; asked for again after a
        reset, it may be the same one."""

    def let_notify(self, live: bool) -> None:
        """The device is live now, or no longer. A doorbell that a thread of the platform rings is
        silent meanwhile: what it is late to see must not reach a device that is being started
        (VIRTIO 1.4, 3.1.1 Driver Requirements: Device Initialization)."""

    def settle_queue(self, index: int, timeout_s: float) -> None:
        """Called before a queue is reset that nobody notifies any more: wait until the device no
        longer works on its requests, where it is known to go on with them after it has confirmed
        the reset. Raises ResetTimeoutError."""

    def open_vectors(self, count: int) -> list[int]:
        """Enable MSI-X with `count` vectors, each of which signals an eventfd; these descriptors,
        which the platform owns. At most `vector_count_max`, and what the device's table has.
        Called again, or with 0 to disable MSI-X, it undoes the call before. Raises TransportError
        if that cannot be set up."""

    def open_intx(self) -> int | None:
        """Let INTx signal a descriptor (an eventfd); None if the pin leads nowhere. Until
        `acknowledge_intx`, which follows the read of the ISR, it signals once."""

    def acknowledge_intx(self) -> None:
        """The ISR has been read: the pin may signal again."""

    def set_bus_master(self, enabled: bool) -> None:
        """Let the device reach memory, or not (command register, bit 2)."""

    def explain_end(self) -> str | None:
        """Why `hangup_fd` has hung up, if the platform knows more than that."""

    def explain_failure(self) -> str | None:
        """What the platform knows of why the device last failed a request, if anything."""

    def close(self) -> None:
        """Let go of interrupts, memory and the function. Idempotent, never raises."""
