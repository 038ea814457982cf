"""A tree as Linux's sysfs shows PCI functions, below a directory of a test."""

from collections.abc import Sequence
from pathlib import Path

from tests.pci.spaces import DUMPS
from vioblk.pci.sources import DumpConfig

BAR_LINES = 13
"""Of a `resource` file: six BARs, the expansion ROM, and what bridges and SR-IOV have."""

LEGACY_RESOURCE = [(0xC300, 0xC33F, 0x40101), (0xF2060000, 0xF2060FFF, 0x40200)]
"""For the dump legacy_1001."""
MODERN_RESOURCE = [
    (0, 0, 0),
    (0xE0000000, 0xE0000FFF, 0x40200),
    (0, 0, 0),
    (0, 0, 0),
    (0xE0004000, 0xE0007FFF, 0x14220C),
]
"""For the dump modern_1042."""
TRANSITIONAL_RESOURCE = [(0xC000, 0xC07F, 0x40101), *MODERN_RESOURCE[1:]]
"""For the dumps transitional_1001 and rng (whose I/O BAR is smaller)."""


def dump_bytes(name: str) -> bytes:
    """A configuration space of tests/pci/dumps."""
    config = DumpConfig.from_text((DUMPS / f"{name}.txt").read_text(encoding="ascii"))
    return bytes(config.read(offset, 1) for offset in range(config.length))


class SysfsTree:
    """The root of a sysfs, empty at first: not even a PCI bus."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add_bus(self) -> Path:
        """The directory of the links to all functions."""
        links = self.root / "bus/pci/devices"
        links.mkdir(parents=True, exist_ok=True)
        return links

    def add(
        self,
        address: str,
        config: bytes,
        *,
        resource: Sequence[tuple[int, int, int]] = (),
        driver: str | None = None,
        group: int | None = None,
        ids_from: bytes | None = None,
    ) -> Path:
        """A function; its directory. The attributes tell the IDs of `ids_from`, or of `config`."""
        directory = self.root / "devices/pci0000:00" / address
        directory.mkdir(parents=True)
        (self.add_bus() / address).symlink_to(f"../../../devices/pci0000:00/{address}")
        (directory / "config").write_bytes(config)
        lines = [*resource, *[(0, 0, 0)] * (BAR_LINES - len(resource))]
        (directory / "resource").write_text(
            "".join(f"{start:#018x} {end:#018x} {flags:#018x}\n" for start, end, flags in lines)
        )
        _write_ids(directory, ids_from or config)
        if driver is not None:
            _link(directory / "driver", self.root / "bus/pci/drivers" / driver)
        if group is not None:
            _link(directory / "iommu_group", self.root / "kernel/iommu_groups" / str(group))
        return directory

    def add_virtio(
        self, function: Path, index: int, driver: str, *, block_names: Sequence[str] = ()
    ) -> Path:
        """What the kernel makes of a function once virtio-pci has it."""
        directory = function / f"virtio{index}"
        directory.mkdir()
        _link(directory / "driver", self.root / "bus/virtio/drivers" / driver)
        for name in block_names:
            (directory / "block" / name).mkdir(parents=True)
        return directory


def _link(link: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _write_ids(directory: Path, config: bytes) -> None:
    for name, start, end in (
        ("vendor", 0, 2),
        ("device", 2, 4),
        ("revision", 8, 9),
        ("class", 9, 12),
        ("subsystem_vendor", 0x2C, 0x2E),
        ("subsystem_device", 0x2E, 0x30),
    ):
        number = int.from_bytes(config[start:end], "little")
        (directory / name).write_text(f"{number:#0{2 + 2 * (end - start)}x}\n")
