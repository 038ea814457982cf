"""How many requests a disk serves in a second, driven from Python."""

import random
import time
from collections.abc import Iterable
from itertools import cycle
from typing import NamedTuple

from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, SECTOR_BYTES, RequestStatus, RequestType
from vioblk.errors import RequestFailedError

READ_BYTES = 4096
BATCHES = 16
"""Different batches, so that the reads are of different places."""


class Rate(NamedTuple):
    """One measurement."""

    request_count: int
    elapsed_s: float

    @property
    def per_second(self) -> float:
        """Requests."""
        return self.request_count / self.elapsed_s


def total(rates: Iterable[Rate]) -> Rate:
    """Several measurements as one."""
    counts, times = zip(*rates, strict=True)
    return Rate(sum(counts), sum(times))


def random_read_rate(disk: BlockDevice, depth: int, duration_s: float) -> Rate:
    """Read 4 KiB at random places, `depth` requests with each call, for about `duration_s`."""
    with disk.alloc(READ_BYTES * depth) as region:
        batches = cycle([_reads(disk, region.handle, depth) for _ in range(BATCHES)])
        statuses = bytearray(depth)
        request_count = 0
        start = now = time.perf_counter()
        while now - start < duration_s:
            disk.execute(next(batches), statuses)
            request_count += depth
            now = time.perf_counter()
        if statuses.count(RequestStatus.OK) != depth:
            raise RequestFailedError("a read of the measurement failed", max(statuses))
        return Rate(request_count, now - start)


def _reads(disk: BlockDevice, handle: int, depth: int) -> bytes:
    """A batch of `depth` reads, each into its own place of the region."""
    places = range(0, disk.capacity_bytes - READ_BYTES + 1, READ_BYTES)
    return b"".join(
        REQUEST_RECORD.pack(
            RequestType.IN,
            0,
            random.choice(places) // SECTOR_BYTES,
            slot * READ_BYTES,
            READ_BYTES,
            handle,
            0,
        )
        for slot in range(depth)
    )
