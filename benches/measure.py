"""Timing of ways to do the same work, side by side in one run.

Absolute figures of a shared machine move by a factor of two from run to run; the ratio of two
sides that are measured in turns moves by a few percent. So a result is a ratio: its median and
quartiles over pairs, each pair measured back to back, in alternating order. A round whose
measurement other load disturbed (`disturbance`) is measured again, a bounded number of times; what
stays disturbed is kept, the least disturbed attempt of it, and says so.

    sides = [Side("vioblk", timed(read_blocks)), Side("blkio", child.run), Side("libnbd", nbd.run)]
    rounds = measure(sides)
    comparison = rounds.compare("null_d32_event_vs_libnbd", "vioblk", "libnbd", target=8.0)
    print(comparison)
    report.write("peers", results=[comparison.as_json()])
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from time import perf_counter
from typing import Any, Final, TypeAlias

from benches.disturbance import Bounds, Reading, Snapshot

QUICK_VARIABLE: Final = "VIOBLK_BENCH_QUICK"
TRIES: Final = 3
"""How often a turn that was too short is made again."""

Work: TypeAlias = Callable[[int], float]
"""Does so many requests, and says how many seconds count for them: usually those that it took."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        q1, _, q3 = quantiles(values, n=4)
        return cls(median(values), q1, q3)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} (quartiles {self.q1:{spec}} to {self.q3:{spec}})"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    pairs: int = 11
    side_s: float = 1.0
    """How long each side of a pair runs, at least."""
    repeats: int = 6
    """How many rounds are measured again at most, because they were disturbed."""
    repeats_in_a_row: int = 2
    quick: bool = False
    """A look, and no result: it says so wherever it is printed, and is in no summary."""

    @classmethod
    def from_environment(cls) -> "Plan":
        """A full run, or a quick look if VIOBLK_BENCH_QUICK is set (and not 0)."""
        if os.environ.get(QUICK_VARIABLE, "0") in ("", "0"):
            return cls()
        return cls(pairs=3, side_s=0.1, repeats=0, quick=True)


@dataclass(frozen=True)
class Side:
    """One way to do the work."""

    name: str
    work: Work
    granule: int = 1
    """Requests are done in multiples of this (a batch)."""
    alone: bool = False
    """One thread does all of it, the calling one: then every delay of it is a disturbance."""


@dataclass(frozen=True)
class Turn:
    """One side, measured once."""

    s_per_request: float
    reading: Reading
    excess: float
    """More than 1: disturbed (see `Bounds.excess`)."""


Round: TypeAlias = list[Turn]
"""A turn of each side, back to back."""


def timed(run: Callable[[int], object]) -> Work:
    """Work that counts with all the time that it takes."""

    def work(count: int) -> float:
        start = perf_counter()
        run(count)
        return perf_counter() - start

    return work


def calibrate(side: Side, side_s: float) -> int:
    """How many requests take the side at least `side_s` (about a tenth more). Also a warm-up."""
    count = side.granule
    while (elapsed_s := _wall_s(side, count)) < side_s / 8:
        count *= 2 if elapsed_s > side_s / 100 else 8
    return _round_up(count * 1.1 * side_s / elapsed_s, side.granule)


def _round_up(count: float, granule: int) -> int:
    return granule * max(1, int(-(-count // granule)))


def _wall_s(side: Side, count: int) -> float:
    start = perf_counter()
    side.work(count)
    return perf_counter() - start


@dataclass
class Rounds:
    """Sides measured in turns: `ratio` sets any two of them beside each other."""

    sides: Sequence[Side]
    plan: Plan
    rounds: list[Round] = field(default_factory=list)
    repeated: int = 0

    def turns(self, name: str) -> list[Turn]:
        [index] = [n for n, side in enumerate(self.sides) if side.name == name]
        return [each[index] for each in self.rounds]

    def seconds(self, name: str) -> list[float]:
        """Seconds per request of a side, of each round."""
        return [turn.s_per_request for turn in self.turns(name)]

    def compare(
        self, name: str, subject: str, baseline: str, target: float | None = None
    ) -> "Comparison":
        return Comparison(
            name, target, subject, baseline, self.turns(subject), self.turns(baseline), self
        )


@dataclass(frozen=True)
class Comparison:
    """How many times as fast as the baseline the subject was, pair by pair."""

    name: str
    target: float | None
    subject: str
    baseline: str
    subject_turns: list[Turn]
    baseline_turns: list[Turn]
    of: Rounds

    @property
    def ratios(self) -> list[float]:
        pairs = zip(self.subject_turns, self.baseline_turns, strict=True)
        return [baseline.s_per_request / subject.s_per_request for subject, baseline in pairs]

    @property
    def ratio(self) -> Spread:
        return Spread.of(self.ratios)

    @property
    def disturbed_pairs(self) -> int:
        """How many pairs stayed disturbed."""
        pairs = zip(self.subject_turns, self.baseline_turns, strict=True)
        return sum(max(subject.excess, baseline.excess) > 1 for subject, baseline in pairs)

    def as_json(self) -> dict[str, Any]:
        """As the reports have it; `benches.summary` reads this."""
        return {
            "name": self.name,
            "target": self.target,
            "ratio": asdict(self.ratio),
            "pairs": len(self.ratios),
            "side_s": self.of.plan.side_s,
            "quick": self.of.plan.quick,
            "disturbed_pairs": self.disturbed_pairs,
            "repeated_rounds": self.of.repeated,
            "subject": _side_json(self.subject, self.subject_turns),
            "baseline": _side_json(self.baseline, self.baseline_turns),
            "sides": {
                side.name: asdict(Spread.of(self.of.seconds(side.name))) for side in self.of.sides
            },
        }

    def __str__(self) -> str:
        target = "" if self.target is None else f"; target {self.target:g}"
        rates = ", ".join(
            f"{name} {1 / Spread.of([turn.s_per_request for turn in turns]).median:,.0f}/s"
            for name, turns in (
                (self.subject, self.subject_turns),
                (self.baseline, self.baseline_turns),
            )
        )
        disturbed = self.disturbed_pairs
        note = f"; DISTURBED: {disturbed} of {len(self.ratios)} pairs" if disturbed else ""
        quick = "; quick look" if self.of.plan.quick else ""
        return f"[{self.name}] {self.ratio:.2f} times{target}; {rates}{note}{quick}"


def _side_json(name: str, turns: list[Turn]) -> dict[str, Any]:
    return {
        "name": name,
        "s_per_request": asdict(Spread.of([turn.s_per_request for turn in turns])),
        "turns": [asdict(turn) for turn in turns],
    }


def measure(
    sides: Sequence[Side], plan: Plan | None = None, bounds: Bounds | None = None
) -> Rounds:
    """Measure the sides in turns, in the order given and in reverse alternately."""
    plan = plan or Plan.from_environment()
    counts = [calibrate(side, plan.side_s) for side in sides]
    result = Rounds(sides, plan)
    for number in range(plan.pairs):
        attempts = [_round(result, counts, number, bounds or Bounds())]
        while _may_repeat(attempts, result):
            result.repeated += 1
            attempts.append(_round(result, counts, number, bounds or Bounds()))
        result.rounds.append(min(attempts, key=_excess))
    return result


def compare(
    name: str,
    subject: Side,
    baseline: Side,
    *,
    target: float | None = None,
    plan: Plan | None = None,
) -> Comparison:
    """Measure two sides in pairs."""
    return measure([subject, baseline], plan).compare(name, subject.name, baseline.name, target)


def _may_repeat(attempts: list[Round], so_far: Rounds) -> bool:
    """Whether the last attempt was disturbed, and may be made again."""
    plan = so_far.plan
    return (
        _excess(attempts[-1]) > 1
        and so_far.repeated < plan.repeats
        and len(attempts) <= plan.repeats_in_a_row
    )


def _excess(turns: Round) -> float:
    return max(turn.excess for turn in turns)


def _round(result: Rounds, counts: list[int], number: int, bounds: Bounds) -> Round:
    """Measure each side once. A side that took too little time is given more to do and measured
    again: it was calibrated while something slowed it down."""
    turns: dict[int, Turn] = {}
    order = range(len(result.sides))
    for n in reversed(order) if number % 2 else order:
        side, side_s = result.sides[n], result.plan.side_s
        turns[n] = _turn(side, counts[n], bounds)
        for _ in range(TRIES):
            if turns[n].reading.wall_s >= side_s:
                break
            counts[n] = _round_up(
                counts[n] * 1.1 * side_s / max(turns[n].reading.wall_s, side_s / 8), side.granule
            )
            turns[n] = _turn(side, counts[n], bounds)
    return [turns[n] for n in order]


def _turn(side: Side, count: int, bounds: Bounds) -> Turn:
    before = Snapshot.take()
    seconds = side.work(count)
    reading = before.until(Snapshot.take())
    return Turn(seconds / count, reading, bounds.excess(reading, alone=side.alone))
