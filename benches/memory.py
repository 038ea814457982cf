"""How much memory an open disk and a request in flight take.

    python -m benches.memory

Each figure is the difference between two child processes, fresh ones, that differ in one number:
of disks that are open, or of requests in flight. What counts is the resident set in proportion to
who shares it (PSS), as the driver's memory is shared with a daemon that reaches it.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import vioblk
from benches import refuse_debug, report
from benches.measure import Plan, Spread
from tests.interop.storage_daemon import StorageDaemon, null_export
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, RequestType

ROOT: Final = Path(__file__).parents[1]
DISKS: Final = 16
FIRST: Final = 1
"""What both children have, so that what is there once (modules, threads' stacks) cancels out."""
RING_SIZE: Final = 1024
READ_BYTES: Final = 512
REPEATS: Final = 5
CHILD_TIMEOUT_S: Final = 60
SMAPS: Final = Path("/proc/self/smaps_rollup")


@dataclass(frozen=True)
class Figure:
    """Something to count, and how much memory each one takes."""

    name: str
    about: str
    scheme: str
    """Of the disks' addresses."""
    most: int
    """How many of it the larger child has."""


FIGURES: Final = (
    Figure("disk_vhost_user", "an open disk of a daemon, one queue of 256", "vhost-user", DISKS),
    Figure("disk_mem", "an open disk of the software device, one queue of 256", "mem", DISKS),
    Figure("disk_used", "the same, all of whose queue has been used", "mem-used", DISKS),
    Figure("request", "a request in flight, without its data", "request", RING_SIZE),
)


def resident_bytes(rollup: str) -> int:
    """The proportional set size in the text of /proc/PID/smaps_rollup."""
    [line] = [line for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) * 1024


def _open_all(addresses: Sequence[str], stack: ExitStack) -> list[vioblk.BlockDevice]:
    return [stack.enter_context(vioblk.open(each, queue_count=1)) for each in addresses]


def _disks(addresses: Sequence[str], count: int, stack: ExitStack) -> None:
    _open_all(addresses[:count], stack)


def _used_disks(addresses: Sequence[str], count: int, stack: ExitStack) -> None:
    for disk in _open_all(addresses[:count], stack):
        region = stack.enter_context(disk.alloc(READ_BYTES))
        size = disk.info.queues[0].depth
        statuses = bytearray(2 * size)
        disk.execute(_records(region, 2 * size), statuses)


def _requests(addresses: Sequence[str], count: int, stack: ExitStack) -> None:
    # Nobody serves it, so what is submitted stays in flight. One by one: a batch would leave a copy
    # of its records behind.
    del addresses
    disk = vioblk.open(f"mem:1M?queue_size={RING_SIZE}", threaded=False, ring_size=RING_SIZE)
    region = disk.alloc(READ_BYTES)
    stack.callback(_finish, disk, region)
    record = _records(region, 1)
    for _ in range(count):
        if disk.submit_many(record) != 1:
            raise RuntimeError(f"there is no room for {count} requests")


def _finish(disk: vioblk.BlockDevice, region: vioblk.Region) -> None:
    disk.device.transport.device.serve()  # type: ignore[attr-defined]
    while disk.reap_many(bytearray(COMPLETION_RECORD.size)):
        pass
    region.close()
    disk.close()


def _records(region: vioblk.Region, count: int) -> bytes:
    return REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, READ_BYTES, region.handle, 0) * count


HOLD: Final[Mapping[str, Callable[[Sequence[str], int, ExitStack], None]]] = {
    "vhost-user": _disks,
    "mem": _disks,
    "mem-used": _used_disks,
    "request": _requests,
}


def child(scheme: str, count: int, addresses: Sequence[str]) -> None:
    """Hold so many of something, and print how much memory this process takes."""
    with ExitStack() as stack:
        HOLD[scheme](addresses, count, stack)
        print(resident_bytes(SMAPS.read_text()))


def measured(figure: Figure, count: int, addresses: Sequence[str]) -> int:
    """What a child process takes that holds so many."""
    done = subprocess.run(
        [sys.executable, "-m", "benches.memory", "--hold", figure.scheme, str(count), *addresses],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=CHILD_TIMEOUT_S,
    )
    return int(done.stdout)


def run(figure: Figure, repeats: int) -> Spread:
    """Bytes that each one takes."""
    with ExitStack() as stack:
        addresses = ["mem:1M"] * DISKS
        if figure.scheme == "vhost-user":
            addresses = stack.enter_context(_Daemon(figure.most)).addresses
        each = []
        for _ in range(repeats):
            few, many = (measured(figure, count, addresses) for count in (FIRST, figure.most))
            each.append((many - few) / (figure.most - FIRST))
    return Spread.of(each)


class _Daemon(ExitStack):
    """A storage daemon with so many disks."""

    def __init__(self, count: int) -> None:
        super().__init__()
        directory = self.enter_context(tempfile.TemporaryDirectory(prefix="vioblk-memory-"))
        names = [f"disk{number}" for number in range(count)]
        exports = [null_export(name, 1 << 30) for name in names]
        daemon = self.enter_context(StorageDaemon(Path(directory), exports))
        self.addresses = [daemon.address(name) for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.memory", description=__doc__)
    parser.add_argument("--hold", nargs="+", help=argparse.SUPPRESS)
    hold = parser.parse_args(arguments).hold
    if hold:
        child(hold[0], int(hold[1]), hold[2:])
        return 0
    why = refuse_debug.refusal()
    if why is not None:
        parser.error(why)
    quick = Plan.from_environment().quick
    results: list[dict[str, Any]] = []
    print("resident memory, bytes: median (quartiles) of each")
    for figure in FIGURES:
        spread = run(figure, 3 if quick else REPEATS)
        print(f"  {figure.name:<16} {spread:>12,.0f}  {figure.about}", flush=True)
        results.append(
            {"name": figure.name, "about": figure.about, "bytes": asdict(spread), "quick": quick}
        )
    print(f"written to {report.write('memory', figures=results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
