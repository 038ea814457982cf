"""Where the structures of a virtio device are (VIRTIO 1.4, 4.1.4 Virtio Structure PCI
Capabilities).

A capability that cannot be used is skipped with a reason, never an error: a device may offer a
structure several times, and the first that can be used counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from vioblk.pci.access import ConfigSpace
from vioblk.pci.bars import Bar, bar_at
from vioblk.pci.capabilities import STANDARD_END, CapabilityList, VendorCapability
from vioblk.pci.identity import VIRTIO_VENDOR
from vioblk.wording import counted


class StructureType(IntEnum):
    """cfg_type: what a capability describes. Other values are reserved."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI_CFG = 5
    SHARED_MEMORY = 8
    VENDOR = 9

    @property
    def title(self) -> str:
        """As the specification calls it."""
        return _TITLES[self]


@dataclass(frozen=True)
class Structure:
    """A structure that can be used: it lies in its BAR, aligned, and holds what it must."""

    type: StructureType
    capability_offset: int
    """In the configuration space."""
    bar: int
    id: int
    """Tells capabilities of one type apart, where the device type says so."""
    offset: int
    """In the BAR."""
    length: int
    """Bytes that can be of use: never more than lie in the BAR or than a driver can need."""
    claimed_length: int
    """Bytes, as the capability says."""


@dataclass(frozen=True)
class NotifyStructure(Structure):
    """Queue `i` is notified at `offset + queue_notify_off(i) * multiplier`."""

    multiplier: int


@dataclass(frozen=True)
class ConfigWindow:
    """The PCI configuration access capability: a window to the BARs, for want of a better way.

    Its fields are not read here: bar, offset and length are the driver's to write, and the data
    may be touched only once they point into another structure.
    """

    capability_offset: int

    @property
    def bar_offset(self) -> int:
        """Of cap.bar (1 byte) in the configuration space."""
        return self.capability_offset + 4

    @property
    def offset_offset(self) -> int:
        """Of cap.offset (4 bytes)."""
        return self.capability_offset + 8

    @property
    def length_offset(self) -> int:
        """Of cap.length (4 bytes)."""
        return self.capability_offset + 12

    @property
    def data_offset(self) -> int:
        """Of pci_cfg_data (4 bytes)."""
        return self.capability_offset + 16


@dataclass(frozen=True)
class VendorData:
    """Data of a vendor's own format, for debugging and reporting only (`read_vendor_data`)."""

    capability_offset: int
    vendor_id: int
    """Whose format it is."""
    length: int
    """Bytes after the vendor ID."""


@dataclass(frozen=True)
class Skipped:
    """A capability that is not used."""

    capability_offset: int
    cfg_type: int
    reason: str

    def __str__(self) -> str:
        """One line for a listing."""
        try:
            title = StructureType(self.cfg_type).title
        except ValueError:
            title = f"type {self.cfg_type}"
        return f"{title} at {self.capability_offset:#04x}: {self.reason}"


@dataclass(frozen=True)
class VirtioCapabilities:
    """The structures of each type that can be used, in the order of the list: prefer the first."""

    common: tuple[Structure, ...] = ()
    notify: tuple[NotifyStructure, ...] = ()
    isr: tuple[Structure, ...] = ()
    device: tuple[Structure, ...] = ()
    pci_cfg: tuple[ConfigWindow, ...] = ()
    shared_memory: tuple[Structure, ...] = ()
    vendor_data: tuple[VendorData, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def present(self) -> bool:
        """There is a virtio capability of a known type, usable or not: the device is no legacy
        one (VIRTIO 1.4, 4.1.5.1.1 Virtio Device Configuration Layout Detection)."""
        known = set(StructureType) - {StructureType.VENDOR}
        return any(
            (self.common, self.notify, self.isr, self.device, self.pci_cfg, self.shared_memory)
        ) or any(each.cfg_type in known for each in self.skipped)

    def why_not_modern(self) -> str | None:
        """Why the modern interface cannot be used, None if it can.

        Common configuration, notifications and ISR have to be there; whether the device
        configuration has to be depends on the device type.
        """
        if not self.present:
            return "there is no virtio capability"
        missing = [
            self._why_missing(kind)
            for kind, usable in (
                (StructureType.COMMON, self.common),
                (StructureType.NOTIFY, self.notify),
                (StructureType.ISR, self.isr),
            )
            if not usable
        ]
        return "; ".join(missing) or None

    def _why_missing(self, kind: StructureType) -> str:
        reasons = [each.reason for each in self.skipped if each.cfg_type == kind]
        return f"no usable {kind.title}" + (f" ({', '.join(reasons)})" if reasons else "")


def parse(
    config: ConfigSpace, capabilities: CapabilityList, bars: Sequence[Bar]
) -> VirtioCapabilities:
    """The virtio capabilities among the vendor-specific ones of a virtio device.

    `bars`: with lengths, each structure is checked to lie in its BAR; without, that is left to
    whoever maps it. Nothing is written, and pci_cfg_data is not read. Only a failing read raises.
    """
    found = [
        _parse_one(config, capability, bars) for capability in capabilities.all_of(VendorCapability)
    ]
    structures = [each for each in found if isinstance(each, Structure)]
    return VirtioCapabilities(
        common=_of_type(structures, StructureType.COMMON),
        notify=_instances(found, NotifyStructure),
        isr=_of_type(structures, StructureType.ISR),
        device=_of_type(structures, StructureType.DEVICE),
        pci_cfg=_instances(found, ConfigWindow),
        shared_memory=_of_type(structures, StructureType.SHARED_MEMORY),
        vendor_data=_instances(found, VendorData),
        skipped=_instances(found, Skipped),
    )


def read_vendor_data(config: ConfigSpace, data: VendorData, vendor_id: int) -> bytes:
    """The bytes after the vendor ID, for a caller who knows the format of `vendor_id`.

    Raises ValueError if the data is another vendor's (VIRTIO 1.4, 4.1.4.8.2 Driver Requirements:
    Vendor data capability).
    """
    if data.vendor_id != vendor_id:
        raise ValueError(
            f"the vendor data at {data.capability_offset:#04x} is of vendor {data.vendor_id:#06x}, "
            f"not {vendor_id:#06x}"
        )
    start = data.capability_offset + _VENDOR_HEADER_LENGTH
    return bytes(config.read(start + index, 1) for index in range(data.length))


@dataclass(frozen=True)
class _Rule:
    """What a capability of one type has to be like."""

    capability_length: int
    """Bytes that it must have."""
    alignment: int = 1
    """Of the structure in its BAR."""
    length_min: int = 1
    """Bytes that the structure must have to be of any use."""
    length_max: int | None = None
    """Bytes of it that a driver can have a use for; None: all."""


_VENDOR_HEADER_LENGTH: Final = 6
_RULES: Final = {
    # Without the fields that came after 1.0, which only newer features need.
    StructureType.COMMON: _Rule(16, alignment=4, length_min=0x38, length_max=0x40),
    StructureType.NOTIFY: _Rule(20, alignment=2, length_min=2),
    StructureType.ISR: _Rule(16, length_max=1),
    StructureType.DEVICE: _Rule(16, alignment=4, length_max=4096),
    StructureType.PCI_CFG: _Rule(20),
    StructureType.SHARED_MEMORY: _Rule(24),
    StructureType.VENDOR: _Rule(_VENDOR_HEADER_LENGTH),
}

_TITLES: Final = {
    StructureType.COMMON: "common configuration",
    StructureType.NOTIFY: "notifications",
    StructureType.ISR: "ISR status",
    StructureType.DEVICE: "device configuration",
    StructureType.PCI_CFG: "PCI configuration access",
    StructureType.SHARED_MEMORY: "shared memory",
    StructureType.VENDOR: "vendor data",
}


class _NotUsableError(Exception):
    """The capability is skipped, for this reason."""


@dataclass(frozen=True)
class _Fields:
    """struct virtio_pci_cap, but for its type."""

    bar: int = 0
    id: int = 0
    offset: int = 0
    length: int = 0


_Found = Structure | ConfigWindow | VendorData | Skipped
_AnyFound = TypeVar("_AnyFound", bound=_Found)


def _instances(found: Iterable[_Found], kind: type[_AnyFound]) -> tuple[_AnyFound, ...]:
    return tuple(each for each in found if isinstance(each, kind))


def _of_type(structures: Iterable[Structure], kind: StructureType) -> tuple[Structure, ...]:
    return tuple(each for each in structures if each.type == kind)


def _parse_one(config: ConfigSpace, capability: VendorCapability, bars: Sequence[Bar]) -> _Found:
    cfg_type = config.read(capability.offset + 3, 1)
    try:
        kind = _known_type(cfg_type)
        _check_capability(config, capability, kind)
        if kind is StructureType.VENDOR:
            return _vendor_data(config, capability)
        fields = _read_fields(config, capability, kind)
        if fields.bar > 5:
            raise _NotUsableError(f"BAR {fields.bar} is a reserved value")
        if kind is StructureType.PCI_CFG:
            return ConfigWindow(capability.offset)
        return _structure(config, capability, kind, fields, bars)
    except _NotUsableError as why:
        return Skipped(capability.offset, cfg_type, str(why))


def _known_type(cfg_type: int) -> StructureType:
    try:
        return StructureType(cfg_type)
    except ValueError:
        raise _NotUsableError("the type is reserved") from None


def _check_capability(
    config: ConfigSpace, capability: VendorCapability, kind: StructureType
) -> None:
    """More than the fields of its type may be there, but they have to be."""
    needed = _RULES[kind].capability_length
    if capability.length < needed:
        raise _NotUsableError(
            f"the capability has {counted(capability.length, 'byte')} and needs {needed}"
        )
    end = min(config.length, STANDARD_END)
    if capability.offset + needed > end:
        raise _NotUsableError(f"the capability is cut off: the space ends at {end:#x}")


def _vendor_data(config: ConfigSpace, capability: VendorCapability) -> VendorData:
    vendor_id = config.read(capability.offset + 4, 2)
    if vendor_id == VIRTIO_VENDOR:
        raise _NotUsableError(f"vendor {vendor_id:#06x} is not allowed there")
    end = min(capability.offset + capability.length, config.length, STANDARD_END)
    return VendorData(
        capability.offset, vendor_id, length=end - capability.offset - _VENDOR_HEADER_LENGTH
    )


def _read_fields(config: ConfigSpace, capability: VendorCapability, kind: StructureType) -> _Fields:
    start = capability.offset
    bar, identifier = config.read(start + 4, 1), config.read(start + 5, 1)
    offset, length = config.read(start + 8, 4), config.read(start + 12, 4)
    if kind is StructureType.SHARED_MEMORY:
        offset |= config.read(start + 16, 4) << 32
        length |= config.read(start + 20, 4) << 32
    return _Fields(bar, identifier, offset, length)


def _structure(
    config: ConfigSpace,
    capability: VendorCapability,
    kind: StructureType,
    fields: _Fields,
    bars: Sequence[Bar],
) -> Structure:
    length = _usable_length(kind, fields, bar_at(bars, fields.bar))
    if kind is not StructureType.NOTIFY:
        most = _RULES[kind].length_max
        usable = length if most is None else min(length, most)
        return Structure(
            kind, capability.offset, fields.bar, fields.id, fields.offset, usable, fields.length
        )
    multiplier = config.read(capability.offset + 16, 4)
    # The last place that a 16-bit queue_notify_off can reach, and a doorbell of 4 bytes there.
    reach = 0xFFFF * multiplier + 4
    return NotifyStructure(
        kind,
        capability.offset,
        fields.bar,
        fields.id,
        fields.offset,
        min(length, reach),
        fields.length,
        multiplier,
    )


def _usable_length(kind: StructureType, fields: _Fields, bar: Bar | None) -> int:
    """How much of the structure lies in its BAR."""
    rule = _RULES[kind]
    if bar is None:
        raise _NotUsableError(f"BAR {fields.bar} is not there")
    if bar.problem is not None:
        raise _NotUsableError(f"BAR {bar.index}: {bar.problem}")
    if fields.offset % rule.alignment:
        raise _NotUsableError(f"offset {fields.offset:#x} is no multiple of {rule.alignment}")
    if fields.length < rule.length_min:
        raise _NotUsableError(
            f"it has {counted(fields.length, 'byte')} and needs {rule.length_min}"
        )
    if bar.length is None:
        return fields.length
    # The length may be larger than anything that was expected, and then a part is enough, but
    # memory that is to be shared has to be there.
    shared = kind is StructureType.SHARED_MEMORY
    needed = fields.length if shared else rule.length_min
    if fields.offset + needed > bar.length:
        raise _NotUsableError(
            f"{needed:#x} bytes at {fields.offset:#x} do not lie in BAR {bar.index}, which has "
            f"{bar.length:#x}"
        )
    return min(fields.length, bar.length - fields.offset)
