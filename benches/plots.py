"""Plots of one run for docs/BENCHMARKS.md, from its reports alone."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from benches.svg import Bar, Line, bars, lines

Reports = Mapping[str, Any]
"""The reports of a run by name, and `summary`."""

WAYS: Final = {
    "generic requests": "generic, Python",
    "python slots": "slots, Python",
    "numpy slots": "slots, numpy",
    "rust requests": "general, Rust",
    "rust slots": "slots, Rust",
    "reference requests": "reference ring",
}


def ratios(reports: Reports) -> str:
    """All claimed ratios beside their targets."""
    rows = [
        Bar(
            name,
            entry["ratio"],
            entry["q1"],
            entry["q3"],
            entry["target"],
            " *" if entry["disturbed"] else "",
        )
        for name, entry in reports["summary"]["ratios"].items()
        if "missing" not in entry
    ]
    return bars("How many times as fast as the others", rows)


def by_batch(reports: Reports) -> str:
    """The driver's share over the size of the batch."""
    return lines(
        "Driver's share of a request: three descriptors, split, direct",
        "requests in a batch",
        "ns per request",
        _ways(reports, "batch", descriptors=3),
    )


def by_chain(reports: Reports) -> str:
    """The driver's share over the length of the chain."""
    return lines(
        "Driver's share of a request: batches of 64, split, direct",
        "descriptors in a chain",
        "ns per request",
        _ways(reports, "descriptors", batch=64),
    )


def _ways(reports: Reports, axis: str, **fixed: int) -> list[Line]:
    fixed = {"packed": False, "indirect": False, "event_idx": False, **fixed}
    rows = [
        row
        for row in reports["matrix"]["cells"]
        if all(row["shape"][name] == value for name, value in fixed.items())
    ]
    return [
        Line(
            label,
            [(row["shape"][axis], row["ns"][way]["whole"]) for row in rows if way in row["ns"]],
        )
        for way, label in WAYS.items()
    ]


def disk_reads(reports: Reports) -> str:
    """Reads of 4 KiB from whole disks over the depth."""
    rows = [
        row for row in reports["disk_io"]["cells"] if (row["block"], row["mode"]) == (4096, "read")
    ]
    series = [
        Line(
            f"{disk}, {ring}",
            [(row["depth"], row[ring]) for row in rows if row["disk"] == disk],
        )
        for disk in ("mem", "vhost-user")
        for ring in ("native", "reference")
    ]
    return lines("Reads of 4 KiB by whole disks", "depth", "requests per second", series)


def growth(reports: Reports) -> str:
    """What a request costs as things grow."""
    series = [
        Line(
            each["name"],
            [(int(size), 1e9 * cost["median"]) for size, cost in each["s_per_request"].items()],
        )
        for each in reports["growth"]["series"]
    ]
    return lines("What a request costs as something grows", "how many", "ns per request", series)


PLOTS: Final[Mapping[str, tuple[str, Callable[[Reports], str]]]] = {
    "ratios": ("summary", ratios),
    "by-batch": ("matrix", by_batch),
    "by-chain": ("matrix", by_chain),
    "disk-reads": ("disk_io", disk_reads),
    "growth": ("growth", growth),
}
"""By the name of the file: which report it is drawn from, and how."""
