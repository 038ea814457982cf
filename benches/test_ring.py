"""What the package's rings are to rings in pure Python: `pytest benches --benchmark-enable`.

Three descriptors a request, batches of 64, split, direct, no event index; called from Python. The
claims are about the driver's share (`turns`): submit, publish and reap, without the device half.
"""

from collections.abc import Callable
from typing import Any, Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.measure import Comparison, Plan, Side, measure
from benches.shapes import Shape
from benches.turns import (
    Driver,
    GenericRequests,
    NativePool,
    NumpySlots,
    PythonSlots,
    Records,
    Turns,
    reference_records,
)

SHAPE: Final = Shape()

DRIVERS: Final[dict[str, Callable[[Shape], Driver]]] = {
    "rust requests": Records,
    "rust slots": NativePool,
    "generic requests": GenericRequests,
    "python slots": PythonSlots,
    "numpy slots": NumpySlots,
    "reference requests": reference_records,
}

CLAIMS: Final = (
    ("ring_vs_generic", "rust requests", "generic requests", 40.0),
    ("ring_vs_slots", "rust slots", "python slots", 12.0),
    ("ring_vs_numpy", "rust slots", "numpy slots", 3.0),
    ("ring_vs_reference", "rust requests", "reference requests", None),
)
"""Name, subject, baseline, and how many times as fast the subject is to be, if that is set."""

Report = Callable[[Comparison], None]


@pytest.mark.parametrize("name", DRIVERS)
def test_a_batch_with_its_device_half(benchmark: BenchmarkFixture, name: str) -> None:
    """For the record of pytest-benchmark: whole turns, the device's time included."""
    turns = Turns(DRIVERS[name](SHAPE))
    turns.check()
    submit, request = turns.driver.submit
    reap, place = turns.driver.reap
    serve = turns.device.serve

    def turn() -> None:
        submit(*request)
        serve()
        reap(*place)

    run: Any = benchmark  # it has no types
    run(turn)
    turns.check()


def test_the_drivers_share(report_comparison: Report) -> None:
    sides = []
    for name, make in DRIVERS.items():
        turns = Turns(make(SHAPE))
        turns.check()
        sides.append(Side(name, turns.driver_share, granule=turns.batch, alone=True))
    rounds = measure(sides, Plan.from_environment())
    for claim in CLAIMS:
        report_comparison(rounds.compare(*claim))
