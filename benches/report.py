"""Results as a file of `benches/out`: with the time, the commit and the machine."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

OUT: Final = Path(__file__).parent / "out"


def write(build_profile: str, **parts: Any) -> Path:
    """Write a report of `parts`, as lists and dictionaries; where to."""
    now = datetime.now(UTC)
    report = {
        "time": now.isoformat(timespec="seconds"),
        "commit": _commit(),
        "build_profile": build_profile,
        "machine": {
            "processor": _processor(),
            "processor_count": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        **parts,
    }
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    return path


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
