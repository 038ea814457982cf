import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.clauses.__main__ import main
from tests.clauses.record import (
    RECORD_DIRECTORY,
    ROOT,
    RecordError,
    finish_record,
    load_record,
    start_record,
    tree_identity,
)

LINE = {"test": "tests/a.py::test_a", "outcome": "passed", "clauses": [], "vacuous": []}


def append_line(directory: Path) -> None:
    with (directory / "pytest.jsonl").open("a") as record:
        record.write(json.dumps(LINE) + "\n")


def test_a_finished_record_of_this_tree_is_read(tmp_path: Path) -> None:
    start_record(tmp_path, "abc")
    append_line(tmp_path)
    finish_record(tmp_path, "abc")
    (result,) = load_record(tmp_path, "abc")
    assert (result.test, result.outcome) == ("tests/a.py::test_a", "passed")


def test_start_throws_the_last_record_away(tmp_path: Path) -> None:
    start_record(tmp_path, "abc")
    append_line(tmp_path)
    start_record(tmp_path, "abc")
    finish_record(tmp_path, "abc")
    assert load_record(tmp_path, "abc") == []


def test_a_record_of_another_commit_is_refused(tmp_path: Path) -> None:
    start_record(tmp_path, "abc")
    finish_record(tmp_path, "abc")
    with pytest.raises(RecordError, match="the record is of abc, but the tree is at def"):
        load_record(tmp_path, "def")


def test_a_record_that_did_not_finish_is_refused(tmp_path: Path) -> None:
    start_record(tmp_path, "abc")
    append_line(tmp_path)
    with pytest.raises(RecordError, match="incomplete"):
        load_record(tmp_path, "abc")
    assert len(load_record(tmp_path, "abc", allow_incomplete=True)) == 1


def test_a_tree_that_changes_under_the_tests_does_not_finish(tmp_path: Path) -> None:
    start_record(tmp_path, "abc")
    with pytest.raises(RecordError, match="changed while the tests ran"):
        finish_record(tmp_path, "def")
    with pytest.raises(RecordError, match="incomplete"):
        load_record(tmp_path, "abc")


def test_no_record_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="run `make test`"):
        load_record(tmp_path, "abc")


@pytest.mark.parametrize("text", ["", "[]", '{"commit": "abc"}'])
def test_a_damaged_run_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RecordError, match="damaged"):
        load_record(tmp_path, "abc")


def test_a_torn_line_is_refused(tmp_path: Path) -> None:
    start_record(tmp_path, "abc")
    (tmp_path / "rust.jsonl").write_text('{"test": "a", "outc')
    finish_record(tmp_path, "abc")
    with pytest.raises(RecordError, match=r"rust\.jsonl"):
        load_record(tmp_path, "abc")


def test_the_identity_of_a_tree_tells_changes_from_the_commit(tmp_path: Path) -> None:
    def git(*command: str) -> None:
        author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *author, *command], check=True)

    git("init", "-q")
    file = tmp_path / "file"
    file.write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    clean = tree_identity(tmp_path)
    file.write_text("two")
    changed = tree_identity(tmp_path)
    file.write_text("three")
    changed_again = tree_identity(tmp_path)
    file.write_text("one")
    assert len(clean) == 40
    assert changed.startswith(clean)
    assert len({clean, changed, changed_again}) == 3
    assert tree_identity(tmp_path) == clean


def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_record(tmp_path, "abc")
    assert main(["report", "--directory", str(tmp_path), "--identity", "def"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "abc" in err
    assert "def" in err


def test_a_dry_run_of_make_test_leaves_the_record_alone() -> None:
    # Make carries out a recipe that calls make even then, and this one would throw records away.
    def state() -> list[tuple[Path, int]]:
        return sorted((path, path.stat().st_mtime_ns) for path in RECORD_DIRECTORY.glob("*.json"))

    before = state()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("M")}
    done = subprocess.run(
        ["make", "--dry-run", "test"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "tests.clauses start" in done.stdout
    assert state() == before
