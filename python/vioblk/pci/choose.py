"""Which register layout drives a function, and how its registers are reached
(VIRTIO 1.4, 4.1.5.1.1 Virtio Device Configuration Layout Detection).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from vioblk.errors import TransportError
from vioblk.pci.access import PciPlatform, Registers
from vioblk.pci.bars import Bar, bar_at, read_bars
from vioblk.pci.capabilities import MsixCapability, walk
from vioblk.pci.header import read_header
from vioblk.pci.identity import Identity, NotVirtio, identify
from vioblk.pci.layout import RegisterLayout
from vioblk.pci.legacy import LEGACY_BAR, LegacyLayout
from vioblk.pci.modern import ModernLayout
from vioblk.pci.registers import RegisterPart
from vioblk.pci.virtio_capabilities import Structure, VirtioCapabilities, parse
from vioblk.pci.window import PciCfgWindow

Interface = Literal["auto", "modern", "legacy"]
INTERFACES: Final[tuple[Interface, ...]] = ("auto", "modern", "legacy")

Access = Literal["auto", "bar", "window"]
ACCESSES: Final[tuple[Access, ...]] = ("auto", "bar", "window")


@dataclass(frozen=True)
class Choice:
    """The layout that was chosen, and what of the function decided it."""

    layout: RegisterLayout
    identity: Identity
    reason: str
    notify_window: PciCfgWindow | None
    """What notifications have to go through; None if the BAR of the doorbells is reached."""
    msix: MsixCapability | None


def choose_layout(
    platform: PciPlatform, interface: Interface = "auto", *, access: Access = "auto"
) -> Choice:
    """Choose a layout; nothing is written to the device.

    `interface`: "auto" is the modern interface, and the legacy one of a device without virtio
    capabilities. `access`: "bar" and "window" (the PCI configuration access capability) reach the
    structures of the modern interface in that way only; "auto" is the window for what lies in a
    BAR that cannot be reached.

    Raises ValueError for another word, TransportError with what was found if the device cannot be
    driven so.
    """
    if interface not in INTERFACES:
        raise ValueError(f"the interface is one of {', '.join(INTERFACES)}, not {interface!r}")
    if access not in ACCESSES:
        raise ValueError(f"the access is one of {', '.join(ACCESSES)}, not {access!r}")
    return _Chooser(platform, access).choose(interface)


_S = TypeVar("_S", bound=Structure)


class _Reached(NamedTuple, Generic[_S]):
    """A structure and its registers."""

    structure: _S
    registers: Registers
    by_window: bool


class _Chooser:
    """What is known of one function, for one choice."""

    def __init__(self, platform: PciPlatform, access: Access) -> None:
        self._platform = platform
        self._access = access
        config = platform.config
        header = read_header(config)
        if header is None:
            raise TransportError(
                "no PCI function answers there: its vendor ID reads as all ones or 0"
            )
        identity = identify(header)
        if isinstance(identity, NotVirtio):
            raise TransportError(f"this is no virtio device: {identity.reason}")
        self._identity = identity
        self._capabilities = walk(config)
        self._registers: dict[int, Registers | str] = {}
        """By BAR; the reason where it cannot be reached."""
        self._bars = read_bars(config)
        self._virtio = self._parse()
        self._window = self._make_window()

    def _parse(self) -> VirtioCapabilities:
        """The virtio capabilities, checked against the lengths of the BARs that they name."""
        config = self._platform.config
        found = parse(config, self._capabilities, self._bars)
        named = {each.bar for each in _structures(found)}
        self._bars = tuple(self._with_length(bar, bar.index in named) for bar in self._bars)
        return parse(config, self._capabilities, self._bars)

    def _with_length(self, bar: Bar, named: bool) -> Bar:
        registers = self._reach_bar(bar.index) if named else None
        return bar if registers is None else replace(bar, length=registers.length)

    def _reach_bar(self, index: int) -> Registers | None:
        if index not in self._registers:
            try:
                self._registers[index] = self._platform.registers(index)
            except TransportError as error:
                self._registers[index] = str(error)
        reached = self._registers[index]
        return None if isinstance(reached, str) else reached

    # Either interface

    def choose(self, interface: Interface) -> Choice:
        if interface == "legacy":
            return self._legacy("it was asked for")
        if self._virtio.present:
            return self._modern()
        if interface == "modern":
            raise TransportError(
                "this is a legacy device: it has no virtio capability, so the modern interface "
                f"cannot drive it; found: {self._found()}"
            )
        return self._legacy("there is no virtio capability, so it is a legacy device")

    def _choice(
        self, layout: RegisterLayout, reason: str, notify_window: PciCfgWindow | None = None
    ) -> Choice:
        msix = self._capabilities.msix
        return Choice(layout, self._identity, reason, notify_window, msix)

    def _legacy(self, reason: str) -> Choice:
        why_not = self._why_not_legacy()
        if why_not is not None:
            raise TransportError(
                f"the legacy interface cannot be used: {why_not}; found: {self._found()}"
            )
        registers = self._reach_bar(LEGACY_BAR)
        if registers is None:
            raise TransportError(
                "the legacy interface cannot be used: its registers are in BAR "
                f"{LEGACY_BAR}, which cannot be reached: {self._registers[LEGACY_BAR]}"
            )
        layout = LegacyLayout(registers)
        msix = self._capabilities.msix
        if msix is not None and msix.enabled:  # By whoever drove it before.
            layout.set_msix_enabled(True)
        return self._choice(layout, f"legacy interface: {reason}")

    def _why_not_legacy(self) -> str | None:
        if self._access == "window":
            return "its registers are no virtio structure, and the window is for these only"
        if not self._identity.transitional:
            return f"a {self._identity.kind} device has none"
        bar = bar_at(self._bars, LEGACY_BAR)
        if bar is None or bar.kind != "io":
            return f"BAR {LEGACY_BAR}, where its registers would be, is not an I/O BAR"
        return None

    def _modern(self) -> Choice:
        why_not = self._virtio.why_not_modern()
        if why_not is not None:
            raise TransportError(
                f"the modern interface cannot be used: {why_not}; found: {self._found()}"
                + self._legacy_advice()
            )
        common = self._reach(self._virtio.common)
        notify = self._reach(self._virtio.notify)
        isr = self._reach(self._virtio.isr)
        device = self._reach(self._virtio.device) if self._virtio.device else None
        layout = ModernLayout(
            common.registers,
            notify.structure,
            isr.registers,
            None if device is None else device.registers,
        )
        by_window = [
            each.structure.type.title
            for each in (common, notify, isr, device)
            if each is not None and each.by_window
        ]
        reason = "modern interface: the device has virtio capabilities"
        if by_window:
            reason += f"; by the window of the configuration space: {', '.join(by_window)}"
        return self._choice(layout, reason, self._window if notify.by_window else None)

    def _legacy_advice(self) -> str:
        if self._why_not_legacy() is None:
            return "; its legacy interface can be asked for: interface=legacy"
        return ""

    # The modern structures

    def _reach(self, candidates: Sequence[_S]) -> _Reached[_S]:
        """The earliest of several structures that can be reached (VIRTIO 1.4, 4.1.4.1 Driver
        Requirements: Virtio Structure PCI Capabilities); by the window only for want of a BAR.
        """
        if self._access != "window":
            for structure in candidates:
                registers = self._part(structure)
                if registers is not None:
                    return _Reached(structure, registers, by_window=False)
        structure = candidates[0]
        window = None if self._access == "bar" else self._window
        if window is None:
            why = self._why_out_of_reach(candidates)
            raise TransportError(
                f"the {structure.type.title} cannot be reached: {why}; found: {self._found()}"
            )
        return _Reached(structure, window.registers(structure), by_window=True)

    def _part(self, structure: Structure) -> Registers | None:
        registers = self._reach_bar(structure.bar)
        if registers is None:
            return None
        return RegisterPart(registers, structure.offset, structure.length)

    def _make_window(self) -> PciCfgWindow | None:
        """One for all structures and the doorbells: an access is several steps, which one lock has
        to keep together."""
        if not self._virtio.pci_cfg:
            return None
        return PciCfgWindow(
            self._platform.config, self._virtio.pci_cfg[0], _structures(self._virtio)
        )

    def _why_out_of_reach(self, candidates: Sequence[Structure]) -> str:
        reasons = {each.bar: self._registers.get(each.bar) for each in candidates}
        said = [f"BAR {bar}: {why}" for bar, why in reasons.items() if isinstance(why, str)]
        if not self._virtio.pci_cfg:
            said.append("there is no PCI configuration access capability")
        return "; ".join(said)

    # Words

    def _found(self) -> str:
        """Everything that a choice could be made of, for a refusal."""
        parts = [_bar_words(bar) for bar in self._bars] or ["no BAR that is set up"]
        parts += [
            f"{each.type.title} in BAR {each.bar} at {each.offset:#x}"
            for each in _structures(self._virtio)
        ]
        parts += [f"a window at {each.capability_offset:#04x}" for each in self._virtio.pci_cfg]
        parts += [f"skipped: {each}" for each in self._virtio.skipped]
        parts += [f"wrong: {problem}" for problem in self._capabilities.problems]
        return ", ".join(parts)


def _structures(found: VirtioCapabilities) -> list[Structure]:
    """All that lie in a BAR."""
    return [*found.common, *found.notify, *found.isr, *found.device, *found.shared_memory]


def _bar_words(bar: Bar) -> str:
    kind = "I/O" if bar.kind == "io" else f"{bar.width_bits}-bit memory"
    return f"BAR {bar.index} ({kind} at {bar.address:#x})"
