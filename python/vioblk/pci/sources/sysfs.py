"""Configuration space as Linux shows it, and where it says that the BARs are."""

import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vioblk.pci.bars import Bar
from vioblk.pci.header import HEADER_LENGTH
from vioblk.pci.sources.file import FileConfig

DEVICES: Final = Path("/sys/bus/pci/devices")


class SysfsConfig:
    """The `config` file of a function, /sys/bus/pci/devices/0000:00:05.0/config.

    Whoever lacks CAP_SYS_ADMIN sees the first 64 bytes only, which `length` then says. A context
    manager. Raises OSError.
    """

    def __init__(self, path: str | os.PathLike[str], *, writable: bool = False) -> None:
        self._path = os.fspath(path)
        access = os.O_RDWR if writable else os.O_RDONLY
        self._fd = os.open(self._path, access | os.O_CLOEXEC)
        try:
            length = _readable_length(self._fd)
        except BaseException:
            self.close()
            raise
        self._config = FileConfig(self._fd, length, writable=writable, name=self._path)

    @property
    def length(self) -> int:
        """Bytes that may be read."""
        return self._config.length

    def read(self, offset: int, width: int) -> int:
        """See `ConfigSpace.read`."""
        self._check_open()
        return self._config.read(offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        """See `ConfigSpace.write`."""
        self._check_open()
        self._config.write(offset, width, value)

    def close(self) -> None:
        """Close the file; idempotent. Accesses then raise ValueError."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._fd < 0:
            raise ValueError(f"{self._path} is closed")


def _readable_length(fd: int) -> int:
    """The size of the file is that of the whole space, whoever asks."""
    size = os.fstat(fd).st_size
    # One byte that is an ID or nothing: other bytes may stand for registers.
    return size if os.pread(fd, 1, HEADER_LENGTH) else min(size, HEADER_LENGTH)


def parse_resource(text: str) -> tuple[Bar, ...]:
    """The BARs of a function from its `resource` file, which anybody may read: the kernel knows
    their lengths, so that nothing has to be written.

    A line is `start end flags` in hexadecimal; the first six are the BARs. Addresses are the
    processor's, which on some machines differ from what the BARs hold. Lines that say nothing
    (zeros) or nothing that is understood are left out.
    """
    bars: list[Bar] = []
    for index, line in enumerate(text.splitlines()[:_BAR_LINES]):
        try:
            start, end, flags = (int(word, 16) for word in line.split())
        except ValueError:
            continue
        if end >= start and flags & (_FLAG_IO | _FLAG_MEMORY):
            bars.append(_bar(index, start, end, flags))
    return tuple(bars)


def _bar(index: int, start: int, end: int, flags: int) -> Bar:
    return Bar(
        index=index,
        kind="io" if flags & _FLAG_IO else "memory",
        width_bits=64 if flags & _FLAG_64_BITS else 32,
        prefetchable=bool(flags & _FLAG_PREFETCHABLE),
        address=0 if flags & _FLAG_UNSET else start,
        length=end - start + 1,
    )


_BAR_LINES: Final = 6
# The kernel's resource flags, include/linux/ioport.h; they are part of what the file says.
_FLAG_IO: Final = 0x100
_FLAG_MEMORY: Final = 0x200
_FLAG_PREFETCHABLE: Final = 0x2000
_FLAG_64_BITS: Final = 0x100000
_FLAG_UNSET: Final = 0x20000000
