"""The summary: every claimed ratio is in it, or is named as missing with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from benches import report, summary
from benches.peers.cases import CASES
from benches.summary import TARGETS
from benches.test_ring import CLAIMS


def side(name: str, seconds: float) -> dict[str, Any]:
    return {"name": name, "s_per_request": {"median": seconds, "q1": seconds, "q3": seconds}}


def result(name: str, ratio: float, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "target": TARGETS.get(name),
        "ratio": {"median": ratio, "q1": ratio - 0.1, "q3": ratio + 0.1},
        "pairs": 11,
        "side_s": 1.0,
        "quick": False,
        "disturbed_pairs": 0,
        "repeated_rounds": 0,
        "subject": side("ours", 1e-6),
        "baseline": side("theirs", 1e-6 * ratio),
        **changes,
    }


def report_of(name: str, *results: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "report": name,
        "time": "2026-01-02T03:04:05+00:00",
        "commit": "abc",
        "build_profile": "release",
        "machine": {"processor": "a processor"},
        "results": list(results),
        **changes,
    }


def all_results(ratio: float = 50.0) -> list[dict[str, Any]]:
    return [result(name, ratio) for name in TARGETS]


def test_the_list_of_what_is_claimed_is_that_of_the_parts() -> None:
    ring = {name: target for name, _, _, target in CLAIMS if target is not None}
    peers = {claim.name: claim.target for case in CASES.values() for claim in case.claims}
    assert {**ring, **peers} == dict(TARGETS)


def test_a_full_run_has_every_ratio_with_its_pairs_and_quartiles() -> None:
    found = summary.assemble(
        [report_of("ring", *all_results()[:3]), report_of("peers", *all_results()[3:])]
    )
    assert found["complete"]
    assert found["ratios"].keys() == TARGETS.keys()
    entry = found["ratios"]["ring_vs_generic"]
    assert (entry["ratio"], entry["q1"], entry["q3"]) == (50.0, 49.9, 50.1)
    assert (entry["pairs"], entry["target"], entry["reached"]) == (11, 40.0, True)
    assert entry["disturbed"] is False
    assert entry["subject"]["requests_per_s"] == pytest.approx(1e6)
    assert (found["commit"], found["build_profile"]) == ("abc", "release")


def test_what_no_report_has_is_named() -> None:
    found = summary.assemble([report_of("ring", result("ring_vs_generic", 41.0))])
    assert not found["complete"]
    assert found["ratios"].keys() == TARGETS.keys()
    missing = [name for name, entry in found["ratios"].items() if "missing" in entry]
    assert missing == [name for name in TARGETS if name != "ring_vs_generic"]
    assert summary.NOT_MEASURED in summary.table(found)


def test_a_part_that_failed_says_why_its_ratios_are_missing() -> None:
    failed = {"name": "d1_vs_blkio", "missing": "the program did not start"}
    found = summary.assemble([report_of("peers", failed)])
    assert found["ratios"]["d1_vs_blkio"]["missing"] == "the program did not start"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [({"commit": "def"}, "commit def"), ({"build_profile": "debug"}, "build_profile debug")],
)
def test_figures_of_something_else_are_left_out(change: dict[str, str], wanted: str) -> None:
    others = report_of("ring", result("ring_vs_generic", 50.0), **change)
    found = summary.assemble([others, report_of("peers", *all_results()[3:])])
    assert wanted in found["ratios"]["ring_vs_generic"]["missing"]


def test_a_target_that_is_not_reached_and_a_disturbed_ratio_are_said() -> None:
    results = [result("d1_vs_blkio", 0.7), result("d1_vs_libnbd", 3.0, disturbed_pairs=2)]
    found = summary.assemble([report_of("peers", *results)])
    assert found["ratios"]["d1_vs_blkio"]["reached"] is False
    assert found["ratios"]["d1_vs_libnbd"]["disturbed"] is True
    lines = {line.split()[0]: line for line in summary.table(found).splitlines()}
    assert "NOT REACHED" in lines["d1_vs_blkio"]
    assert "DISTURBED: 2" in lines["d1_vs_libnbd"]


def test_a_ratio_that_is_not_claimed_is_no_part_of_it() -> None:
    found = summary.assemble([report_of("ring", result("ring_vs_reference", 200.0))])
    assert "ring_vs_reference" not in found["ratios"]


def write_reports(directory: Path, *reports: dict[str, Any]) -> None:
    directory.mkdir()
    for each in reports:
        (directory / f"{each['report']}.json").write_text(json.dumps(each))
    (directory / "pytest-benchmark.json").write_text('{"benchmarks": []}')


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "OUT", tmp_path)
    monkeypatch.setattr(summary, "PLACE", tmp_path / "summary.json")
    monkeypatch.delenv(report.RUN_VARIABLE, raising=False)
    return tmp_path


def test_the_last_run_is_summed_up(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_reports(out / "20260101T000000Z", report_of("ring", commit="old"))
    write_reports(out / "20260102T000000Z", report_of("ring", *all_results()))
    assert summary.main([]) == 0
    written = json.loads((out / "summary.json").read_text())
    assert (written["commit"], written["run"]) == ("abc", "20260102T000000Z")
    assert "ring_vs_generic" in capsys.readouterr().out


def test_a_quick_look_is_never_in_the_summary(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [result(name, 50.0, quick=True) for name in TARGETS]
    write_reports(out / "20260102T000000Z", report_of("ring", *quick))
    assert summary.main([]) == 0
    assert not (out / "summary.json").exists()
    assert "nothing is written" in capsys.readouterr().out
    entries = summary.assemble([report_of("ring", *quick)])["ratios"].values()
    assert {entry["missing"] for entry in entries} == {"only a quick look"}


def test_the_figures_of_a_quick_look_are_printed_and_marked(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [result(name, 0.01 + n, quick=True) for n, name in enumerate(TARGETS)]
    write_reports(out / "20260102T000000Z", report_of("ring", *quick))
    assert summary.main([]) == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines()}
    for n, name in enumerate(TARGETS):
        assert f"{n + 0.01:.2f}" in lines[name].split()
        assert lines[name].endswith("a quick look")
    assert "missing" not in printed


def test_a_run_without_reports_is_an_error(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "20260102T000000Z").mkdir()
    assert summary.main([]) == 1
    assert "make bench" in capsys.readouterr().err


def test_a_report_goes_to_the_directory_of_its_run(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(report.RUN_VARIABLE, "a-run")
    path = report.write("ring", results=[result("ring_vs_generic", 41.0)])
    assert path == out / "a-run" / "ring.json"
    [found] = summary.read_reports(path.parent)
    assert found["results"][0]["name"] == "ring_vs_generic"
    assert found["commit"]
    assert found["build_profile"]
