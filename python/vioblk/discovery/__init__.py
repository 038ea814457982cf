"""Which virtio PCI devices there are, and how each is opened or why it cannot be.

`scan` looks at a machine: this one, through sysfs, or the one behind an address such as
`qemu:disk.img`. It opens no device: of this machine's it reads attributes of sysfs, and nothing
is written.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vioblk.candidate import AddressCandidate
from vioblk.discovery import sysfs
from vioblk.discovery.describe import describe
from vioblk.discovery.found import FoundDevice
from vioblk.discovery.function import KernelUse, PciFunction
from vioblk.drivers import default_bus
from vioblk.pci.location import Location

__all__ = ["FoundDevice", "KernelUse", "PciFunction", "Scan", "scan", "scan_address", "scan_sysfs"]


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
    return scan_sysfs(sysfs.ROOT, driver_names()) if address is None else scan_address(address)


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


def scan_address(address: str) -> Scan:
    """Look at the machine behind an address. Raises as `scan` does."""
    candidate, drivers = AddressCandidate(address), driver_names()
    driver = default_bus().driver_for(candidate.identity.device_type)
    found = Scan([], [])
    with candidate.list_functions(driver) as functions:
        for place, config, bars in functions:
            function = PciFunction(str(place), config, bars)
            device = describe(function, drivers=drivers, open_with=address)
            found.devices.extend([device] if device else [])
    return found


def driver_names() -> dict[int, str]:
    """Of all drivers that there are, by the device type that they drive."""
    return {number: driver.name for number, driver in default_bus().drivers.items()}


def _look_at(root: Path, place: Location, drivers: Mapping[int, str]) -> FoundDevice | None:
    """Raises OSError if not even what the kernel remembers of the function can be read."""
    try:
        with sysfs.open_function(root, place) as function:
            return describe(function, drivers=drivers, open_with=None)
    except OSError as error:
        failure = f"its configuration space cannot be read: {error.strerror or error}"
        function = sysfs.remember(root, place, failure)
        return describe(function, drivers=drivers, open_with=None)
