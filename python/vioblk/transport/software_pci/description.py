"""What the configuration space of a modelled function holds, and of it, what can be written.

A description is made of plain values, so that whoever tests a driver can hand in any function that
he likes, the impossible ones included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vioblk.pci.capabilities import MSIX, VENDOR
from vioblk.pci.command import COMMAND_OFFSET, Command
from vioblk.pci.virtio_capabilities import StructureType

CAPABILITIES_POINTER: Final = 0x34
FIRST_CAPABILITY_OFFSET: Final = 0x40
CONVENTIONAL_LENGTH: Final = 256

BAR_ADDRESS: Final = 0xE000_0000
"""Where the machine has put the BAR, as firmware would have."""

FACE_BAR: Final = 4
"""The BAR with all registers."""

_STATUS_OFFSET: Final = 0x06
_CAPABILITY_LIST: Final = 0x10
_COMMAND_BITS: Final = Command.MEMORY | Command.BUS_MASTER | Command.INTX_DISABLE


@dataclass(frozen=True)
class MemoryBar:
    """A memory BAR as configuration space shows it."""

    index: int
    length: int
    """Bytes: a power of two, from 16 on."""
    address: int = BAR_ADDRESS
    """0: the machine gave it none."""
    width_bits: int = 64
    prefetchable: bool = True

    @property
    def flags(self) -> int:
        """Its lowest bits."""
        return (4 if self.width_bits == 64 else 0) | (8 if self.prefetchable else 0)


@dataclass(frozen=True)
class CapabilityEntry:
    """One entry of the capability list."""

    content: bytes
    """The ID, and then what follows the pointer to the next entry."""
    offset: int | None = None
    """Where it stands; None: after the one before, aligned to 4 bytes."""
    next_offset: int | None = None
    """The pointer to the next; None: the entry that follows here, 0 for the last."""
    writable: Mapping[int, int] = field(default_factory=dict)
    """Offset in the entry to a mask of the bits of that byte that can be written."""


@dataclass(frozen=True)
class FunctionDescription:
    """A PCI function with a header of type 0."""

    vendor_id: int = 0x1AF4
    device_id: int = 0x1042
    revision: int = 1
    class_code: int = 0x01_00_00
    subsystem_vendor_id: int = 0x1AF4
    subsystem_id: int = 0x1100
    interrupt_pin: int = 1
    """1 to 4: INTA to INTD; 0: none."""
    bars: Sequence[MemoryBar] = ()
    capabilities: Sequence[CapabilityEntry] = ()
    first_capability: int | None = None
    """The pointer to the list; None: the first entry, 0 if there is none."""
    patches: Mapping[int, bytes] = field(default_factory=dict)
    """Offset to bytes that stand there in the end, whatever the rest says."""
    length: int = CONVENTIONAL_LENGTH
    """Bytes of configuration space that can be read: 64 to 4096."""


@dataclass(frozen=True)
class ConfigImage:
    """The bytes of a configuration space, with a mask of what can be written of each."""

    data: bytes
    writable: bytes
    entries: Mapping[int, CapabilityEntry]
    """By offset."""


def virtio_entry(
    cfg_type: int,
    bar: int,
    offset: int,
    length: int,
    *,
    extra: bytes = b"",
    capability_length: int | None = None,
    identifier: int = 0,
    writable: Mapping[int, int] | None = None,
) -> CapabilityEntry:
    """struct virtio_pci_cap and what follows it (VIRTIO 1.4, 4.1.4 Virtio Structure PCI
    Capabilities). `capability_length`: where it is not the truth."""
    claimed = 16 + len(extra) if capability_length is None else capability_length
    head = bytes([VENDOR, claimed, cfg_type, bar, identifier, 0, 0])
    place = offset.to_bytes(4, "little") + length.to_bytes(4, "little")
    return CapabilityEntry(head + place + extra, writable=writable or {})


def notify_entry(bar: int, offset: int, length: int, multiplier: int) -> CapabilityEntry:
    """Where notifications go (VIRTIO 1.4, 4.1.4.4 Notification structure layout)."""
    extra = multiplier.to_bytes(4, "little")
    return virtio_entry(StructureType.NOTIFY, bar, offset, length, extra=extra)


def window_entry() -> CapabilityEntry:
    """The PCI configuration access capability (VIRTIO 1.4, 4.1.4.9)."""
    # bar, offset, length and pci_cfg_data.
    writable = dict.fromkeys([4, *range(8, 20)], 0xFF)
    return virtio_entry(StructureType.PCI_CFG, 0, 0, 0, extra=bytes(4), writable=writable)


def msix_entry(
    vector_count: int, table_bar: int, table_offset: int, pending_bar: int, pending_offset: int
) -> CapabilityEntry:
    """MSI-X (PCI Local Bus 3.0, 6.8.2). The bits to enable it and to mask it can be written."""
    control = vector_count - 1
    places = (table_offset | table_bar, pending_offset | pending_bar)
    content = bytes([MSIX]) + control.to_bytes(2, "little")
    content += b"".join(place.to_bytes(4, "little") for place in places)
    return CapabilityEntry(content, writable={3: 0xC0})


def describe_face(
    structures: Mapping[str, tuple[int, int]],
    bar_length: int,
    *,
    vector_count: int,
    notify_multiplier: int,
    interrupt_pin: int = 1,
) -> FunctionDescription:
    """The function that a face honestly is: all its structures in one BAR, and the window."""
    bar = FACE_BAR
    capabilities = [
        virtio_entry(StructureType.COMMON, bar, *structures["common"]),
        virtio_entry(StructureType.ISR, bar, *structures["isr"]),
        virtio_entry(StructureType.DEVICE, bar, *structures["device"]),
        notify_entry(bar, *structures["notify"], notify_multiplier),
        window_entry(),
    ]
    if vector_count:
        table, pending = structures["msix_table"], structures["msix_pending"]
        capabilities.insert(0, msix_entry(vector_count, bar, table[0], bar, pending[0]))
    return FunctionDescription(
        bars=(MemoryBar(bar, bar_length),),
        capabilities=tuple(capabilities),
        interrupt_pin=interrupt_pin,
    )


def draw(description: FunctionDescription) -> ConfigImage:
    """The bytes of a description. Raises ValueError for what does not fit in the space."""
    if not 64 <= description.length <= 4096:
        raise ValueError(f"configuration space has 64 to 4096 bytes, not {description.length}")
    sheet = _Sheet(max(description.length, CONVENTIONAL_LENGTH))
    _draw_header(sheet, description)
    for bar in description.bars:
        _draw_bar(sheet, bar)
    entries = _place(description.capabilities)
    _draw_capabilities(sheet, description, entries)
    for offset, content in description.patches.items():
        sheet.put(offset, content)
    length = description.length
    return ConfigImage(bytes(sheet.data[:length]), bytes(sheet.writable[:length]), dict(entries))


class _Sheet:
    """Bytes that are being put together."""

    def __init__(self, length: int) -> None:
        self.data = bytearray(length)
        self.writable = bytearray(length)

    def put(self, offset: int, content: bytes) -> None:
        if offset < 0 or offset + len(content) > len(self.data):
            raise ValueError(
                f"{len(content)} bytes at offset {offset:#x} do not fit in a configuration space "
                f"of {len(self.data)} bytes"
            )
        self.data[offset : offset + len(content)] = content

    def let_write(self, offset: int, mask: bytes) -> None:
        self.writable[offset : offset + len(mask)] = mask


def _draw_header(sheet: _Sheet, description: FunctionDescription) -> None:
    sheet.put(0x00, description.vendor_id.to_bytes(2, "little"))
    sheet.put(0x02, description.device_id.to_bytes(2, "little"))
    # As firmware leaves it: decoded, and kept out of memory until a driver wants it.
    sheet.put(COMMAND_OFFSET, int(Command.MEMORY).to_bytes(2, "little"))
    sheet.let_write(COMMAND_OFFSET, int(_COMMAND_BITS).to_bytes(2, "little"))
    sheet.put(0x08, bytes([description.revision]))
    sheet.put(0x09, description.class_code.to_bytes(3, "little"))
    sheet.put(0x2C, description.subsystem_vendor_id.to_bytes(2, "little"))
    sheet.put(0x2E, description.subsystem_id.to_bytes(2, "little"))
    sheet.put(0x3D, bytes([description.interrupt_pin]))
    sheet.let_write(0x3C, b"\xff")


def _draw_bar(sheet: _Sheet, bar: MemoryBar) -> None:
    size = bar.width_bits // 8
    offset = 0x10 + 4 * bar.index
    mask = ((1 << bar.width_bits) - 1) & ~(bar.length - 1)
    sheet.put(offset, (bar.address | bar.flags).to_bytes(size, "little"))
    sheet.let_write(offset, mask.to_bytes(size, "little"))


def _place(capabilities: Sequence[CapabilityEntry]) -> list[tuple[int, CapabilityEntry]]:
    placed, free = [], FIRST_CAPABILITY_OFFSET
    for entry in capabilities:
        offset = free if entry.offset is None else entry.offset
        placed.append((offset, entry))
        free = (offset + len(entry.content) + 1 + 3) & ~3
    return placed


def _draw_capabilities(
    sheet: _Sheet, description: FunctionDescription, placed: Sequence[tuple[int, CapabilityEntry]]
) -> None:
    first = description.first_capability
    if first is None:
        first = placed[0][0] if placed else 0
    if first:
        sheet.put(CAPABILITIES_POINTER, bytes([first & 0xFF]))
        sheet.put(_STATUS_OFFSET, bytes([_CAPABILITY_LIST]))
    # The last has none: 0 ends the list.
    followers = [offset for offset, _ in placed[1:]] + [0]
    for (offset, entry), follower in zip(placed, followers, strict=False):
        pointer = follower if entry.next_offset is None else entry.next_offset
        sheet.put(offset, entry.content[:1] + bytes([pointer & 0xFF]) + entry.content[1:])
        for at, mask in entry.writable.items():
            sheet.let_write(offset + at, bytes([mask]))
