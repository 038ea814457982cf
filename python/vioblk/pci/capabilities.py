"""The capability lists of a function, walked with bounds (PCI Local Bus 3.0, 6.7; PCI Express
Base 5.0, 7.6.3 PCI Express Extended Capability Header).

Nothing here is written, and whatever a device says, a walk ends: what is wrong is said as text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from vioblk.pci.access import ConfigSpace
from vioblk.pci.capability_names import CAPABILITY_NAMES, EXTENDED_CAPABILITY_NAMES
from vioblk.pci.header import HEADER_LENGTH, HEADER_TYPE_OFFSET, read_capabilities_pointer

POWER_MANAGEMENT: Final = 0x01
MSI: Final = 0x05
VENDOR: Final = 0x09
PCI_EXPRESS: Final = 0x10
MSIX: Final = 0x11
ADVANCED_FEATURES: Final = 0x13
"""Capability IDs with a meaning here."""

STANDARD_END: Final = 0x100
"""Where the conventional configuration space ends and the extended capabilities start."""
EXTENDED_END: Final = 0x1000

_HEADER_LENGTH: Final = 2
"""Bytes of a capability that every one has: ID and pointer to the next."""
_EXTENDED_HEADER_LENGTH: Final = 4


@dataclass(frozen=True)
class Capability:
    """One entry of the capability list."""

    id: int
    offset: int
    """In the configuration space."""

    @property
    def name(self) -> str:
        """What the ID stands for."""
        return CAPABILITY_NAMES.get(self.id, f"unknown capability {self.id:#04x}")


@dataclass(frozen=True)
class ExtendedCapability:
    """One entry of the list at 0x100, which only PCI Express functions have."""

    id: int
    version: int
    offset: int

    @property
    def name(self) -> str:
        """What the ID stands for."""
        return EXTENDED_CAPABILITY_NAMES.get(self.id, f"unknown capability {self.id:#06x}")


@dataclass(frozen=True)
class VendorCapability(Capability):
    """A vendor-specific capability; what it holds is the device's own affair."""

    length: int
    """Bytes, as it says itself."""


@dataclass(frozen=True)
class MsixCapability(Capability):
    """MSI-X (PCI Local Bus 3.0, 6.8.2 MSI-X Capability and Table Structures)."""

    vector_count: int
    """Entries of the table, 1 to 2048."""
    table_bar: int
    """6 and 7 are reserved."""
    table_offset: int
    pending_bar: int
    pending_offset: int
    enabled: bool
    masked: bool
    """All vectors at once are."""

    @property
    def table_length(self) -> int:
        """Bytes."""
        return 16 * self.vector_count

    @property
    def control_offset(self) -> int:
        """Of the message control register, in the configuration space."""
        return self.offset + 2


@dataclass(frozen=True)
class MsiCapability(Capability):
    """MSI (PCI Local Bus 3.0, 6.8.1 MSI Capability Structure)."""

    vector_count: int
    """Messages that the function can use."""
    enabled: bool
    wide: bool
    """Takes 64-bit addresses."""


@dataclass(frozen=True)
class PowerManagementCapability(Capability):
    """Power management (PCI Power Management 1.2, 3.2)."""

    state: int
    """0 to 3: D0, working, to D3hot."""


@dataclass(frozen=True)
class PcieCapability(Capability):
    """PCI Express (PCI Express Base 5.0, 7.5.3 PCI Express Capability Structure)."""

    version: int
    device_type: int
    """The Device/Port Type field."""
    function_level_reset: bool

    @property
    def type_name(self) -> str:
        """What the function is among the parts of PCI Express."""
        return _PCIE_TYPES.get(self.device_type, f"unknown device type {self.device_type}")


@dataclass(frozen=True)
class AdvancedFeaturesCapability(Capability):
    """Conventional PCI Advanced Features: the reset of one function without PCI Express."""

    function_level_reset: bool


AnyCapability = TypeVar("AnyCapability", bound=Capability)


class CapabilityList(NamedTuple):
    """What a walk found, in the order of the list."""

    capabilities: tuple[Capability, ...]
    extended: tuple[ExtendedCapability, ...] = ()
    problems: tuple[str, ...] = ()
    """What is wrong with the lists; what was found before it still holds."""

    def all_of(self, kind: type[AnyCapability]) -> tuple[AnyCapability, ...]:
        """Those of one kind, for example VendorCapability."""
        return tuple(each for each in self.capabilities if isinstance(each, kind))

    def first_of(self, kind: type[AnyCapability]) -> AnyCapability | None:
        """The first of one kind, for example MsixCapability."""
        return next(iter(self.all_of(kind)), None)

    @property
    def msix(self) -> MsixCapability | None:
        """The MSI-X capability, if there is one."""
        return self.first_of(MsixCapability)

    @property
    def pcie(self) -> PcieCapability | None:
        """The PCI Express capability, if there is one."""
        return self.first_of(PcieCapability)

    @property
    def function_level_reset(self) -> bool:
        """The function can be reset alone."""
        advanced = self.first_of(AdvancedFeaturesCapability)
        return any(each is not None and each.function_level_reset for each in (self.pcie, advanced))


def walk(config: ConfigSpace) -> CapabilityList:
    """All capabilities, the typed ones with their fields. Only a failing read raises."""
    problems: list[str] = []
    capabilities = _walk_standard(config, problems)
    problems += _duplicates(capabilities)
    problems += _reserved_bars(capabilities)
    extended: list[ExtendedCapability] = []
    # Without PCI Express, what answers beyond 0x100 may be the first 256 bytes once more.
    if any(capability.id == PCI_EXPRESS for capability in capabilities):
        extended = _walk_extended(config, problems)
    return CapabilityList(tuple(capabilities), tuple(extended), tuple(problems))


def _walk_standard(config: ConfigSpace, problems: list[str]) -> list[Capability]:
    capabilities: list[Capability] = []
    end = min(config.length, STANDARD_END)
    header_type = config.read(HEADER_TYPE_OFFSET, 1) & 0x7F
    offset = read_capabilities_pointer(config, header_type)
    seen: set[int] = set()
    while offset:
        problem = _why_not_walk(offset, seen, HEADER_LENGTH, end, _HEADER_LENGTH)
        if problem is None and config.read(offset, 1) == 0xFF:
            problem = f"the capability at {offset:#04x} reads as all ones"
        if problem is not None:
            problems.append(problem)
            break
        seen.add(offset)
        capabilities.append(_read_capability(config, offset, end, problems))
        offset = config.read(offset + 1, 1) & ~3
    return capabilities


def _walk_extended(config: ConfigSpace, problems: list[str]) -> list[ExtendedCapability]:
    capabilities: list[ExtendedCapability] = []
    end = min(config.length, EXTENDED_END)
    offset = STANDARD_END if end >= STANDARD_END + _EXTENDED_HEADER_LENGTH else 0
    seen: set[int] = set()
    while offset:
        problem = _why_not_walk(offset, seen, STANDARD_END, end, _EXTENDED_HEADER_LENGTH)
        if problem is not None:
            problems.append(f"extended list: {problem}")
            break
        seen.add(offset)
        word = config.read(offset, 4)
        if word in (0, 0xFFFFFFFF):  # The list is empty, or there is no extended space.
            break
        capabilities.append(ExtendedCapability(word & 0xFFFF, word >> 16 & 0xF, offset))
        offset = word >> 20 & ~3
    return capabilities


def _why_not_walk(
    offset: int, seen: set[int], start: int, end: int, header_length: int
) -> str | None:
    if offset < start:
        return f"a pointer leads to {offset:#04x}, below {start:#x} where capabilities start"
    if offset in seen:
        return f"the list loops back to {offset:#04x}"
    if offset + header_length > end:
        return f"a pointer leads to {offset:#04x}, and only {end} bytes can be read"
    return None


def _read_capability(config: ConfigSpace, offset: int, end: int, problems: list[str]) -> Capability:
    """The capability with its fields, or without them if they are cut off."""
    capability = Capability(config.read(offset, 1), offset)
    length, read_fields = _FIELDS.get(capability.id, (_HEADER_LENGTH, None))
    if read_fields is None:
        return capability
    if offset + length > end:
        problems.append(
            f"{capability.name} at {offset:#04x} is cut off: the space ends at {end:#x}"
        )
        return capability
    return read_fields(config, capability)


def _duplicates(capabilities: list[Capability]) -> list[str]:
    """Only vendor-specific ones may come more than once; of others the first counts."""
    problems = []
    seen: set[int] = set()
    for capability in capabilities:
        if capability.id in _FIELDS and capability.id != VENDOR:
            if capability.id in seen:
                problems.append(f"{capability.name} comes again at {capability.offset:#04x}")
            seen.add(capability.id)
    return problems


def _reserved_bars(capabilities: list[Capability]) -> list[str]:
    return [
        f"MSI-X at {each.offset:#04x} names BAR {bar}, a reserved value"
        for each in capabilities
        if isinstance(each, MsixCapability)
        for bar in sorted({each.table_bar, each.pending_bar} & {6, 7})
    ]


def _vendor(config: ConfigSpace, at: Capability) -> Capability:
    return VendorCapability(at.id, at.offset, length=config.read(at.offset + 2, 1))


def _msix(config: ConfigSpace, at: Capability) -> Capability:
    control = config.read(at.offset + 2, 2)
    table, pending = config.read(at.offset + 4, 4), config.read(at.offset + 8, 4)
    return MsixCapability(
        at.id,
        at.offset,
        vector_count=_vector_count(control),
        table_bar=table & 7,
        table_offset=table & ~7,
        pending_bar=pending & 7,
        pending_offset=pending & ~7,
        enabled=bool(control & 0x8000),
        masked=bool(control & 0x4000),
    )


def _vector_count(control: int) -> int:
    """The Table Size field holds one less than there are."""
    return (control & 0x7FF) + 1


def _msi(config: ConfigSpace, at: Capability) -> Capability:
    control = config.read(at.offset + 2, 2)
    return MsiCapability(
        at.id,
        at.offset,
        vector_count=1 << (control >> 1 & 7),
        enabled=bool(control & 1),
        wide=bool(control & 0x80),
    )


def _power_management(config: ConfigSpace, at: Capability) -> Capability:
    return PowerManagementCapability(at.id, at.offset, state=config.read(at.offset + 4, 2) & 3)


def _pcie(config: ConfigSpace, at: Capability) -> Capability:
    flags = config.read(at.offset + 2, 2)
    return PcieCapability(
        at.id,
        at.offset,
        version=flags & 0xF,
        device_type=flags >> 4 & 0xF,
        function_level_reset=bool(config.read(at.offset + 4, 4) & 1 << 28),
    )


def _advanced_features(config: ConfigSpace, at: Capability) -> Capability:
    features = config.read(at.offset + 3, 1)
    return AdvancedFeaturesCapability(at.id, at.offset, function_level_reset=bool(features & 2))


_FieldReader = Callable[[ConfigSpace, Capability], Capability]
_FIELDS: Final[dict[int, tuple[int, _FieldReader]]] = {
    POWER_MANAGEMENT: (6, _power_management),
    MSI: (4, _msi),
    VENDOR: (3, _vendor),
    PCI_EXPRESS: (8, _pcie),
    MSIX: (12, _msix),
    ADVANCED_FEATURES: (4, _advanced_features),
}
"""Capability ID to the bytes that its fields take, and what reads them."""

_PCIE_TYPES: Final = {
    0: "endpoint",
    1: "legacy endpoint",
    4: "root port",
    5: "upstream switch port",
    6: "downstream switch port",
    7: "PCI Express to PCI bridge",
    8: "PCI to PCI Express bridge",
    9: "root complex integrated endpoint",
    10: "root complex event collector",
}
