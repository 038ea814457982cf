"""The whole suite: `python -m benches`, which is what `make bench` runs.

Each part is a program that can be run alone. A part that fails is said to have failed, and the rest
goes on: what it would have measured is missing from the summary, by name.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Final

from benches import refuse_debug, report
from benches.measure import Plan

ROOT: Final = Path(__file__).parents[1]
PART_TIMEOUT_S: Final = 900


@dataclass(frozen=True)
class Part:
    """A program of the suite."""

    name: str
    about: str
    arguments: tuple[str, ...]


def parts(directory: Path) -> list[Part]:
    """In the order in which they run; their reports go to `directory`."""
    record = f"--benchmark-json={directory / 'pytest-benchmark.json'}"
    pytest = ("-m", "pytest", "benches", "--quiet", "--benchmark-enable", record)
    return [
        Part("ring", "the rings beside rings in pure Python", pytest),
        Part("peers", "whole disks beside other clients", ("-m", "benches.peers")),
        Part("matrix", "the driver's share in every shape", ("-m", "benches.matrix")),
        Part("disk_io", "whole disks over both rings", ("-m", "benches.disk_io")),
        Part("growth", "what a request costs as things grow", ("-m", "benches.growth")),
        Part("memory", "how much memory is taken", ("-m", "benches.memory")),
        Part("criterion", "the Rust rings alone", ("-m", "benches.criterion")),
        Part("formats", "the formats, and other crates' rings", ("-m", "benches.versus")),
    ]


def run(part: Part) -> bool:
    """Whether it ended well."""
    print(f"\n== {part.name}: {part.about}", flush=True)
    start = perf_counter()
    code = _exit_code(part)
    print(f"== {part.name} took {perf_counter() - start:.0f} s", flush=True)
    if code:
        print(f"== {part.name} FAILED: exit code {code}", flush=True)
    elif code is None:
        print(f"== {part.name} FAILED: not done within {PART_TIMEOUT_S} s", flush=True)
    return code == 0


def _exit_code(part: Part) -> int | None:
    """None if it did not end in time. Nothing that it started is left to disturb the next one."""
    command = [sys.executable, *part.arguments]
    process = subprocess.Popen(command, cwd=ROOT, process_group=0)
    try:
        return process.wait(PART_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    why = refuse_debug.refusal()
    if why is not None:
        print(why, file=sys.stderr)
        return 1
    os.environ.setdefault(report.RUN_VARIABLE, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    quick = Plan.from_environment().quick
    if quick:
        print("a quick look: its figures mean little, and no summary is written")
    failed = [part.name for part in parts(report.run_directory()) if not run(part)]
    what = "a quick look at the ratios" if quick else "the ratios that are claimed"
    print(f"\n== {what}", flush=True)
    summed = subprocess.run([sys.executable, "-m", "benches.summary"], cwd=ROOT, check=False)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or summed.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
