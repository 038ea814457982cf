"""Every test of a ring runs in both languages, and in every format that it is about."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.ring.formats import (
    ANY_ORDER_FORMATS,
    FORMATS,
    IN_ORDER_FORMATS,
    LANGUAGES,
    PACKED_FORMATS,
    SPLIT_FORMATS,
    Format,
    Language,
)
from tests.ring.support import Maker


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> Language:
    chosen: Language = request.param
    return chosen


def _maker_of(name: str, formats: Sequence[Format[Any]]) -> Callable[..., Maker[Any]]:
    @pytest.fixture(name=name, params=formats, ids=str)
    def make(request: pytest.FixtureRequest, language: Language) -> Maker[Any]:
        return Maker(language, request.param)

    return make


make = _maker_of("make", FORMATS)
make_any_order = _maker_of("make_any_order", ANY_ORDER_FORMATS)
make_in_order = _maker_of("make_in_order", IN_ORDER_FORMATS)
make_split = _maker_of("make_split", SPLIT_FORMATS)
make_packed = _maker_of("make_packed", PACKED_FORMATS)
