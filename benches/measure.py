"""Timing of two ways to do the same work, side by side in one run.

Absolute figures of a shared machine move by a factor of two from run to run; the ratio of two
sides that are measured in turns moves by a few percent. So a result is a ratio: its median and
quartiles over pairs, each pair measured back to back and in alternating order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import TypeAlias

Work: TypeAlias = Callable[[], int]
"""Does some requests, and says how many."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        q1, _, q3 = quantiles(values, n=4)
        return cls(median(values), q1, q3)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} (quartiles {self.q1:{spec}} to {self.q3:{spec}})"


def seconds_per_request(work: Work) -> float:
    start = perf_counter()
    request_count = work()
    return (perf_counter() - start) / request_count


class Comparison:
    """How many times faster `subject` is than `baseline`. Each call measures one pair."""

    def __init__(self, subject: Work, baseline: Work) -> None:
        self._subject = subject
        self._baseline = baseline
        self.subject_s: list[float] = []
        self.baseline_s: list[float] = []

    def __call__(self) -> None:
        if len(self.subject_s) % 2:
            self.baseline_s.append(seconds_per_request(self._baseline))
            self.subject_s.append(seconds_per_request(self._subject))
        else:
            self.subject_s.append(seconds_per_request(self._subject))
            self.baseline_s.append(seconds_per_request(self._baseline))

    def warm_up(self) -> None:
        self._subject()
        self._baseline()

    def ratio(self) -> Spread:
        pairs = zip(self.subject_s, self.baseline_s, strict=True)
        return Spread.of([baseline / subject for subject, baseline in pairs])
