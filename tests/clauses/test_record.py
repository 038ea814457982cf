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


def commit_all(root: Path) -> None:
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(root), *author, *command], check=True)


def test_the_identity_of_a_tree_tells_changes_from_the_commit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    commit_all(tmp_path)
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


def test_a_test_that_is_not_committed_changes_the_identity(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.log\n")
    commit_all(tmp_path)
    clean = tree_identity(tmp_path)
    (tmp_path / "run.log").write_text("one")
    assert tree_identity(tmp_path) == clean, "what is ignored does not count"
    new = tmp_path / "test new\n.py"
    seen = [clean]
    for content in ("def test_one(): ...", "def test_two(): ..."):
        new.write_text(content)
        seen.append(tree_identity(tmp_path))
    new.rename(tmp_path / "test_other.py")
    seen.append(tree_identity(tmp_path))
    (tmp_path / "link").symlink_to("nowhere")
    seen.append(tree_identity(tmp_path))
    assert len(set(seen)) == 5
    (tmp_path / "link").unlink()
    (tmp_path / "test_other.py").unlink()
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
