"""Configuration space that is read from an open file: sysfs, a region of VFIO."""

import os

from vioblk.errors import UnsupportedError
from vioblk.pci.sources.exact import check_read, check_write, padded


class FileConfig:
    """`length` bytes at `file_offset` of an open file, which stays its owner's.

    Each aligned read or write is one system call, which these files make one access of that
    width. `name` is for messages.
    """

    def __init__(
        self,
        fd: int,
        length: int,
        *,
        file_offset: int = 0,
        writable: bool = False,
        name: str = "the file",
    ) -> None:
        self._fd = fd
        self._length = length
        self._file_offset = file_offset
        self._writable = writable
        self._name = name

    @property
    def length(self) -> int:
        """Bytes that may be read."""
        return self._length

    def read(self, offset: int, width: int) -> int:
        """See `ConfigSpace.read`."""
        check_read(offset, width)
        end = min(offset + width, self._length)
        if offset >= end:
            return padded(b"", width)
        data = os.pread(self._fd, end - offset, self._file_offset + offset)
        return padded(data, width)

    def write(self, offset: int, width: int, value: int) -> None:
        """See `ConfigSpace.write`."""
        if not self._writable:
            raise UnsupportedError(f"{self._name} was opened for reading only")
        check_write(offset, width, value, self._length)
        data = value.to_bytes(width, "little")
        written = os.pwrite(self._fd, data, self._file_offset + offset)
        if written != width:
            raise OSError(f"{self._name} took {written} of {width} bytes at offset {offset:#x}")
