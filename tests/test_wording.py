"""Messages use the right number."""

import pytest

from vioblk.wording import counted


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 requests"), (1, "1 request"), (2, "2 requests")]
)
def test_one_is_singular(count: int, words: str) -> None:
    assert counted(count, "request") == words
