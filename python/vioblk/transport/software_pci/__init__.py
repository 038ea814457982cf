"""The software device as a PCI function: `mem:64M?bus=pci`.

Its configuration space is modelled here (`description`, `config`), its BAR in Rust
(`_native.PciFace`); `platform` is the machine around it. The transport is that of every PCI
function, `vioblk.transport.pci`.
"""

from collections.abc import Mapping
from typing import Any, Final

from vioblk._native import DmaSpace, PciFace, SoftwareDevice
from vioblk.address import Address
from vioblk.errors import AddressError
from vioblk.transport.pci import PciTransport
from vioblk.transport.software_pci.config import ModelledConfig
from vioblk.transport.software_pci.platform import SoftwarePciPlatform
from vioblk.wording import counted

__all__ = ["ModelledConfig", "SoftwarePciPlatform", "SoftwarePciTransport", "make"]

_ONE_VECTOR: Final = ("shared", "config")


class SoftwarePciTransport(PciTransport):
    """The way to a software device by its registers on a PCI bus."""

    makes_device = True
    machine: SoftwarePciPlatform
    """The machine around it: unplugging, bus mastering."""

    def __init__(self, address: str, platform: SoftwarePciPlatform, **options: Any) -> None:
        self.machine = platform
        super().__init__(address, platform, **options)

    @property
    def device(self) -> SoftwareDevice:
        """The device itself: counters, faults, power loss."""
        return self.machine.device

    @property
    def config(self) -> ModelledConfig:
        """Its configuration space, with what was wrongly done to it."""
        return self.machine.modelled

    @property
    def face(self) -> PciFace:
        """Its registers: what was done to them, removal."""
        return self.machine.face


def make(
    address: Address,
    given: Mapping[str, Any],
    device_options: Mapping[str, Any],
) -> SoftwarePciTransport:
    """The device of an address with `bus=pci`. `given`: those of its options that are for
    PCI (`PCI_OPTIONS` of `vioblk.transport.software`).

    Raises AddressError, ValueError, OSError, TransportError.
    """
    queue_count = device_options.get("queue_count", 1)
    interrupts = given.get("interrupts", "auto")
    vector_count = given.get("vectors", queue_count + 1)
    needed = int(interrupts in _ONE_VECTOR) or (queue_count + 1 if interrupts == "msix" else 0)
    if vector_count < needed:
        raise AddressError(
            f"{address.text}: interrupts={interrupts} needs {counted(needed, 'vector')}, and "
            f"vectors= is {vector_count}"
        )
    space = DmaSpace()
    platform = SoftwarePciPlatform(
        space,
        SoftwareDevice(space, **device_options),
        vector_count=vector_count,
        notify_multiplier=given.get("notify_multiplier", 4),
    )
    return SoftwarePciTransport(
        address.text, platform, interrupts=interrupts, access=given.get("access", "auto")
    )
