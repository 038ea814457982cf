"""The header of a configuration space (PCI Local Bus 3.0, 6.1; PCI-to-PCI Bridge 1.2, 3.2)."""

from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from vioblk.pci.access import ConfigSpace
from vioblk.pci.command import Command, read_command

HEADER_LENGTH: Final = 64
VENDOR_OFFSET: Final = 0x00
DEVICE_OFFSET: Final = 0x02
STATUS_OFFSET: Final = 0x06
HEADER_TYPE_OFFSET: Final = 0x0E
INTERRUPT_LINE_OFFSET: Final = 0x3C

ENDPOINT: Final = 0
BRIDGE: Final = 1
CARDBUS_BRIDGE: Final = 2
"""Header types. Another value means a layout that is not known here."""

ABSENT_VENDORS: Final = frozenset({0xFFFF, 0x0000})
"""What a read of the vendor ID gives where no function answers; neither is assigned."""


class Status(IntFlag):
    """Bits of the status register that are shown."""

    INTERRUPT = 0x08
    CAPABILITY_LIST = 0x10
    PARITY_ERROR_MASTER = 0x100
    TARGET_ABORT_SIGNALLED = 0x800
    TARGET_ABORT_RECEIVED = 0x1000
    MASTER_ABORT_RECEIVED = 0x2000
    SYSTEM_ERROR_SIGNALLED = 0x4000
    PARITY_ERROR = 0x8000


@dataclass(frozen=True)
class Window:
    """A range of addresses that a bridge passes on. Off if `limit` is below `base`."""

    base: int
    limit: int
    """The last byte of the range."""

    @property
    def enabled(self) -> bool:
        """Anything is passed on at all."""
        return self.limit >= self.base


@dataclass(frozen=True)
class BridgeHeader:
    """What a PCI-to-PCI bridge (a root port is one) has in the place of most BARs."""

    primary_bus: int
    secondary_bus: int
    subordinate_bus: int
    io: Window
    memory: Window
    prefetchable: Window


@dataclass(frozen=True)
class Header:
    """The header of one function, as it was read."""

    vendor_id: int
    device_id: int
    command: Command
    status: Status
    revision_id: int
    class_code: int
    """24 bits: base class, subclass, programming interface."""
    header_type: int
    """ENDPOINT, BRIDGE, CARDBUS_BRIDGE or unknown, without the multifunction bit."""
    multifunction: bool
    subsystem_vendor_id: int
    """0 unless the header is an endpoint's."""
    subsystem_id: int
    rom_address: int
    rom_enabled: bool
    capabilities_pointer: int
    """0: there is no capability list."""
    interrupt_line: int
    """What the firmware noted; 0xFF: nothing."""
    interrupt_pin: int
    """1 to 4: INTA to INTD; 0: none."""
    bridge: BridgeHeader | None
    problem: str | None
    """Why not all fields can be believed."""

    @property
    def chip(self) -> int:
        """Device and vendor ID in one number, as pciconf prints it: 0x10011af4."""
        return self.device_id << 16 | self.vendor_id

    @property
    def card(self) -> int:
        """Subsystem ID and subsystem vendor ID in one number: 0x00021af4."""
        return self.subsystem_id << 16 | self.subsystem_vendor_id


def read_header(config: ConfigSpace) -> Header | None:
    """The header of a function; None if no function answers (the vendor ID is all ones or 0).

    Nothing is written, and nothing but a failing read raises (OSError, TransportError).
    """
    vendor_id = config.read(VENDOR_OFFSET, 2)
    if vendor_id in ABSENT_VENDORS:
        return None
    raw_type = config.read(HEADER_TYPE_OFFSET, 1)
    header_type = raw_type & 0x7F
    endpoint = header_type == ENDPOINT
    rom = config.read(_ROM_OFFSET[header_type], 4) if header_type in _ROM_OFFSET else 0
    return Header(
        vendor_id=vendor_id,
        device_id=config.read(DEVICE_OFFSET, 2),
        command=read_command(config),
        status=Status(config.read(STATUS_OFFSET, 2)),
        revision_id=config.read(0x08, 1),
        class_code=config.read(0x08, 4) >> 8,
        header_type=header_type,
        multifunction=bool(raw_type & 0x80),
        subsystem_vendor_id=config.read(0x2C, 2) if endpoint else 0,
        subsystem_id=config.read(0x2E, 2) if endpoint else 0,
        rom_address=rom & ~0x7FF,
        rom_enabled=bool(rom & 1),
        capabilities_pointer=read_capabilities_pointer(config, header_type),
        interrupt_line=config.read(INTERRUPT_LINE_OFFSET, 1),
        interrupt_pin=config.read(INTERRUPT_LINE_OFFSET + 1, 1),
        bridge=_read_bridge(config) if header_type == BRIDGE else None,
        problem=_problem(config, header_type),
    )


def read_capabilities_pointer(config: ConfigSpace, header_type: int) -> int:
    """Where the capability list starts; 0 if there is none (PCI Local Bus 3.0, 6.7)."""
    offset = _CAPABILITIES_POINTER_OFFSET.get(header_type)
    if offset is None or not config.read(STATUS_OFFSET, 2) & Status.CAPABILITY_LIST:
        return 0
    # The lowest two bits are reserved, and software has to mask them.
    return config.read(offset, 1) & ~3


_ROM_OFFSET: Final = {ENDPOINT: 0x30, BRIDGE: 0x38}
_CAPABILITIES_POINTER_OFFSET: Final = {ENDPOINT: 0x34, BRIDGE: 0x34, CARDBUS_BRIDGE: 0x14}


def _problem(config: ConfigSpace, header_type: int) -> str | None:
    if config.length < HEADER_LENGTH:
        return f"the header has {HEADER_LENGTH} bytes, and only {config.length} can be read"
    if header_type not in _CAPABILITIES_POINTER_OFFSET:
        return f"header type {header_type:#04x} is not known, so only its first 16 bytes are"
    return None


def _read_bridge(config: ConfigSpace) -> BridgeHeader:
    return BridgeHeader(
        primary_bus=config.read(0x18, 1),
        secondary_bus=config.read(0x19, 1),
        subordinate_bus=config.read(0x1A, 1),
        io=_io_window(config),
        memory=_memory_window(config, 0x20, None),
        prefetchable=_memory_window(config, 0x24, 0x28),
    )


def _io_window(config: ConfigSpace) -> Window:
    """Base and limit in units of 4 KiB, with an upper half if the lower bits say so."""
    base, limit = config.read(0x1C, 1), config.read(0x1D, 1)
    upper_base, upper_limit = 0, 0
    if base & 0xF == 1:
        upper_base, upper_limit = config.read(0x30, 2), config.read(0x32, 2)
    return Window(
        base=upper_base << 16 | (base & 0xF0) << 8,
        limit=upper_limit << 16 | (limit & 0xF0) << 8 | 0xFFF,
    )


def _memory_window(config: ConfigSpace, offset: int, upper_offset: int | None) -> Window:
    """Base and limit in units of 1 MiB; the prefetchable one can have an upper half."""
    base, limit = config.read(offset, 2), config.read(offset + 2, 2)
    upper_base, upper_limit = 0, 0
    if upper_offset is not None and base & 0xF == 1:
        upper_base, upper_limit = config.read(upper_offset, 4), config.read(upper_offset + 4, 4)
    return Window(
        base=upper_base << 32 | (base & 0xFFF0) << 16,
        limit=upper_limit << 32 | (limit & 0xFFF0) << 16 | 0xFFFFF,
    )
