"""The pytest side of the record: one line per finished test, with the clauses it names.

Writes to the file that VIOBLK_CLAUSE_RECORD names, as the Rust tests do; does nothing without.
"""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

from tests.clauses import MAX_CLAUSES_PER_TEST

RECORD_VARIABLE = "VIOBLK_CLAUSE_RECORD"


def marked_ids(item: pytest.Item, mark: str) -> list[str]:
    """The ids of all marks of that name on a test, its class and its module."""
    return sorted({clause_id for found in item.iter_markers(mark) for clause_id in found.args})


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test that claims too much, however its claims are spread."""
    for item in items:
        ids = marked_ids(item, "clause")
        if len(ids) > MAX_CLAUSES_PER_TEST:
            raise pytest.UsageError(
                f"{item.nodeid} names {len(ids)} clauses; at most {MAX_CLAUSES_PER_TEST} a test"
            )


def pytest_configure(config: pytest.Config) -> None:
    """Start recording if asked to."""
    path = os.environ.get(RECORD_VARIABLE)
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(path)), "vioblk-clause-recorder")


class Recorder:
    """Collects the phases of each test and appends its outcome to the record."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[str, list[str]] = defaultdict(list)
        self._claims: dict[str, dict[str, list[str]]] = {}

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Remember what the test claims."""
        self._claims[item.nodeid] = {
            "clauses": marked_ids(item, "clause"),
            "vacuous": marked_ids(item, "vacuous"),
        }

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember how set-up, call and tear-down went."""
        # An expected failure is reported as skipped, an unexpected pass of one as passed.
        outcome = "failed" if hasattr(report, "wasxfail") else report.outcome
        self._outcomes[report.nodeid].append(outcome)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Write the test's line."""
        line = {"test": nodeid, "outcome": overall(self._outcomes.pop(nodeid, []))}
        with self._path.open("a", encoding="utf-8") as record:
            record.write(json.dumps(line | self._claims.pop(nodeid, {})) + "\n")


def overall(phases: list[str]) -> str:
    """One outcome of the three phases of a test: passed only if all of them ran and passed."""
    if "failed" in phases:
        return "failed"
    return "passed" if phases == ["passed"] * 3 else "skipped"
