"""Every example of the README and of the how-to pages is run.

The `console` and `python` blocks of a page run in their order, in one empty directory,
each Python block and each command in a process of its own.
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.docs.blocks import Block, blocks, commands, output_pattern

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN: Final = {"text", "toml", "mermaid"}
"""Blocks that show something and are no examples."""


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run(arguments: list[str], directory: Path) -> str:
    # Output goes to files: a daemon that a command leaves behind would keep a pipe open.
    output = directory / ".output"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}:/usr/sbin:/sbin",
        "TERM": "dumb",
        "COLUMNS": "100",
    }
    with output.open("w") as file:
        done = subprocess.run(
            arguments,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
    text = output.read_text()
    assert done.returncode == 0, text
    return text


def check_make(command: str) -> None:
    """A goal of the Makefile: it exists. Running it is what a whole CI run is for."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("M")}
    dry = subprocess.run(
        [*command.split(), "--dry-run"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert dry.returncode == 0, dry.stderr


def check_console(block: Block, directory: Path) -> None:
    for command, output in commands(block.text):
        if command.startswith("make "):
            check_make(command)
            continue
        if "pip install " in command or command.startswith("python3 -m venv "):
            continue  # tests/packaging installs what was built, extra and all
        if command.startswith("sudo apt-get install "):
            packages = command.removeprefix("sudo apt-get install ").split()
            assert set(packages) <= set((ROOT / "Makefile").read_text().split()), packages
            continue
        printed = run(["bash", "-euo", "pipefail", "-c", command], directory)
        if output:
            assert output_pattern(output).fullmatch(printed), f"{command}\nprinted:\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_example_runs(page: Path, tmp_path: Path) -> None:
    found = blocks(page)
    try:
        for block in found:
            if block.language in NOT_RUN:
                continue
            try:
                if block.language == "console":
                    check_console(block, tmp_path)
                elif block.language == "python":
                    run([sys.executable, "-c", block.text], tmp_path)
                else:
                    raise AssertionError(f"a block of {block.language or 'no language'}")
            except (AssertionError, ValueError, subprocess.TimeoutExpired) as error:
                pytest.fail(f"{page_id(page)}, line {block.line}: {error}", pytrace=False)
    finally:
        stop_daemons(tmp_path)


def stop_daemons(directory: Path) -> None:
    """A page whose examples fail half-way leaves its daemon running."""
    for pid_file in directory.glob("*.pid"):
        # The daemon may be ending by itself, and removes the file as it does.
        with suppress(ProcessLookupError, FileNotFoundError):
            os.kill(int(pid_file.read_text()), signal.SIGTERM)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []
