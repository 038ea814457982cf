"""The same reads by vioblk, through its public interface, in this process."""

import os
import random
from array import array
from collections.abc import Callable
from time import perf_counter
from typing import Final

import vioblk
from benches.peers.daemon import pattern
from benches.peers.processors import threads
from vioblk.block.request import SECTOR_BYTES

GATHERED: Final = 8
"""One in so many slots is waited for before they go off again together: 4 of 32, our fastest;
`blkio` is fastest without (its `min`)."""
OFFSETS: Final = 1 << 14
"""How many are drawn beforehand."""


class WrongDepth(RuntimeError):
    """There is not room for as many requests as were to be in flight."""


class WrongData(RuntimeError):
    """A block held something else than was written there."""


def draw_offsets(disk: vioblk.BlockDevice, block: int, count: int) -> list[int]:
    """Of blocks by chance."""
    chance = random.Random(7)
    block_count = disk.config.capacity_sectors * SECTOR_BYTES // block
    return [chance.randrange(block_count) * block for _ in range(count)]


def open_direct(address: str, depth: int) -> vioblk.BlockDevice:
    """A disk with one queue whose ring has room for `depth` requests of three descriptors."""
    ring_size = 1 << (3 * depth - 1).bit_length()
    return vioblk.open(address, queue_count=1, ring_size=ring_size)


class Slots:
    """Reads by a slot pool: what came back goes off again with the next offsets.

    One in `GATHERED` slots may be on their way back; all others are with the device.
    """

    def __init__(self, disk: vioblk.BlockDevice, block: int, depth: int) -> None:
        self.disk, self.block, self.depth = disk, block, depth
        self.pool = disk.slot_pool(depth, block)
        offsets = draw_offsets(disk, block, OFFSETS)
        # So that each window of them is in one piece.
        self.offsets = memoryview(array("Q", offsets + offsets[:depth]))
        self._back = memoryview(array("I", bytes(4 * depth)))
        self._first = [self._back[:n] for n in range(depth + 1)]
        self._rest = [self._back[n:] for n in range(depth + 1)]
        self._gather = max(1, depth // GATHERED)

    def polling(self, on: bool) -> Callable[[int], float]:
        """Work in one of the two ways to wait."""

        def work(count: int) -> float:
            self.disk.set_polling(0, on)
            return self.work(count)

        return work

    def work(self, count: int) -> float:
        """At least `depth` reads, and not less than `count`."""
        submit, reap, wait = self.pool.submit, self.pool.reap, self.pool.wait
        offsets, mask, first, rest = self.offsets, OFFSETS - 1, self._first, self._rest
        gather, at, left = self._gather, self.depth, count - self.depth
        start = perf_counter()
        self._submit_all()
        while left > 0:
            done = 0
            while done < gather:
                more = reap(rest[done])
                if not more:
                    wait()
                done += more
            submit(first[done], offsets[at : at + done])
            at = (at + done) & mask
            left -= done
        self._reap_all()
        return perf_counter() - start

    def _submit_all(self) -> None:
        """In two parts, so that the device, which may give back all that it finds at once, has one
        of them while the other is here."""
        half = self.depth // 2
        every = memoryview(array("I", range(self.depth)))
        self.pool.submit(every[:half], self.offsets[:half])
        self.pool.submit(every[half:], self.offsets[half : self.depth])

    def _reap_all(self) -> None:
        left = self.depth
        while left:
            done = self.pool.reap(self._back)
            if not done:
                self.pool.wait()
            left -= done

    def verify(self, count: int) -> None:
        """Read so many blocks of the pattern or some more, all slots at a time."""
        every = memoryview(array("I", range(self.depth)))
        with memoryview(self.pool.buffer) as blocks:
            for start in range(0, count, self.depth):
                if self.pool.submit(every, self.offsets[start : start + self.depth]) != self.depth:
                    raise WrongDepth(f"the queue holds less than {self.depth} requests")
                self._reap_all()
                for slot in every:
                    found = blocks[slot * self.block : (slot + 1) * self.block]
                    check(self.offsets[start + slot], bytes(found))

    def close(self) -> None:
        with self.disk:
            self.pool.close()


class OneByOne:
    """Reads by `readinto`, in a loop in Python."""

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
    disk = open_direct(f"mem:{size_bytes}?queue_size=256", depth)
    for thread in threads() - before:
        os.sched_setaffinity(thread, {processor})
    return disk
