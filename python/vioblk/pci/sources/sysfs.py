"""Configuration space as Linux shows it, and where it says that the BARs are."""

import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vioblk.errors import UnsupportedError
from vioblk.pci.bars import Bar
from vioblk.pci.header import HEADER_LENGTH
from vioblk.pci.sources.exact import check_read, check_write, padded

DEVICES: Final = Path("/sys/bus/pci/devices")


class SysfsConfig:
    """The `config` file of a function, /sys/bus/pci/devices/0000:00:05.0/config.

    The kernel makes each aligned read or write one access of that width. Whoever lacks
    CAP_SYS_ADMIN sees the first 64 bytes only, which `length` then says. Raises OSError.
    """

    def __init__(self, path: str | os.PathLike[str], *, writable: bool = False) -> None:
        self._writable = writable
        self._path = os.fspath(path)
        access = os.O_RDWR if writable else os.O_RDONLY
        self._fd = os.open(self._path, access | os.O_CLOEXEC)
        self._length = self._readable_length()

    @property
    def length(self) -> int:
        """Bytes that may be read."""
        return self._length

    def read(self, offset: int, width: int) -> int:
        """See `ConfigSpace.read`."""
        check_read(offset, width)
        return padded(os.pread(self._open_fd(), width, offset), width)

    def write(self, offset: int, width: int, value: int) -> None:
        """See `ConfigSpace.write`."""
        if not self._writable:
            raise UnsupportedError(f"{self._path} was opened for reading only")
        check_write(offset, width, value, self._length)
        written = os.pwrite(self._open_fd(), value.to_bytes(width, "little"), offset)
        if written != width:
            raise OSError(f"{self._path} took {written} of {width} bytes at offset {offset:#x}")

    def close(self) -> None:
        """Close the file; idempotent."""
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

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise ValueError(f"{self._path} is closed")
        return self._fd

    def _readable_length(self) -> int:
        """The file's size is that of the whole space, whoever asks."""
        try:
            size = os.fstat(self._fd).st_size
            # One byte that is an ID or nothing: other bytes may stand for registers.
            return size if os.pread(self._fd, 1, HEADER_LENGTH) else min(size, HEADER_LENGTH)
        except BaseException:
            self.close()
            raise


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
