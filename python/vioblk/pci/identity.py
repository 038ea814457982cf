"""Which virtio device a function is (VIRTIO 1.4, 4.1.2 PCI Device Discovery)."""

from dataclasses import dataclass
from typing import Final

from vioblk.device_types import device_type_name
from vioblk.pci.header import ENDPOINT, Header

VIRTIO_VENDOR: Final = 0x1AF4
TRANSITIONAL_IDS: Final = range(0x1000, 0x1040)
MODERN_IDS: Final = range(0x1040, 0x1080)

TRANSITIONAL_TYPES: Final = {
    0x1000: 1,
    0x1001: 2,
    0x1002: 5,
    0x1003: 3,
    0x1004: 8,
    0x1005: 4,
    0x1009: 9,
}
"""Transitional PCI device ID to virtio device ID."""

_NEIGHBOURS: Final = {0x1110: "ivshmem, which is no virtio device"}
"""What else that vendor ID is used for."""


@dataclass(frozen=True)
class Identity:
    """What a driver is told of a PCI device."""

    device_type: int
    """The virtio device ID."""
    type_name: str
    transitional: bool
    """Its ID is of the transitional range: it has a legacy interface, and a modern one only if it
    has virtio capabilities. Otherwise it has only a modern one."""

    @property
    def kind(self) -> str:
        """ "transitional" or "modern only"."""
        return "transitional" if self.transitional else "modern only"


@dataclass(frozen=True)
class NotVirtio:
    """The function is no virtio device, or none that can be told."""

    reason: str


def identify(header: Header) -> Identity | NotVirtio:
    """The identity of a function by its vendor and device ID.

    Any revision and any subsystem match. The subsystem ID is looked at only for a transitional
    device ID that the specification does not list: there it is the type (4.1.2.3 Legacy
    Interfaces: A Note on PCI Device Discovery).
    """
    if header.vendor_id != VIRTIO_VENDOR:
        return NotVirtio(f"vendor {header.vendor_id:#06x} is not {VIRTIO_VENDOR:#06x}")
    if header.device_id not in TRANSITIONAL_IDS and header.device_id not in MODERN_IDS:
        known = _NEIGHBOURS.get(header.device_id, "the range of virtio is 0x1000 to 0x107f")
        return NotVirtio(f"device ID {header.device_id:#06x}: {known}")
    if header.header_type != ENDPOINT:
        return NotVirtio(
            f"device ID {header.device_id:#06x}, but its header is of type "
            f"{header.header_type:#04x}, not an endpoint's"
        )
    transitional = header.device_id in TRANSITIONAL_IDS
    device_type = _transitional_type(header) if transitional else header.device_id - MODERN_IDS[0]
    if device_type == 0:
        return NotVirtio(f"device ID {header.device_id:#06x} names no device type")
    if device_type is None:
        return NotVirtio(
            f"transitional device ID {header.device_id:#06x} is not assigned, and subsystem ID "
            f"{header.subsystem_id:#06x} is no device type"
        )
    return Identity(device_type, device_type_name(device_type), transitional)


def _transitional_type(header: Header) -> int | None:
    listed = TRANSITIONAL_TYPES.get(header.device_id)
    if listed is not None:
        return listed
    # A transitional device's type has to fit its modern ID too, so it is below 0x40.
    return header.subsystem_id if 0 < header.subsystem_id < len(MODERN_IDS) else None
