"""What a source of PCI functions tells of each of them: sysfs, or a machine that we started."""

from dataclasses import dataclass

from vioblk.pci.access import ConfigSpace
from vioblk.pci.bars import Bar


@dataclass(frozen=True)
class KernelUse:
    """What the kernel of this machine does with a function."""

    driver: str | None = None
    """The PCI driver that holds it: "virtio-pci", "vfio-pci"."""
    virtio_driver: str | None = None
    """The driver that holds the virtio device within it: "virtio_blk"."""
    block_names: tuple[str, ...] = ()
    """Block devices that came of it: "vda"."""
    iommu_group: int | None = None


@dataclass(frozen=True)
class PciFunction:
    """One PCI function, not judged yet. Good as long as its source is open."""

    address: str
    """Domain, bus, device, function: "0000:00:05.0"."""
    config: ConfigSpace
    bars: tuple[Bar, ...]
    """With lengths. Empty: they are in the configuration space, as far as they are known."""
    kernel: KernelUse | None = None
    """None: it is none of this machine's."""
    failure: str | None = None
    """Why `config` is only what somebody remembers of it."""
    problems: tuple[str, ...] = ()
    """What else could not be read, and why."""
