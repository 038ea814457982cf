"""What other load took from a measurement, by what the system counted meanwhile.

Three counters tell of it, each where it means something:

- *stolen*: what the host gave to other guests while this machine wanted to run (`/proc/stat`);
- *foreign*: processor time of all processes but this one and its descendants (`/proc/PID/stat`).
  A daemon or a client that is measured is a descendant, so it does not count;
- *delayed*: how long this thread was ready to run and did not (`/proc/thread-self/schedstat`).
  It counts against work of one thread alone: threads that wait for each other, or share a
  processor on purpose, delay each other, and nobody disturbs them. Involuntary context switches
  say the same with less: not for how long.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
STOLEN: Final = 7
"""Which of the numbers of `cpu` in /proc/stat."""


@dataclass(frozen=True)
class Reading:
    """What was counted while something ran; all in seconds."""

    wall_s: float
    stolen_s: float
    foreign_s: float
    delayed_s: float


@dataclass(frozen=True)
class Bounds:
    """What is still no disturbance, as parts of the time that the measurement took.

    The counters of processes move in steps of 10 ms: the bounds are for measurements of 0.2 s and
    more. An idle machine's own threads take less than a hundredth.
    """

    stolen: float = 0.03
    foreign: float = 0.10
    delayed: float = 0.03

    def excess(self, reading: Reading, *, alone: bool) -> float:
        """How many times the worst counter is what it may be; more than 1: disturbed.

        `alone`: one thread did all the work, so that its delays count.
        """
        wall_s = max(reading.wall_s, 1e-9)
        shares = [
            reading.stolen_s / wall_s / self.stolen,
            reading.foreign_s / wall_s / self.foreign,
        ]
        if alone:
            shares.append(reading.delayed_s / wall_s / self.delayed)
        return max(shares)


class Process(NamedTuple):
    """A line of /proc/PID/stat: who started it, and its processor time with that of its children
    that have ended."""

    parent: int
    cpu_s: float


class Snapshot(NamedTuple):
    """The counters at one time; the difference of two is a reading."""

    at_s: float
    stolen_s: float
    foreign_s: float
    delayed_s: float

    @classmethod
    def take(cls) -> "Snapshot":
        return cls(
            perf_counter(),
            stolen_s(Path("/proc/stat").read_text()),
            foreign_s(_processes(), os.getpid()),
            delayed_s(_read(Path("/proc/thread-self/schedstat"))),
        )

    def until(self, later: "Snapshot") -> Reading:
        return Reading(*(max(0.0, b - a) for a, b in zip(self, later, strict=True)))


def stolen_s(stat: str) -> float:
    """From the text of /proc/stat."""
    return int(stat.partition("\n")[0].split()[1 + STOLEN]) / TICKS_PER_S


def delayed_s(schedstat: str) -> float:
    """From the text of /proc/thread-self/schedstat; 0 where the system does not count it."""
    fields = schedstat.split()
    return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0


def foreign_s(processes: dict[int, Process], own: int) -> float:
    """Processor time of all that are neither `own` nor its descendants."""
    return sum(
        process.cpu_s for pid, process in processes.items() if own not in _ancestry(pid, processes)
    )


def parse_process(stat: str) -> Process:
    """From the text of /proc/PID/stat. The name may hold blanks and parentheses."""
    fields = stat.rpartition(")")[2].split()
    return Process(int(fields[1]), sum(map(int, fields[11:15])) / TICKS_PER_S)


def _ancestry(pid: int, processes: dict[int, Process]) -> Iterable[int]:
    """The process and who started it, and so on."""
    while pid in processes:
        yield pid
        pid = processes[pid].parent


def _processes() -> dict[int, Process]:
    texts = {
        int(directory.name): _read(directory / "stat")
        for directory in Path("/proc").iterdir()
        if directory.name.isdigit()
    }
    return {pid: parse_process(text) for pid, text in texts.items() if text}


def _read(path: Path) -> str:
    """The text; nothing if the process has ended or the system has no such file."""
    try:
        return path.read_text()
    except OSError:
        return ""
