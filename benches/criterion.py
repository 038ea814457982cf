"""The Rust rings alone: `python -m benches.criterion` runs criterion and keeps its medians."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from benches import report
from benches.measure import Plan

ROOT: Final = Path(__file__).parents[1]
COMMAND: Final = ("cargo", "bench", "--locked", "--quiet", "--package", "vioblk-benches")
QUICK: Final = ("--warm-up-time", "0.05", "--measurement-time", "0.1")
TIMEOUT_S: Final = 900


def medians(directory: Path, since_s: float) -> list[dict[str, Any]]:
    """Nanoseconds per request (or per call, where no requests are done) of each benchmark that was
    written after `since_s`."""
    rows = []
    for path in sorted(directory.glob("*/*/new/estimates.json")):
        if path.stat().st_mtime < since_s:
            continue
        what = json.loads((path.parent / "benchmark.json").read_text())
        median = json.loads(path.read_text())["median"]
        elements = (what.get("throughput") or {}).get("Elements") or 1
        interval = median["confidence_interval"]
        rows.append(
            {
                "group": what["group_id"],
                "name": what["function_id"],
                "ns": median["point_estimate"] / elements,
                "low": interval["lower_bound"] / elements,
                "high": interval["upper_bound"] / elements,
            }
        )
    return rows


def target_directory() -> Path:
    """Where cargo builds."""
    command = ["cargo", "metadata", "--locked", "--format-version=1", "--no-deps"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    return Path(json.loads(done.stdout)["target_directory"])


def main() -> int:
    quick = Plan.from_environment().quick
    start_s = time.time()
    done = subprocess.run(
        [*COMMAND, "--bench", "rings", *(("--", *QUICK) if quick else ())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return done.returncode
    rows = medians(target_directory() / "criterion", start_s)
    print("the Rust rings alone, ns per request, or per call: median")
    for row in rows:
        print(f"  {row['group']:<38} {row['name']:<44} {row['ns']:8.1f}")
    print(f"written to {report.write('criterion', quick=quick, medians=rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
