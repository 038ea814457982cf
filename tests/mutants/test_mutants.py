"""Every mutant must make its test fail, and without it the same test must pass."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.clauses.plugin import RECORD_VARIABLE
from tests.mutants.catalogue import all_mutants
from tests.mutants.mutant import Mutant
from tests.mutants.plugin import VARIABLE

ROOT = Path(__file__).parents[2]
MUTANTS = all_mutants()
MUTANT_COUNT_MIN = 15
TIMEOUT_S = 220
"""All tests of the mutants take half a minute on an idle machine."""
RUNS_AT_ONCE = 2

Run: TypeAlias = subprocess.CompletedProcess[str]


def run(*arguments: str, mutant: str | None = None) -> Run:
    # What runs here proves nothing about the specification, so it stays out of the record.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in (RECORD_VARIABLE, VARIABLE) and not name.startswith("PYTEST_")
    }
    if mutant is not None:
        environment[VARIABLE] = mutant
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def outcomes(report: str, test: str) -> set[str]:
    """How the cases of a test ended, as `pytest -v` prints it."""
    lines = [line for line in report.splitlines() if line.startswith(test)]
    return {word for line in lines for word in line.split() if word in ("PASSED", "FAILED")}


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) >= MUTANT_COUNT_MIN


def test_without_a_mutant_all_their_tests_pass() -> None:
    tests = sorted({mutant.test for mutant in MUTANTS.values()})
    result = run(*tests)
    assert result.returncode == 0, result.stdout + result.stderr
    for test in tests:
        assert outcomes(result.stdout, test) == {"PASSED"}, result.stdout


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Mapping[str, Future[Run]]]:
    """The runs of the mutants whose tests were chosen, by name, in their order."""
    chosen = [
        MUTANTS[item.callspec.id]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "runs" in item.fixturenames
    ]
    with ThreadPoolExecutor(RUNS_AT_ONCE) as pool:
        yield {each.name: pool.submit(run, "-x", each.test, mutant=each.name) for each in chosen}
        pool.shutdown(wait=False, cancel_futures=True)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_makes_its_test_fail(mutant: Mutant, runs: Mapping[str, Future[Run]]) -> None:
    result = runs[mutant.name].result()
    assert f"MUTANT {mutant.name} is in place" in result.stdout, result.stdout + result.stderr
    assert "FAILED" in outcomes(result.stdout, mutant.test), f"{mutant.violation}\n{result.stdout}"
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
