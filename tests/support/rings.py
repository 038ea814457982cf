"""Both rings, without running everything twice."""

from collections.abc import Iterable
from itertools import cycle
from typing import get_args

import pytest

from tests.conftest import RingName


def rings_in_turn(name: str, values: Iterable[object]) -> pytest.MarkDecorator:
    """Run a test with each value once, over one of the rings in turn; it may take `ring` too.

    For what depends on the value and on the ring, but hardly on both, and costs time.
    """
    return pytest.mark.parametrize(
        (name, "ring"),
        [
            pytest.param(value, ring, id=f"{getattr(value, 'name', value)}-{ring}")
            for value, ring in zip(values, cycle(get_args(RingName)))
        ],
    )
