import json
from pathlib import Path

import pytest

from tests.clauses.__main__ import main
from tests.clauses.coverage import coverage, missing_lines, proof_lines, summary
from tests.clauses.record import RecordError, Result, finish_record, start_record
from tests.clauses.table import Clause, clause_table


def row(clause_id: str, level: str, area: str, scope: str) -> Clause:
    return Clause(clause_id, level, "1.4", "section", area, scope, "statement")


TABLE = {
    found.id: found
    for found in [
        row("A-1", "MAY", "alpha", "core"),
        row("A-2", "MUST", "alpha", "core"),
        row("A-3", "MUST", "alpha", "core"),
        row("B-1", "MUST NOT", "beta", "core"),
        row("C-1", "SHOULD", "gamma", "optional"),
    ]
}


def result(
    test: str,
    outcome: str = "passed",
    clauses: tuple[str, ...] = (),
    vacuous: tuple[str, ...] = (),
) -> Result:
    return Result(test, outcome, clauses, vacuous)


def test_only_tests_that_ran_and_passed_count() -> None:
    found = coverage(
        [
            result("t.py::passes", "passed", ("A-1",)),
            result("t.py::fails", "failed", ("A-2",)),
            result("t.py::skips", "skipped", ("B-1",), ("C-1",)),
        ],
        TABLE,
    )
    assert found.proved_by == {"A-1": ["t.py::passes"]}
    assert found.vacuous_by == {}


def test_one_failing_parameter_takes_the_whole_test_away() -> None:
    runs = [
        result("t.py::test[rust]", "passed", ("A-1",)),
        result("t.py::test[reference]", "failed", ("A-1",)),
    ]
    assert coverage(runs, TABLE).proved_by == {}
    assert coverage(runs[:1], TABLE).proved_by == {"A-1": ["t.py::test"]}


def test_marks_of_a_skipped_parameter_do_not_count() -> None:
    runs = [
        result("t.py::test[one]", "passed", ("A-1",)),
        result("t.py::test[two]", "skipped", ("A-1", "A-2")),
    ]
    assert coverage(runs, TABLE).proved_by == {"A-1": ["t.py::test"]}


def test_another_test_can_prove_what_a_failing_one_does_not() -> None:
    runs = [
        result("t.py::bad", "failed", ("A-1",)),
        result("t.py::good", "passed", ("A-1",)),
    ]
    assert coverage(runs, TABLE).proved_by == {"A-1": ["t.py::good"]}


def test_vacuous_rows_count_apart_and_never_twice() -> None:
    found = coverage(
        [
            result("t.py::proof", "passed", ("A-1",)),
            result("t.py::never_accepted", "passed", (), ("A-1", "A-2", "C-1")),
        ],
        TABLE,
    )
    assert set(found.vacuous_by) == {"A-2", "C-1"}
    assert summary(found, TABLE) == (
        "core: covered 1 of 4 (vacuous 1), optional: covered 0 of 1 (vacuous 1)"
    )


def test_a_clause_outside_the_table_is_refused() -> None:
    with pytest.raises(RecordError, match="Z-9"):
        coverage([result("t.py::test", "passed", ("Z-9",))], TABLE)


def test_missing_rows_are_listed_by_area_and_level() -> None:
    lines = missing_lines(coverage([result("t", "passed", ("A-2",))], TABLE), TABLE)
    assert [line.split() for line in lines] == [
        ["missing,", "core:"],
        ["alpha", "MUST", "A-3"],
        ["alpha", "MAY", "A-1"],
        ["beta", "MUST", "NOT", "B-1"],
        ["missing,", "optional:"],
        ["gamma", "SHOULD", "C-1"],
    ]


def test_proofs_name_the_tests() -> None:
    found = coverage(
        [result("t.py::a", "passed", ("A-1",)), result("t.py::b", "passed", (), ("C-1",))], TABLE
    )
    assert proof_lines(found, TABLE) == ["A-1: t.py::a", "C-1 (vacuous): t.py::b"]


def test_the_report_ends_with_the_summary_of_the_real_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core, optional = (
        next(row.id for row in clause_table().values() if row.scope == scope)
        for scope in ("core", "optional")
    )
    start_record(tmp_path, "abc")
    line = {"test": "t", "outcome": "passed", "clauses": [core], "vacuous": [optional]}
    (tmp_path / "pytest.jsonl").write_text(json.dumps(line) + "\n")
    finish_record(tmp_path, "abc")
    report = ["report", "--directory", str(tmp_path), "--identity", "abc"]
    assert main(report) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == (
        "core: covered 1 of 201 (vacuous 0), optional: covered 0 of 115 (vacuous 1)"
    )
    assert not any(core in line.split() for line in lines)
    assert main([*report, "--proofs"]) == 0
    assert f"{core}: t" in capsys.readouterr().out
