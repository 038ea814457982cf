"""Requests for several queues at once, each used by a thread of its own."""

import random
import threading
from itertools import product
from pathlib import Path
from typing import Final

from tests.interop.qemu_machines import WAIT_S
from vioblk.block.disk import BlockDevice
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, RequestStatus, RequestType
from vioblk.features import Feature

BLOCK_BYTES: Final = 4096
BLOCKS: Final = 96
"""Of each queue. Each is written and then read, which takes a ring round several times."""

REQUESTS: Final = 2 * BLOCKS
"""Of each queue."""


def pattern(queue: int, block: int) -> bytes:
    return random.Random(queue << 16 | block).randbytes(BLOCK_BYTES)


def place(queue: int, block: int) -> int:
    """Offset on the disk. Neighbours are apart: QEMU makes one request of such as touch."""
    return (queue * BLOCKS + block) * 2 * BLOCK_BYTES


def use_from_threads(disk: BlockDevice, queue_count: int, most: int = BLOCKS) -> None:
    """Use each queue from a thread of its own, all at once, with at most so many requests in flight
    on each. Raises what the first that failed did,
    AssertionError if what was read is not what was written."""
    failures: list[BaseException] = []

    def work(queue: int) -> None:
        try:
            use_queue(disk, queue, most)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(queue,)) for queue in range(queue_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads)


def use_queue(disk: BlockDevice, queue: int, most: int) -> None:
    """Write all blocks of a queue through it, and read them through it."""
    with disk.alloc(BLOCKS * BLOCK_BYTES) as region, memoryview(region) as memory:
        expected = b"".join(pattern(queue, block) for block in range(BLOCKS))
        memory[:] = expected
        run_all(disk, queue, RequestType.OUT, region.handle, most)
        memory[:] = bytes(len(expected))
        run_all(disk, queue, RequestType.IN, region.handle, most)
        assert memory == expected


def run_all(disk: BlockDevice, queue: int, kind: RequestType, handle: int, most: int) -> None:
    """One request for each block, as many at a time as fit."""
    records = [
        REQUEST_RECORD.pack(
            kind, 0, place(queue, block) // 512, block * BLOCK_BYTES, BLOCK_BYTES, handle, block
        )
        for block in range(BLOCKS)
    ]
    done: list[int] = []
    out = bytearray(BLOCKS * COMPLETION_RECORD.size)
    submitted = 0
    while len(done) < BLOCKS:
        batch = records[submitted : len(done) + most]
        if batch:
            submitted += disk.submit_many(b"".join(batch), queue)
        assert disk.wait(WAIT_S, queue)
        count = disk.reap_many(out, queue)
        reaped = COMPLETION_RECORD.iter_unpack(out[: count * COMPLETION_RECORD.size])
        for token, _, status in reaped:
            assert status == RequestStatus.OK
            done.append(token)
    assert sorted(done) == list(range(BLOCKS))
    if disk.device.has(Feature.IN_ORDER):
        assert done == sorted(done)


def assert_content(image: Path, queue_count: int) -> None:
    """A raw image holds what `use_from_threads` has written."""
    content = image.read_bytes()
    for queue, block in product(range(queue_count), range(BLOCKS)):
        start = place(queue, block)
        assert content[start : start + BLOCK_BYTES] == pattern(queue, block)
