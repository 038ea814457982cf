"""What `vioblk.find` returns."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass

from vioblk.discovery.function import KernelUse
from vioblk.pci.bars import Bar
from vioblk.pci.capabilities import CapabilityList
from vioblk.pci.header import Header
from vioblk.pci.identity import Identity
from vioblk.pci.virtio_capabilities import VirtioCapabilities


@dataclass(frozen=True)
class FoundDevice:
    """One PCI function: what it is, who has it, and how to open it or why that cannot be done."""

    address: str
    """Domain, bus, device, function: "0000:00:05.0"."""
    header: Header
    identity: Identity | None
    """None: it is no virtio device."""
    interface: str | None
    """"modern", "transitional" (modern and legacy) or "legacy"; as far as the capabilities could
    be read, else by the device ID. None: it is no virtio device, or has no usable interface."""
    kernel: KernelUse | None
    """None: it is a function of another machine, such as the one behind a `qemu:` address."""
    open_with: str | None
    """What `vioblk.open` takes; None if it cannot be opened."""
    reason: str | None
    """Why it cannot be opened; None if it can."""
    advice: str | None
    """What can be done about the reason, if anything."""
    bars: tuple[Bar, ...]
    capabilities: CapabilityList
    structures: VirtioCapabilities
    """What the virtio capabilities among `capabilities` describe."""
    problems: tuple[str, ...]
    """What of the function could not be read or makes no sense."""

    @property
    def vendor_id(self) -> int:
        """0x1af4 of all virtio devices."""
        return self.header.vendor_id

    @property
    def device_id(self) -> int:
        """0x1000 to 0x103f: transitional or legacy; 0x1040 to 0x107f: modern."""
        return self.header.device_id

    @property
    def subsystem_vendor_id(self) -> int:
        """Of whoever built the device in."""
        return self.header.subsystem_vendor_id

    @property
    def subsystem_id(self) -> int:
        """Of a transitional device, its device type."""
        return self.header.subsystem_id

    @property
    def class_code(self) -> int:
        """24 bits: base class, subclass, programming interface."""
        return self.header.class_code

    @property
    def revision_id(self) -> int:
        """0 of a transitional device, usually 1 of a modern one."""
        return self.header.revision_id

    @property
    def device_type(self) -> int | None:
        """The virtio device ID: 2 is a block device (VIRTIO 1.4, 5 Device Types)."""
        return self.identity.device_type if self.identity else None

    @property
    def type_name(self) -> str | None:
        """The name of the device type: "block"."""
        return self.identity.type_name if self.identity else None

    @property
    def kernel_driver(self) -> str | None:
        """The PCI driver of the kernel that holds it: "virtio-pci"."""
        return self.kernel.driver if self.kernel else None

    @property
    def block_names(self) -> tuple[str, ...]:
        """The kernel's block devices that came of it: "vda"."""
        return self.kernel.block_names if self.kernel else ()

    @property
    def iommu_group(self) -> int | None:
        """The number of the group; None without an IOMMU."""
        return self.kernel.iommu_group if self.kernel else None

    def as_dict(self) -> Mapping[str, object]:
        """The same in plain dicts, lists, strings and numbers, as JSON takes them."""
        found: dict[str, object] = {
            name: getattr(self, name)
            for name in (
                "address", "vendor_id", "device_id", "subsystem_vendor_id", "subsystem_id",
                "class_code", "revision_id", "device_type", "type_name", "interface",
                "kernel_driver", "iommu_group", "open_with", "reason", "advice",
            )
        }  # fmt: skip
        found["virtio_driver"] = self.kernel.virtio_driver if self.kernel else None
        found["block_names"] = list(self.block_names)
        found["header"] = _plain(self.header)
        found["bars"] = _plain(self.bars)
        found["capabilities"] = [
            {"name": each.name, **_members(each)} for each in self.capabilities.capabilities
        ]
        found["extended_capabilities"] = [
            {"name": each.name, **_members(each)} for each in self.capabilities.extended
        ]
        found["structures"] = _plain(self.structures)
        found["problems"] = list(self.problems)
        return found


def _members(value: object) -> dict[str, object]:
    """The fields of a dataclass."""
    assert is_dataclass(value)
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: object) -> object:
    """Dataclasses as dicts, tuples as lists, flags and enumerations as numbers."""
    if is_dataclass(value):
        return _members(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value
