"""Measure vioblk beside its peers, print the ratios and write them to `benches/out`.

    python -m benches.peers [CASE]...

Needs qemu-storage-daemon, fio and python3-libnbd (`make bench-tools` brings them), and cargo.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benches import refuse_debug, report
from benches.measure import Plan
from benches.peers import children, daemon
from benches.peers.cases import CASES, Case, LeftOut, MemoryCase
from benches.peers.children import PeerFailed
from benches.peers.processors import TooFewProcessors
from tests.interop.storage_daemon import MissingTool
from vioblk import VioblkError

FAILURES: Final = (LeftOut, PeerFailed, TooFewProcessors, MissingTool, VioblkError, OSError)
"""Of a case, that are no reason to leave out the others."""

REPEATS: Final = 3
"""Rounds of a case that are measured again for being disturbed. Each has up to six sides."""


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
    plan = replace(plan, repeats=min(plan.repeats, REPEATS))
    print("vioblk beside its peers: ratio as median (quartiles); requests/s as medians", flush=True)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="vioblk-peers-") as place:
        with suppress(PeerFailed, OSError):  # those that need them say so
            children.programs()
        daemon.write_pattern(Path(place) / "disk.raw")
        for name in names:
            results += _results(CASES[name], Path(place), plan)
    print(f"written to {report.write('peers', results=results)}")
    return 0


def _results(case: Case | MemoryCase, place: Path, plan: Plan) -> list[dict[str, Any]]:
    """A case as the report has it, printed; or why it could not be measured."""
    try:
        return case.run(place, plan)
    except FAILURES as error:
        missing = [{"name": claim.name, "missing": str(error)} for claim in case.claims]
        for each in missing:
            print(f"[{each['name']}] MISSING: {each['missing']}", flush=True)
        return missing


if __name__ == "__main__":
    sys.exit(main())
