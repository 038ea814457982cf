"""From results to coverage: which clauses a record proves, and which are missing."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

from tests.clauses.record import RecordError, Result
from tests.clauses.table import Clause

SCOPES = ("core", "optional")
LEVELS = ("MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY")
"""In the order in which they matter."""


class Coverage(NamedTuple):
    """What a record says of the table."""

    proved_by: Mapping[str, list[str]]
    """Clause id to the tests that prove it."""
    vacuous_by: Mapping[str, list[str]]
    """Clause id to the tests that show that it has nothing to act on; none that is proved."""


def coverage(results: Iterable[Result], table: Mapping[str, Clause]) -> Coverage:
    """Sum a record up. Only a test all of whose runs that were not skipped passed counts.

    Raises RecordError for a clause that is not in `table`.
    """
    proved_by: dict[str, list[str]] = defaultdict(list)
    vacuous_by: dict[str, list[str]] = defaultdict(list)
    for test, runs in _runs_by_test(results).items():
        outcomes = {run.outcome for run in runs}
        for run in runs:
            unknown = [name for name in (*run.clauses, *run.vacuous) if name not in table]
            if unknown:
                raise RecordError(f"{test} names no clause of the table: {', '.join(unknown)}")
        if "passed" not in outcomes or "failed" in outcomes:
            continue
        # Parameters can carry marks of their own: only those that ran count.
        ran = [run for run in runs if run.outcome == "passed"]
        for clause_id in {name for run in ran for name in run.clauses}:
            proved_by[clause_id].append(test)
        for clause_id in {name for run in ran for name in run.vacuous}:
            vacuous_by[clause_id].append(test)
    only_vacuous = {name: tests for name, tests in vacuous_by.items() if name not in proved_by}
    return Coverage(dict(proved_by), only_vacuous)


def _runs_by_test(results: Iterable[Result]) -> dict[str, list[Result]]:
    """All parametrisations of a test together."""
    runs: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        runs[result.test.partition("[")[0]].append(result)
    return runs


def missing_lines(found: Coverage, table: Mapping[str, Clause]) -> list[str]:
    """What neither kind of test covers, by scope, area and level."""
    lines = []
    for scope in SCOPES:
        missing = [
            row
            for row in table.values()
            if row.scope == scope
            and row.id not in found.proved_by
            and row.id not in found.vacuous_by
        ]
        if not missing:
            continue
        lines.append(f"missing, {scope}:")
        missing.sort(key=_area_and_level)
        for (area, rank), rows in groupby(missing, key=_area_and_level):
            ids = " ".join(row.id for row in rows)
            lines.append(f"  {area:<12} {LEVELS[rank]:<10} {ids}")
    return lines


def _area_and_level(row: Clause) -> tuple[str, int]:
    return row.area, LEVELS.index(row.level)


def proof_lines(found: Coverage, table: Mapping[str, Clause]) -> list[str]:
    """Every clause that is covered, with the tests that do it."""
    lines = []
    for row in table.values():
        for tests, how in ((found.proved_by, ""), (found.vacuous_by, " (vacuous)")):
            if row.id in tests:
                lines.append(f"{row.id}{how}: {', '.join(sorted(tests[row.id]))}")
    return lines


def summary(found: Coverage, table: Mapping[str, Clause]) -> str:
    """The last line of the report."""
    parts = []
    for scope in SCOPES:
        ids = {row.id for row in table.values() if row.scope == scope}
        covered_count = len(ids & found.proved_by.keys())
        vacuous_count = len(ids & found.vacuous_by.keys())
        parts.append(f"{scope}: covered {covered_count} of {len(ids)} (vacuous {vacuous_count})")
    return ", ".join(parts)
