"""The request queues under test."""

import pytest

from tests.block.queue_bench import LANGUAGES, Language


@pytest.fixture(params=LANGUAGES)
def ring(request: pytest.FixtureRequest) -> Language:
    """Every test runs on the queues of both languages, over rings of every format."""
    chosen: Language = request.param
    return chosen
