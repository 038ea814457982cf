"""Mutants of the pure-Python packed ring; the tests of tests/ring must notice each."""

from typing import Final

from tests.mutants.mutant import Mutant

_PACKED: Final = "vioblk.ring.reference.packed"
_RING: Final = f"{_PACKED}:PackedQueue"
_TESTS: Final = "tests/ring/test_"
_PUBLISH: Final = f"{_TESTS}packed_publish.py::"
_PUSH: Final = f"{_TESTS}packed_push.py::"
_REAP: Final = f"{_TESTS}packed_reap.py::"
_NOTIFY: Final = f"{_TESTS}notifications.py::"

MUTANTS: Final = [
    Mutant(
        name="packed-counter-never-flips",
        violation="keeps its wrap counter behind the last slot",
        function=f"{_PACKED}:Position.after",
        old="self.counter ^ laps",
        new="self.counter",
        test=f"{_TESTS}publish.py::test_the_ring_works_over_many_laps",
    ),
    Mutant(
        name="packed-counter-flips-one-slot-early",
        violation="takes the last slot for one of the next lap",
        function=f"{_PACKED}:Position.after",
        old="divmod(self.slot + count, size)",
        new="(self.slot + count + 1) // size, (self.slot + count) % size",
        test=f"{_PUSH}test_a_list_over_the_end_of_the_ring_flips_the_wrap_counter_within",
    ),
    Mutant(
        name="packed-size-is-a-mask",
        violation="stores flags in the wrong slots unless the size is a power of two",
        function=f"{_RING}._make_available",
        old="(first_slot + distance) % self._size",
        new="(first_slot + distance) & (self._size - 1)",
        test=f"{_TESTS}publish.py::test_a_batch_becomes_visible_in_one_step",
    ),
    Mutant(
        name="packed-available-at-once",
        violation="makes a descriptor available when it is pushed (PACKED-SG-06)",
        function=f"{_RING}._write_next",
        old="self._held_back.append(flags | position.available_flags)",
        new="self._held_back.append(flags | position.available_flags)\n"
        "    self._raw.write_flags(position.slot, self._held_back[-1])",
        test=f"{_PUSH}test_a_list_becomes_available_as_a_whole_or_not_at_all",
    ),
    Mutant(
        name="packed-only-the-head-is-available",
        violation="leaves AVAIL and USED of the later descriptors of a list alone",
        function=f"{_RING}._write_next",
        old="flags | position.available_flags",
        new="flags | (position.available_flags if not self._held_back else 0)",
        test=f"{_PUSH}test_a_list_becomes_available_as_a_whole_or_not_at_all",
    ),
    Mutant(
        name="packed-one-slot-a-chain",
        violation="looks for the next used descriptor in the next slot, whatever was used",
        function=f"{_RING}._step_over",
        old="self._used.after(chain.descriptor_count, self._size)",
        new="self._used.after(1, self._size)",
        test=f"{_TESTS}reap.py::test_chains_come_back_in_the_order_in_which_the_device_used_them",
    ),
    Mutant(
        name="packed-used-is-the-flag-alone",
        violation="takes a descriptor for used by USED alone, without AVAIL",
        function=f"{_RING}._next_element",
        old="flags & (AVAIL | USED) != self._used.used_flags",
        new="flags & USED != self._used.used_flags & USED",
        test=f"{_REAP}test_flags_that_do_not_say_used_are_waited_for",
    ),
    Mutant(
        name="packed-used-without-being-available",
        violation="believes a used descriptor although nothing is outstanding",
        function=f"{_RING}._next_element",
        old="if not self.outstanding_count:",
        new="if False:",
        test=f"{_REAP}test_one_used_too_many_gives_the_others_and_then_breaks_the_queue",
    ),
    Mutant(
        name="packed-unpublished-id",
        violation="believes a buffer id that was never made available",
        function=f"{_RING}._check",
        old="if used_id not in self._outstanding:",
        new="self._outstanding |= self._unpublished\n    if used_id not in self._outstanding:",
        test=f"{_TESTS}reap.py::test_a_used_id_that_is_pushed_but_not_published_breaks_the_queue",
    ),
    Mutant(
        name="packed-length-without-write",
        violation="believes the length of a used descriptor without WRITE",
        function=f"{_RING}._next_element",
        old="length if flags & WRITE else None",
        new="length",
        test=f"{_REAP}test_a_used_length_without_the_write_flag_means_nothing",
    ),
    Mutant(
        name="packed-withdraws-nothing-but-ids",
        violation="goes on behind what was withdrawn",
        function=f"{_RING}.withdraw",
        old="self._held_back.clear()\n    return super().withdraw()",
        new="from vioblk.ring.reference.driver_half import DriverHalf\n"
        "    return DriverHalf.withdraw(self)",
        test=f"{_TESTS}reap.py::test_withdraw_gives_back_the_unpublished_newest_first",
    ),
    Mutant(
        name="packed-table-entries-chained",
        violation="puts NEXT on the entries of an indirect table (PACKED-INDIR-02)",
        function=f"{_RING}._write_indirect",
        old="part.length, part.write_flag",
        new="part.length, part.write_flag | NEXT",
        test=f"{_PUSH}test_an_indirect_chain_is_one_descriptor_and_a_table_in_a_row",
    ),
    Mutant(
        name="packed-kick-despite-disable",
        violation="notifies a device that does not want it",
        function=f"{_RING}._kick_needed",
        old="return flags != DISABLE",
        new="return True",
        test=f"{_PUBLISH}test_enable_and_disable_decide_about_the_kick",
    ),
    Mutant(
        name="packed-position-without-event-idx",
        violation="goes by a position that was not negotiated, and keeps silent",
        function=f"{_RING}._kick_needed",
        old="if flags == AT_DESCRIPTOR and self._event_idx:",
        new="if flags == AT_DESCRIPTOR:",
        test=f"{_PUBLISH}test_a_wish_that_means_nothing_is_no_reason_to_keep_silent",
    ),
    Mutant(
        name="packed-event-of-the-other-lap",
        violation="ignores the wrap counter of the device's position",
        function=f"{_PACKED}:batch_passed",
        old="if event_counter != next_position.counter:",
        new="if False:",
        test=f"{_TESTS}publish.py::"
        "test_with_event_idx_a_kick_is_needed_just_when_the_event_lies_in_the_batch",
    ),
    Mutant(
        name="packed-kick-for-the-head-only",
        violation="misses a position within a list",
        function=f"{_RING}._kick_needed",
        old="sum(chain.descriptor_count for chain in batch)",
        new="len(batch)",
        test=f"{_PUBLISH}test_every_descriptor_of_a_list_counts_for_the_position",
    ),
    Mutant(
        name="packed-next-available-without-counter",
        violation="leaves the wrap counter out of a notification (PACKED-NOTIFY-01)",
        function=f"{_RING}.next_available",
        old="return self._published.word",
        new="return self._published.slot",
        test=f"{_PUBLISH}test_a_notification_tells_offset_and_wrap_counter_of_the_next_descriptor",
    ),
    Mutant(
        name="packed-arms-the-available-position",
        violation="asks for a notification of what it will publish, not of what comes back",
        function=f"{_RING}._ask",
        old="self._raw.driver_event_position = self._used.word",
        new="self._raw.driver_event_position = self._published.word",
        test=f"{_NOTIFY}test_arming_after_a_partial_reap_asks_for_the_next_descriptor_only",
    ),
    Mutant(
        name="packed-arms-without-a-look",
        violation="does not look at the ring again after it armed (PACKED-RECV-01)",
        function=f"{_RING}._is_used",
        old="return flags & (AVAIL | USED) == self._used.used_flags",
        new="return False",
        test=f"{_NOTIFY}test_arm_tells_whether_a_used_chain_is_waiting_already",
    ),
    Mutant(
        name="packed-available-in-the-first-lap-only",
        violation="sets AVAIL and clears USED in every lap, whatever its wrap counter",
        function=f"{_PACKED}:Position.available_flags",
        old="return AVAIL if self.counter else USED",
        new="return AVAIL",
        test=f"{_TESTS}publish.py::test_the_ring_works_over_many_laps",
    ),
    Mutant(
        name="packed-used-in-the-first-lap-only",
        violation="waits for AVAIL and USED set in every lap, whatever its wrap counter",
        function=f"{_PACKED}:Position.used_flags",
        old="return AVAIL | USED if self.counter else 0",
        new="return AVAIL | USED",
        test=f"{_TESTS}publish.py::test_the_ring_works_over_many_laps",
    ),
    Mutant(
        name="packed-table-takes-many-slots",
        violation="skips as many slots for an indirect chain as its table has entries",
        function="vioblk.ring.reference.chains:Plan.descriptors_needed",
        old="1 if self.is_indirect(table_size) else len(self.parts)",
        new="len(self.parts)",
        test=f"{_TESTS}reap.py::test_many_laps_give_every_chain_back_once",
    ),
]
