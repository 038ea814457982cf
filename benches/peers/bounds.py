"""What bounds a disk: a file that is read without any daemon."""

import os
import random
from pathlib import Path
from time import perf_counter
from typing import Final

from benches.peers.daemon import DISK_BYTES
from benches.peers.ours import check

OFFSETS: Final = 1 << 14


class FileReads:
    """`os.preadv` on the raw file, one read after another."""

    def __init__(self, image: Path, block: int) -> None:
        self._file = os.open(image, os.O_RDONLY)
        self._buffer = bytearray(block)
        chance = random.Random(7)
        self._offsets = [chance.randrange(DISK_BYTES // block) * block for _ in range(OFFSETS)]

    def work(self, count: int) -> float:
        preadv, file, buffers = os.preadv, self._file, [self._buffer]
        offsets, mask = self._offsets, OFFSETS - 1
        start = perf_counter()
        for n in range(count):
            preadv(file, buffers, offsets[n & mask])
        return perf_counter() - start

    def verify(self, count: int) -> None:
        """Read so many blocks of the pattern."""
        for offset in self._offsets[:count]:
            os.preadv(self._file, [self._buffer], offset)
            check(offset, bytes(self._buffer))

    def close(self) -> None:
        os.close(self._file)
