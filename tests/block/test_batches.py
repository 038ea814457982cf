"""What the device saw of a batch."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy
import pytest

from tests.block.conftest import OpenDisk, OpenRecorded
from tests.block.tap import Tap
from tests.block.test_cache import software
from vioblk._native import Region
from vioblk.block.disk import BlockDevice
from vioblk.block.request import (
    COMPLETION_DTYPE,
    COMPLETION_RECORD,
    REQUEST_DTYPE,
    REQUEST_RECORD,
    STATUS_PENDING,
    RequestType,
)

READS = 1000
SECTOR = 512


def reads(disk: BlockDevice, count: int) -> tuple[Region, bytes]:
    """Reads of distinct random sectors, and the region (to be kept) that they read into."""
    region = disk.alloc(count * SECTOR)
    order = random.Random(count).sample(range(disk.capacity_bytes // SECTOR), count)
    return region, b"".join(
        REQUEST_RECORD.pack(RequestType.IN, 0, sector, i * SECTOR, SECTOR, region.handle, i)
        for i, sector in enumerate(order)
    )


def test_a_batch_of_a_thousand_runs_at_full_depth_with_few_kicks(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?queue_size=64")
    assert disk.info.queues[0].depth == 64
    device = software(disk)
    device.reset_counters()
    _region, batch = reads(disk, READS)
    statuses = bytearray([STATUS_PENDING]) * READS
    disk.execute(batch, statuses)
    seen = device.counters()
    assert statuses == bytes(READS)
    assert seen["reads"] == READS
    assert seen["most_outstanding"] == 64
    assert seen["kicks"] < READS / 4


def test_a_batch_is_one_publish(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?threaded=off&queue_size=64")
    device = software(disk)
    _region, batch = reads(disk, 50)
    assert disk.submit_many(batch) == 50
    device.serve()
    seen = device.counters()
    assert (seen["batches"], seen["largest_batch"], seen["kicks"]) == (1, 50, 1)
    assert seen["most_outstanding"] == 50


def test_what_does_not_fit_now_keeps_its_place(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?threaded=off", ring_size=16)
    device = software(disk)
    _region, batch = reads(disk, 40)
    size = REQUEST_RECORD.size
    done: list[int] = []
    submitted = 0
    while len(done) < 40:
        submitted += disk.submit_many(batch[submitted * size :])
        assert submitted - len(done) <= 16
        device.serve()
        out = bytearray(COMPLETION_RECORD.size * 40)
        count = disk.reap_many(out)
        done += [token for token, _, _ in COMPLETION_RECORD.iter_unpack(out)][:count]
    assert done == list(range(40))


def test_completions_restart_all_the_backlog_that_fits(
    tapped: Callable[..., tuple[BlockDevice, Tap]],
) -> None:
    disk, tap = tapped("mem:1M?queue_size=16")
    device = software(disk)
    _region, batch = reads(disk, 40)
    statuses = bytearray([STATUS_PENDING]) * 40
    runner = threading.Thread(target=disk.execute, args=(batch, statuses))
    runner.start()
    for served, restarted in [(0, 16), (1, 1), (7, 7), (16, 16)]:
        assert device.serve(served) == served
        assert take(tap, restarted) == restarted
        assert disk.device.in_flight == 16
    device.serve()
    runner.join(30)
    assert not runner.is_alive()
    assert statuses == bytes(40)


def take(tap: Tap, count: int) -> int:
    """Wait until `count` requests have become available; how many did."""
    seen, deadline = 0, time.monotonic() + 30
    while seen < count and time.monotonic() < deadline:
        seen += len(tap.take())
    return seen


def test_completions_carry_token_length_and_status(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?threaded=off")
    device = software(disk)
    region = disk.alloc(1024)
    batch = b"".join(
        [
            REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 1024, region.handle, 2**64 - 1),
            REQUEST_RECORD.pack(RequestType.FLUSH, 0, 0, 0, 0, 0, 7),
        ]
    )
    device.inject("status", after=1, value=1)
    assert disk.submit_many(batch) == 2
    device.serve()
    out = bytearray(COMPLETION_RECORD.size * 4)
    assert disk.reap_many(out) == 2
    assert list(COMPLETION_RECORD.iter_unpack(out))[:2] == [(2**64 - 1, 1024, 0), (7, 0, 1)]
    assert disk.device.in_flight == 0


def test_long_calls_are_split_into_batches_and_not_into_calls(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:4M?size_max=4096&seg_max=1")
    device = software(disk)
    with disk.alloc(2 << 20) as region:
        device.reset_counters()
        assert disk.readinto(0, region) == 2 << 20
    seen = device.counters()
    assert seen["reads"] == 512
    assert seen["bytes_read"] == 2 << 20
    assert seen["kicks"] < 128


@pytest.mark.parametrize("queue", [-1, 1])
def test_there_is_no_other_queue(disk: BlockDevice, queue: int) -> None:
    with pytest.raises(ValueError, match="no queue"):
        disk.submit_many(b"", queue)


def test_queues_take_turns(open_recorded: OpenRecorded) -> None:
    disk, transport = open_recorded("mem:1M?queues=2&threaded=off", queue_count=2)
    first, second = Tap(transport, 0), Tap(transport, 1)

    def read_ten() -> None:
        for _ in range(10):
            disk.read(0, 512)

    # Watching the first queue serves both.
    assert len(first.watch(read_ten)) == 5
    assert len(second.take()) == 5
    first.close()
    second.close()


def test_numpy_arrays_are_batches(disk: BlockDevice) -> None:
    region = disk.alloc(8 * SECTOR)
    batch: Any = numpy.zeros(8, dtype=REQUEST_DTYPE)
    batch["sector"] = range(8)
    batch["offset"] = numpy.arange(8) * SECTOR
    batch["length"] = SECTOR
    batch["region"] = region.handle
    batch["token"] = range(100, 108)
    statuses: Any = numpy.full(8, STATUS_PENDING, dtype="u1")
    disk.execute(batch, statuses)
    assert not statuses.any()
    assert disk.submit_many(batch) == 8
    out: Any = numpy.zeros(8, dtype=COMPLETION_DTYPE)
    reaped = 0
    while reaped < 8:
        assert disk.wait(30)
        reaped += disk.reap_many(out[reaped:])
    assert sorted(out["token"]) == list(range(100, 108))
