"""Results as a file of `benches/out`: with the time, the commit and the machine.

Each part of the suite writes one, `NAME.json`, into the directory of its run. `make bench` names
that directory by VIOBLK_BENCH_RUN, so that its parts meet; whoever runs alone has one of his own.
"""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from vioblk._native import BUILD_PROFILE

OUT: Final = Path(__file__).parent / "out"
RUN_VARIABLE: Final = "VIOBLK_BENCH_RUN"


def write(name: str, **parts: Any) -> Path:
    """Write a report of `parts`, lists and dictionaries, and give its path.

    `results` is the part that `benches.summary` reads: a list of what `Comparison.as_json` gives,
    or of `{"name": ..., "missing": why}` for a ratio that could not be measured.
    """
    path = run_directory() / f"{name}.json"
    path.write_text(json.dumps({**circumstances(), "report": name, **parts}, indent=1) + "\n")
    return path


def run_directory() -> Path:
    """Where the reports of this run go; it is made."""
    name = os.environ.get(RUN_VARIABLE) or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    directory = OUT / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def latest_run() -> Path:
    """The directory of this run, or of the last one. Raises FileNotFoundError without any."""
    name = os.environ.get(RUN_VARIABLE)
    if name:
        return OUT / name
    runs = [path for path in OUT.glob("*") if path.is_dir()]
    if not runs:
        raise FileNotFoundError(f"{OUT} has no run: make bench")
    return max(runs)


def circumstances() -> dict[str, Any]:
    """When, of what and on what something was measured."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "build_profile": BUILD_PROFILE,
        "machine": {
            "processor": _processor(),
            "processor_count": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
    }


def _commit() -> str:
    """The commit, with "+" after it if the tree has other changes."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    result = subprocess.run(
        command, cwd=OUT.parent, capture_output=True, text=True, check=False, timeout=30
    )
    return result.stdout.strip() or "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
