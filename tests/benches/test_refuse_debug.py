"""A debug build is not measured."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benches import refuse_debug

ROOT = Path(__file__).parents[2]


def test_a_debug_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refuse_debug, "BUILD_PROFILE", "debug")
    assert "'debug'" in (refuse_debug.refusal() or "")
    monkeypatch.setattr(refuse_debug, "BUILD_PROFILE", "release")
    assert refuse_debug.refusal() is None


@pytest.mark.parametrize("module", ["benches.matrix", "benches.disk_io"])
def test_each_program_refuses_a_debug_build(module: str, tmp_path: Path) -> None:
    code = (
        "import runpy; from benches import refuse_debug; refuse_debug.BUILD_PROFILE = 'debug';"
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 1
    assert "profile 'debug'" in result.stderr


def test_pytest_refuses_to_measure_a_debug_build(tmp_path: Path) -> None:
    plugin = tmp_path / "pretend_debug.py"
    plugin.write_text("from benches import refuse_debug\nrefuse_debug.BUILD_PROFILE = 'debug'\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "pretend_debug", "--benchmark-enable", "benches"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "profile 'debug'" in result.stderr
