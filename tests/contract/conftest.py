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


@pytest.fixture(
    params=[
        pytest.param((target, ring), id=f"{target.name}-{ring}")
        for target in TARGETS
        for ring in target.rings
    ]
)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Every test of the suite runs on every target, through its rings."""
    target, ring = request.param
    with ExitStack() as stack:
        yield Case(target, ring, stack.enter_context(target.serve(tmp_path)))


@pytest.fixture
def disk(case: Case) -> Iterator[BlockDevice]:
    with case.open() as disk:
        yield disk
