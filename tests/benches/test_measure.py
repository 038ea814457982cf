"""The benchmarks' own arithmetic, and that they refuse a debug build."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benches import old_pairs, refuse_debug
from benches.test_ring_e2e import BATCH, ChainBatches, PrebuiltSlots, RequestBatches
from vioblk._native import BlockQueue, SplitQueue
from vioblk.block.reference_queue import ReferenceBlockQueue
from vioblk.ring import reference

ROOT = Path(__file__).parents[2]


def test_a_debug_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refuse_debug, "BUILD_PROFILE", "debug")
    assert "'debug'" in (refuse_debug.refusal() or "")
    monkeypatch.setattr(refuse_debug, "BUILD_PROFILE", "release")
    assert refuse_debug.refusal() is None


def test_pytest_refuses_to_measure_a_debug_build(tmp_path: Path) -> None:
    plugin = tmp_path / "pretend_debug.py"
    plugin.write_text("from benches import refuse_debug\nrefuse_debug.BUILD_PROFILE = 'debug'\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "pretend_debug", "--benchmark-enable", "benches"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "profile 'debug'" in result.stderr


def test_a_comparison_takes_turns_and_gives_the_ratio_of_the_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    order: list[str] = []

    def work(name: str, seconds: float, request_count: int) -> old_pairs.Work:
        def run() -> int:
            order.append(name)
            clock[0] += seconds
            return request_count

        return run

    monkeypatch.setattr(old_pairs, "perf_counter", lambda: clock[0])
    comparison = old_pairs.Comparison(work("fast", 1.0, 100), work("slow", 6.0, 20))
    for _ in range(4):
        comparison()
    assert order == ["fast", "slow", "slow", "fast", "fast", "slow", "slow", "fast"]
    assert comparison.subject_s == pytest.approx([0.01] * 4)
    ratio = comparison.ratio()
    assert (ratio.q1, ratio.median, ratio.q3) == pytest.approx((30, 30, 30))
    assert f"{ratio:.1f}" == "30.0 (quartiles 30.0 to 30.0)"


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda: RequestBatches(BlockQueue, 3), id="native requests"),
        pytest.param(lambda: RequestBatches(ReferenceBlockQueue, 3), id="reference requests"),
        pytest.param(lambda: ChainBatches(SplitQueue, 3), id="native chains"),
        pytest.param(lambda: ChainBatches(reference.SplitQueue, 3), id="reference chains"),
        pytest.param(lambda: PrebuiltSlots(3), id="prebuilt slots"),
    ],
)
def test_what_is_measured_does_its_requests(
    work: Callable[[], RequestBatches | ChainBatches | PrebuiltSlots],
) -> None:
    measured = work()
    assert measured() == 3 * BATCH
    counters = measured.device.counters()
    assert counters["chains"] == counters["reads"] == 3 * BATCH
    assert counters["segments"] == 9 * BATCH
    assert counters["failed_requests"] == counters["bad_chains"] == 0
