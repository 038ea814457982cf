"""Pairs without a watch for other load, for the benchmarks that still use them."""

from collections.abc import Callable
from time import perf_counter
from typing import TypeAlias

from benches.measure import Spread

Work: TypeAlias = Callable[[], int]
"""Does some requests, and says how many."""


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
