"""Data is where the device has put it: whoever looks at DMA memory looks at the region itself."""

import array
import ctypes
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import vioblk
from tests.support.turns import software
from vioblk.block.disk import BlockDevice

REGION_BYTES = 8 << 20

SMALL_BYTES = 16 << 10
"""What a call may have in Python objects beside its result: records, statuses, views."""


@pytest.fixture
def disk() -> Iterator[BlockDevice]:
    """With the ring in Rust, and on it bytes that tell where they are."""
    with vioblk.open("mem:16M") as disk:
        pattern = np.arange((16 << 20) // 8, dtype="<u8")
        disk.write(0, pattern.data)
        yield disk


@pytest.fixture
def region(disk: BlockDevice) -> vioblk.Region:
    return disk.alloc(REGION_BYTES)


def address_of(disk: BlockDevice, region: vioblk.Region) -> int:
    """Where a region lies in this process, by what its mapping says of itself."""
    for mapping in disk.device.transport.space.mappings:
        offset = region.device_address - mapping.device_address
        if 0 <= offset < mapping.length:
            return mapping.host_address + offset
    raise AssertionError("the region lies in no mapping")


def of_memoryview(region: vioblk.Region) -> tuple[object, int]:
    view = memoryview(region)
    return view, ctypes.addressof(ctypes.c_char.from_buffer(view))


def of_numpy(region: Any) -> tuple[object, int]:
    elements = np.frombuffer(region, dtype="<u8")
    return elements, elements.ctypes.data


def of_numpy_array(region: vioblk.Region) -> tuple[object, int]:
    elements = np.asarray(region)
    return elements, elements.ctypes.data


def of_dlpack(region: Any) -> tuple[object, int]:
    """As torch.from_dlpack and its like take an array over."""
    elements = np.from_dlpack(np.frombuffer(region, dtype=np.uint8))
    return elements, elements.ctypes.data


def of_ctypes(region: Any) -> tuple[object, int]:
    words = (ctypes.c_uint64 * (REGION_BYTES // 8)).from_buffer(region)
    return words, ctypes.addressof(words)


@pytest.mark.parametrize(
    "look",
    [of_memoryview, of_numpy, of_numpy_array, of_dlpack, of_ctypes],
    ids=lambda f: f.__name__,
)
def test_whoever_takes_a_buffer_sees_the_region_at_its_own_address_and_keeps_it(
    disk: BlockDevice, region: vioblk.Region, look: Callable[[vioblk.Region], tuple[object, int]]
) -> None:
    view, address = look(region)
    assert address == address_of(disk, region)
    disk.readinto(4096, region)
    assert ctypes.c_uint64.from_address(address).value == 4096 // 8
    with pytest.raises(BufferError, match="exported"):
        region.close()
    del view
    region.close()


def test_a_read_through_any_view_goes_to_the_memory_that_the_view_shows(
    disk: BlockDevice, region: vioblk.Region
) -> None:
    rows = np.frombuffer(memoryview(region), dtype="<u8").reshape(-1, 512)
    space = disk.device.transport.space
    assert space.locate(rows[3]) == (region.handle, 3 * 4096)
    disk.readinto(7 * 4096, rows[3])
    assert (rows[3] == np.arange(7 * 512, 8 * 512)).all()
    assert not rows[2].any()
    assert not rows[4].any()
    with memoryview(region)[512:1024] as part:
        assert space.locate(part) == (region.handle, 512)
        disk.readinto(0, part)
    assert (rows[0, 64:128] == np.arange(64)).all()


def test_data_in_dma_memory_needs_no_bounce_buffer(
    disk: BlockDevice, region: vioblk.Region
) -> None:
    disk.reset()  # what filled the disk was not in DMA memory, and took such buffers
    free_bytes = disk.device.transport.space.free_bytes
    elements = np.frombuffer(memoryview(region), dtype="<u8")
    disk.readinto(0, elements.data)
    elements += 1
    disk.write(0, elements.data)
    assert disk.device.transport.space.free_bytes == free_bytes
    disk.readinto(0, array.array("Q", bytes(512)))
    assert disk.device.transport.space.free_bytes < free_bytes
    assert software(disk).counters()["bytes_written"] == (16 << 20) + REGION_BYTES


def test_an_array_outlives_the_disk_whose_memory_it_shows() -> None:
    with vioblk.open("mem:1M") as disk:
        disk.write(0, b"data" * 128)
        elements = np.frombuffer(memoryview(disk.alloc(512)), dtype=np.uint8)
        disk.readinto(0, elements.data)
    del disk
    assert elements.tobytes() == b"data" * 128
    elements[:] = 7
    assert elements.sum() == 7 * 512


def peak_of(call: Callable[[], object]) -> int:
    """The most bytes that Python objects took while a call was under way, one that is warm."""
    call()
    tracemalloc.start()
    try:
        call()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before


@pytest.mark.parametrize("length", [64 << 10, 1 << 20, REGION_BYTES])
def test_moving_data_of_dma_memory_makes_no_object_that_holds_it(
    disk: BlockDevice, region: vioblk.Region, length: int
) -> None:
    with memoryview(region)[:length] as view:
        assert peak_of(lambda: disk.readinto(0, view)) < SMALL_BYTES
        assert peak_of(lambda: disk.write(0, view)) < SMALL_BYTES


@pytest.mark.parametrize("length", [64 << 10, 1 << 20, REGION_BYTES])
def test_a_read_makes_its_result_and_no_other_object_that_holds_data(
    disk: BlockDevice, length: int
) -> None:
    assert length < peak_of(lambda: disk.read(0, length)) < length + SMALL_BYTES


def test_requests_leave_no_python_object_behind(disk: BlockDevice, region: vioblk.Region) -> None:
    calls = 1000
    with memoryview(region)[:4096] as view:

        def work() -> None:
            disk.readinto(0, view)
            disk.write(0, view)
            disk.read(0, 512)

        for _ in range(50):
            work()
        before = sys.getallocatedblocks()
        for _ in range(calls):
            work()
        assert sys.getallocatedblocks() - before < calls // 10
