"""What is measured does what it is measured for: every request, on the right data, by both halves.

Each baseline in Python, and each way of the package that stands beside it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from benches.shapes import SEGMENT_BYTES, Shape
from benches.turns import (
    CAPACITY_SECTORS,
    Call,
    Driver,
    GenericChains,
    GenericRequests,
    NativePool,
    NumpySlots,
    PythonSlots,
    Records,
    RingChains,
    Turns,
    reference_chains,
    reference_records,
    sectors,
)

MakeDriver: TypeAlias = Callable[[Shape], Driver]

ROUNDS = 5
"""Enough that batches of 64 go round the ring."""

SHAPES = [
    Shape(descriptors, batch, packed, indirect, event_idx)
    for descriptors, batch in ((3, 1), (3, 64), (17, 8))
    for packed in (False, True)
    for indirect in (False, True)
    for event_idx in (False, True)
]
DRIVERS: list[Any] = [
    GenericRequests,
    PythonSlots,
    NumpySlots,
    Records,
    NativePool,
    reference_records,
    GenericChains,
    RingChains,
    reference_chains,
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk whose sectors hold their own numbers."""
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    path.write_bytes(b"".join(map(sector_bytes, range(CAPACITY_SECTORS))))
    return path


def sector_bytes(sector: int) -> bytes:
    return sector.to_bytes(8, "little") * (SEGMENT_BYTES // 8)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(make, shape, id=f"{make.__name__}, {shape}")
        for make in DRIVERS
        for shape in SHAPES
        # The request queue in pure Python has no fence, and refuses the event index.
        if not (make is reference_records and shape.event_idx)
    ],
)
def test_every_request_of_a_batch_is_served_and_brings_its_data(
    make: MakeDriver, shape: Shape, disk: Path
) -> None:
    driver = make(shape)
    turns = Turns(driver, disk)
    for _ in range(ROUNDS):
        turns.check()
    with memoryview(driver.memory.data) as data:
        found = bytes(data)
    wanted = b"".join(
        sector_bytes(first + n) for first in sectors(shape) for n in range(shape.segments)
    )
    assert found == wanted


@pytest.mark.parametrize(
    "make",
    [PythonSlots, NumpySlots, GenericChains, RingChains, reference_chains],
    ids=lambda make: make.__name__,
)
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("batch", [1, 8, 64, 256])
def test_chains_of_one_descriptor_come_back(make: MakeDriver, packed: bool, batch: int) -> None:
    turns = Turns(make(Shape(1, batch, packed)))
    for _ in range(ROUNDS):
        turns.check()


@pytest.mark.parametrize("make", [GenericChains, RingChains], ids=["generic", "native"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_chains_that_are_pushed_and_withdrawn_leave_the_ring_as_it_was(
    make: Callable[[Shape], GenericChains | RingChains], packed: bool, indirect: bool
) -> None:
    driver = make(Shape(packed=packed, indirect=indirect))
    turns = Turns(driver)
    for _ in range(ROUNDS):
        driver.allocate()
        turns.check()


def test_the_parts_of_a_turn_add_up_to_the_drivers_share() -> None:
    phases = Turns(GenericRequests(Shape(batch=8))).phases(20)
    assert phases.request_count == 160
    assert phases.driver_s == phases.submit_s + phases.reap_s
    assert min(phases.submit_s, phases.device_s, phases.reap_s) > 0


def test_a_batch_that_is_not_served_is_noticed() -> None:
    turns = Turns(GenericRequests(Shape(batch=8)))
    turns.driver.submit = Call(lambda: None)
    with pytest.raises(AssertionError, match="0 of 8 requests were served"):
        turns.check()
    with pytest.raises(AssertionError):
        turns.phases(1)
