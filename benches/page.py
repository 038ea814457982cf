"""Write the figures and plots of docs/BENCHMARKS.md anew: `python -m benches.page [RUN]`.

All of them are of one run, so of one commit: that of the last summary, if none is named. On the
page they stand between markers, and nothing else of it is touched. The plots go to docs/benchmarks.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benches import report, summary
from benches.matrix import BESIDE, ratio
from benches.plots import PLOTS, WAYS, Reports
from benches.versus import CLAIMS, Case

DOCS: Final = Path(__file__).parents[1] / "docs"
PAGE: Final = DOCS / "BENCHMARKS.md"
PICTURES: Final = DOCS / "benchmarks"
MARKED: Final = re.compile(
    r"(<!-- begin (?P<name>[\w-]+): written by python -m benches\.page -->\n).*?"
    r"(<!-- end (?P=name) -->\n)",
    re.DOTALL,
)
NOT_IN_THIS_RUN: Final = "Not measured in this run.\n"


def read_run(directory: Path) -> dict[str, Any]:
    """The reports of a run by name, with their summary. Raises ValueError if there are none."""
    reports = summary.read_reports(directory)
    return {
        **{each["report"]: each for each in reports},
        "summary": summary.assemble(reports, directory.name),
    }


def _summed_run() -> Path:
    """The run that summary.json is of; without one, the last."""
    place = report.OUT / "summary.json"
    if not place.exists():
        return report.latest_run()
    return report.OUT / str(json.loads(place.read_text())["run"])


def rewrite(page: str, reports: Reports) -> str:
    """The page with the figures of these reports. Raises KeyError for a marker of nothing."""

    def block(match: re.Match[str]) -> str:
        needed, write = BLOCKS[match["name"]]
        text = write(reports) if needed in reports else NOT_IN_THIS_RUN
        return f"{match[1]}\n{text}\n{match[3]}"

    return MARKED.sub(block, page)


def plots(reports: Reports) -> dict[str, str]:
    """The pictures that can be drawn of these reports, by the names of their files."""
    return {
        f"{name}.svg": draw(reports) for name, (needed, draw) in PLOTS.items() if needed in reports
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in row)} |\n" for row in lines)


def _machine(reports: Reports) -> str:
    found = reports["summary"]
    machine = found["machine"]
    dirty = " (and changes that were not committed)" if found["commit"].endswith("+") else ""
    return (
        f"All figures are of one run of `make bench`, {found['time'][:10]}, of commit"
        f" {found['commit'][:12].rstrip('+')}{dirty}, a {found['build_profile']} build, on"
        f" {machine['processor_count']} cores of {machine['processor']}, {machine['system']},"
        f" Python {machine['python']}.\n"
    )


def _ratios(reports: Reports) -> str:
    rows = []
    for name, entry in reports["summary"]["ratios"].items():
        if "missing" in entry:
            rows.append([f"`{name}`", "missing", "", f"{entry['target']:g}", entry["missing"]])
            continue
        sides = (f"{entry[side]['requests_per_s']:,.0f}" for side in ("subject", "baseline"))
        rows.append(
            [
                f"`{name}`",
                f"{entry['ratio']:.2f} ({entry['q1']:.2f} to {entry['q3']:.2f})"
                + (" *" if entry["disturbed"] else ""),
                " / ".join(sides),
                f"{entry['target']:g}",
                "yes" if entry["reached"] else "**no**",
            ]
        )
    head = ("ratio", "median (quartiles)", "requests/s, both sides", "wanted", "reached")
    return _table(head, rows)


def _verdicts(reports: Reports) -> str:
    entries = reports["summary"]["ratios"]
    missing = [name for name, entry in entries.items() if "missing" in entry]
    short = [
        f"- `{name}`: {entry['ratio']:.2f} of {entry['target']:g}, which is"
        f" {100 * (1 - entry['ratio'] / entry['target']):.0f} % short.\n"
        for name, entry in entries.items()
        if "missing" not in entry and not entry["reached"]
    ]
    disturbed = [
        f"`{name}` ({entry['disturbed_pairs']} of {entry['pairs']} pairs)"
        for name, entry in entries.items()
        if entry.get("disturbed")
    ]
    text = "What was wanted and not reached:\n\n" + "".join(short) if short else ""
    text = text or ("" if missing else "All that was wanted was reached in this run.\n")
    if missing:
        text += f"\nNot measured in this run: {', '.join(f'`{name}`' for name in missing)}.\n"
    if disturbed:
        text += f"\nOther load disturbed (*): {', '.join(disturbed)}.\n"
    return text.lstrip("\n")


def _rates(reports: Reports) -> str:
    rows = {}
    for result in reports["peers"].get("results", ()):
        case = re.sub("(_event|_poll)?_vs_.*", "", result["name"])
        for name, spread in result.get("sides", {}).items():
            rows[case, name] = f"{1 / spread['median']:,.0f}"
    lines = [[f"`{case}`", name, rate] for (case, name), rate in rows.items()]
    return _table(("case", "client", "requests/s"), lines)


def _ns(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _cells(reports: Reports, **shape: Any) -> list[dict[str, Any]]:
    """Rows of the matrix with this shape."""
    return [
        row
        for row in reports["matrix"]["cells"]
        if all(row["shape"][name] == value for name, value in shape.items())
    ]


PLAIN: Final = {"packed": False, "indirect": False, "event_idx": False}


def _shares(reports: Reports) -> str:
    rows = [
        [
            f"{label}, {phase}",
            *(
                _ns(row["ns"].get(way, {}).get(key))
                for row in _cells(reports, descriptors=3, **PLAIN)
            ),
        ]
        for way, label in WAYS.items()
        for key, phase in (("submit", "submit"), ("reap", "reap"), ("whole", "**whole**"))
    ]
    batches = [row["shape"]["batch"] for row in _cells(reports, descriptors=3, **PLAIN)]
    return _table(("ns per request", *(f"batch {batch}" for batch in batches)), rows)


def _chains(reports: Reports) -> str:
    found = _cells(reports, batch=64, **PLAIN)
    ways = {
        **WAYS,
        "generic chains": "chains pushed, Python",
        "rust chains": "chains pushed, Rust",
        "reference chains": "chains pushed, reference ring",
    }
    rows = [
        [label, *(_ns(row["ns"].get(way, {}).get("whole")) for row in found)]
        for way, label in ways.items()
    ]
    rows += [
        [
            f"allocated and given back, {label.partition(', ')[2]}",
            *(_ns(row["ns"].get(way, {}).get("allocate")) for row in found),
        ]
        for way, label in ways.items()
        if way.endswith("chains")
    ]
    lengths = [_descriptors(row["shape"]["descriptors"]) for row in found]
    return _table(("ns per request", *lengths), rows)


def _descriptors(count: int) -> str:
    return f"{count} descriptor{'s' if count != 1 else ''}"


def _formats(reports: Reports) -> str:
    found = _cells(reports, descriptors=3, batch=64)
    rows = []
    for row in found:
        shape = row["shape"]
        name = (
            f"{'packed' if shape['packed'] else 'split'},"
            f" {'indirect' if shape['indirect'] else 'direct'}"
            f"{', event index' if shape['event_idx'] else ''}"
        )
        rows.append([name, *(_ns(row["ns"].get(way, {}).get("whole")) for way in WAYS)])
    return _table(("ns per request", *WAYS.values()), rows)


def _ranges(reports: Reports) -> str:
    rows = []
    for fast, slow in BESIDE:
        found = [
            (value, row["shape"])
            for row in reports["matrix"]["cells"]
            if (value := ratio(row, fast, slow)) is not None
        ]
        if found:
            found.sort(key=lambda each: each[0])
            middle = found[len(found) // 2][0]
            rows.append(
                [
                    f"{fast} beside {slow}",
                    len(found),
                    f"{found[0][0]:.1f} ({_shape(found[0][1])})",
                    f"{middle:.1f}",
                    f"{found[-1][0]:.1f} ({_shape(found[-1][1])})",
                ]
            )
    return _table(("times as fast", "shapes", "least", "median", "most"), rows)


def _shape(shape: Mapping[str, Any]) -> str:
    return (
        f"{'packed' if shape['packed'] else 'split'} {shape['descriptors']}"
        f"{'i' if shape['indirect'] else ''}/{shape['batch']}{'e' if shape['event_idx'] else ''}"
    )


def _disk_io(reports: Reports) -> str:
    cells = reports["disk_io"]["cells"]
    depths = sorted({row["depth"] for row in cells})
    keys = list(dict.fromkeys((row["disk"], row["block"], row["mode"]) for row in cells))
    by_key = {(row["disk"], row["block"], row["mode"], row["depth"]): row for row in cells}
    rows = []
    for disk, block, mode in keys:
        cell_texts = []
        for depth in depths:
            row = by_key.get((disk, block, mode, depth))
            cell_texts.append(
                ""
                if row is None
                else f"{row['native']:,} / {row['reference']:,} = {row['ratio']:.1f}"
            )
        rows.append([disk, _bytes(block), mode, *cell_texts])
    return _table(("disk", "block", "", *(f"depth {depth}" for depth in depths)), rows)


def _bytes(count: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count // unit} {name}"
    return f"{count} B"


def _growth(reports: Reports) -> str:
    rows = []
    for each in reports["growth"]["series"]:
        costs = [
            f"{int(size):,}: {1e9 * cost['median']:.1f}"
            for size, cost in each["s_per_request"].items()
        ]
        verdict = "flat" if each["flat"] else each["reason"] or "not flat; why is not known"
        rows.append(
            [each["name"], f"{each['grows']}; {each['measured']}", ", ".join(costs), verdict]
        )
    return _table(("series", "what grows; what is measured", "ns", ""), rows)


def _memory(reports: Reports) -> str:
    rows = [
        [each["about"], f"{each['bytes']['median']:,.0f}"] for each in reports["memory"]["figures"]
    ]
    return _table(("each", "bytes resident"), rows)


def _criterion(reports: Reports) -> str:
    medians = reports["criterion"]["medians"]
    names = list(dict.fromkeys(row["name"] for row in medians))
    by_group: dict[str, dict[str, float]] = {}
    for row in medians:
        by_group.setdefault(row["group"], {})[row["name"]] = row["ns"]
    return _table(
        ("ns", *names),
        [[group, *(_ns(found.get(name)) for name in names)] for group, found in by_group.items()],
    )


def _crates(reports: Reports) -> str:
    rows = [
        (Case(**row["case"]), row["subject"], row["median"])
        for row in reports["formats"]["ns_per_request"]
    ]
    plain = [(case, name, ns) for case, name, ns in rows if not case.event_idx]
    shapes = list(dict.fromkeys(case.shape for case, _, _ in plain))
    threads = sorted({case.threads for case, _, _ in plain})
    names = list(dict.fromkeys(name for _, name, _ in plain))
    found = {(case.threads, name, case.shape): ns for case, name, ns in plain}
    heads = [f"{each.descriptors}{'i' if each.indirect else ''}/{each.batch}" for each in shapes]
    return _table(
        ("ns per request", *heads),
        [
            [
                f"{'one thread' if count == 1 else 'two threads'}: {name}",
                *(_ns(found.get((count, name, shape))) for shape in shapes),
            ]
            for count in threads
            for name in names
        ],
    )


def _crate_ratios(reports: Reports) -> str:
    results = reports["formats"]["results"]
    rows = []
    for claim in CLAIMS:
        found = [row for row in results if row["name"] == claim.name]
        if not found:
            continue
        [quoted] = [row for row in found if row["headline"]]
        medians = [row["ratio"]["median"] for row in found]
        spread = quoted["ratio"]
        rows.append(
            [
                f"`{claim.name}`",
                f"{spread['median']:.2f} ({spread['q1']:.2f} to {spread['q3']:.2f})",
                Case(**quoted["case"]),
                f"{min(medians):.2f} to {max(medians):.2f}",
                "" if claim.target is None else f"{claim.target:g}",
            ]
        )
    head = ("ratio", "quoted: median (quartiles)", "at", "all cases", "wanted")
    return _table(head, rows)


BLOCKS: Final[Mapping[str, tuple[str, Callable[[Reports], str]]]] = {
    "machine": ("summary", _machine),
    "ratios": ("summary", _ratios),
    "verdicts": ("summary", _verdicts),
    "rates": ("peers", _rates),
    "shares": ("matrix", _shares),
    "chains": ("matrix", _chains),
    "formats": ("matrix", _formats),
    "ranges": ("matrix", _ranges),
    "disk-io": ("disk_io", _disk_io),
    "growth": ("growth", _growth),
    "memory": ("memory", _memory),
    "criterion": ("criterion", _criterion),
    "crates": ("formats", _crates),
    "crate-ratios": ("formats", _crate_ratios),
}
"""By the name at the marker: which report is needed, and what is written."""


def main(arguments: list[str]) -> int:
    directory = report.OUT / arguments[0] if arguments else _summed_run()
    try:
        reports = read_run(directory)
    except ValueError as error:
        print(f"{directory}: {error}", file=sys.stderr)
        return 1
    commits = {
        each["commit"] for name, each in reports.items() if name != "summary" and "commit" in each
    }
    if len(commits) > 1:
        print(f"the reports are of {len(commits)} commits: {sorted(commits)}", file=sys.stderr)
        return 1
    if any(each.get("quick") for each in reports.values()) or summary.is_quick(reports.values()):
        print("a quick look is nothing for the page", file=sys.stderr)
        return 1
    PAGE.write_text(rewrite(PAGE.read_text(encoding="utf-8"), reports), encoding="utf-8")
    PICTURES.mkdir(exist_ok=True)
    for name, picture in plots(reports).items():
        (PICTURES / name).write_text(picture, encoding="utf-8")
    print(f"written: {PAGE}, {PICTURES}, of {json.dumps(reports['summary']['commit'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
