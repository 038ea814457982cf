"""The rings of every format beside each other, and beside those of other crates.

`python -m benches.versus` runs `rust/benches/versus.rs`, prints nanoseconds per request and the
ratios that are claimed, and writes both to `benches/out`. `VIOBLK_BENCH_ROUNDS` is the number of
rounds; a round measures everything once, back to back. A quick look has fewer.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from benches import report
from benches.measure import Plan, Spread

ROOT: Final = Path(__file__).parents[1]
COMMAND: Final = ("cargo", "bench", "--locked", "--quiet", "--package", "vioblk-benches")
TIMEOUT_S: Final = 900
QUICK_ROUNDS: Final = "11"


class Case(NamedTuple):
    """What all subjects of a table were measured at."""

    threads: int
    descriptors: int
    indirect: bool
    batch: int
    event_idx: bool
    queue_size: int

    @property
    def shape(self) -> "Shape":
        return Shape(self.descriptors, self.indirect, self.batch)

    def __str__(self) -> str:
        return (
            f"{_plural(self.threads, 'thread')}, {_plural(self.descriptors, 'descriptor')}"
            f"{' indirect' if self.indirect else ''}, batch {self.batch}"
            f"{', EVENT_IDX' if self.event_idx else ''}"
        )


Rounds = dict[str, list[float]]
"""Nanoseconds per request of each round, by subject."""


class Shape(NamedTuple):
    """What a request is, and how many at once."""

    descriptors: int
    indirect: bool
    batch: int


@dataclass(frozen=True)
class Claim:
    """How many times as fast as `baseline` `subject` is to be with so many threads.

    Every shape is measured and printed. The claim is about `shape`, or, if that is None, about
    whichever does worst.
    """

    name: str
    subject: str
    baseline: str
    threads: tuple[int, ...]
    target: float | None = None
    shape: Shape | None = None

    def can_be_read_from(self, case: Case, rounds: Rounds) -> bool:
        return case.threads in self.threads and {self.subject, self.baseline} <= rounds.keys()

    def headline(self, found: dict[Case, Spread]) -> Case:
        """The case that the claim is about."""
        if self.shape is None:
            return min(found, key=lambda case: found[case].median)
        [case] = [case for case in found if case.shape == self.shape and not case.event_idx]
        return case


CLAIMS: Final = (
    Claim("split_vs_virtio_drivers", "split", "virtio-drivers", (1, 2), 1.0),
    Claim("split_vs_virtio_driver", "split", "virtio-driver", (1, 2), 1.0),
    Claim("packed_vs_split_2threads", "packed", "split", (2,), 1.5, Shape(1, False, 1)),
    Claim("inorder_vs_split_2threads", "split-in-order", "split", (2,), 1.2, Shape(3, False, 64)),
    Claim("packed_inorder_vs_split_2threads", "packed-in-order", "split", (2,)),
    Claim("packed_vs_virtio_driver_packed", "packed", "virtio-driver-packed", (1, 2)),
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
        if claim.can_be_read_from(case, rounds)
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
    headline = claim.headline(found)
    medians = [spread.median for spread in found.values()]
    target = "" if claim.target is None else f"; target {claim.target:g}"
    lines = [
        f"\n[{claim.name}] {found[headline]:.2f} times at {headline}{target};"
        f" all shapes: {min(medians):.2f} to {max(medians):.2f}"
    ]
    lines += [f"  {case!s:<46} {spread:.2f}" for case, spread in found.items()]
    return "\n".join(lines)


def results(cases: dict[Case, Rounds]) -> dict[str, Any]:
    """As `benches/out` has it."""
    rows = []
    for claim in CLAIMS:
        found = ratios(claim, cases)
        headline = claim.headline(found) if found else None
        rows += [
            {
                "name": claim.name,
                "headline": case == headline,
                "subject": claim.subject,
                "baseline": claim.baseline,
                "case": case._asdict(),
                "ratio": asdict(spread),
                "target": claim.target,
            }
            for case, spread in found.items()
        ]
    return {
        "results": rows,
        "ns_per_request": [
            {"subject": name, "case": case._asdict(), **asdict(Spread.of(ns))}
            for case, rounds in cases.items()
            for name, ns in rounds.items()
        ],
    }


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def main() -> int:
    quick = Plan.from_environment().quick
    done = subprocess.run(
        [*COMMAND, "--bench", "versus"],
        cwd=ROOT,
        env={**({"VIOBLK_BENCH_ROUNDS": QUICK_ROUNDS} if quick else {}), **os.environ},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        return done.returncode
    cases = parse(done.stdout.splitlines())
    print(tables(cases))
    for claim in CLAIMS:
        print(ratio_lines(claim, cases))
    print(f"\nwritten to {report.write('formats', quick=quick, **results(cases))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
