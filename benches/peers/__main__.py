"""Measure vioblk beside its peers, print the ratios and write them to `benches/out`.

    python -m benches.peers [CASE]...

Needs qemu-storage-daemon, fio and python3-libnbd (`make bench-tools` brings them), and cargo.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches import refuse_debug, report
from benches.measure import Comparison, Plan
from benches.peers import children, daemon
from benches.peers.cases import CASES


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.peers", description=__doc__)
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}; all if none is named")
    names = parser.parse_args(arguments).case or list(CASES)
    unknown = [name for name in names if name not in CASES]
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}: there are {', '.join(CASES)}")
    why = refuse_debug.refusal()
    if why is not None:
        parser.error(why)
    plan = Plan.from_environment()
    print("vioblk beside its peers: ratio as median (quartiles); requests/s as medians", flush=True)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="vioblk-peers-") as place:
        children.programs()
        daemon.write_pattern(Path(place) / "disk.raw")
        for name in names:
            results += [_shown(each) for each in CASES[name](Path(place), plan)]
    print(f"written to {report.write('peers', results=results)}")
    return 0


def _shown(comparison: Comparison) -> dict[str, Any]:
    print(comparison, flush=True)
    return comparison.as_json()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (children.PeerFailed, subprocess.CalledProcessError) as error:
        sys.exit(f"benches.peers: {error}")
