"""What the register layouts of virtio over PCI have in common, so that one transport drives both.

`modern.py` (VIRTIO 1.4, 4.1.4.3 Common configuration structure layout) and `legacy.py` (4.1.4.10
Legacy Interfaces: A Note on PCI Device Layout) are the two.
"""

from typing import Final, Protocol

from vioblk.pci.access import NotifyPlace
from vioblk.transport.base import QueueAddresses

NO_VECTOR: Final = 0xFFFF
"""VIRTIO_MSI_NO_VECTOR: the event is not mapped to a vector."""

ISR_QUEUE: Final = 1
ISR_CONFIG: Final = 2
"""Bits of the ISR status (VIRTIO 1.4, 4.1.4.5 ISR status capability)."""


class RegisterLayout(Protocol):
    """The registers of a virtio PCI device. Each call is a few accesses of exact width; those that
    select first (features, queues) hold a lock, so calls may come from several threads.

    A device that has gone reads as all ones: what can tell raises DeviceGoneError.
    """

    @property
    def interface(self) -> str:
        """ "modern" or "legacy"."""

    def read_status(self) -> int:
        """The device status."""

    def write_status(self, value: int) -> None:
        """Write the device status; 0 asks for a reset."""

    def read_features(self) -> int:
        """All bits that are offered: 128 on the modern layout, 32 on the legacy one."""

    def write_features(self, accepted: int) -> None:
        """Tell the device which are accepted. Raises ValueError for bits beyond the layout."""

    def read_config(self, offset: int, length_bytes: int) -> bytes:
        """One naturally aligned field of 1, 2, 4 or 8 bytes of the device configuration."""

    def write_config(self, offset: int, data: bytes) -> None:
        """The same, written."""

    def config_generation(self) -> int:
        """0 on the legacy layout, which has none."""

    def queue_count(self) -> int:
        """num_queues; on the legacy layout, the queues up to the first of size 0."""

    def queue_size_max(self, index: int) -> int:
        """The size that the device offers for queue `index`, read while it is disabled; 0: there
        is no such queue."""

    def enable_queue(self, index: int, addresses: QueueAddresses) -> None:
        """Program a queue, vector and all, and then enable it."""

    def notify_place(self, index: int) -> NotifyPlace:
        """Where queue `index` is notified."""

    def set_config_vector(self, vector: int) -> bool:
        """Map configuration changes to a vector or to NO_VECTOR; whether the device took it
        (VIRTIO 1.4, 4.1.5.1.2 MSI-X Vector Configuration)."""

    def set_queue_vector(self, index: int, vector: int) -> bool:
        """The same for the used buffer notifications of queue `index`."""

    def set_msix_enabled(self, enabled: bool) -> None:
        """MSI-X has been switched: on the legacy layout the configuration moves."""

    def read_isr(self) -> int:
        """The ISR status, which reading clears."""
