"""The driver's share of a request in every shape: `python -m benches.matrix`.

Chains of 1, 3, 17 and 128 descriptors, direct and indirect, with and without event index, in
batches of 1, 8, 64 and 256, through split and packed rings; by each way of Rust and its
counterpart in Python, and by the reference ring of the package. Phases: allocation (chains pushed
and withdrawn: what it takes to find descriptors, write them and give them back), submit (push and
publish), reap, and both together, the whole request.

There are some hundred shapes and ten ways, so that each is measured for a moment only: all ways of
a shape in turns, some rounds of a few milliseconds, of which the median counts. What is claimed
is measured for longer (`test_ring`).
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from statistics import median
from time import perf_counter
from typing import Any, Final, TypeAlias

from benches import report
from benches.measure import Plan
from benches.refuse_debug import refusal
from benches.shapes import Shape
from benches.turns import (
    Call,
    Driver,
    GenericChains,
    GenericRequests,
    NativePool,
    NumpySlots,
    PythonSlots,
    Records,
    RingChains,
    Turns,
    reference_chains,
    reference_records,
)

DESCRIPTORS: Final = (1, 3, 17, 128)
BATCHES: Final = (1, 8, 64, 256)
PHASES: Final = ("allocate", "submit", "reap", "whole")

Make: TypeAlias = Callable[[Shape], Driver]

WAYS: Final[dict[str, Make]] = {
    "rust requests": Records,
    "rust slots": NativePool,
    "rust chains": RingChains,
    "generic requests": GenericRequests,
    "python slots": PythonSlots,
    "numpy slots": NumpySlots,
    "generic chains": GenericChains,
    "reference requests": reference_records,
    "reference chains": reference_chains,
}
"""By what they are called in the results."""

BESIDE: Final = (
    ("rust requests", "generic requests"),
    ("rust slots", "python slots"),
    ("rust slots", "numpy slots"),
    ("rust chains", "generic chains"),
    ("rust requests", "reference requests"),
)
"""What is set beside what."""

REQUESTS_ONLY: Final = {"rust requests", "rust slots", "generic requests", "reference requests"}
"""Ways that need a header and a status byte, so three descriptors at least."""

ROUNDS: Final = 5
ROUND_S: Final = 0.004


def shapes() -> Iterator[Shape]:
    """Every shape; a table for one descriptor would be none."""
    for packed, descriptors, indirect, event_idx, batch in itertools.product(
        (False, True), DESCRIPTORS, (False, True), (False, True), BATCHES
    ):
        if not (indirect and descriptors == 1):
            yield Shape(descriptors, batch, packed, indirect, event_idx)


def ways(shape: Shape) -> dict[str, Make]:
    """Those that can do this shape."""
    return {name: make for name, make in WAYS.items() if not _cannot(name, shape)}


def _cannot(name: str, shape: Shape) -> bool:
    return (
        (name in REQUESTS_ONLY and not shape.framed)
        # In pure Python the request queue has no fence, and refuses the event index.
        or (name == "reference requests" and shape.event_idx)
    )


class Cell:
    """One way in one shape."""

    def __init__(self, make: Make, shape: Shape, round_s: float) -> None:
        driver = make(shape)
        self.allocate: Call | None = getattr(driver, "allocate", None)
        self.turns = Turns(driver)
        self.turns.check()
        start = perf_counter()
        self.turns.phases(1)
        self.batches = max(1, min(4096, int(round_s / max(perf_counter() - start, 1e-6))))
        self.ns: dict[str, list[float]] = {phase: [] for phase in PHASES}

    def measure(self) -> None:
        """One round."""
        phases = self.turns.phases(self.batches)
        per_request = 1e9 / phases.request_count
        self.ns["submit"].append(phases.submit_s * per_request)
        self.ns["reap"].append(phases.reap_s * per_request)
        self.ns["whole"].append(phases.driver_s * per_request)
        if self.allocate is not None:
            allocate, _ = self.allocate
            start = perf_counter()
            for _ in range(self.batches):
                allocate()
            self.ns["allocate"].append((perf_counter() - start) * per_request)

    def medians(self) -> dict[str, float]:
        """Nanoseconds per request of each phase."""
        return {phase: round(median(ns), 2) for phase, ns in self.ns.items() if ns}


def measure_shape(shape: Shape, rounds: int = ROUNDS, round_s: float = ROUND_S) -> dict[str, Any]:
    """Nanoseconds per request, by way and phase."""
    cells = {name: Cell(make, shape, round_s) for name, make in ways(shape).items()}
    for number in range(rounds):
        order = list(cells.values())
        for cell in reversed(order) if number % 2 else order:
            cell.measure()
    return {"shape": asdict(shape), "ns": {name: cell.medians() for name, cell in cells.items()}}


def ratio(row: dict[str, Any], fast: str, slow: str, phase: str = "whole") -> float | None:
    """How many times as fast; None where one of them was not measured."""
    both = [row["ns"].get(name, {}).get(phase) for name in (fast, slow)]
    return None if None in both or not both[0] else both[1] / both[0]


def main() -> int:
    why = refusal()
    if why is not None:
        print(why, file=sys.stderr)
        return 1
    plan = Plan.from_environment()
    rows = []
    for shape in shapes():
        rows.append(measure_shape(shape, *((2, 0.001) if plan.quick else (ROUNDS, ROUND_S))))
    print(
        f"{len(rows)} shapes; the driver's share of a whole request, least and most times as fast:"
    )
    for fast, slow in BESIDE:
        found = [each for row in rows if (each := ratio(row, fast, slow)) is not None]
        if found:
            print(f"  {fast} beside {slow}: {min(found):.1f} to {max(found):.1f}")
    print(f"written to {report.write('matrix', quick=plan.quick, cells=rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
