from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vioblk
from tests.contract.targets import TARGETS, Target
from vioblk.block.disk import BlockDevice


@dataclass(frozen=True)
class Case:
    """One target, reached through one ring."""

    target: Target
    ring: str
    address: str

    def open(self, **options: Any) -> BlockDevice:
        return vioblk.open(self.address, ring=self.ring, **options)


@pytest.fixture(params=TARGETS, ids=lambda target: str(target.name))
def target(request: pytest.FixtureRequest) -> Target:
    """Every test of the suite runs on every target, through every ring."""
    chosen: Target = request.param
    return chosen


@pytest.fixture
def case(target: Target, ring: str, tmp_path: Path) -> Iterator[Case]:
    with ExitStack() as stack:
        yield Case(target, ring, stack.enter_context(target.serve(tmp_path)))


@pytest.fixture
def disk(case: Case) -> Iterator[BlockDevice]:
    with case.open() as disk:
        yield disk
