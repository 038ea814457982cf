"""Refuses a debug build, prints the ratios, and writes them to benches/out."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches import report
from benches.measure import Spread
from benches.old_pairs import Comparison
from benches.refuse_debug import refusal

RESULTS: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()

Compare = Callable[..., Spread]


def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    why = refusal()
    if why is not None and (option.benchmark_enable or not option.benchmark_disable):
        raise pytest.UsageError(why)
    config.stash[RESULTS] = []


@pytest.fixture
def compare(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Compare:
    """Measures a comparison in pairs, and reports its ratio under a name."""

    def run(
        name: str, comparison: Comparison, *, pairs: int, target: float | None = None
    ) -> Spread:
        comparison.warm_up()
        _repeat(benchmark, comparison, pairs)
        ratio = comparison.ratio()
        results = request.config.stash[RESULTS]
        results.append(
            {
                "name": name,
                "ratio": asdict(ratio),
                "target": target,
                "subject_s_per_request": asdict(Spread.of(comparison.subject_s)),
                "baseline_s_per_request": asdict(Spread.of(comparison.baseline_s)),
            }
        )
        return ratio

    return run


def _repeat(benchmark: BenchmarkFixture, measured: Callable[[], None], rounds: int) -> None:
    pedantic: Any = benchmark.pedantic  # it has no types
    pedantic(measured, rounds=rounds)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    results = config.stash[RESULTS]
    if not results:
        return
    terminalreporter.section(
        "native against pure Python: ratio as median (quartiles), rates as medians"
    )
    for result in results:
        terminalreporter.write_line(_line(result))
    path = report.write("python", results=results)
    terminalreporter.write_line(f"written to {path}")


def _line(result: dict[str, Any]) -> str:
    name = f"[{result['name']}]"
    target = "" if result["target"] is None else f"; target {result['target']:g}"
    native, reference = (
        f"{1 / result[side]['median']:,.0f}"
        for side in ("subject_s_per_request", "baseline_s_per_request")
    )
    return (
        f"{name:<32} {Spread(**result['ratio']):.1f} times{target};"
        f" requests/s: native {native}, pure Python {reference}"
    )
