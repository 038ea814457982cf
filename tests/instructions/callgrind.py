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
_ALLOCATORS: Final = frozenset(
    ("malloc", "calloc", "realloc", "memalign", "aligned_alloc", "posix_memalign")
)


class CallgrindError(Exception):
    """Nothing was counted; the message says why."""


@dataclass(frozen=True)
class Count:
    """Instructions of one piece of work."""

    instructions: float
    """The median of the rounds, without what marks cost."""
    allocations: float
    """Calls that the extension made of malloc and its like, the median as well. What the
    interpreter allocates depends on its version."""
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
    return read(files, json.loads(done.stdout))


def _environment() -> dict[str, str]:
    """Ours, without what changes how Python or valgrind works, and the same hashes each time."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "PYTHONPATH" or not name.startswith(("PYTHON", "VALGRIND"))
    }
    return kept | {"PYTHONHASHSEED": "0"}


def read(files: Path, marks: list[str]) -> dict[str, Count]:
    """What was counted between marks. `files`: the name of the dumps without their numbers.

    Raises CallgrindError.
    """
    instructions: dict[str, list[int]] = defaultdict(list)
    allocations: dict[str, list[int]] = defaultdict(list)
    dumps: dict[str, Path] = {}
    for number, name in enumerate(marks, start=1):
        dump = files.with_name(f"{files.name}.{number}")
        try:
            text = dump.read_text()
        except FileNotFoundError as error:
            raise CallgrindError(f"no counts at mark {number}: getppid was not seen") from error
        totals = _TOTALS.search(text)
        if totals is None:
            raise CallgrindError(f"{dump} has no totals")
        instructions[name].append(int(totals[1]))
        allocations[name].append(_allocations(text))
        dumps[name] = dump
    if not sum(allocations[BETWEEN]):
        raise CallgrindError("not even opening a disk has allocated anything: malloc was not seen")
    mark_cost = median(instructions[NOTHING])
    return {
        name: Count(median(instructions[name]) - mark_cost, median(allocations[name]), dump)
        for name, dump in dumps.items()
        if name not in (NOTHING, BETWEEN)
    }


def _allocations(dump: str) -> int:
    """Calls of the extension, of one dump."""
    found = 0
    binary = callee = ""
    for line in dump.splitlines():
        key, _, value = line.partition("=")
        match key:
            case "ob":
                binary = Path(value).name
            case "cfn":
                callee = value
            case "calls" if callee in _ALLOCATORS and binary.startswith("_native"):
                found += int(value.split()[0])
    return found


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
