"""The PCI functions of this machine, as Linux shows them in sysfs.

Everything here is read, and nothing but attributes below the root of sysfs is opened. An
unprivileged reader sees all of it but the configuration space beyond its first 64 bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from vioblk.discovery.function import KernelUse, PciFunction
from vioblk.pci.access import ConfigSpace
from vioblk.pci.bars import Bar
from vioblk.pci.header import HEADER_LENGTH
from vioblk.pci.location import Location
from vioblk.pci.sources import DumpConfig, SysfsConfig, parse_resource

ROOT: Final = Path("/sys")

DEVICES: Final = Path("bus/pci/devices")
"""Below the root: one link for each function, named by its location."""

SILENT: Final = "the device does not answer: its configuration space reads as all ones"

ALL_ONES: Final = 0xFFFF_FFFF


REMEMBERED: Final = (
    ("vendor", 0x00, 2),
    ("device", 0x02, 2),
    ("revision", 0x08, 1),
    ("class", 0x09, 3),
    ("subsystem_vendor", 0x2C, 2),
    ("subsystem_device", 0x2E, 2),
)
"""Attributes that hold what the kernel has read of a header, with its place there and bytes."""


def locations(root: Path) -> list[Location]:
    """Of all functions, in their order. Raises OSError if there is no PCI bus to be seen."""
    found = []
    for path in (root / DEVICES).iterdir():
        with suppress(ValueError):
            found.append(Location.parse(path.name))
    return sorted(found, key=lambda place: (place.domain, place))


@contextmanager
def open_function(root: Path, location: Location) -> Iterator[PciFunction]:
    """What sysfs tells of one function, with its configuration space open.

    Raises OSError if that cannot be read. One that does not answer is told as `remember` does.
    """
    directory = root / DEVICES / str(location)
    with SysfsConfig(directory / "config") as config:
        if config.read(0, 4) != ALL_ONES:
            yield _function(directory, config)
        elif config.read(8, 4) != ALL_ONES:
            yield _function(directory, _WithIds(config, _remembered_header(directory)))
        else:
            yield remember(root, location, SILENT)


def remember(root: Path, location: Location, failure: str) -> PciFunction:
    """A function whose configuration space is of no use, by what the kernel remembers of it.

    `failure`: why. Raises OSError if the kernel does not know the function.
    """
    directory = root / DEVICES / str(location)
    return _function(directory, DumpConfig(_remembered_header(directory)), failure)


def _function(directory: Path, config: ConfigSpace, failure: str | None = None) -> PciFunction:
    bars, problem = _bars(directory)
    return PciFunction(
        address=directory.name,
        config=config,
        bars=bars,
        kernel=_kernel_use(directory),
        failure=failure,
        problems=(problem,) if problem else (),
    )


def _bars(directory: Path) -> tuple[tuple[Bar, ...], str | None]:
    """With lengths, which the kernel found out when it had the function for itself."""
    try:
        return parse_resource((directory / "resource").read_text(errors="replace")), None
    except OSError as error:
        return (), f"the lengths of the BARs cannot be read ({error.strerror})"


def _remembered_header(directory: Path) -> bytes:
    """The IDs alone: no BARs, no capabilities, everything off. Raises OSError."""
    header = bytearray(HEADER_LENGTH)
    for name, offset, length_bytes in REMEMBERED:
        path = directory / name
        try:
            number = int(path.read_bytes(), 16)
            header[offset : offset + length_bytes] = number.to_bytes(length_bytes, "little")
        except (ValueError, OverflowError):
            raise OSError(f"{path} holds no number of {length_bytes} bytes") from None
    return bytes(header)


class _WithIds:
    """The configuration space of a virtual function, with IDs.

    There it has all ones, and the IDs are those that its physical function tells (Single Root I/O
    Virtualization and Sharing 1.1, 3.4.1.1 and 3.4.1.2).
    """

    def __init__(self, config: ConfigSpace, header: bytes) -> None:
        self._config = config
        self._chip = header[:4]

    @property
    def length(self) -> int:
        """See `ConfigSpace.length`."""
        return self._config.length

    def read(self, offset: int, width: int) -> int:
        """See `ConfigSpace.read`."""
        below = self._config.read(offset, width)
        if offset >= len(self._chip):
            return below
        return int.from_bytes(self._chip[offset : offset + width], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        """See `ConfigSpace.write`."""
        self._config.write(offset, width, value)


def _kernel_use(directory: Path) -> KernelUse:
    virtio = _virtio_directory(directory)
    group = _link_name(directory / "iommu_group")
    return KernelUse(
        driver=_link_name(directory / "driver"),
        virtio_driver=_link_name(virtio / "driver") if virtio else None,
        block_names=_names(virtio / "block") if virtio else (),
        iommu_group=int(group) if group and group.isdecimal() else None,
    )


def _virtio_directory(directory: Path) -> Path | None:
    """The virtio device that the kernel has made of the function, if it has one."""
    for name in _names(directory):
        if name.startswith("virtio") and name.removeprefix("virtio").isdecimal():
            return directory / name
    return None


def _names(directory: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(path.name for path in directory.iterdir()))
    except OSError:
        return ()


def _link_name(link: Path) -> str | None:
    """The last part of what a link leads to; None if there is none."""
    try:
        return link.readlink().name
    except OSError:
        return None
