"""The modern register layout: the common configuration structure and its companions
(VIRTIO 1.4, 4.1.4 Virtio Structure PCI Capabilities).
"""

import time
from collections.abc import Callable
from threading import Lock
from typing import Final

from vioblk.errors import ProtocolError, ResetTimeoutError, StateError, UnsupportedError
from vioblk.features import Feature
from vioblk.pci.access import NotifyPlace, Registers
from vioblk.pci.device_config import DeviceConfigRegisters
from vioblk.pci.virtio_capabilities import NotifyStructure
from vioblk.transport.base import QUEUE_RESET_TIMEOUT_S, QueueAddresses

# Offsets in the common configuration structure (VIRTIO 1.4, 4.1.4.3).
DEVICE_FEATURE_SELECT: Final = 0x00
DEVICE_FEATURE: Final = 0x04
DRIVER_FEATURE_SELECT: Final = 0x08
DRIVER_FEATURE: Final = 0x0C
CONFIG_MSIX_VECTOR: Final = 0x10
NUM_QUEUES: Final = 0x12
DEVICE_STATUS: Final = 0x14
CONFIG_GENERATION: Final = 0x15
QUEUE_SELECT: Final = 0x16
QUEUE_SIZE: Final = 0x18
QUEUE_MSIX_VECTOR: Final = 0x1A
QUEUE_ENABLE: Final = 0x1C
QUEUE_NOTIFY_OFF: Final = 0x1E
QUEUE_DESC: Final = 0x20
QUEUE_DRIVER: Final = 0x28
QUEUE_DEVICE: Final = 0x30
QUEUE_NOTIF_CONFIG_DATA: Final = 0x38
QUEUE_RESET: Final = 0x3A

COMMON_LENGTH_MIN: Final = 0x38
"""Bytes that every device's structure has: up to queue_device."""
NOTIFY_DATA_LENGTH: Final = 0x3A
QUEUE_RESET_LENGTH: Final = 0x3C

FEATURE_WINDOWS: Final = 4
"""Of 32 bits each: VIRTIO 1.4 defines the bits 0 to 127 (2.2 Feature Bits)."""

POLL_INTERVAL_MIN_S: Final = 20e-6
POLL_INTERVAL_MAX_S: Final = 10e-3


class ModernLayout:
    """A `RegisterLayout` over the structures of a modern or transitional device.

    Each field is accessed with its own width, fields of 8 bytes as two of 4 (VIRTIO 1.4, 4.1.3.1
    Driver Requirements: PCI Device Layout). Thread-safe. Raises ProtocolError if the common
    configuration is too short to hold what every device has.
    """

    interface: Final = "modern"

    def __init__(
        self,
        common: Registers,
        notify: NotifyStructure,
        isr: Registers,
        device_config: Registers | None,
    ) -> None:
        if common.length < COMMON_LENGTH_MIN:
            raise ProtocolError(
                f"the common configuration structure has {common.length} bytes; every device's "
                f"has at least {COMMON_LENGTH_MIN}"
            )
        self._common = common
        self._notify = notify
        self._isr = isr
        self._config = DeviceConfigRegisters(device_config)
        self._accepted = 0
        self._lock = Lock()
        """Held from a select register to the last register that it selects."""

    @property
    def usable_features(self) -> frozenset[int]:
        """Of the features that bring registers of their own, those whose registers are there."""
        usable = {Feature.NOTIFICATION_DATA}
        if self._common.length >= NOTIFY_DATA_LENGTH:
            usable.add(Feature.NOTIF_CONFIG_DATA)
        if self._common.length >= QUEUE_RESET_LENGTH:
            usable.add(Feature.RING_RESET)
        return frozenset(usable)

    # Status and features

    def read_status(self) -> int:
        """The device status."""
        return self._common.read(DEVICE_STATUS, 1)

    def write_status(self, value: int) -> None:
        """Write the device status; 0 asks for a reset, which `read_status` then confirms."""
        self._common.write(DEVICE_STATUS, 1, value)

    def read_features(self) -> int:
        """The bits 0 to 127 that are offered."""
        with self._lock:
            features = 0
            for window in range(FEATURE_WINDOWS):
                self._common.write(DEVICE_FEATURE_SELECT, 4, window)
                features |= self._common.read(DEVICE_FEATURE, 4) << 32 * window
            return features

    def write_features(self, accepted: int) -> None:
        """Tell the device which of the bits 0 to 127 are accepted."""
        if not 0 <= accepted < 1 << 32 * FEATURE_WINDOWS:
            raise ValueError(f"feature bits {accepted:#x} do not fit in the registers (0 to 127)")
        with self._lock:
            self._accepted = accepted
            for window in range(FEATURE_WINDOWS):
                self._common.write(DRIVER_FEATURE_SELECT, 4, window)
                self._common.write(DRIVER_FEATURE, 4, accepted >> 32 * window & 0xFFFF_FFFF)

    def _has(self, feature: Feature) -> bool:
        return bool(self._accepted >> feature & 1)

    # Device configuration

    def read_config(self, offset: int, length_bytes: int) -> bytes:
        """One field of 1, 2, 4 or 8 bytes; nothing if it is not within the structure."""
        return self._config.read(offset, length_bytes)

    def write_config(self, offset: int, data: bytes) -> None:
        """The same, written. Raises ValueError if it is not within the structure."""
        self._config.write(offset, data)

    def config_generation(self) -> int:
        """A counter of 8 bits that changes with the configuration."""
        return self._common.read(CONFIG_GENERATION, 1)

    # Queues

    def queue_count(self) -> int:
        """num_queues; administration queues are not among them."""
        return self._common.read(NUM_QUEUES, 2)

    def queue_size_max(self, index: int) -> int:
        """What queue_size reads while the queue is disabled; 0: there is no such queue."""
        if not 0 <= index <= 0xFFFF:
            return 0
        with self._lock:
            self._select(index)
            return self._common.read(QUEUE_SIZE, 2)

    def enable_queue(self, index: int, addresses: QueueAddresses) -> None:
        """Program size and addresses, and then enable the queue (VIRTIO 1.4, 4.1.5.1.3 Virtqueue
        Configuration). Its vector has been set before.

        Raises ValueError for a size that the ring cannot have, ProtocolError if the device says
        that the queue is enabled already.
        """
        self._check_size(index, addresses.size)
        common = self._common
        with self._lock:
            self._select(index)
            if common.read(QUEUE_ENABLE, 2):
                raise ProtocolError(f"queue {index} is enabled already; reset the device first")
            common.write(QUEUE_SIZE, 2, addresses.size)
            self._write_address(QUEUE_DESC, addresses.descriptors_address)
            self._write_address(QUEUE_DRIVER, addresses.driver_address)
            self._write_address(QUEUE_DEVICE, addresses.device_address)
            common.write(QUEUE_ENABLE, 2, 1)

    def _check_size(self, index: int, size: int) -> None:
        packed = self._has(Feature.RING_PACKED)
        if not 1 <= size <= 0x8000 or (not packed and size & (size - 1)):
            kind = "1 to 32768" if packed else "a power of two up to 32768"
            raise ValueError(f"queue {index} cannot have {size} descriptors: {kind} is needed")

    def _select(self, index: int) -> None:
        self._common.write(QUEUE_SELECT, 2, index)

    def _write_address(self, offset: int, address: int) -> None:
        self._common.write(offset, 4, address & 0xFFFF_FFFF)
        self._common.write(offset + 4, 4, address >> 32)

    def reset_queue(
        self,
        index: int,
        timeout_s: float = QUEUE_RESET_TIMEOUT_S,
        judge: Callable[[int], int] = int,
    ) -> None:
        """Reset one queue, and wait until the device confirms that (VIRTIO 1.4, 2.6.1 Virtqueue
        Reset). It is disabled then, and can be enabled again, with other settings too.

        A queue that is disabled is not asked again: only what is under way is waited for. `judge`
        is shown what the register reads, and raises if nobody is there.

        Raises UnsupportedError if the device has no such register, StateError unless RING_RESET
        was accepted, ResetTimeoutError.
        """
        if self._common.length < QUEUE_RESET_LENGTH:
            raise UnsupportedError(
                "the device cannot reset a single queue: its common configuration structure ends "
                f"after {self._common.length} bytes"
            )
        if not self._has(Feature.RING_RESET):
            raise StateError("a single queue can be reset only if RING_RESET was accepted")
        with self._lock:
            self._select(index)
            # Of a reset that is under way, 1 is read from both (VIRTIO 1.4, 4.1.4.3.1 Device
            # Requirements: Common configuration structure layout).
            under_way = self._common.read(QUEUE_RESET, 2)
            if not under_way and self._common.read(QUEUE_ENABLE, 2):
                self._common.write(QUEUE_RESET, 2, 1)
        self._await_queue_reset(index, timeout_s, judge)

    def _await_queue_reset(self, index: int, timeout_s: float, judge: Callable[[int], int]) -> None:
        deadline = time.monotonic() + timeout_s
        interval_s = POLL_INTERVAL_MIN_S
        while judge(self._read_queue_register(index, QUEUE_RESET)):
            if time.monotonic() >= deadline:
                raise ResetTimeoutError(
                    f"queue {index} did not confirm its reset within {timeout_s:g} s; reset it "
                    "again, or the device"
                )
            time.sleep(interval_s)
            interval_s = min(2 * interval_s, POLL_INTERVAL_MAX_S)

    def _read_queue_register(self, index: int, offset: int) -> int:
        with self._lock:
            self._select(index)
            return self._common.read(offset, 2)

    # Notifications

    def notify_place(self, index: int) -> NotifyPlace:
        """Where queue `index` is notified, by its queue_notify_off and the multiplier, and with
        what (VIRTIO 1.4, 4.1.4.4 and 4.1.5.2).

        Raises ProtocolError if that is not within the notification structure, or not aligned.
        """
        value = index
        with self._lock:
            self._select(index)
            notify_off = self._common.read(QUEUE_NOTIFY_OFF, 2)
            if self._has(Feature.NOTIF_CONFIG_DATA):
                value = self._common.read(QUEUE_NOTIF_CONFIG_DATA, 2)
        carries_data = self._has(Feature.NOTIFICATION_DATA)
        within = notify_off * self._notify.multiplier
        self._check_place(index, within, 4 if carries_data else 2)
        return NotifyPlace(self._notify.bar, self._notify.offset + within, value, carries_data)

    def _check_place(self, index: int, within: int, width: int) -> None:
        notify = self._notify
        if within + width > notify.length:
            raise ProtocolError(
                f"the doorbell of queue {index} ({width} bytes at offset {within:#x}, with a "
                f"multiplier of {notify.multiplier}) is beyond the {notify.length} bytes of the "
                "notification structure"
            )
        if (notify.offset + within) % width:
            raise ProtocolError(
                f"the doorbell of queue {index} is at offset {notify.offset + within:#x} of BAR "
                f"{notify.bar}, which is not aligned to its {width} bytes"
            )

    # Interrupts

    def set_config_vector(self, vector: int) -> bool:
        """Map configuration changes to a vector; whether the device took it."""
        with self._lock:
            return self._write_vector(CONFIG_MSIX_VECTOR, vector)

    def set_queue_vector(self, index: int, vector: int) -> bool:
        """Map used buffer notifications of queue `index` to a vector; whether the device took
        it."""
        with self._lock:
            self._select(index)
            return self._write_vector(QUEUE_MSIX_VECTOR, vector)

    def _write_vector(self, offset: int, vector: int) -> bool:
        self._common.write(offset, 2, vector)
        return self._common.read(offset, 2) == vector

    def set_msix_enabled(self, enabled: bool) -> None:
        """Nothing moves on this layout."""

    def read_isr(self) -> int:
        """The ISR status, which reading clears."""
        return self._isr.read(0, 1)
