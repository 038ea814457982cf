"""The rings of every format beside each other, and beside those of other crates.

`python -m benches.versus` runs `rust/benches/versus.rs`, prints nanoseconds per request and the
ratios that are claimed, and writes both to `benches/out`. `VIOBLK_BENCH_ROUNDS` is the number of
rounds; a round measures everything once, back to back.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from benches import report
from benches.measure import Spread

ROOT: Final = Path(__file__).parents[1]
COMMAND: Final = ("cargo", "bench", "--locked", "--quiet", "--package", "vioblk-benches")
TIMEOUT_S: Final = 900


class Case(NamedTuple):
    """What all subjects of a table were measured at."""

    threads: int
    descriptors: int
    indirect: bool
    batch: int
    event_idx: bool
    queue_size: int

    def __str__(self) -> str:
        return (
            f"{_plural(self.threads, 'thread')}, {_plural(self.descriptors, 'descriptor')}"
            f"{' indirect' if self.indirect else ''}, batch {self.batch}"
            f"{', EVENT_IDX' if self.event_idx else ''}"
        )


Rounds = dict[str, list[float]]
"""Nanoseconds per request of each round, by subject."""


@dataclass(frozen=True)
class Claim:
    """In each case of `threads`, how many times as fast as `baseline` `subject` is to be."""

    name: str
    subject: str
    baseline: str
    threads: tuple[int, ...]
    target: float

    def holds_for(self, case: Case, rounds: Rounds) -> bool:
        return case.threads in self.threads and {self.subject, self.baseline} <= rounds.keys()


CLAIMS: Final = (
    Claim("split_vs_virtio_drivers", "split", "virtio-drivers", (1, 2), 1.0),
    Claim("split_vs_virtio_driver", "split", "virtio-driver", (1, 2), 1.0),
    Claim("packed_vs_split_2threads", "packed", "split", (2,), 1.5),
    Claim("inorder_vs_split_2threads", "split-in-order", "split", (2,), 1.2),
)
INFORMATION: Final = (
    Claim("packed_inorder_vs_split_2threads", "packed-in-order", "split", (2,), 0.0),
    Claim("packed_vs_virtio_driver_packed", "packed", "virtio-driver-packed", (1, 2), 0.0),
)


def parse(lines: Iterable[str]) -> dict[Case, Rounds]:
    """What the benchmark printed, one line of JSON for each subject and case."""
    cases: dict[Case, Rounds] = {}
    for line in lines:
        row = json.loads(line)
        case = Case(*(row[field] for field in Case._fields))
        cases.setdefault(case, {})[row["subject"]] = row["ns"]
    return cases


def ratio(subject: list[float], baseline: list[float]) -> Spread:
    """How many times as fast as the baseline, round by round."""
    return Spread.of([b / s for s, b in zip(subject, baseline, strict=True)])


def ratios(claim: Claim, cases: dict[Case, Rounds]) -> dict[Case, Spread]:
    return {
        case: ratio(rounds[claim.subject], rounds[claim.baseline])
        for case, rounds in cases.items()
        if claim.holds_for(case, rounds)
    }


def tables(cases: dict[Case, Rounds]) -> str:
    """Nanoseconds per request, a table for each case."""
    lines = []
    for case, rounds in cases.items():
        lines.append(f"\n{case}: ns per request, median (quartiles), least")
        for name, ns in rounds.items():
            lines.append(f"  {name:<22} {Spread.of(ns):7.1f}  {min(ns):7.1f}")
    return "\n".join(lines)


def ratio_lines(claim: Claim, cases: dict[Case, Rounds]) -> str:
    found = ratios(claim, cases)
    worst = min(spread.median for spread in found.values())
    target = f", target {claim.target:g}" if claim.target else ""
    lines = [f"\n[{claim.name}] at least {worst:.2f} times{target}"]
    lines += [f"  {case!s:<46} {spread:.2f}" for case, spread in found.items()]
    return "\n".join(lines)


def results(cases: dict[Case, Rounds]) -> dict[str, Any]:
    """As `benches/out` has it."""
    return {
        "results": [
            {
                "name": claim.name,
                "subject": claim.subject,
                "baseline": claim.baseline,
                "shape": case._asdict(),
                "ratio": asdict(spread),
                "target": claim.target or None,
            }
            for claim in (*CLAIMS, *INFORMATION)
            for case, spread in ratios(claim, cases).items()
        ],
        "ns_per_request": [
            {"subject": name, "shape": case._asdict(), **asdict(Spread.of(ns))}
            for case, rounds in cases.items()
            for name, ns in rounds.items()
        ],
    }


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def main() -> int:
    done = subprocess.run(
        [*COMMAND, "--bench", "versus"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        return done.returncode
    cases = parse(done.stdout.splitlines())
    print(tables(cases))
    for claim in (*CLAIMS, *INFORMATION):
        print(ratio_lines(claim, cases))
    print(f"\nwritten to {report.write('release', **results(cases))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
