"""Which virtio PCI devices there are, and how each is opened or why it cannot be.

`scan` looks at a machine: this one, through sysfs, or the one behind an address such as
`qemu:disk.img`. It opens no device: of this machine's it reads attributes of sysfs, and nothing
is written.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

from vioblk.address import parse_address
from vioblk.discovery import sysfs
from vioblk.discovery.describe import describe
from vioblk.discovery.found import FoundDevice
from vioblk.discovery.function import KernelUse, PciFunction
from vioblk.drivers import default_bus
from vioblk.errors import AddressError
from vioblk.pci.access import ConfigSpace
from vioblk.pci.bars import Bar
from vioblk.pci.location import Location
from vioblk.transport import back_end

__all__ = ["FoundDevice", "KernelUse", "PciFunction", "Scan", "scan", "scan_address", "scan_sysfs"]

ListFunctions: TypeAlias = Callable[
    [str], AbstractContextManager[Iterable[tuple[Location, ConfigSpace, tuple[Bar, ...]]]]
]
"""What the module of a scheme has, as `list_functions`, if there is a PCI bus behind its
addresses: each function's place, configuration space, and BARs with lengths."""


class Scan(NamedTuple):
    """What was found, and what could not be looked at."""

    devices: list[FoundDevice]
    """Every PCI function, in the order of their addresses."""
    notes: list[str]
    """Why there is nothing, or not all."""


def scan(address: str | None = None) -> Scan:
    """Look at the machine behind `address`, or at this one.

    Raises AddressError for an address that leads to no PCI bus, and what opening it raises.
    """
    drivers = {number: driver.name for number, driver in default_bus().drivers.items()}
    return scan_sysfs(sysfs.ROOT, drivers) if address is None else scan_address(address, drivers)


def scan_sysfs(root: Path, drivers: Mapping[int, str]) -> Scan:
    """Look at this machine. Raises nothing: what cannot be read is left out, with a note.

    `drivers`: the device types that can be driven, with the names of their drivers.
    """
    try:
        places = sysfs.locations(root)
    except OSError as error:
        where = root / sysfs.DEVICES
        return Scan([], [f"there is no PCI bus to be seen here: {where}: {error.strerror}"])
    found = Scan([], [])
    for place in places:
        try:
            device = _look_at(root, place, drivers)
        except OSError as error:
            # One that is unplugged meanwhile is none.
            if (root / sysfs.DEVICES / str(place)).exists():
                found.notes.append(f"{place} cannot be read: {error.strerror or error}")
        else:
            found.devices.extend([device] if device else [])
    return found


def scan_address(text: str, drivers: Mapping[int, str]) -> Scan:
    """Look at the machine behind an address. Raises as `scan` does."""
    address = parse_address(text)
    list_functions = getattr(back_end(address), "list_functions", None)
    if list_functions is None:
        raise AddressError(
            f"{text}: there is no PCI bus behind {address.scheme}:; list qemu: addresses, or give "
            "none for this machine"
        )
    found = Scan([], [])
    with cast(ListFunctions, list_functions)(text) as functions:
        for place, config, bars in functions:
            function = PciFunction(str(place), config, bars)
            device = describe(function, drivers=drivers, open_with=text)
            found.devices.extend([device] if device else [])
    return found


def _look_at(root: Path, place: Location, drivers: Mapping[int, str]) -> FoundDevice | None:
    """Raises OSError if not even what the kernel remembers of the function can be read."""
    try:
        with sysfs.open_function(root, place) as function:
            return describe(function, drivers=drivers, open_with=None)
    except OSError as error:
        failure = f"its configuration space cannot be read: {error.strerror or error}"
        function = sysfs.remember(root, place, failure)
        return describe(function, drivers=drivers, open_with=None)
