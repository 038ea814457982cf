"""What all tests share."""

import gc
from typing import Literal, TypeAlias

import pytest

pytest_plugins = ["tests.clauses.plugin", "tests.mutants.plugin"]

RingName: TypeAlias = Literal["native", "reference"]


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: the collector, which many tests call, need not look at
    them each time."""
    gc.freeze()


@pytest.fixture(params=["native", "reference"])
def ring(request: pytest.FixtureRequest) -> RingName:
    """Every test that moves requests does so over both rings."""
    name: RingName = request.param
    return name
