"""The command as a whole."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tests.cli.command import succeeds, vioblk
from vioblk.__main__ import main
from vioblk.cli.app import run
from vioblk.cli.sizes import format_size

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
COMMANDS = ("demo", "list", "info", "read", "write", "copy", "zero", "discard")


def test_help_names_every_command() -> None:
    text = succeeds("--help").decode()
    for command in COMMANDS:
        assert command in text
    assert succeeds() == text.encode()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert "Usage: vioblk " + command in capsys.readouterr().out


def test_the_script_is_the_same_command() -> None:
    script = Path(sys.executable).with_name("vioblk")
    done = subprocess.run([script, "--help"], capture_output=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout == succeeds("--help")


@pytest.mark.parametrize("absent", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(
    absent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec

    def find_other_spec(name: str) -> ModuleSpec | None:
        return None if name == absent else find_spec(name)

    monkeypatch.setattr("vioblk.__main__.find_spec", find_other_spec)
    assert main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    needed = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]["cli"]
    assert err == (
        "vioblk: the command line needs two more packages: "
        f"pip install {' '.join(map(repr, needed))}\n"
    )


def test_ctrl_c_while_it_is_still_loading_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(name: str) -> ModuleSpec | None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vioblk.__main__.find_spec", interrupt)
    assert main() == 130
    assert capsys.readouterr() == ("", "")


def test_the_version_is_that_of_the_package() -> None:
    expected = tomllib.loads(PYPROJECT.read_text())["project"]["version"]
    assert succeeds("--version").decode() == f"vioblk {expected}\n"


def test_demo_shows_the_whole_of_it() -> None:
    text = succeeds("demo").decode()
    for words in ("mem:64M", "accepted", "verified", "Rust ring", "pure-Python ring"):
        assert words in text


def test_an_error_can_be_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "VIOBLK_TRACEBACK", "1")
    outcome = vioblk("read", "mem:1M", "1", "512")
    assert outcome.status == 1
    assert "UnalignedError" in outcome.err


@pytest.mark.parametrize(
    ("length_bytes", "text"),
    [(0, "0"), (512, "512"), (4096, "4K"), (64 << 20, "64M"), (1 << 41, "2T"), (1536, "1536")],
)
def test_sizes_are_written_exactly_and_short(length_bytes: int, text: str) -> None:
    assert format_size(length_bytes) == text
