"""`vioblk copy` moves data between the sides without Python objects that hold it."""

import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vioblk.cli.copy import PIECE_BYTES, compare, copy_all, two_buffers
from vioblk.cli.endpoints import (
    HOLE_BYTES,
    is_address,
    is_same,
    leading_run,
    open_source,
    open_target,
)

IMAGE_BYTES = PIECE_BYTES + (4 << 20)

PEAK_BYTES = HOLE_BYTES // 2
"""What a copy may have in Python objects at once, for its records and futures: less than the
smallest piece of data that it looks at."""


def ignore(count: int) -> None: ...


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """More than a piece long: random bytes, then zeroes, of which the last block is not all."""
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(IMAGE_BYTES - (1 << 20)) + bytes((1 << 20) - 8) + bytes([1] * 8))
    return path


@pytest.mark.parametrize(
    ("source_scheme", "target_name"),
    [("file:", "mem:32M"), ("file:", "target"), ("", "mem:32M"), ("file:", "file:target")],
    ids=["disk to disk", "disk to file", "file to disk", "disk to file's disk"],
)
def test_a_copy_and_its_verification_hold_no_data_in_python_objects(
    image: Path, tmp_path: Path, source_scheme: str, target_name: str
) -> None:
    scheme, _, name = target_name.rpartition(":")
    if name == "target":
        target_name = f"{scheme}{':' if scheme else ''}{tmp_path / name}"
        if scheme:
            (tmp_path / name).write_bytes(bytes(IMAGE_BYTES))
    with (
        ThreadPoolExecutor(1) as reader,
        open_source(f"{source_scheme}{image}") as source,
        open_target(target_name) as target,
        two_buffers(source if is_address(source.name) else target, IMAGE_BYTES) as buffers,
        two_buffers(target, IMAGE_BYTES) as other_buffers,
    ):
        target.start_writing()
        copy_all(reader, source, target, buffers, ignore)  # what is made once is there now
        both = buffers[0], other_buffers[0]
        compare(source, target, both, ignore)
        tracemalloc.start()
        try:
            copy_all(reader, source, target, buffers, ignore)
            compare(source, target, both, ignore)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < PEAK_BYTES


def test_zeroes_are_told_without_a_copy_of_them() -> None:
    data = memoryview(bytearray(64 * HOLE_BYTES))
    tracemalloc.start()
    try:
        assert leading_run(data) == (64 * HOLE_BYTES, True)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < PEAK_BYTES


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 512, 4099])
def test_views_are_the_same_if_every_byte_is(length: int) -> None:
    ours = bytearray(os.urandom(length))
    assert is_same(memoryview(ours), memoryview(bytes(ours)))
    for place in {0, length // 2, length - 1} if length else ():
        theirs = bytearray(ours)
        theirs[place] ^= 1
        assert not is_same(memoryview(ours), memoryview(theirs))
