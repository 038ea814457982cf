"""What all tests share."""

import gc
import os
import shutil
import tempfile
from typing import Literal, TypeAlias

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time, and however slow the machine is: no run may fail by luck alone.
# `pytest --hypothesis-profile=default` looks at others.
settings.register_profile(
    "suite",
    database=None,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

pytest_plugins = ["tests.clauses.plugin", "tests.mutants.plugin"]

RingName: TypeAlias = Literal["native", "reference"]


def pytest_configure(config: pytest.Config) -> None:
    """Where the environment forbids Python to keep what it compiles, hundreds of processes that
    tests start would compile it anew; let them share it, away from the tree."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        directory = tempfile.mkdtemp(prefix="vioblk-bytecode-")
        os.environ["PYTHONPYCACHEPREFIX"] = directory
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: the collector, which many tests call, need not look at
    them each time."""
    gc.freeze()


@pytest.fixture(params=["native", "reference"])
def ring(request: pytest.FixtureRequest) -> RingName:
    """Every test that moves requests does so over both rings."""
    name: RingName = request.param
    return name
