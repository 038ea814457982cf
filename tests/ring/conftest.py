from functools import partial

import pytest

from tests.ring.support import (
    Language,
    MakeBench,
    MakePackedBench,
    make_bench,
    make_packed_bench,
)


@pytest.fixture(params=["native", "reference"])
def language(request: pytest.FixtureRequest) -> Language:
    """Every test of a ring runs on both."""
    chosen: Language = request.param
    return chosen


@pytest.fixture
def make(language: Language) -> MakeBench:
    """Makes a bench around a ring of the language under test."""
    return partial(make_bench, language)


@pytest.fixture
def make_packed(language: Language) -> MakePackedBench:
    """The same around a packed ring."""
    return partial(make_packed_bench, language)
