"""Whole reads and writes over both rings of the package: `python -m benches.disk_io`.

The same disk, the same calls (`execute`), the ring in Rust beside the ring in Python: at depth 1,
8, 32 and 128, with 512 B to 1 MiB a request, reads, writes and both in turns. The disks: the
software device on memory, which has a thread of its own; and a null node of a qemu-storage-daemon
over vhost-user, which moves no data, so that its figures are ceilings of the protocol.

At depth 1 each request is a call of its own. Deeper, the queue has room for as many requests as the
depth says, and a call keeps it full.
"""

import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import vioblk
from benches import report
from benches.measure import Plan, Spread
from benches.refuse_debug import refusal
from tests.interop.storage_daemon import StorageDaemon, null_export
from vioblk.block.request import REQUEST_RECORD, SECTOR_BYTES, RequestType

DEPTHS: Final = (1, 8, 32, 128)
BLOCKS: Final = (512, 4096, 64 << 10, 1 << 20)
MODES: Final = {
    "read": (RequestType.IN,),
    "write": (RequestType.OUT,),
    "mixed": (RequestType.IN, RequestType.OUT),
}
RINGS: Final = ("native", "reference")
DISK_BYTES: Final = 64 << 20
MEMORY_BYTES_MAX: Final = 64 << 20
"""Of the buffers of a batch; larger batches use them again."""
CALL: Final = 4
"""Requests of one call, as a multiple of the depth."""
ROUNDS: Final = 3
ROUND_S: Final = 0.03
DEPTH_ONE_RING: Final = 4


class Disk:
    """A disk whose queue holds `depth` requests, with memory to move."""

    def __init__(self, address: str, ring: str, depth: int) -> None:
        self.depth = depth
        ring_size = depth if depth > 1 else DEPTH_ONE_RING
        self.disk = vioblk.open(address, ring=ring, queue_count=1, ring_size=ring_size)
        self.data = self.disk.alloc(min(2 * depth * max(BLOCKS), MEMORY_BYTES_MAX))

    def batch(self, block: int, mode: str) -> bytes:
        """The records of one call, at places by chance."""
        chance = random.Random(7)
        buffers = min(2 * self.depth, self.data.length // block)
        kinds = MODES[mode]
        return b"".join(
            REQUEST_RECORD.pack(
                kinds[n % len(kinds)],
                0,
                chance.randrange(DISK_BYTES // block) * (block // SECTOR_BYTES),
                n % buffers * block,
                block,
                self.data.handle,
                0,
            )
            for n in range(CALL * self.depth if self.depth > 1 else 2)
        )

    def close(self) -> None:
        self.data.close()
        self.disk.close()


class Load:
    """A batch to run again and again."""

    def __init__(self, disk: Disk, block: int, mode: str) -> None:
        self.execute = disk.disk.execute
        records = disk.batch(block, mode)
        per_call = len(records) if disk.depth > 1 else REQUEST_RECORD.size
        self.calls = [records[at : at + per_call] for at in range(0, len(records), per_call)]
        self.statuses = bytearray(per_call // REQUEST_RECORD.size)
        self.repeats = 1
        self.s_per_request: list[float] = []

    def run(self) -> float:
        """Seconds per request, of all calls `repeats` times."""
        execute, statuses = self.execute, self.statuses
        start = perf_counter()
        for _ in range(self.repeats):
            for records in self.calls:
                execute(records, statuses)
        elapsed_s = perf_counter() - start
        assert not any(statuses), f"statuses {bytes(statuses).hex()}"
        return elapsed_s / (self.repeats * len(self.calls) * len(statuses))

    def calibrate(self, round_s: float) -> None:
        self.run()
        start = perf_counter()
        self.run()
        self.repeats = max(1, min(10_000, int(round_s / max(perf_counter() - start, 1e-6))))

    def measure(self) -> None:
        self.s_per_request.append(self.run())


def measure_cell(disks: dict[str, Disk], block: int, mode: str, plan: Plan) -> dict[str, Any]:
    """Requests per second by ring, and how many times as fast the native one is."""
    loads = {ring: Load(disk, block, mode) for ring, disk in disks.items()}
    for load in loads.values():
        load.calibrate(ROUND_S / 10 if plan.quick else ROUND_S)
    for number in range(ROUNDS):
        order = list(loads.values())
        for load in reversed(order) if number % 2 else order:
            load.measure()
    native, reference = (loads[ring].s_per_request for ring in RINGS)
    ratios = [slow / fast for fast, slow in zip(native, reference, strict=True)]
    return {
        "block": block,
        "mode": mode,
        "ratio": round(Spread.of(ratios).median, 3),
        **{ring: round(1 / Spread.of(load.s_per_request).median) for ring, load in loads.items()},
    }


@contextmanager
def addresses(kind: str, depth: int) -> Iterator[dict[str, str]]:
    """One for each ring: a back end of vhost-user serves one client at a time."""
    if kind == "mem":
        yield dict.fromkeys(RINGS, f"mem:{DISK_BYTES}")
        return
    with tempfile.TemporaryDirectory(prefix="vioblk-disk-io-") as directory:
        exports = [null_export(ring, DISK_BYTES) for ring in RINGS]
        with StorageDaemon(Path(directory), exports) as daemon:
            yield {ring: daemon.address(ring) for ring in RINGS}


def measure_disk(kind: str, depth: int, plan: Plan) -> list[dict[str, Any]]:
    """All blocks and modes of one disk at one depth."""
    with ExitStack() as stack:
        disks = {}
        for ring, address in stack.enter_context(addresses(kind, depth)).items():
            disks[ring] = Disk(address, ring, depth)
            stack.callback(disks[ring].close)
        return [
            {"disk": kind, "depth": depth, **measure_cell(disks, block, mode, plan)}
            for block in BLOCKS
            for mode in MODES
        ]


def main() -> int:
    why = refusal()
    if why is not None:
        print(why, file=sys.stderr)
        return 1
    plan = Plan.from_environment()
    rows: list[dict[str, Any]] = []
    for kind in ("mem", "vhost-user"):
        for depth in DEPTHS:
            found = measure_disk(kind, depth, plan)
            rows += found
            ratios = [row["ratio"] for row in found]
            print(
                f"{kind}, depth {depth}: the native ring is {min(ratios):.1f} to {max(ratios):.1f}"
                f" times as fast as the one in Python, over {len(found)} loads",
                flush=True,
            )
    print(f"written to {report.write('disk_io', quick=plan.quick, cells=rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
