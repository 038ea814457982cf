"""One PCI function in full, in the manner of `pciconf -lv` of the BSDs."""

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import IntFlag
from itertools import chain
from typing import Final

from vioblk.discovery import FoundDevice
from vioblk.pci.bars import Bar
from vioblk.pci.capabilities import (
    Capability,
    MsiCapability,
    MsixCapability,
    PcieCapability,
    PowerManagementCapability,
    VendorCapability,
)
from vioblk.pci.command import Command
from vioblk.pci.identity import VIRTIO_VENDOR
from vioblk.pci.location import Location
from vioblk.pci.virtio_capabilities import NotifyStructure, Structure

BASE_CLASSES: Final = {
    0x00: "old",
    0x01: "mass storage",
    0x02: "network",
    0x03: "display",
    0x04: "multimedia",
    0x05: "memory",
    0x06: "bridge",
    0x07: "simple communications",
    0x08: "base peripheral",
    0x09: "input device",
    0x0A: "docking station",
    0x0B: "processor",
    0x0C: "serial bus",
    0x0D: "wireless",
    0x0E: "intelligent I/O",
    0x0F: "satellite communications",
    0x10: "encryption",
    0x11: "data acquisition and signal processing",
    0x12: "processing accelerator",
    0x13: "instrumentation",
}
SUBCLASSES: Final = {
    0x0100: "SCSI",
    0x0101: "IDE",
    0x0106: "SATA",
    0x0108: "NVM",
    0x0180: "other",
    0x0200: "ethernet",
    0x0280: "other",
    0x0300: "VGA",
    0x0380: "other",
    0x0500: "RAM",
    0x0600: "host to PCI",
    0x0601: "PCI to ISA",
    0x0604: "PCI to PCI",
    0x0680: "other",
    0x0C03: "USB",
    0x0C05: "SMBus",
}
"""Base class, and base class with subclass (PCI Code and ID Assignment Specification, 1)."""


def numbered_names(devices: Iterable[FoundDevice]) -> Iterator[str]:
    """The driver of each and its number among those of that driver; `none` without a driver."""
    seen: Counter[str] = Counter()
    for device in devices:
        driver = (device.kernel_driver or "none").replace("-", "_")
        yield f"{driver}{seen[driver]}"
        seen[driver] += 1


def device_lines(name: str, device: FoundDevice) -> Iterator[str]:
    """Selector and IDs, then a line for each thing that is known."""
    place, header = Location.parse(device.address), device.header
    yield (
        f"{name}@pci{place.domain}:{place.bus}:{place.device}:{place.function}: "
        f"class={header.class_code:#08x} card={header.card:#010x} chip={header.chip:#010x} "
        f"rev={header.revision_id:#04x} hdr={header.header_type:#04x}"
    )
    rows = (_identity_rows, _register_rows, _bar_rows, _capability_rows, _state_rows)
    for label, text in chain.from_iterable(each(device) for each in rows):
        yield f"    {label:<10} = {text}"


def _identity_rows(device: FoundDevice) -> Iterator[tuple[str, str]]:
    yield "address", device.address
    if device.vendor_id == VIRTIO_VENDOR:
        yield "vendor", "'Red Hat, Inc.'"
    if device.identity:
        kind = f" ({device.interface})" if device.interface else ""
        yield "device", f"'Virtio {device.identity.type_name}'{kind}"
    base, subclass = device.class_code >> 16, device.class_code >> 8
    yield "class", BASE_CLASSES.get(base, "not assigned")
    if subclass in SUBCLASSES:
        yield "subclass", SUBCLASSES[subclass]


def _register_rows(device: FoundDevice) -> Iterator[tuple[str, str]]:
    header = device.header
    yield "command", _flag_names(header.command)
    yield "status", _flag_names(header.status)
    if header.interrupt_pin:
        line = "not assigned" if header.interrupt_line == 0xFF else str(header.interrupt_line)
        yield "interrupt", f"{_pin(header.interrupt_pin)}, line {line}"
    if header.rom_address or header.rom_enabled:
        state = _switched(header.rom_enabled)
        yield "rom", f"base {header.rom_address:#x}, {state}"
    if header.bridge:
        bridge = header.bridge
        yield "buses", f"{bridge.primary_bus} to {bridge.secondary_bus}-{bridge.subordinate_bus}"
        windows = (("io", bridge.io), ("mem", bridge.memory), ("pref", bridge.prefetchable))
        for name, window in windows:
            text = f"{window.base:#x}-{window.limit:#x}" if window.enabled else "off"
            yield f"{name} range", text


def _flag_names(flags: IntFlag) -> str:
    """The number, and the names of its bits that have one."""
    names = ", ".join(flag.name.lower().replace("_", " ") for flag in flags if flag.name)
    return f"{flags:#06x}" + (f" ({names})" if names else "")


def _pin(number: int) -> str:
    return f"INT{'ABCD'[number - 1]}" if number <= 4 else f"pin {number}"


def _bar_rows(device: FoundDevice) -> Iterator[tuple[str, str]]:
    for bar in device.bars:
        yield f"bar   [{bar.offset:02x}]", _describe_bar(bar, device.header.command)


def _describe_bar(bar: Bar, command: Command) -> str:
    kind = "I/O port" if bar.kind == "io" else "memory"
    if bar.prefetchable:
        kind = f"prefetchable {kind}"
    decodes = command & (Command.IO if bar.kind == "io" else Command.MEMORY)
    parts = [
        f"type {kind}",
        f"range {bar.width_bits}",
        f"base {bar.address:#x}",
        "size unknown" if bar.length is None else f"size {bar.length}",
        "enabled" if decodes else "disabled",
    ]
    return ", ".join(parts + ([bar.problem] if bar.problem else []))


def _capability_rows(device: FoundDevice) -> Iterator[tuple[str, str]]:
    virtio = _virtio_structures(device)
    for capability in device.capabilities.capabilities:
        text = virtio.get(capability.offset) or _describe_capability(capability)
        yield f"cap {capability.id:02x}[{capability.offset:02x}]", text
    for extended in device.capabilities.extended:
        label = f"ecap {extended.id:04x}[{extended.offset:03x}]"
        yield label, f"{extended.name}, version {extended.version}"


def _describe_capability(capability: Capability) -> str:
    match capability:
        case MsixCapability():
            return (
                f"MSI-X, {_messages(capability.vector_count)}, {_switched(capability.enabled)}, "
                f"table in BAR {capability.table_bar} at {capability.table_offset:#x}, "
                f"PBA in BAR {capability.pending_bar} at {capability.pending_offset:#x}"
            )
        case MsiCapability():
            return f"MSI, {_messages(capability.vector_count)}, {_switched(capability.enabled)}"
        case PcieCapability():
            reset = "" if capability.function_level_reset else "no "
            return (
                f"PCI Express {capability.version}, {capability.type_name}, "
                f"{reset}function level reset"
            )
        case PowerManagementCapability():
            return f"power management, state D{capability.state}"
        case VendorCapability():
            return f"vendor specific, {capability.length} bytes"
    return capability.name


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


def _switched(enabled: bool) -> str:
    return "enabled" if enabled else "disabled"


def _virtio_structures(device: FoundDevice) -> dict[int, str]:
    """What the virtio capabilities say, by their places in the configuration space."""
    found = device.structures
    places = (*found.common, *found.notify, *found.isr, *found.device, *found.shared_memory)
    texts = {place.capability_offset: _describe_structure(place) for place in places}
    texts |= {each.capability_offset: "virtio PCI configuration access" for each in found.pci_cfg}
    for data in found.vendor_data:
        texts[data.capability_offset] = f"virtio vendor data of vendor {data.vendor_id:#06x}"
    texts |= {each.capability_offset: f"virtio, skipped: {each}" for each in found.skipped}
    return texts


def _describe_structure(place: Structure) -> str:
    text = (
        f"virtio {place.type.title}: BAR {place.bar}, offset {place.offset:#x}, "
        f"length {place.claimed_length:#x}"
    )
    if isinstance(place, NotifyStructure):
        text += f", multiplier {place.multiplier}"
    return text


def _state_rows(device: FoundDevice) -> Iterator[tuple[str, str]]:
    if device.kernel:
        users = [name for name in (device.kernel.driver, device.kernel.virtio_driver) if name]
        users += [f"/dev/{name}" for name in device.kernel.block_names]
        yield "kernel", ", ".join(users) or "no driver"
        group = device.kernel.iommu_group
        yield "iommu", "none" if group is None else f"group {group}"
    if device.identity and device.open_with:
        yield "open with", device.open_with
    if device.reason:
        yield "not usable", device.reason
    if device.advice:
        yield "advice", device.advice
    for problem in device.problems:
        if problem != device.reason:
            yield "problem", problem
