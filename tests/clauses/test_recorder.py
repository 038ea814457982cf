"""The pytest plugin, run on small test files of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.clauses.record import ROOT

HEADER = "import pytest\nfrom tests.clauses import clause, vacuous\n"
CONFTEST = 'pytest_plugins = ["tests.clauses.plugin"]\n'


class Run:
    """A pytest of its own on one file, and what it recorded."""

    def __init__(self, directory: Path, source: str, *, record: bool = True) -> None:
        (directory / "conftest.py").write_text(CONFTEST)
        (directory / "pytest.ini").write_text("[pytest]\n")
        (directory / "test_it.py").write_text(HEADER + source)
        path = directory / "record.jsonl"
        environment = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
        environment["PYTHONPATH"] = str(ROOT)
        environment.pop("VIOBLK_CLAUSE_RECORD", None)
        if record:
            environment["VIOBLK_CLAUSE_RECORD"] = str(path)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "test_it.py"],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.output = done.stdout + done.stderr
        self.recorded = path.exists()
        self.lines: dict[str, dict[str, Any]] = {}
        if self.recorded:
            for text in path.read_text().splitlines():
                line = json.loads(text)
                self.lines[line["test"].removeprefix("test_it.py::")] = line


OUTCOMES = """
@clause("SPLIT-AVAIL-01")
def test_passes(): pass

@clause("SPLIT-AVAIL-01")
def test_fails(): assert False

@clause("SPLIT-AVAIL-01")
def test_skips(): pytest.skip("why not")

@clause("SPLIT-AVAIL-01")
@pytest.mark.xfail
def test_fails_as_expected(): assert False

@pytest.fixture
def broken_setup(): raise RuntimeError

@pytest.fixture
def broken_teardown():
    yield
    raise RuntimeError

@clause("SPLIT-AVAIL-01")
def test_setup_fails(broken_setup): pass

@clause("SPLIT-AVAIL-01")
def test_teardown_fails(broken_teardown): pass

@vacuous("SPLIT-AVAIL-01")
@pytest.mark.parametrize("n", [1, 2])
def test_parametrised(n): assert n == 1
"""


def test_every_outcome_is_recorded_as_what_it_is(tmp_path: Path) -> None:
    lines = Run(tmp_path, OUTCOMES).lines
    assert {name: line["outcome"] for name, line in lines.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_skips": "skipped",
        "test_fails_as_expected": "failed",
        "test_setup_fails": "failed",
        "test_teardown_fails": "failed",
        "test_parametrised[1]": "passed",
        "test_parametrised[2]": "failed",
    }
    assert lines["test_passes"]["clauses"] == ["SPLIT-AVAIL-01"]
    assert lines["test_parametrised[1]"]["vacuous"] == ["SPLIT-AVAIL-01"]


def test_nothing_is_recorded_unless_asked(tmp_path: Path) -> None:
    assert not Run(tmp_path, "def test_passes(): pass\n", record=False).recorded


SPREAD = """
@clause("SPLIT-AVAIL-01")
@clause("CONF-01", "CONF-02")
class TestIt:
    @clause("CONF-03", "CONF-04")
    def test_it(self): pass
"""


def test_claims_spread_over_marks_are_counted_together(tmp_path: Path) -> None:
    run = Run(tmp_path, SPREAD)
    assert "names 5 clauses; at most 4" in run.output
    assert not run.recorded


def test_an_unknown_clause_stops_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, '@clause("NO-SUCH-99")\ndef test_it(): pass\n')
    assert "no such clause in driver_clauses.tsv: NO-SUCH-99" in run.output
