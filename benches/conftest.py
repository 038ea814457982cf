"""Refuses a debug build, prints the ratios, and writes them to benches/out."""

from collections.abc import Callable

import pytest

from benches import report
from benches.measure import Comparison
from benches.refuse_debug import refusal

RESULTS: pytest.StashKey[list[Comparison]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    why = refusal()
    if why is not None and (option.benchmark_enable or not option.benchmark_disable):
        raise pytest.UsageError(why)
    config.stash[RESULTS] = []


@pytest.fixture
def report_comparison(request: pytest.FixtureRequest) -> Callable[[Comparison], None]:
    """Takes a comparison up into the report."""
    return request.config.stash[RESULTS].append


@pytest.hookimpl(trylast=True)
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
        terminalreporter.write_line(str(result))
    path = report.write("ring", results=[result.as_json() for result in results])
    terminalreporter.write_line(f"written to {path}")
