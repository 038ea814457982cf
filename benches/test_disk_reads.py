"""Random reads of 4 KiB from whole disks, over both rings: reported, with no target.

At depth 1 each read is a call of its own. At depth 64 a call is 1024 reads, and the queue is kept
full. The disks: the software device, on its own thread in this process; and a node of a
qemu-storage-daemon that completes everything at once and moves no data, so that its figures are
ceilings of the protocol.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

import vioblk
from benches.measure import Spread
from benches.old_pairs import Comparison
from tests.interop.storage_daemon import StorageDaemon, null_export
from vioblk.block.request import REQUEST_RECORD, SECTOR_BYTES, RequestType

READ_BYTES: Final = 4096
DISK_BYTES: Final = 64 << 20
BATCH: Final = 1024
PAIRS: Final = 15


class RandomReads:
    """A disk with one queue of 64 descriptors, and reads to run on it."""

    def __init__(self, address: str, ring: str, depth: int, request_count: int) -> None:
        self.disk = vioblk.open(address, ring=ring, queue_count=1, ring_size=64)
        batch = BATCH if depth > 1 else 1
        self.data = self.disk.alloc(batch * READ_BYTES)
        chance = random.Random(7)
        self.batches = [self._batch(chance, batch) for _ in range(request_count // batch)]
        self.statuses = bytearray(batch)

    def _batch(self, chance: random.Random, count: int) -> bytes:
        return b"".join(
            REQUEST_RECORD.pack(
                RequestType.IN,
                0,
                chance.randrange(DISK_BYTES // READ_BYTES) * (READ_BYTES // SECTOR_BYTES),
                n * READ_BYTES,
                READ_BYTES,
                self.data.handle,
                0,
            )
            for n in range(count)
        )

    def __call__(self) -> int:
        for batch in self.batches:
            self.disk.execute(batch, self.statuses)
            assert not any(self.statuses)
        return len(self.batches) * len(self.statuses)

    def close(self) -> None:
        self.data.close()
        self.disk.close()


@pytest.fixture(params=["mem", "vhost_user_null"])
def addresses(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """One for each ring: a back end of vhost-user serves one client at a time."""
    if request.param == "mem":
        yield ["mem:64M", "mem:64M"]
        return
    exports = [null_export(name, DISK_BYTES) for name in ("one", "two")]
    with StorageDaemon(tmp_path, exports) as daemon:
        yield [daemon.address("one"), daemon.address("two")]


@pytest.mark.parametrize(("depth", "request_count"), [(1, 2000), (64, 8 * BATCH)])
def test_random_reads(
    compare: Callable[..., Spread],
    addresses: list[str],
    request: pytest.FixtureRequest,
    depth: int,
    request_count: int,
) -> None:
    disks = [
        RandomReads(address, ring, depth, request_count)
        for address, ring in zip(addresses, ("native", "reference"), strict=True)
    ]
    name = f"{request.node.callspec.params['addresses']}_4k_reads_depth_{depth}"
    compare(name, Comparison(*disks), pairs=PAIRS)
    for disk in disks:
        disk.close()
