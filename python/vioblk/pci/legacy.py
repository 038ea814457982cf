"""The legacy register layout: one block of registers in the I/O BAR 0
(VIRTIO 1.4, 4.1.4.10 Legacy Interfaces: A Note on PCI Device Layout).
"""

from threading import Lock
from typing import Final

from vioblk._native import split_layout
from vioblk.errors import ProtocolError, StateError
from vioblk.pci.access import NotifyPlace, Registers
from vioblk.pci.device_config import DeviceConfigRegisters
from vioblk.pci.layout import NO_VECTOR
from vioblk.pci.registers import RegisterPart
from vioblk.transport.base import QueueAddresses

LEGACY_BAR: Final = 0

DEVICE_FEATURES: Final = 0
DRIVER_FEATURES: Final = 4
QUEUE_ADDRESS: Final = 8
QUEUE_SIZE: Final = 12
QUEUE_SELECT: Final = 14
QUEUE_NOTIFY: Final = 16
DEVICE_STATUS: Final = 18
ISR_STATUS: Final = 19
CONFIG_MSIX_VECTOR: Final = 20
QUEUE_MSIX_VECTOR: Final = 22

HEADER_LENGTH: Final = 20
"""Bytes; the device configuration follows at once, unless MSI-X is enabled."""
HEADER_LENGTH_WITH_VECTORS: Final = 24

QUEUE_ALIGN: Final = 4096
"""Bytes: the unit of the queue address, and the alignment of the used ring."""

QUEUE_COUNT_MAX: Final = 1024
"""Nothing says how many queues there are, so a device that always has one more is left here."""


class LegacyLayout:
    """A `RegisterLayout` over BAR 0 of a legacy or transitional device. Thread-safe.

    Of the 64 bits of features it has the lower 32. A queue has the size that the device says,
    and lies in one piece below 16 TiB (32 bits of pages). Raises ProtocolError if the BAR is too
    short for the registers.
    """

    interface: Final = "legacy"

    def __init__(self, registers: Registers) -> None:
        if registers.length < HEADER_LENGTH:
            raise ProtocolError(
                f"BAR {LEGACY_BAR} has {registers.length} bytes; the legacy registers are "
                f"{HEADER_LENGTH}"
            )
        self._registers = registers
        self._queue_count: int | None = None
        self._msix_enabled = False
        self._config = self._locate_config(HEADER_LENGTH)
        self._lock = Lock()
        """Held from the select register to the last register that it selects."""

    def _locate_config(self, offset: int) -> DeviceConfigRegisters:
        registers = self._registers
        return DeviceConfigRegisters(RegisterPart(registers, offset, registers.length - offset))

    # Status and features

    def read_status(self) -> int:
        """The device status."""
        return self._registers.read(DEVICE_STATUS, 1)

    def write_status(self, value: int) -> None:
        """Write the device status; 0 resets the device."""
        self._queue_count = None
        self._registers.write(DEVICE_STATUS, 1, value)

    def read_features(self) -> int:
        """The bits 0 to 31 that are offered."""
        return self._registers.read(DEVICE_FEATURES, 4)

    def write_features(self, accepted: int) -> None:
        """Tell the device which of the bits 0 to 31 are accepted."""
        if not 0 <= accepted < 1 << 32:
            raise ValueError(
                f"feature bits {accepted:#x} do not fit in the legacy register (0 to 31)"
            )
        self._registers.write(DRIVER_FEATURES, 4, accepted)

    # Device configuration

    def read_config(self, offset: int, length_bytes: int) -> bytes:
        """One field of 1, 2, 4 or 8 bytes; nothing if it is not within the BAR."""
        return self._config.read(offset, length_bytes)

    def write_config(self, offset: int, data: bytes) -> None:
        """The same, written. Raises ValueError if it is not within the BAR."""
        self._config.write(offset, data)

    def config_generation(self) -> int:
        """0: this interface has no such counter."""
        return 0

    # Queues

    def queue_count(self) -> int:
        """The queues up to the first of size 0, at most QUEUE_COUNT_MAX."""
        if self._queue_count is None:
            indices = range(QUEUE_COUNT_MAX)
            absent = (index for index in indices if self.queue_size_max(index) == 0)
            self._queue_count = next(absent, QUEUE_COUNT_MAX)
        return self._queue_count

    def queue_size_max(self, index: int) -> int:
        """The size of queue `index`, which is not negotiable; 0: there is no such queue."""
        if not 0 <= index <= 0xFFFF:
            return 0
        with self._lock:
            self._select(index)
            return self._registers.read(QUEUE_SIZE, 2)

    def enable_queue(self, index: int, addresses: QueueAddresses) -> None:
        """Tell the device the page number of the queue, which enables it (VIRTIO 1.4, 4.1.5.1.3.1
        Legacy Interface: A Note on Virtqueue Configuration). Its vector has been set before.

        Raises ValueError for parts that are not laid out as this interface has them, or for an
        address beyond its 32 bits of pages; ProtocolError if the device says another size than
        this one, or that the queue is in use.
        """
        _check_placement(index, addresses)
        with self._lock:
            self._select(index)
            size = self._registers.read(QUEUE_SIZE, 2)
            if addresses.size != size:
                raise ProtocolError(
                    f"queue {index} has {size} descriptors, not {addresses.size}: on the legacy "
                    "interface the device chooses, and it may not change its mind"
                )
            if self._registers.read(QUEUE_ADDRESS, 4):
                raise ProtocolError(f"queue {index} is in use already; reset the device first")
            page = addresses.descriptors_address // QUEUE_ALIGN
            self._registers.write(QUEUE_ADDRESS, 4, page)

    def _select(self, index: int) -> None:
        self._registers.write(QUEUE_SELECT, 2, index)

    def notify_place(self, index: int) -> NotifyPlace:
        """One doorbell for all queues, which takes the index."""
        return NotifyPlace(LEGACY_BAR, QUEUE_NOTIFY, index, carries_data=False)

    # Interrupts

    def set_config_vector(self, vector: int) -> bool:
        """Map configuration changes to a vector; whether the device took it.

        Raises StateError unless MSI-X is enabled: these registers exist only then.
        """
        with self._lock:
            return self._write_vector(CONFIG_MSIX_VECTOR, vector)

    def set_queue_vector(self, index: int, vector: int) -> bool:
        """Map used buffer notifications of queue `index` to a vector; whether the device took
        it. Raises as `set_config_vector`."""
        with self._lock:
            self._check_vectors(vector)
            self._select(index)
            return self._write_vector(QUEUE_MSIX_VECTOR, vector)

    def _write_vector(self, offset: int, vector: int) -> bool:
        self._check_vectors(vector)
        self._registers.write(offset, 2, vector)
        return self._registers.read(offset, 2) == vector

    def _check_vectors(self, vector: int) -> None:
        if not self._msix_enabled:
            # The device configuration is there now.
            wanted = "no vector" if vector == NO_VECTOR else f"vector {vector}"
            raise StateError(f"{wanted} can be set only while MSI-X is enabled")

    def set_msix_enabled(self, enabled: bool) -> None:
        """MSI-X has been switched, so the device configuration has moved.

        Raises ProtocolError if the BAR is too short for the vector registers.
        """
        offset = HEADER_LENGTH_WITH_VECTORS if enabled else HEADER_LENGTH
        if self._registers.length < offset:
            raise ProtocolError(
                f"BAR {LEGACY_BAR} has {self._registers.length} bytes, which leaves no place for "
                "the vector registers of MSI-X"
            )
        self._config = self._locate_config(offset)
        self._msix_enabled = enabled

    def read_isr(self) -> int:
        """The ISR status, which reading clears."""
        return self._registers.read(ISR_STATUS, 1)


def _check_placement(index: int, addresses: QueueAddresses) -> None:
    """The device finds all three parts by the page of the first."""
    start = addresses.descriptors_address
    if start % QUEUE_ALIGN:
        raise ValueError(f"queue {index} starts at {start:#x}, which is no multiple of 4096")
    if not 1 <= start // QUEUE_ALIGN < 1 << 32:
        raise ValueError(
            f"queue {index} lies at {start:#x}; the legacy interface reaches the pages below "
            f"{QUEUE_ALIGN << 32:#x}, without the first"
        )
    layout = split_layout(addresses.size, legacy_align=QUEUE_ALIGN)
    expected = (start + layout.available_offset, start + layout.used_offset)
    if (addresses.driver_address, addresses.device_address) != expected:
        raise ValueError(
            f"queue {index} is not laid out as the legacy interface has it: its rings are at "
            f"{addresses.driver_address:#x} and {addresses.device_address:#x}, not at "
            f"{expected[0]:#x} and {expected[1]:#x}"
        )
