"""No way to do requests takes many more instructions than it did."""

import platform

import pytest

from tests.instructions.bounds import BOUNDS, Bound
from tests.instructions.callgrind import Count, count

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        platform.machine() != "x86_64",
        reason=f"the bounds are counts of x86-64, and this machine is {platform.machine()}",
    ),
]


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Count]:
    """All of one run."""
    return count(tmp_path_factory.mktemp("callgrind"))


@pytest.mark.parametrize("bound", BOUNDS, ids=[bound.name for bound in BOUNDS])
def test_a_request_takes_no_more_instructions_than_its_bound(
    counts: dict[str, Count], bound: Bound
) -> None:
    instructions = bound.measure(counts)
    places = ", ".join(
        f"{place} {spent}" for part in bound.parts for place, spent in counts[part].places()[:4]
    )
    assert 0 < instructions <= bound.most, (
        f"{bound.what}: {instructions:.0f} instructions for a request, and the bound is "
        f"{bound.most}; it took {bound.counted} when that was set. They are spent in {places}. "
        "All of them: python -m tests.instructions"
    )


@pytest.mark.parametrize("bound", BOUNDS, ids=[bound.name for bound in BOUNDS])
def test_a_call_allocates_no_more_than_it_did(counts: dict[str, Count], bound: Bound) -> None:
    allocations = bound.allocate(counts)
    assert allocations <= bound.allocations, (
        f"{bound.what}: {allocations:.0f} calls of malloc and its like by the extension; there "
        f"were no more than {bound.allocations}"
    )
