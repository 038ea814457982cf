"""`vioblk read`, `write`, `zero` and `discard`: one range of one disk."""

import os
import shlex
import stat
from contextlib import suppress
from typing import Annotated, Final

import typer

from vioblk.block.check import check_range, check_writable
from vioblk.block.disk import BlockDevice
from vioblk.block.request import SECTOR_BYTES
from vioblk.cli.arguments import Address, Length, Offset
from vioblk.cli.console import standard_input, standard_output
from vioblk.cli.features import Features, open_disk
from vioblk.errors import (
    RequestTimeoutError,
    UnalignedError,
    UnsupportedError,
    VioblkError,
    ZeroLengthError,
)

PIECE_BYTES: Final = 4 << 20
"""Read or written at a time, in requests that run side by side."""


def read(address: Address, offset: Offset, length: Length, features: Features = None) -> None:
    """Write a range of a disk to standard output, as it is."""
    target = standard_output()
    with open_disk(address, features) as disk:
        # The whole range, so that nothing is printed of one that ends in an error.
        check_range("read", offset, length, disk.capacity_bytes)
        with memoryview(disk.alloc(min(PIECE_BYTES, length))) as buffer:
            for start in range(offset, offset + length, len(buffer)):
                with buffer[: offset + length - start] as piece:
                    disk.readinto(start, piece)
                    target.write(piece)
        target.flush()


def write(address: Address, offset: Offset, features: Features = None) -> None:
    """Write standard input to a disk from an offset on, and flush.

    The input must be a multiple of 512 bytes long.
    """
    source = standard_input()
    with open_disk(address, features) as disk:
        _refuse_early(disk, offset, source)
        done_bytes = 0
        with memoryview(disk.alloc(PIECE_BYTES)) as buffer:
            try:
                while count := _fill(source, buffer):
                    _check_aligned(done_bytes + count)
                    with buffer[:count] as piece:
                        disk.write(offset + done_bytes, piece)
                    done_bytes += count
            except (VioblkError, OSError) as error:
                error.add_note(_keep_written(disk, done_bytes, error))
                raise
        if done_bytes == 0:
            raise ZeroLengthError("there is nothing to write: standard input is empty")
        disk.flush()


def zero(
    address: Address,
    offset: Offset,
    length: Length,
    unmap: Annotated[
        bool, typer.Option("--unmap", help="The device may free the storage behind the range.")
    ] = False,
    features: Features = None,
) -> None:
    """Make a range of a disk read as zeroes, and flush."""
    with open_disk(address, features) as disk:
        _check_erasing("zero", disk, disk.limits.write_zeroes_bytes, address, offset, length)
        disk.write_zeroes(offset, length, unmap=unmap)
        disk.flush()


def discard(address: Address, offset: Offset, length: Length, features: Features = None) -> None:
    """Tell a disk that a range is not needed any more, and flush.

    What the range reads as afterwards is unknown.
    """
    with open_disk(address, features) as disk:
        _check_erasing("discard", disk, disk.limits.discard_bytes, address, offset, length)
        disk.discard(offset, length)
        disk.flush()


def _check_erasing(
    name: str, disk: BlockDevice, request_bytes: int, address: str, offset: int, length: int
) -> None:
    """Refuse what the disk would, in the words of the command line."""
    check_writable(name, read_only=disk.read_only)
    if request_bytes == 0:
        raise UnsupportedError(
            f"{name}: the device does not offer it, or it was declined; "
            f"`vioblk info {shlex.quote(address)}` says which"
        )
    check_range(name, offset, length, disk.capacity_bytes)


def _refuse_early(disk: BlockDevice, offset: int, source: int) -> None:
    """Raise, before anything is written, what can be known by then."""
    check_writable("write", read_only=disk.read_only)
    found = os.fstat(source)
    # In /proc, files of length 0 are not empty.
    if stat.S_ISREG(found.st_mode) and found.st_size:
        left_bytes = found.st_size - os.lseek(source, 0, os.SEEK_CUR)
        _check_aligned(left_bytes)
        if left_bytes > 0:
            check_range("write", offset, left_bytes, disk.capacity_bytes)
    check_range("write", offset, SECTOR_BYTES, disk.capacity_bytes)


def _keep_written(disk: BlockDevice, done_bytes: int, error: Exception) -> str:
    """Make what was written durable, if the device still answers; what to tell the user."""
    # What the device failed may be written in part; what was refused before is not at all.
    failed = isinstance(error, VioblkError) and isinstance(error, OSError)
    told = f"{done_bytes} bytes {'are known to be' if failed else 'were'} written"
    # One wait for a device that is silent is enough.
    if done_bytes and not isinstance(error, RequestTimeoutError):
        with suppress(VioblkError, OSError):
            disk.flush()
            return f"{told}, and flushed"
    return f"{told}, but not flushed" if done_bytes else told


def _fill(source: int, buffer: memoryview) -> int:
    """Read until the buffer is full or the input ends; the bytes read."""
    count = 0
    while count < len(buffer):
        with buffer[count:] as rest:
            got = os.readv(source, [rest])
        if got == 0:
            break
        count += got
    return count


def _check_aligned(length_bytes: int) -> None:
    # Only the last piece is shorter than the buffer, so only at the end can this be.
    if length_bytes % SECTOR_BYTES:
        raise UnalignedError(
            f"standard input is {length_bytes} bytes long, which is no multiple of {SECTOR_BYTES}"
        )
