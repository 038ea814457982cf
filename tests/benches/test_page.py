"""The tables and plots of docs/BENCHMARKS.md come from reports, and from nothing else."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benches import page, report, summary
from benches.matrix import WAYS, shapes
from benches.page import BLOCKS, MARKED, NOT_IN_THIS_RUN, PAGE
from benches.plots import PLOTS
from tests.benches.test_summary import all_results, report_of

SPREAD = {"median": 2e-8, "q1": 1e-8, "q3": 3e-8}
MACHINE = {
    "processor": "a processor",
    "processor_count": 2,
    "system": "a system",
    "python": "3.11",
}


def reports() -> list[dict[str, Any]]:
    """One of each part, with figures that are made up."""
    cells = [
        {
            "shape": asdict(shape),
            "ns": {
                way: dict.fromkeys(
                    ("allocate", "submit", "reap", "whole"),
                    10.0 * (1 + n) + shape.descriptors + shape.batch,
                )
                for n, way in enumerate(WAYS)
            },
        }
        for shape in shapes()
    ]
    disks = [
        {
            "disk": disk,
            "depth": depth,
            "block": block,
            "mode": mode,
            "native": 1000 * depth,
            "reference": 100 * depth,
            "ratio": 10.0,
        }
        for disk in ("mem", "vhost-user")
        for depth in (1, 8)
        for block in (512, 4096, 1 << 20)
        for mode in ("read", "write")
    ]
    case = {
        "threads": 1,
        "descriptors": 3,
        "indirect": False,
        "batch": 64,
        "event_idx": False,
        "queue_size": 256,
    }
    growth = {
        "name": "depth",
        "grows": "requests in flight",
        "measured": "driver's share",
        "s_per_request": {"1": SPREAD, "64": SPREAD},
        "flat": True,
        "reason": "",
        "quick": False,
    }
    crates = {
        "name": "split_vs_virtio_driver",
        "headline": True,
        "case": case,
        "ratio": {"median": 1.1, "q1": 1.0, "q3": 1.2},
        "target": 1.0,
    }
    criterion = {"group": "split, 1 descriptor", "name": "batch of 64", "ns": 15.5}
    memory = {"about": "an open disk", "bytes": {"median": 100000.0, "q1": 1.0, "q3": 2.0}}
    results = [{**each, "sides": {"ours": SPREAD, "theirs": SPREAD}} for each in all_results()]
    parts: list[dict[str, Any]] = [
        report_of("ring", *results[:3]),
        report_of("peers", *results[3:]),
        report_of("matrix", cells=cells),
        report_of("disk_io", cells=disks),
        report_of("growth", series=[growth]),
        report_of("memory", figures=[memory]),
        report_of("criterion", medians=[criterion]),
        {
            **report_of("formats", crates),
            "ns_per_request": [{"subject": "split", "case": case, "median": 12.3}],
        },
    ]
    return [{**each, "machine": MACHINE} for each in parts]


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Any]:
    for each in reports():
        (tmp_path / f"{each['report']}.json").write_text(json.dumps(each))
    return page.read_run(tmp_path)


def test_every_block_has_its_place_on_the_page() -> None:
    names = [match["name"] for match in MARKED.finditer(PAGE.read_text(encoding="utf-8"))]
    assert sorted(names) == sorted(BLOCKS)


def test_every_plot_is_shown_on_the_page_and_is_there() -> None:
    shown = re.findall(r"\]\(benchmarks/([\w-]+)\.svg\)", PAGE.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(PLOTS)
    assert {path.stem for path in page.PICTURES.glob("*.svg")} == set(PLOTS)


@pytest.mark.parametrize("name", BLOCKS)
def test_each_block_is_written_from_the_reports(name: str, run: dict[str, Any]) -> None:
    marked = (
        f"before\n<!-- begin {name}: written by python -m benches.page -->\nold\n"
        f"<!-- end {name} -->\nafter\n"
    )
    written = page.rewrite(marked, run)
    assert written.startswith("before\n<!-- begin")
    assert written.endswith(f"<!-- end {name} -->\nafter\n")
    assert "old" not in written
    assert NOT_IN_THIS_RUN not in written
    assert page.rewrite(written, run) == written


def test_the_first_table_has_every_ratio_with_its_target(run: dict[str, Any]) -> None:
    table = BLOCKS["ratios"][1](run)
    for name, target in summary.TARGETS.items():
        [line] = [line for line in table.splitlines() if f"`{name}`" in line]
        assert line == (
            f"| `{name}` | 50.00 (49.90 to 50.10) | 1,000,000 / 20,000 | {target:g} | yes |"
        )


def test_what_was_not_reached_is_said_with_how_much_is_lacking(tmp_path: Path) -> None:
    results = all_results()
    results[0]["ratio"] = {"median": 30.0, "q1": 29.0, "q3": 31.0}
    results[1]["disturbed_pairs"] = 4
    (tmp_path / "ring.json").write_text(json.dumps(report_of("ring", *results[:3])))
    verdicts = BLOCKS["verdicts"][1](page.read_run(tmp_path))
    assert "`ring_vs_generic`: 30.00 of 40, which is 25 % short" in verdicts
    assert "Not measured in this run: `null_d32_event_vs_blkio`" in verdicts
    assert "disturbed (*): `ring_vs_slots` (4 of 11 pairs)" in verdicts


def test_a_part_that_was_not_run_is_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "ring.json").write_text(json.dumps(report_of("ring", machine=MACHINE)))
    written = page.rewrite(PAGE.read_text(encoding="utf-8"), page.read_run(tmp_path))
    assert written.count(NOT_IN_THIS_RUN) == len(
        [name for name, (needed, _) in BLOCKS.items() if needed != "summary"]
    )


@pytest.mark.parametrize("name", PLOTS)
def test_each_plot_is_a_picture_and_the_same_for_the_same_figures(
    name: str, run: dict[str, Any]
) -> None:
    drawn = page.plots(run)[f"{name}.svg"]
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert drawn == page.plots(run)[f"{name}.svg"]
    assert "nan" not in drawn


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for runs, and a page of its own."""
    monkeypatch.setattr(report, "OUT", tmp_path)
    monkeypatch.delenv(report.RUN_VARIABLE, raising=False)
    for name, path in (("PAGE", "page.md"), ("PICTURES", "pictures")):
        monkeypatch.setattr(page, name, tmp_path / path)
    (tmp_path / "page.md").write_text(PAGE.read_text(encoding="utf-8"))
    (tmp_path / "20260102T000000Z").mkdir()
    return tmp_path


def test_the_page_and_its_pictures_are_written_by_one_command(out: Path) -> None:
    for each in reports():
        (out / "20260102T000000Z" / f"{each['report']}.json").write_text(json.dumps(each))
    assert page.main([]) == 0
    assert "of commit abc, a release build" in (out / "page.md").read_text()
    assert {path.stem for path in (out / "pictures").iterdir()} == set(PLOTS)


def test_the_run_of_the_last_summary_is_taken_and_not_a_later_part_of_one(out: Path) -> None:
    for each in reports():
        (out / "20260102T000000Z" / f"{each['report']}.json").write_text(json.dumps(each))
    (out / "20260103T000000Z").mkdir()
    (out / "summary.json").write_text(json.dumps({"run": "20260102T000000Z"}))
    assert page.main([]) == 0
    assert "of commit abc, a release build" in (out / "page.md").read_text()


@pytest.mark.parametrize(
    ("change", "wanted"), [({"commit": "def"}, "2 commits"), ({"quick": True}, "quick look")]
)
def test_figures_of_two_commits_or_of_a_quick_look_are_refused(
    out: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], wanted: str
) -> None:
    before = (out / "page.md").read_text()
    others = report_of("matrix", cells=[], **change)
    for each in (report_of("ring", *all_results()), others):
        (out / "20260102T000000Z" / f"{each['report']}.json").write_text(json.dumps(each))
    assert page.main([]) == 1
    assert wanted in capsys.readouterr().err
    assert (out / "page.md").read_text() == before
