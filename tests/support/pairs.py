"""Fewer cases than the full product, in which every two values still meet."""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, islice, product
from typing import Final

Case = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]

CANDIDATES: Final = 50
"""Cases that each chosen one is the best of."""


def in_pairs(
    choices: Mapping[str, Sequence[str]], allowed: Callable[[Case], bool] = lambda case: True
) -> list[Case]:
    """Allowed cases of one value for each name, so that any two values which can meet do so in
    one of them. The same ones each time."""
    every = (dict(zip(choices, values, strict=True)) for values in product(*choices.values()))
    cases = [case for case in every if allowed(case)]
    random.Random(0).shuffle(cases)
    settings = [[(name, value) for value in values] for name, values in choices.items()]
    unmet = {pair for two in combinations(settings, 2) for pair in product(*two)}
    chosen = []
    while unmet:
        first = min(unmet)
        meeting = (case for case in cases if all(case[name] == value for name, value in first))
        candidates = list(islice(meeting, CANDIDATES))
        if not candidates:
            unmet.remove(first)
            continue
        best = max(candidates, key=lambda case: len(unmet & _pairs(case)))
        unmet -= _pairs(best)
        chosen.append(best)
    return chosen


def _pairs(case: Case) -> set[Pair]:
    return set(combinations(case.items(), 2))
