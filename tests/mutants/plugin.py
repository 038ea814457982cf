"""The pytest side: puts the mutant that VIOBLK_MUTANT names in place."""

import os

import pytest
from hypothesis import Phase, settings

VARIABLE = "VIOBLK_MUTANT"


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is collected, so that tests import the mutant."""
    name = os.environ.get(VARIABLE)
    if name is None:
        return
    from tests.mutants.catalogue import all_mutants

    mutants = all_mutants()
    if name not in mutants:
        raise pytest.UsageError(f"{VARIABLE}={name}: there are {', '.join(sorted(mutants))}")
    mutants[name].apply()
    # One failure is enough: not the smallest one, which can take minutes to find. The same
    # examples each time: whether a test bites is then no matter of luck, here or in CI.
    settings.register_profile(
        "mutant",
        phases=[Phase.explicit, Phase.generate],
        database=None,
        deadline=None,
        derandomize=True,
    )
    settings.load_profile("mutant")


def pytest_report_header() -> str | None:
    """So that nobody takes a mutant's results for the real ones."""
    name = os.environ.get(VARIABLE)
    return f"MUTANT {name} is in place: its test must fail" if name else None
