"""Configuration space through the I/O ports 0xCF8 and 0xCFC (PCI Local Bus 3.0, 3.2.2.3.2
Software Generation of Configuration Transactions)."""

import threading
from collections.abc import Callable
from typing import Final

from vioblk.pci.location import Location
from vioblk.pci.sources.exact import CONVENTIONAL_LENGTH, all_ones, check_read, check_write

ADDRESS_PORT: Final = 0xCF8
DATA_PORT: Final = 0xCFC
_ENABLE: Final = 1 << 31

ReadAccess = Callable[[int, int], int]
"""(port or address, width) to the value."""
WriteAccess = Callable[[int, int, int], None]
"""(port or address, width, value)."""


class ConfigPorts:
    """The two ports of a machine. An access takes two steps, so they have one lock."""

    def __init__(self, read_port: ReadAccess, write_port: WriteAccess) -> None:
        self._read_port = read_port
        self._write_port = write_port
        self._lock = threading.Lock()

    def read(self, location: Location, offset: int, width: int) -> int:
        """Read one register of a function."""
        with self._lock:
            self._write_port(ADDRESS_PORT, 4, _select(location, offset))
            return self._read_port(DATA_PORT + offset % 4, width)

    def write(self, location: Location, offset: int, width: int, value: int) -> None:
        """Write one register of a function."""
        with self._lock:
            self._write_port(ADDRESS_PORT, 4, _select(location, offset))
            self._write_port(DATA_PORT + offset % 4, width, value)


class PortIoConfig:
    """The first 256 bytes of a function of domain 0. Raises ValueError for another domain, and
    what the ports' accesses raise."""

    def __init__(self, ports: ConfigPorts, location: Location) -> None:
        location.check()
        if location.domain:
            raise ValueError(f"the ports reach domain 0 only, not {location}")
        self._ports = ports
        self._location = location

    @property
    def length(self) -> int:
        """256 bytes, whatever the function has."""
        return CONVENTIONAL_LENGTH

    def read(self, offset: int, width: int) -> int:
        """See `ConfigSpace.read`."""
        check_read(offset, width)
        if offset >= CONVENTIONAL_LENGTH:
            return all_ones(width)
        return self._ports.read(self._location, offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        """See `ConfigSpace.write`."""
        check_write(offset, width, value, CONVENTIONAL_LENGTH)
        self._ports.write(self._location, offset, width, value)


def _select(location: Location, offset: int) -> int:
    place = location.bus << 16 | location.device << 11 | location.function << 8
    return _ENABLE | place | (offset & ~3)
