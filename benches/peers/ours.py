"""The same reads by vioblk, through its public interface, in this process."""

import os
import random
from collections.abc import Callable
from time import perf_counter
from typing import Final

import vioblk
from benches.peers.daemon import pattern
from benches.peers.processors import threads
from vioblk.block.request import REQUEST_RECORD, SECTOR_BYTES, RequestType

BATCH_BYTES_MAX: Final = 4 << 20
"""Memory of one batch, so that caches are no better or worse for it than for the peers."""
BATCH: Final = 4096
"""Requests of one `execute`."""
OFFSETS: Final = 1 << 14
"""How many are drawn beforehand."""


class WrongData(RuntimeError):
    """A block held something else than was written there."""


def draw_offsets(disk: vioblk.BlockDevice, block: int, count: int) -> list[int]:
    """Of blocks by chance."""
    chance = random.Random(7)
    block_count = disk.config.capacity_sectors * SECTOR_BYTES // block
    return [chance.randrange(block_count) * block for _ in range(count)]


def open_deep(address: str, depth: int) -> vioblk.BlockDevice:
    """A disk with one queue that holds `depth` requests and no more."""
    disk = vioblk.open(address, queue_count=1, ring_size=depth)
    found = disk.info.queues[0].depth
    if found != depth:
        disk.close()
        raise RuntimeError(f"{address}: the queue holds {found} requests, and not {depth}")
    return disk


class Batches:
    """Reads by `execute`, which keeps the queue full to the end of the batch."""

    granule = BATCH

    def __init__(self, disk: vioblk.BlockDevice, block: int, depth: int) -> None:
        self.disk, self.block = disk, block
        self.slots = 2 * depth
        self.data = disk.alloc(self.slots * block)
        self.offsets = draw_offsets(disk, block, OFFSETS)
        self.batches = [self._records(start) for start in range(0, OFFSETS, BATCH)]
        self.statuses = bytearray(BATCH)
        self._next = 0

    def _records(self, start: int) -> bytes:
        return b"".join(
            REQUEST_RECORD.pack(
                RequestType.IN,
                0,
                self.offsets[start + n] // SECTOR_BYTES,
                n % self.slots * self.block,
                self.block,
                self.data.handle,
                0,
            )
            for n in range(BATCH)
        )

    def polling(self, on: bool) -> Callable[[int], float]:
        """Work in one of the two ways to wait."""

        def work(count: int) -> float:
            self.disk.set_polling(0, on)
            return self.work(count)

        return work

    def work(self, count: int) -> float:
        execute, batches, statuses = self.disk.execute, self.batches, self.statuses
        start = perf_counter()
        for _ in range(count // BATCH):
            execute(batches[self._next], statuses)
            self._next = (self._next + 1) % len(batches)
        took_s = perf_counter() - start
        if any(statuses):
            raise WrongData("reads failed")
        return took_s

    def verify(self, count: int) -> None:
        """Read blocks of the pattern, as many as there are buffers at a time."""
        statuses = bytearray(self.slots)
        for start in range(0, count, self.slots):
            first = start % BATCH - start % BATCH % self.slots
            records = self.batches[0][first * REQUEST_RECORD.size :]
            self.disk.execute(records[: self.slots * REQUEST_RECORD.size], statuses)
            with memoryview(self.data) as blocks:
                for n in range(self.slots):
                    found = blocks[n * self.block : (n + 1) * self.block]
                    check(self.offsets[first + n], bytes(found))

    def close(self) -> None:
        with self.disk:
            self.data.close()


class OneByOne:
    """Reads by `readinto`, in a loop in Python."""

    granule = 1

    def __init__(self, disk: vioblk.BlockDevice, block: int) -> None:
        self.disk, self.block = disk, block
        self.data = disk.alloc(block)
        self.view = memoryview(self.data)
        self.offsets = draw_offsets(disk, block, OFFSETS)

    def work(self, count: int) -> float:
        readinto, view, offsets, mask = self.disk.readinto, self.view, self.offsets, OFFSETS - 1
        start = perf_counter()
        for n in range(count):
            readinto(offsets[n & mask], view)
        return perf_counter() - start

    def verify(self, count: int) -> None:
        """Read so many blocks of the pattern."""
        for offset in self.offsets[:count]:
            self.disk.readinto(offset, self.view)
            check(offset, bytes(self.view))

    def close(self) -> None:
        with self.disk:
            self.view.release()
            self.data.close()


def check(offset: int, found: bytes) -> None:
    """Raise WrongData unless a block is that of the pattern."""
    if found != pattern(offset, len(found)):
        raise WrongData(f"the block at {offset} holds something else")


def open_memory(size_bytes: int, depth: int, processor: int) -> vioblk.BlockDevice:
    """A software device in memory, with its thread bound to a processor."""
    before = threads()
    disk = open_deep(f"mem:{size_bytes}", depth)
    for thread in threads() - before:
        os.sched_setaffinity(thread, {processor})
    return disk
