"""What a request costs as things grow: depth, queues, the disk, live regions, requests done.

    python -m benches.growth

The software device runs in this very thread, a batch at a time: submit, serve, reap. The driver's
share is what `submit_many` and `reap_many` take, from Python; what the device half takes is left
out, except where a series says that it is whole requests. Each series should be flat; where it is
not, it says why.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import vioblk
from benches import refuse_debug, report
from benches.measure import Plan, Side, Spread, Work, measure
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, SECTOR_BYTES, RequestType

BATCH: Final = 64
READ_BYTES: Final = 512
PLACES: Final = 4096
"""Blocks of the disk that are read, spread over all of it."""
FULL: Final = Plan(pairs=5, side_s=0.2, repeats=3)
QUICK: Final = Plan(pairs=3, side_s=0.02, repeats=0, quick=True)
FLAT: Final = 1.25
"""How many times the least the most may be, for a series to be called flat."""


class Turns:
    """A disk whose device is served in this thread, and reads that are done in turns."""

    def __init__(
        self, address: str, *, batch: int = BATCH, ring_size: int = 256, queues: int = 1
    ) -> None:
        self.disk = vioblk.open(
            address, threaded=False, queues=queues, queue_count=queues, ring_size=ring_size
        )
        self._serve = self.disk.device.transport.device.serve  # type: ignore[attr-defined]
        self.batch = batch
        self.regions = [self.disk.alloc(batch * READ_BYTES)]
        self._out = bytearray(batch * COMPLETION_RECORD.size)
        self._turns = self._make_turns(queues)

    def use_regions(self, count: int) -> None:
        """Read into so many live regions, one after another by chance."""
        self.regions += [self.disk.alloc(READ_BYTES) for _ in range(count - len(self.regions))]
        self._turns = self._make_turns(1)

    def _make_turns(self, queues: int) -> Iterator[tuple[bytes, int]]:
        """Batches of records and the queue that each goes to, without end."""
        chance = random.Random(7)
        blocks = self.disk.config.capacity_sectors * SECTOR_BYTES // READ_BYTES
        places = [chance.randrange(blocks) for _ in range(PLACES)]
        count = max(queues, PLACES // self.batch, len(self.regions) // self.batch)
        turns = [(self._records(chance, places), number % queues) for number in range(count)]
        return cycle(turns)

    def _records(self, chance: random.Random, places: Sequence[int]) -> bytes:
        return b"".join(
            REQUEST_RECORD.pack(
                RequestType.IN,
                0,
                chance.choice(places) * (READ_BYTES // SECTOR_BYTES),
                0,
                READ_BYTES,
                chance.choice(self.regions).handle,
                0,
            )
            for _ in range(self.batch)
        )

    def driver_s(self, count: int) -> float:
        """Do so many requests; the driver's share of the time."""
        return self._run(count)[0]

    def whole_s(self, count: int) -> float:
        """Do so many requests; all of the time."""
        return self._run(count)[1]

    def _run(self, count: int) -> tuple[float, float]:
        submit_many, reap_many, serve = self.disk.submit_many, self.disk.reap_many, self._serve
        driver_s = device_s = 0.0
        out = self._out
        for _ in range(count // self.batch):
            records, queue = next(self._turns)
            start = perf_counter()
            submitted = submit_many(records, queue)
            sent = perf_counter()
            serve()
            served = perf_counter()
            reaped = reap_many(out, queue)
            end = perf_counter()
            if submitted != self.batch or reaped != self.batch:
                raise RuntimeError(f"{submitted} and {reaped} of {self.batch} requests")
            driver_s += sent - start + end - served
            device_s += served - sent
        return driver_s, driver_s + device_s

    def close(self) -> None:
        for region in self.regions:
            region.close()
        # Closing reads nothing more of the device, which nobody serves by itself.
        self.disk.close(timeout_s=1.0)


@dataclass(frozen=True)
class Series:
    """What grows, and what is measured of it."""

    name: str
    grows: str
    measured: str
    reason: str
    """Why it is not flat, if it is not."""
    points: Callable[[Path, ExitStack], Iterator[tuple[int, Work, int]]]
    """Size, work and its granule; the stack closes what was opened."""


def _depths(directory: Path, stack: ExitStack) -> Iterator[tuple[int, Work, int]]:
    del directory
    for depth in (1, 4, 16, 64, 256, 1024):
        turns = Turns("mem:64M?queue_size=1024", batch=depth, ring_size=max(4, depth))
        stack.enter_context(closing(turns))
        yield depth, turns.driver_s, depth


def _queues(directory: Path, stack: ExitStack) -> Iterator[tuple[int, Work, int]]:
    del directory
    for queues in (1, 2, 4, 8):
        turns = stack.enter_context(closing(Turns("mem:64M", queues=queues)))
        yield queues, turns.driver_s, BATCH


def _disks(directory: Path, stack: ExitStack) -> Iterator[tuple[int, Turns]]:
    for mebibytes in (64, 1024, 8192, 65536):
        image = directory / f"{mebibytes}.raw"
        with image.open("wb") as file:
            file.truncate(mebibytes << 20)
        turns = stack.enter_context(closing(Turns(f"file:{image}")))
        turns.driver_s(PLACES)  # the holes are in the page cache from now on
        yield mebibytes, turns


def _disk_driver(directory: Path, stack: ExitStack) -> Iterator[tuple[int, Work, int]]:
    for mebibytes, turns in _disks(directory, stack):
        yield mebibytes, turns.driver_s, BATCH


def _disk_whole(directory: Path, stack: ExitStack) -> Iterator[tuple[int, Work, int]]:
    for mebibytes, turns in _disks(directory, stack):
        yield mebibytes, turns.whole_s, BATCH


def _regions(directory: Path, stack: ExitStack) -> Iterator[tuple[int, Work, int]]:
    del directory
    for count in (10, 100, 1000, 10_000):
        turns = stack.enter_context(closing(Turns("mem:64M")))
        turns.use_regions(count)
        yield count, turns.driver_s, BATCH


def _allocations(directory: Path, stack: ExitStack) -> Iterator[tuple[int, Work, int]]:
    del directory
    for count in (10, 100, 1000, 10_000):
        turns = stack.enter_context(closing(Turns("mem:64M")))
        turns.use_regions(count)
        yield count, _alloc_and_close(turns.disk), 1


def _alloc_and_close(disk: vioblk.BlockDevice) -> Work:
    def work(count: int) -> float:
        alloc = disk.alloc
        start = perf_counter()
        for _ in range(count):
            alloc(READ_BYTES).close()
        return perf_counter() - start

    return work


def _lives(directory: Path, stack: ExitStack) -> Iterator[tuple[int, Work, int]]:
    del directory, stack
    for count in (1_000, 10_000, 100_000, 1_000_000):
        # In batches, so not less than so many.
        requests = -(-count // BATCH) * BATCH
        yield count, _life(requests), requests


def _life(requests: int) -> Work:
    """A disk of its own for each so many requests."""

    def work(count: int) -> float:
        driver_s = 0.0
        for _ in range(count // requests):
            with closing(Turns("mem:64M")) as turns:
                driver_s += turns.driver_s(requests)
        return driver_s

    return work


SERIES: Final = (
    Series(
        "depth",
        "requests in flight, all submitted by one call and reaped by another",
        "driver's share",
        "the two calls, and the clock around them, are shared by fewer requests at small depths",
        _depths,
    ),
    Series("queues", "queues, used in turn", "driver's share", "", _queues),
    Series("disk", "MiB of a sparse file", "driver's share", "", _disk_driver),
    Series(
        "disk_whole",
        "MiB of a sparse file",
        "whole requests",
        "the system's page cache reaches the same number of pages through a deeper tree",
        _disk_whole,
    ),
    Series(
        "regions",
        "live regions, of which each request uses one by chance",
        "driver's share",
        "a queue remembers a bounded number of regions; for others it asks their space, and their "
        "descriptions are less often in a cache",
        _regions,
    ),
    Series(
        "allocations",
        "live regions, while one more comes and goes",
        "alloc and close",
        "",
        _allocations,
    ),
    Series(
        "requests",
        "requests in the life of a disk",
        "driver's share",
        "the first requests meet memory and caches that nothing has touched yet",
        _lives,
    ),
)


def run(series: Series, directory: Path, plan: Plan) -> dict[str, Any]:
    """Measure a series, and give it as the report has it."""
    with ExitStack() as stack:
        sides = [
            Side(str(size), work, granule=granule, alone=True)
            for size, work, granule in series.points(directory, stack)
        ]
        rounds = measure(sides, plan)
    costs = {side.name: Spread.of(rounds.seconds(side.name)) for side in sides}
    medians = [cost.median for cost in costs.values()]
    growth = max(medians) / min(medians)
    return {
        "name": series.name,
        "grows": series.grows,
        "measured": series.measured,
        "s_per_request": {size: asdict(cost) for size, cost in costs.items()},
        "most_by_least": growth,
        "flat": growth <= FLAT,
        "reason": "" if growth <= FLAT else series.reason,
        "quick": plan.quick,
    }


def text(result: dict[str, Any]) -> str:
    """A result, to be read."""
    verdict = "flat" if result["flat"] else f"not flat: {result['reason'] or 'no reason is known'}"
    lines = [
        f"\n{result['name']}: {result['grows']}; {result['measured']}, ns, median (quartiles)",
        *(
            f"  {int(size):>9,}  {1e9 * cost['median']:8.1f}"
            f" ({1e9 * cost['q1']:.1f} to {1e9 * cost['q3']:.1f})"
            for size, cost in result["s_per_request"].items()
        ),
        f"  most / least {result['most_by_least']:.2f}: {verdict}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.growth", description=__doc__)
    parser.add_argument("series", nargs="*", help="all if none is named")
    by_name = {series.name: series for series in SERIES}
    names = parser.parse_args(arguments).series or list(by_name)
    unknown = [name for name in names if name not in by_name]
    why = refuse_debug.refusal()
    if unknown or why is not None:
        parser.error(why or f"there is no {unknown[0]!r}: there are {', '.join(by_name)}")
    plan = QUICK if Plan.from_environment().quick else FULL
    results = []
    with tempfile.TemporaryDirectory(prefix="vioblk-growth-") as directory:
        for name in names:
            results.append(run(by_name[name], Path(directory), plan))
            print(text(results[-1]), flush=True)
    print(f"\nwritten to {report.write('growth', series=results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
