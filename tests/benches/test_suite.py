"""The suite as a whole: its parts are there, one that fails stops no other, and criterion's figures
are found."""

import fcntl
import importlib.util
import json
import os
from pathlib import Path

import pytest

from benches import __main__ as suite
from benches import criterion, refuse_debug, report
from benches.__main__ import Part


def test_each_part_is_a_program_that_is_there(tmp_path: Path) -> None:
    modules = {part.arguments[1] for part in suite.parts(tmp_path)}
    assert "benches.peers" in modules
    for name in modules:
        assert importlib.util.find_spec(name) is not None


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "OUT", tmp_path)
    monkeypatch.setattr(refuse_debug, "BUILD_PROFILE", "release")
    monkeypatch.setenv(report.RUN_VARIABLE, "a-run")
    return tmp_path


def program(code: str) -> tuple[str, ...]:
    return ("-c", code)


def test_a_part_that_fails_is_named_and_the_others_run(
    out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        suite,
        "parts",
        lambda directory: [
            Part("first", "fails", program("raise SystemExit(3)")),
            Part("second", "works", program("print('the second part ran')")),
        ],
    )
    assert suite.main() == 1
    printed = capfd.readouterr()
    assert "first FAILED: exit code 3" in printed.out
    assert "the second part ran" in printed.out
    assert "failed: first" in printed.err


def test_a_part_that_does_not_end_is_ended(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "PART_TIMEOUT_S", 0.1)
    assert not suite.run(Part("endless", "waits", program("import signal; signal.pause()")))
    assert "not done within 0.1 s" in capfd.readouterr().out


def test_nothing_that_a_part_started_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    child = f"import fcntl, signal; f = open({str(lock)!r}, 'w'); fcntl.flock(f, 2); signal.pause()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    monkeypatch.setattr(suite, "PART_TIMEOUT_S", 2.0)
    assert not suite.run(Part("endless", "waits for a child", program(code)))
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # for ever, if the child still had it


def test_a_debug_build_is_not_measured(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(refuse_debug, "BUILD_PROFILE", "debug")
    assert suite.main() == 1
    assert "'debug'" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def estimates(directory: Path, group: str, name: str, ns: float, elements: int | None) -> Path:
    place = directory / group / name / "new"
    place.mkdir(parents=True)
    throughput = None if elements is None else {"Elements": elements}
    interval = {"lower_bound": ns - 1, "upper_bound": ns + 1}
    (place / "benchmark.json").write_text(
        json.dumps({"group_id": group, "function_id": name, "throughput": throughput})
    )
    path = place / "estimates.json"
    path.write_text(json.dumps({"median": {"point_estimate": ns, "confidence_interval": interval}}))
    return path


def test_criterions_medians_are_taken_per_request_and_old_ones_are_left_out(
    tmp_path: Path,
) -> None:
    estimates(tmp_path, "split", "batch of 64", 640.0, 64)
    estimates(tmp_path, "split", "nothing to do", 2.5, None)
    old = estimates(tmp_path, "packed", "batch of 64", 640.0, 64)
    os.utime(old, (1000, 1000))
    rows = criterion.medians(tmp_path, since_s=2000)
    assert [(row["group"], row["name"], row["ns"]) for row in rows] == [
        ("split", "batch of 64", 10.0),
        ("split", "nothing to do", 2.5),
    ]
    assert rows[0]["low"] == 639 / 64
