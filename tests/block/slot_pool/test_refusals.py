"""What cannot be is refused whole, before anything is sent, and leaves all as it was."""

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import vioblk
from tests.block.queue_bench import CAPACITY_SECTORS, DeviceBench, limits_of
from tests.block.slot_pool.conftest import make_pool, offsets, reap, slots, submit
from vioblk.block.request import SECTOR_BYTES, RequestType
from vioblk.compat import Buffer

END = CAPACITY_SECTORS * SECTOR_BYTES

REQUESTS = [
    ([0, 4], [0, 0], vioblk.InvalidRequestError, "request 1: there is no slot 4: the pool has 4"),
    ([2**32 - 1], [0], vioblk.InvalidRequestError, "request 0: there is no slot 4294967295"),
    ([1, 2, 1], [0, 0, 0], vioblk.InvalidRequestError, "request 2: slot 1 is named twice"),
    ([1, 3], [0, 0], vioblk.InvalidRequestError, "request 1: slot 3 is in flight; reap it first"),
    ([3, 3], [0, 0], vioblk.InvalidRequestError, "request 0: slot 3 is in flight"),
    ([0], [100], vioblk.UnalignedError, "request 0: offset 100 is not a multiple of the sector"),
    ([0, 1], [512, 513], vioblk.UnalignedError, "request 1: offset 513"),
    ([0], [END], vioblk.BeyondEndError, "request 0: 512 bytes from sector 4096 reach past the end"),
    ([0], [2**64 - 512], vioblk.BeyondEndError, "reach past the end of the disk, which has 4096"),
    ([0], [2**64 - 1], vioblk.UnalignedError, "offset 18446744073709551615"),
]
"""Slot 3 of 4 is in flight."""


@pytest.mark.parametrize(("numbers", "places", "error", "words"), REQUESTS)
def test_a_batch_with_a_request_that_cannot_be_is_refused_whole(
    bench: DeviceBench,
    numbers: list[int],
    places: list[int],
    error: type[Exception],
    words: str,
) -> None:
    pool = make_pool(bench, 4)
    assert submit(pool, [(3, 0)]) == 1
    kicks = bench.queue.kick_count
    with pytest.raises(error, match=words) as raised:
        pool.submit(array("I", numbers), array("Q", places))
    assert type(raised.value) is error
    assert bench.queue.kick_count == kicks
    assert pool.in_flight == 1
    assert bench.device.serve() == 1, "nothing else was sent"
    assert reap(pool) == {3: 0}
    assert submit(pool, [(slot, slot) for slot in range(4)]) == 4, "every slot is free"
    assert bench.device.serve() == 4
    assert reap(pool) == dict.fromkeys(range(4), 0)


def test_what_finds_no_room_is_checked_all_the_same(
    make_queue: Callable[..., DeviceBench],
) -> None:
    bench = make_queue(8)
    pool = make_pool(bench, 12)
    everything = list(range(12))
    with pytest.raises(vioblk.InvalidRequestError, match="request 11: slot 9 is named twice"):
        submit(pool, [(slot, 0) for slot in [*everything[:11], 9]])
    assert bench.device.serve() == 0
    accepted = submit(pool, [(slot, 0) for slot in everything])
    assert bench.device.serve() == accepted > 0


def test_a_slot_stays_busy_until_its_completion_was_taken(bench: DeviceBench) -> None:
    pool = make_pool(bench, 2)
    assert submit(pool, [(0, 0), (1, 1)]) == 2
    bench.device.serve()
    [first] = reap(pool, 1)
    with pytest.raises(vioblk.InvalidRequestError, match=f"slot {1 - first} is in flight"):
        submit(pool, [(first, 0), (1 - first, 1)])
    assert submit(pool, [(first, 0)]) == 1
    assert list(reap(pool)) == [1 - first]


ARRAYS: list[tuple[str, Any, type[Exception], str]] = [
    ("of-int32", array("i", [0]), ValueError, "slots must be an array of uint32, not of items 'i'"),
    ("of-uint64", array("Q", [0]), ValueError, "slots must be an array of uint32"),
    ("of-bytes", b"\0\0\0\0", ValueError, "not of items 'B' of 1 bytes"),
    ("big-endian", np.zeros(1, ">u4"), ValueError, "not of items '>I' of 4 bytes"),
    ("of-floats", np.zeros(1, np.float32), ValueError, "not of items 'f' of 4 bytes"),
    ("every-other", np.zeros(4, np.uint32)[::2], ValueError, "contiguous array of one dimension"),
    ("two-dimensional", np.zeros((1, 1), np.uint32), ValueError, "of one dimension"),
    ("no-buffer", [0], TypeError, "buffer|bytes-like"),
]


@pytest.mark.parametrize(
    ("numbers", "error", "words"),
    [pytest.param(*each[1:], id=each[0]) for each in ARRAYS],
)
def test_arrays_of_another_kind_are_refused(
    bench: DeviceBench, numbers: Buffer, error: type[Exception], words: str
) -> None:
    pool = make_pool(bench, 4)
    with pytest.raises(error, match=words):
        pool.submit(numbers, offsets(0))
    with pytest.raises(error, match=words):
        pool.reap(numbers)
    assert bench.device.serve() == 0


def test_arrays_of_unequal_length_are_refused(bench: DeviceBench) -> None:
    pool = make_pool(bench, 4)
    with pytest.raises(ValueError, match="2 slots need as many offsets, not 3"):
        pool.submit(slots(0, 1), offsets(0, 0, 0))
    with pytest.raises(ValueError, match="2 slots need as many statuses, not 1"):
        pool.reap(slots(0, 1), bytearray(1))
    with pytest.raises(ValueError, match="offsets must be an array of uint64"):
        pool.submit(slots(0), array("I", [0]))
    with pytest.raises(ValueError, match="statuses must be an array of uint8"):
        pool.reap(slots(0), array("H", [0]))


def test_arrays_that_cannot_be_written_are_refused_before_anything_is_taken(
    bench: DeviceBench,
) -> None:
    pool = make_pool(bench, 4)
    submit(pool, [(0, 0)])
    bench.device.serve()
    with pytest.raises(BufferError, match="slots: the array is read-only"):
        pool.reap(memoryview(slots(0)).toreadonly())
    with pytest.raises(BufferError, match="statuses: the array is read-only"):
        pool.reap(slots(0), b"\0")
    assert pool.submit(memoryview(slots(1)).toreadonly(), offsets(1).tobytes() and offsets(1)) == 1
    assert reap(pool) == {0: 0}


POOLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"count": 0}, ValueError, "count is 0: a pool has one slot at least"),
    ({"slot_bytes": 0}, vioblk.ZeroLengthError, "length 0"),
    ({"slot_bytes": 700}, vioblk.UnalignedError, "length 700 is not a multiple"),
    ({"slot_bytes": 5 * 512}, vioblk.RequestTooLongError, "more than the 2048"),
]


@pytest.mark.parametrize(("shape", "error", "words"), POOLS)
def test_pools_that_cannot_be_are_refused(
    make_queue: Callable[..., DeviceBench],
    shape: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    bench = make_queue(limits=limits_of(size_max=1024, seg_max=2))
    depth = bench.queue.depth
    count, slot_bytes = shape.get("count", 2), shape.get("slot_bytes", 512)
    buffer, frames = bench.space.alloc(1 << 16), bench.space.alloc(1 << 16)
    with pytest.raises(error, match=words) as raised:
        bench.queue.slot_pool(buffer, frames, count, slot_bytes)
    assert not str(raised.value).startswith("request")
    assert bench.queue.depth == depth
    buffer.close()
    frames.close()


def test_slots_that_are_not_in_their_region_are_refused(bench: DeviceBench) -> None:
    short, frames = bench.space.alloc(3 * 512), bench.space.alloc(1 << 16)
    with pytest.raises(vioblk.InvalidRequestError, match="512 bytes at offset 1536 are not inside"):
        bench.queue.slot_pool(short, frames, 4, 512)
    with pytest.raises(ValueError, match=r"the frames need \d+ bytes, their region has 64"):
        bench.queue.slot_pool(bench.space.alloc(4096), bench.space.alloc(64), 4, 512)
    for count, slot_bytes in ((-1, 512), (2**32, 512), (1, -512), (1, 2**32)):
        with pytest.raises(ValueError, match=r"not from 0 to 2\^32 - 1"):
            bench.queue.slot_frames_length(count, slot_bytes)


def test_a_read_only_disk_refuses_slots_for_writes(
    make_queue: Callable[..., DeviceBench],
) -> None:
    bench = make_queue(limits=limits_of(read_only=True))
    with pytest.raises(vioblk.ReadOnlyError, match="the disk is read-only"):
        make_pool(bench, write=True)
    make_pool(bench).close()


def test_requests_are_held_to_the_limits_of_the_moment(bench: DeviceBench) -> None:
    pool, writes = make_pool(bench, 2), make_pool(bench, 2, write=True)
    assert submit(pool, [(0, 99)]) == 1
    bench.queue.limits = limits_of(capacity_sectors=10, read_only=True)
    with pytest.raises(vioblk.BeyondEndError, match="which has 10 sectors"):
        submit(pool, [(1, 10)])
    with pytest.raises(vioblk.ReadOnlyError):
        submit(writes, [(0, 0)])
    assert submit(pool, [(1, 9)]) == 1
    bench.queue.limits = limits_of(request_types=[RequestType.OUT], capacity_sectors=0)
    with pytest.raises(vioblk.BeyondEndError):
        submit(writes, [(0, 0)])
    with pytest.raises(vioblk.UnsupportedError, match="type 0"):
        submit(pool, [(1, 0)])
    assert bench.device.serve() == 2
    assert reap(pool) == {0: 0, 1: 0}
