"""The ratios that are claimed, from all reports of one run: `python -m benches.summary`.

Writes `benches/out/summary.json`, where each claimed ratio appears, or is named as missing, with
the reason. Figures of another commit than the rest are no part of it, and neither are quick looks:
then nothing is written.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from benches import report

TARGETS: Final[Mapping[str, float]] = {
    "ring_vs_generic": 40.0,
    "ring_vs_slots": 12.0,
    "ring_vs_numpy": 3.0,
    "null_d32_event_vs_blkio": 1.0,
    "null_d32_poll_vs_blkio": 1.0,
    "null_d32_event_vs_libnbd": 8.0,
    "null_d32_poll_vs_libnbd": 25.0,
    "raw_d32_vs_blkio": 0.95,
    "raw_d32_vs_libnbd": 1.5,
    "mib_d4_vs_blkio": 0.95,
    "mib_d4_vs_libnbd": 6.0,
    "d1_vs_libnbd": 2.0,
    "d1_vs_blkio": 0.8,
    "mem_d64_vs_memcpy": 0.5,
}
"""What is to be reached."""

NOT_MEASURED: Final = "no report of this run has it"
PLACE: Final = report.OUT / "summary.json"


def read_reports(directory: Path) -> list[dict[str, Any]]:
    """All reports of a run, by time; files of other kinds are passed over."""
    found = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    reports = [each for each in found if isinstance(each, dict) and "report" in each]
    return sorted(reports, key=lambda each: str(each["time"]))


def assemble(
    reports: Iterable[Mapping[str, Any]], run: str = "", *, quick: bool = False
) -> dict[str, Any]:
    """The summary of reports. With `quick`, to be printed and not to be written, it has the figures
    of quick looks too, marked. Raises ValueError if there are no reports.
    """
    reports = list(reports)
    if not reports:
        raise ValueError("there are no reports: run `make bench`")
    last = reports[-1]
    ratios = {name: {"target": target, "missing": NOT_MEASURED} for name, target in TARGETS.items()}
    for each in reports:
        for result in each.get("results", ()):
            if result["name"] in TARGETS:
                why = _objection(each, last, result, quick=quick)
                ratios[result["name"]] = _entry(result, why)
    return {
        "run": run,
        "time": last["time"],
        "commit": last["commit"],
        "build_profile": last["build_profile"],
        "machine": last["machine"],
        "complete": not any("missing" in entry for entry in ratios.values()),
        "ratios": ratios,
    }


def _objection(
    of: Mapping[str, Any], last: Mapping[str, Any], result: Mapping[str, Any], *, quick: bool
) -> str | None:
    """Why a result cannot stand beside the others."""
    if "missing" in result:
        return str(result["missing"])
    if result.get("quick") and not quick:
        return "only a quick look"
    for what in ("commit", "build_profile"):
        if of[what] != last[what]:
            return f"{what} {of[what]}, where that of the others is {last[what]}"
    return None


def _entry(result: Mapping[str, Any], objection: str | None) -> dict[str, Any]:
    target = TARGETS[result["name"]]
    if objection is not None:
        return {"target": target, "missing": objection}
    ratio = result["ratio"]
    return {
        "ratio": ratio["median"],
        "q1": ratio["q1"],
        "q3": ratio["q3"],
        "pairs": result["pairs"],
        "side_s": result["side_s"],
        "quick": bool(result.get("quick")),
        "target": target,
        "reached": ratio["median"] >= target,
        "disturbed": result["disturbed_pairs"] > 0,
        "disturbed_pairs": result["disturbed_pairs"],
        "subject": _side(result["subject"]),
        "baseline": _side(result["baseline"]),
    }


def _side(side: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": side["name"], "requests_per_s": 1 / side["s_per_request"]["median"]}


def table(summary: Mapping[str, Any]) -> str:
    """The ratios, to be read."""
    lines = [
        f"{summary['commit']}, {summary['build_profile']}, {summary['machine']['processor']}",
        f"{'ratio':<26}{'median':>8}{'quartiles':>18}{'target':>8}  pairs",
    ]
    for name, entry in summary["ratios"].items():
        if "missing" in entry:
            lines.append(
                f"{name:<26}{'missing':>8}{'':>18}{entry['target']:>8g}  {entry['missing']}"
            )
            continue
        quartiles = f"{entry['q1']:.2f} to {entry['q3']:.2f}"
        verdict = "" if entry["reached"] else "  NOT REACHED"
        if entry["quick"]:
            verdict = "  a quick look"
        disturbed = f"  DISTURBED: {entry['disturbed_pairs']}" if entry["disturbed"] else ""
        lines.append(
            f"{name:<26}{entry['ratio']:>8.2f}{quartiles:>18}{entry['target']:>8g}"
            f"  {entry['pairs']}{verdict}{disturbed}"
        )
    return "\n".join(lines)


def is_quick(reports: Iterable[Mapping[str, Any]]) -> bool:
    """Whether anything in these was only looked at."""
    return any(result.get("quick") for each in reports for result in each.get("results", ()))


def main(arguments: list[str]) -> int:
    directory = report.OUT / arguments[0] if arguments else report.latest_run()
    reports = read_reports(directory)
    quick = is_quick(reports)
    try:
        summary = assemble(reports, directory.name, quick=quick)
    except ValueError as error:
        print(f"{directory}: {error}", file=sys.stderr)
        return 1
    print(table(summary))
    if quick:
        print("a quick look: nothing is written to summary.json")
        return 0
    PLACE.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"written to {PLACE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
