"""The two sides of a copy: a disk or a file, read and written in long pieces."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from vioblk.address import parse_address
from vioblk.cli.features import open_disk
from vioblk.errors import VioblkError

_ADDRESS: Final = re.compile(r"[a-z][a-z0-9-]+:")

HOLE_BYTES: Final = 64 << 10
"""Zeroes are left out of a file in blocks of this length."""

_ZEROES: Final = memoryview(bytes(HOLE_BYTES))

_SCHEMES_OF_PATHS: Final = frozenset({"file", "vhost-user"})


class CopyError(VioblkError, OSError):
    """A copy cannot start, or did not end as it must."""


class Endpoint(Protocol):
    """A disk or a file, open for one copy, until the end of a `with`."""

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
        """Called once, before the first write; destroys nothing."""

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; the bytes read, fewer only at the end."""

    def write(self, offset: int, data: memoryview) -> int:
        """Write `data` at `offset`; the bytes written from its front, 0 if none are taken."""

    def end_at(self, length_bytes: int) -> None:
        """Drop what lies beyond `length_bytes`, if this side has no length of its own."""

    def flush(self) -> None:
        """Make what was written durable."""

    def __enter__(self) -> Self:
        """It is open already."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of it. Whoever still waits for it on another thread is woken."""


def is_address(text: str) -> bool:
    """Whether `text` names a disk rather than a file: a lower-case word and a colon in front.

    A file of such a name is written with a path: `./mem:64M`.
    """
    return _ADDRESS.match(text) is not None


def refuse_same(source: str, target: str) -> None:
    """Raise CopyError if both names, with or without `file:`, lead to one file or device.

    Neither is opened for that. What the back end behind a socket serves cannot be told.
    """
    backing = _backing(source)
    if backing is not None and backing == _backing(target):
        raise CopyError(f"{source} and {target} are the same file; nothing was written")


def _backing(name: str) -> tuple[str, int, int] | None:
    """What stands behind a name; None for memory, and for what is not there."""
    path = name
    if is_address(name):
        address = parse_address(name)
        if address.scheme not in _SCHEMES_OF_PATHS:
            return None
        path = address.target
    try:
        found = Path(path).stat()
    except OSError:
        return None  # opening it says why
    if stat.S_ISBLK(found.st_mode):
        # One disk can have any number of nodes.
        return "device", os.major(found.st_rdev), os.minor(found.st_rdev)
    return "file", found.st_dev, found.st_ino


def open_source(text: str, features: Sequence[str] | None = None) -> Endpoint:
    """Open the side that is read. `features`: what `--feature` says of a disk."""
    if is_address(text):
        return DiskEndpoint(text, features)
    return FileEndpoint(text, os.O_RDONLY)


def open_target(text: str, features: Sequence[str] | None = None) -> Endpoint:
    """Open the side that is written. A file is created if need be, and not yet changed."""
    if is_address(text):
        return DiskEndpoint(text, features)
    return FileEndpoint(text, os.O_RDWR | os.O_CREAT)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say of which of the two sides an error is."""
    try:
        yield
    except VioblkError as error:
        error.add_note(f"this was {name}")
        raise


class DiskEndpoint:
    """A disk. A long piece is split by the driver into requests that run side by side."""

    def __init__(self, address: str, features: Sequence[str] | None = None) -> None:
        self.name = address
        self.disk = open_disk(address, features)

    @property
    def size_bytes(self) -> int:
        """The capacity."""
        return self.disk.capacity_bytes

    def alloc(self, length_bytes: int) -> memoryview | None:
        """Memory that the device reaches."""
        return memoryview(self.disk.alloc(length_bytes))

    def check_room(self, length_bytes: int) -> None:
        """The disk must be writable, and large enough."""
        if self.disk.read_only:
            raise CopyError(f"{self.name} is read-only; nothing was written")
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

    def end_at(self, length_bytes: int) -> None:
        """A disk keeps its end."""

    def flush(self) -> None:
        """Send a flush, where the device has a cache to flush."""
        with _naming(self.name):
            self.disk.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The disk's own: after an error it does not wait for what may never complete.
        self.disk.__exit__(kind, value, traceback)


def leading_run(data: memoryview) -> tuple[int, bool]:
    """How long `data` keeps on as it starts, in blocks of HOLE_BYTES: all zeroes, or not."""
    starts = range(0, len(data), HOLE_BYTES)
    zero = (_is_zero(data[start : start + HOLE_BYTES]) for start in starts)
    first = next(zero, False)
    end = next((start for start, each in zip(starts[1:], zero, strict=True) if each != first), None)
    return len(data) if end is None else end, first


def _is_zero(block: memoryview) -> bool:
    # Most blocks with data start or end with some.
    if block[0] or block[-1]:
        return False
    return is_same(block, _ZEROES[: len(block)])


def is_same(one: memoryview, other: memoryview) -> bool:
    """Whether two views of bytes, equally long, hold the same; nothing is copied for it.

    Eight bytes at a time, as views compare item by item.
    """
    whole = len(one) & ~7
    return one[:whole].cast("Q") == other[:whole].cast("Q") and one[whole:] == other[whole:]


@contextmanager
def _naming_file(name: str) -> Iterator[None]:
    """The system's errors say which file they are of only where it was opened."""
    try:
        yield
    except OSError as error:
        error.filename = name
        raise


class FileEndpoint:
    """A regular file, or a block device of the kernel."""

    def __init__(self, path: str, flags: int) -> None:
        self.name = path
        is_new = not Path(path).exists()
        # A pipe would keep a blocking open waiting for its other end.
        self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        self._is_unused = is_new and bool(flags & os.O_CREAT)
        self._mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISREG(self._mode) or stat.S_ISBLK(self._mode)):
            os.close(self._fd)
            raise CopyError(
                f"{path} is neither a regular file nor a block device; for pipes there are "
                "`vioblk read` and `vioblk write`"
            )
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
        """Keep the file from now on.

        It is not cut off here: a back end might serve it as the other side of this copy.
        """
        self._is_unused = False

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Read until `buffer` is full or the file ends."""
        done = 0
        while done < len(buffer):
            with _naming_file(self.name):
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def write(self, offset: int, data: memoryview) -> int:
        """Write some of `data`; of zeroes beyond the old end, a hole is as good."""
        length_bytes, is_hole = len(data), False
        if stat.S_ISREG(self._mode) and offset >= self._size_bytes:
            length_bytes, is_hole = leading_run(data)
        if is_hole:
            return length_bytes
        with _naming_file(self.name):
            return os.pwrite(self._fd, data[:length_bytes], offset)

    def end_at(self, length_bytes: int) -> None:
        """Cut off what a file had beyond. A hole at the end becomes part of it."""
        if stat.S_ISREG(self._mode):
            with _naming_file(self.name):
                os.ftruncate(self._fd, length_bytes)

    def flush(self) -> None:
        """Sync the file."""
        with _naming_file(self.name):
            os.fsync(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it; a file that was made for a copy that never started is removed."""
        # Not the number: a reader that comes too late must not find another file at it.
        fd, self._fd = self._fd, -1
        os.close(fd)
        if self._is_unused:
            Path(self.name).unlink(missing_ok=True)
