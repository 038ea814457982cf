"""Mutants of slot pools; the tests of tests/block/slot_pool must notice each."""

from typing import Final

from tests.mutants.mutant import Mutant

_POOL: Final = "vioblk.block.reference_pool:Pool"
_QUEUE: Final = "vioblk.block.reference_queue:ReferenceBlockQueue"
_TESTS: Final = "tests/block/slot_pool"

MUTANTS: Final = (
    Mutant(
        name="slot-pool-busy-slot-again",
        violation="submits a slot whose request is in flight",
        function=f"{_POOL}.check",
        old="if self._states[slot] is not _Slot.FREE:",
        new="if False:",
        test=f"{_TESTS}/test_refusals.py::test_a_slot_stays_busy_until_its_completion_was_taken",
    ),
    Mutant(
        name="slot-pool-past-the-end",
        violation="lets a slot reach past the capacity",
        function=f"{_POOL}._check_offset",
        old="offset + length > capacity_sectors",
        new="offset > capacity_sectors",
        test=f"{_TESTS}/test_refusals.py::test_requests_are_held_to_the_limits_of_the_moment",
    ),
    Mutant(
        name="slot-pool-short-success",
        violation="believes a success that the used length does not reach (SPLIT-USED-01)",
        function=f"{_POOL}.complete",
        old="and unwritten",
        new="and False",
        test=f"{_TESTS}/test_requests.py"
        "::test_a_success_that_the_used_length_does_not_reach_is_none",
    ),
    Mutant(
        name="slot-pool-robbed",
        violation="gives other requests the descriptors that slots have to themselves",
        function=f"{_QUEUE}._free_for_all",
        old="- self._reserved_count",
        new="",
        test=f"{_TESTS}/test_requests.py"
        "::test_other_requests_leave_slots_the_descriptors_that_are_theirs",
    ),
    Mutant(
        name="slot-pool-closed-in-flight",
        violation="closes a pool whose requests are in flight",
        function=f"{_QUEUE}.close_pool",
        old="if usable and pool.in_flight:",
        new="if False:",
        test=f"{_TESTS}/test_life.py::test_a_pool_in_flight_cannot_be_closed",
    ),
)
