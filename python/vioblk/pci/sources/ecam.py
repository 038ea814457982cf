"""Configuration space that is mapped to memory (PCI Express Base 5.0, 7.2.2 PCI Express Enhanced
Configuration Access Mechanism)."""

from vioblk.pci.location import Location
from vioblk.pci.sources.exact import EXPRESS_LENGTH, all_ones, check_read, check_write
from vioblk.pci.sources.port_io import ReadAccess, WriteAccess


class EcamConfig:
    """All 4096 bytes of a function: `base` is where those of 00:00.0 are.

    `read(address, width)` and `write(address, width, value)` may be those of a `Registers`, with
    a base of 0. Raises ValueError for a function that is none, and what they raise.
    """

    def __init__(self, read: ReadAccess, write: WriteAccess, base: int, location: Location) -> None:
        location.check()
        self._read = read
        self._write = write
        place = location.bus << 20 | location.device << 15 | location.function << 12
        self._start = base + place

    @property
    def length(self) -> int:
        """4096 bytes."""
        return EXPRESS_LENGTH

    def read(self, offset: int, width: int) -> int:
        """See `ConfigSpace.read`."""
        check_read(offset, width)
        if offset >= EXPRESS_LENGTH:
            return all_ones(width)
        return self._read(self._start + offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        """See `ConfigSpace.write`."""
        check_write(offset, width, value, EXPRESS_LENGTH)
        self._write(self._start + offset, width, value)
