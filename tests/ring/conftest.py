from functools import partial

import pytest

from tests.ring.support import Language, MakeBench, make_bench


@pytest.fixture(params=["native", "reference"])
def language(request: pytest.FixtureRequest) -> Language:
    """Every test of a ring runs on both."""
    chosen: Language = request.param
    return chosen


@pytest.fixture
def make(language: Language) -> MakeBench:
    """Makes a bench around a ring of the language under test."""
    return partial(make_bench, language)
