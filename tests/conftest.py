"""What all tests share."""

from typing import Literal, TypeAlias

import pytest

pytest_plugins = ["tests.clauses.plugin", "tests.mutants.plugin"]

RingName: TypeAlias = Literal["native", "reference"]


@pytest.fixture(params=["native", "reference"])
def ring(request: pytest.FixtureRequest) -> RingName:
    """Every test that moves requests does so over both rings."""
    name: RingName = request.param
    return name
