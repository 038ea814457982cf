"""`vioblk copy`: everything from one side to the other, then a flush."""

import shlex
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from typing import Annotated, Final, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from vioblk.block.request import SECTOR_BYTES
from vioblk.cli.endpoints import (
    CopyError,
    Endpoint,
    is_address,
    is_same,
    open_source,
    open_target,
    refuse_same,
)
from vioblk.cli.features import Features
from vioblk.errors import VioblkError

PIECE_BYTES: Final = 16 << 20
"""One call. The driver splits it into requests that are all in flight together."""

Buffers: TypeAlias = tuple[memoryview, memoryview]
"""Of the same length; one can be filled while the other is in use."""

Advance: TypeAlias = Callable[[int], None]
"""Told how many bytes have just been dealt with."""

From: TypeAlias = Annotated[
    str, typer.Argument(metavar="FROM", help="A disk's address, or a file.", show_default=False)
]
To: TypeAlias = Annotated[
    str, typer.Argument(metavar="TO", help="A disk's address, or a file.", show_default=False)
]


def copy(
    source_name: From,
    target_name: To,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read both sides again afterwards, and compare.")
    ] = False,
    features: Features = None,
) -> None:
    """Copy a whole disk or file to another, and flush.

    Either side is the address of a disk (mem:, file:, vhost-user:, qemu:) or the path of a file.

    `--feature` is for each disk of the two; for one of them, write it in its address.

    A file whose length is no multiple of 512 cannot be copied to a disk; pad it first.

    Zeroes beyond the old end of a file become holes, which take no space.
    """
    if not is_address(source_name) and not is_address(target_name):
        raise CopyError(
            f"neither {source_name} nor {target_name} is the address of a disk; use cp, or write "
            "file:PATH to reach a file as a disk"
        )
    refuse_same(source_name, target_name)
    # The reader is waited for last: after an error, the closing of its disk is what wakes it.
    with (
        ThreadPoolExecutor(1, "vioblk-copy") as reader,
        open_source(source_name, features) as source,
        open_target(target_name, features) as target,
    ):
        total_bytes = source.size_bytes
        if total_bytes == 0:
            raise CopyError(f"there is nothing to copy: {source.name} is empty")
        if is_address(target_name) and total_bytes % SECTOR_BYTES:
            raise CopyError(
                f"{source.name} is {total_bytes} bytes long, no whole number of sectors of "
                f"{SECTOR_BYTES}, and a disk holds nothing else; pad the file first: "
                f"truncate --size=%{SECTOR_BYTES} {shlex.quote(source.name)}"
            )
        target.check_room(total_bytes)
        # Memory of the source, if it is a disk; then the data is copied at most once on its way.
        buffer_owner = source if is_address(source_name) else target
        with two_buffers(buffer_owner, total_bytes) as buffers:
            target.start_writing()
            with _progress("copy", total_bytes) as advance:
                copy_all(reader, source, target, buffers, advance)
            if verify:
                _verify(source, target, buffers)


def _verify(source: Endpoint, target: Endpoint, buffers: Buffers) -> None:
    total_bytes = source.size_bytes
    with (
        two_buffers(target, total_bytes) as target_buffers,
        _progress("verify", total_bytes) as advance,
    ):
        compare(source, target, (buffers[0], target_buffers[0]), advance)


def copy_all(
    reader: Executor, source: Endpoint, target: Endpoint, buffers: Buffers, advance: Advance
) -> None:
    """Copy `source` from end to end, and flush `target`. `reader` has one thread.

    Raises CopyError if fewer bytes were written than `source` has. After any error, `reader` may
    be reading from `source` until that is closed.
    """
    total_bytes = source.size_bytes
    written_bytes = 0
    for offset, piece in _read_ahead(reader, source, buffers):
        count = _write(target, offset, piece, total_bytes)
        written_bytes += count
        advance(count)
        if count < len(piece):
            break
    target.end_at(written_bytes)
    target.flush()
    if written_bytes < total_bytes:
        raise CopyError(
            f"{target.name} took only {written_bytes} of the {total_bytes} bytes of {source.name}"
        )


def _write(target: Endpoint, offset: int, piece: memoryview, total_bytes: int) -> int:
    """Write until all of `piece` is written or nothing more is taken; the bytes written."""
    done = 0
    while done < len(piece):
        try:
            count = target.write(offset + done, piece[done:])
        except OSError as error:
            # What a device fails may be written in part, and in any order.
            are = "are known to be" if isinstance(error, VioblkError) else "were"
            error.add_note(f"{offset + done} of {total_bytes} bytes {are} written")
            raise
        if count == 0:
            break
        done += count
    return done


def _read_ahead(
    reader: Executor, source: Endpoint, buffers: Buffers
) -> Iterator[tuple[int, memoryview]]:
    """All pieces with their offsets; the next one is read while the caller works on one."""
    pieces = _pieces(source.size_bytes, buffers)

    def start_next() -> tuple[int, memoryview, Future[int]] | None:
        following = next(pieces, None)
        if following is None:
            return None
        return *following, reader.submit(source.readinto, *following)

    pending = start_next()
    while pending is not None:
        offset, piece, reading = pending
        if reading.result() < len(piece):
            raise CopyError(
                f"{source.name} ended before all of its {source.size_bytes} bytes were read"
            )
        pending = start_next()
        yield offset, piece


def compare(source: Endpoint, target: Endpoint, buffers: Buffers, advance: Advance) -> None:
    """Read both sides over the length of `source`; raises CopyError where they differ."""
    for offset, _ in _pieces(source.size_bytes, buffers):
        length = min(len(buffers[0]), source.size_bytes - offset)
        ours, theirs = (buffer[:length] for buffer in buffers)
        for side, buffer in ((source, ours), (target, theirs)):
            if side.readinto(offset, buffer) < length:
                raise CopyError(f"{side.name} ended before all of its bytes were read again")
        if not is_same(ours, theirs):
            first = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
            raise CopyError(
                f"{target.name} differs from {source.name} from byte {offset + first} on"
            )
        advance(length)


def _pieces(total_bytes: int, buffers: Buffers) -> Iterator[tuple[int, memoryview]]:
    """Offsets of all pieces, and the part of a buffer for each; the buffers take turns."""
    turns = cycle(buffers)
    for offset in range(0, total_bytes, len(buffers[0])):
        yield offset, next(turns)[: total_bytes - offset]


@contextmanager
def two_buffers(owner: Endpoint, total_bytes: int) -> Iterator[Buffers]:
    """Two buffers of one length that `owner` moves without a copy."""
    length = min(PIECE_BYTES, max(total_bytes, SECTOR_BYTES))
    whole = owner.alloc(2 * length) or memoryview(bytearray(2 * length))
    with whole, whole[:length] as first, whole[length:] as second:
        yield first, second


@contextmanager
def _progress(label: str, total_bytes: int) -> Iterator[Advance]:
    """A progress bar on stderr, if that is a terminal."""
    bar = Progress(
        TextColumn(label),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        disable=sys.stderr is None or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(label, total=total_bytes)
        yield lambda count: bar.advance(task, count)
