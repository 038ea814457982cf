"""Running the workload under callgrind, and reading what it counted."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.instructions.workload import BETWEEN, NOTHING

ROOT: Final = Path(__file__).resolve().parents[2]
TIMEOUT_S: Final = 500
"""It takes some ten seconds of an idle processor."""

_TOTALS: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)


_COST: Final = re.compile(r"\d+ (\d+)")


class CallgrindError(Exception):
    """Nothing was counted; the message says why."""


@dataclass(frozen=True)
class Count:
    """Instructions of one piece of work."""

    instructions: float
    """The median of the rounds, without what marks cost."""
    dump: Path
    """What callgrind has written down of the last round."""

    def places(self) -> list[tuple[str, int]]:
        """Where instructions were executed, most first: source files of this tree by their path,
        everything else by what it belongs to. What marks cost is part of it."""
        return places(self.dump.read_text()).most_common()


def count(directory: Path) -> dict[str, Count]:
    """All pieces of work by their name. Files go to `directory`, which is empty.

    Raises CallgrindError.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise CallgrindError("there is no valgrind; on Debian: sudo apt-get install valgrind")
    files = directory / "callgrind.out"
    command = [
        valgrind,
        "--tool=callgrind",
        "--quiet",
        "--vgdb=no",
        "--compress-strings=no",
        "--compress-pos=no",
        f"--callgrind-out-file={files}",
        "--dump-before=getppid",
        *(sys.executable, "-s", "-m", "tests.instructions.workload"),
    ]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise CallgrindError(f"the workload did not end within {TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise CallgrindError(f"status {done.returncode} of {' '.join(command)}:\n{done.stderr}")
    return _read(files, json.loads(done.stdout))


def _environment() -> dict[str, str]:
    """Ours, without what changes how Python or valgrind works, and the same hashes each time."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "PYTHONPATH" or not name.startswith(("PYTHON", "VALGRIND"))
    }
    return kept | {"PYTHONHASHSEED": "0"}


def _read(files: Path, marks: list[str]) -> dict[str, Count]:
    found: dict[str, list[int]] = defaultdict(list)
    dumps: dict[str, Path] = {}
    for number, name in enumerate(marks, start=1):
        dump = files.with_name(f"{files.name}.{number}")
        try:
            totals = _TOTALS.search(dump.read_text())
        except FileNotFoundError as error:
            raise CallgrindError(f"no counts at mark {number}: getppid was not seen") from error
        if totals is None:
            raise CallgrindError(f"{dump} has no totals")
        found[name].append(int(totals[1]))
        dumps[name] = dump
    mark_cost = median(found[NOTHING])
    return {
        name: Count(median(each) - mark_cost, dumps[name])
        for name, each in found.items()
        if name not in (NOTHING, BETWEEN)
    }


def places(dump: str) -> Counter[str]:
    """Instructions by place, of one dump."""
    found: Counter[str] = Counter()
    function = place = binary = ""
    lines = iter(dump.splitlines())
    for line in lines:
        key, _, value = line.partition("=")
        match key:
            case "ob":
                binary = value
            case "fl":
                function = place = _place(value, binary)
            case "fi" | "fe":
                # What the compiler has put into a function is that function's, if it is not ours.
                inlined = _place(value, binary)
                place = inlined if inlined.startswith("rust/") else function
            case "calls":
                next(lines)  # what was executed in the callee, which is counted there
            case _ if cost := _COST.fullmatch(line):
                found[place] += int(cost[1])
    return found


def _place(source: str, binary: str) -> str:
    tree, rust, path = source.rpartition("/rust/")
    if rust and not tree.startswith("/rustc/"):
        return f"rust/{path}"
    if source.startswith("/rustc/"):
        return "Rust's library"
    if "/pyo3" in source:
        return "pyo3"
    name = Path(binary).name
    return "the interpreter" if "python" in name and not name.startswith("_") else name or "?"
