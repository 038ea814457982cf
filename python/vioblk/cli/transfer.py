"""`vioblk read`, `write`, `zero` and `discard`: one range of one disk."""

import os
import sys
from typing import Annotated, Final

import typer

import vioblk
from vioblk.block.check import check_range
from vioblk.block.request import SECTOR_BYTES
from vioblk.cli.arguments import Address, Length, Offset
from vioblk.errors import UnalignedError, ZeroLengthError

PIECE_BYTES: Final = 4 << 20
"""Read or written at a time, in requests that run side by side."""


def read(address: Address, offset: Offset, length: Length) -> None:
    """Write a range of a disk to standard output, as it is."""
    with vioblk.open(address) as disk:
        # The whole range, so that nothing is printed of one that ends in an error.
        check_range("read", offset, length, disk.capacity_bytes)
        with memoryview(disk.alloc(min(PIECE_BYTES, length))) as buffer:
            for start in range(offset, offset + length, len(buffer)):
                with buffer[: offset + length - start] as piece:
                    disk.readinto(start, piece)
                    sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def write(address: Address, offset: Offset) -> None:
    """Write standard input to a disk from an offset on, and flush.

    The input must be a multiple of 512 bytes long.
    """
    with vioblk.open(address) as disk:
        done_bytes = 0
        with memoryview(disk.alloc(PIECE_BYTES)) as buffer:
            while count := _fill_from_stdin(buffer):
                _check_input(count, done_bytes)
                with buffer[:count] as piece:
                    disk.write(offset + done_bytes, piece)
                done_bytes += count
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
) -> None:
    """Make a range of a disk read as zeroes, and flush."""
    with vioblk.open(address) as disk:
        disk.write_zeroes(offset, length, unmap=unmap)
        disk.flush()


def discard(address: Address, offset: Offset, length: Length) -> None:
    """Tell a disk that a range is not needed any more, and flush.

    What the range reads as afterwards is unknown.
    """
    with vioblk.open(address) as disk:
        disk.discard(offset, length)
        disk.flush()


def _fill_from_stdin(buffer: memoryview) -> int:
    """Read until the buffer is full or the input ends; the bytes read."""
    count = 0
    while count < len(buffer):
        with buffer[count:] as rest:
            got = os.readv(sys.stdin.fileno(), [rest])
        if got == 0:
            break
        count += got
    return count


def _check_input(count: int, done_bytes: int) -> None:
    # Only the last piece is shorter than the buffer, so only it can be unaligned.
    if count % SECTOR_BYTES:
        raise UnalignedError(
            f"standard input is {done_bytes + count} bytes long, which is no multiple of "
            f"{SECTOR_BYTES}; its first {done_bytes} bytes were written"
        )
