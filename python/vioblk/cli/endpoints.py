"""The two sides of a copy: a disk or a file, read and written in long pieces."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import vioblk
from vioblk.address import parse_address
from vioblk.block.request import SECTOR_BYTES
from vioblk.errors import VioblkError

_ADDRESS: Final = re.compile(r"[a-z][a-z0-9-]+:")


class CopyError(VioblkError, OSError):
    """A copy cannot start, or did not end as it must."""


class Endpoint(Protocol):
    """A disk or a file, open for one copy."""

    name: str
    """As the user wrote it."""

    @property
    def size_bytes(self) -> int:
        """What there is to read."""

    def alloc(self, length_bytes: int) -> memoryview | None:
        """A buffer that this side reads into and writes from without a copy; None if any is."""

    def check_room(self, length_bytes: int) -> None:
        """Raise CopyError if `length_bytes` cannot be written from the start; writes nothing."""

    def start_writing(self) -> None:
        """Called once, before the first write."""

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; the bytes read, fewer only at the end."""

    def write(self, offset: int, data: memoryview) -> int:
        """Write all of `data` at `offset`; the bytes written."""

    def flush(self) -> None:
        """Make what was written durable."""

    def close(self) -> None:
        """Let go of it."""


def is_address(text: str) -> bool:
    """Whether `text` names a disk rather than a file: a lower-case word and a colon in front.

    A file of such a name is written with a path: `./mem:64M`.
    """
    return _ADDRESS.match(text) is not None


def is_same_file(one: str, other: str) -> bool:
    """Whether both sides are one file, by its path or behind a file: address."""
    path, other_path = _path_behind(one), _path_behind(other)
    if path is None or other_path is None or not path.exists() or not other_path.exists():
        return False
    return path.samefile(other_path)


def _path_behind(text: str) -> Path | None:
    if not is_address(text):
        return Path(text)
    address = parse_address(text)
    return Path(address.target) if address.scheme == "file" else None


def open_source(text: str) -> Endpoint:
    """Open the side that is read."""
    return DiskEndpoint(text) if is_address(text) else FileEndpoint(text, os.O_RDONLY)


def open_target(text: str) -> Endpoint:
    """Open the side that is written. A file is created if need be, and not yet changed."""
    if is_address(text):
        return DiskEndpoint(text)
    return FileEndpoint(text, os.O_RDWR | os.O_CREAT)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say of which of the two sides an error is."""
    try:
        yield
    except VioblkError as error:
        error.add_note(name)
        raise


class DiskEndpoint:
    """A disk. A long piece is split by the driver into requests that run side by side."""

    def __init__(self, address: str) -> None:
        self.name = address
        self.disk = vioblk.open(address)

    @property
    def size_bytes(self) -> int:
        """The capacity."""
        return self.disk.capacity_bytes

    def alloc(self, length_bytes: int) -> memoryview | None:
        """Memory that the device reaches."""
        return memoryview(self.disk.alloc(length_bytes))

    def check_room(self, length_bytes: int) -> None:
        """The disk must be writable, and large enough for whole sectors."""
        if self.disk.read_only:
            raise CopyError(f"{self.name} is read-only; nothing was written")
        if length_bytes % SECTOR_BYTES:
            raise CopyError(
                f"{length_bytes} bytes are no whole number of sectors of {SECTOR_BYTES}, and a "
                f"disk holds nothing else; pad the file first: truncate --size=%{SECTOR_BYTES}"
            )
        if length_bytes > self.size_bytes:
            raise CopyError(
                f"{self.name} is too small: it holds {self.size_bytes} bytes, and there are "
                f"{length_bytes} to copy; nothing was written"
            )

    def start_writing(self) -> None:
        """Nothing to prepare."""

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Read without a copy if `buffer` is of this disk's `alloc`."""
        with _naming(self.name):
            return self.disk.readinto(offset, buffer)

    def write(self, offset: int, data: memoryview) -> int:
        """Write without a copy if `data` is of this disk's `alloc`."""
        with _naming(self.name):
            return self.disk.write(offset, data)

    def flush(self) -> None:
        """Send a flush, where the device has a cache to flush."""
        with _naming(self.name):
            self.disk.flush()

    def close(self) -> None:
        """Close the disk."""
        self.disk.close()


class FileEndpoint:
    """A regular file, or a block device of the kernel."""

    def __init__(self, path: str, flags: int) -> None:
        self.name = path
        is_new = not Path(path).exists()
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        self._is_unused = is_new and bool(flags & os.O_CREAT)
        self._mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISREG(self._mode) or stat.S_ISBLK(self._mode)):
            os.close(self._fd)
            raise CopyError(f"{path} is neither a regular file nor a block device")
        # A block device says 0 to fstat.
        self._size_bytes = os.lseek(self._fd, 0, os.SEEK_END)

    @property
    def size_bytes(self) -> int:
        """Its length when it was opened."""
        return self._size_bytes

    def alloc(self, length_bytes: int) -> memoryview | None:
        """Any buffer will do."""
        return None

    def check_room(self, length_bytes: int) -> None:
        """Only a block device has a length of its own."""
        if stat.S_ISBLK(self._mode) and length_bytes > self._size_bytes:
            raise CopyError(
                f"{self.name} is too small: it holds {self._size_bytes} bytes, and there are "
                f"{length_bytes} to copy; nothing was written"
            )

    def start_writing(self) -> None:
        """Forget what was in the file."""
        self._is_unused = False
        if stat.S_ISREG(self._mode):
            os.ftruncate(self._fd, 0)

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Read until `buffer` is full or the file ends."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def write(self, offset: int, data: memoryview) -> int:
        """Write until all of `data` is written or nothing more is taken."""
        done = 0
        while done < len(data):
            count = os.pwrite(self._fd, data[done:], offset + done)
            if count == 0:
                break
            done += count
        return done

    def flush(self) -> None:
        """Sync the file."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close it; a file that was made for a copy that never started is removed."""
        os.close(self._fd)
        if self._is_unused:
            Path(self.name).unlink(missing_ok=True)
