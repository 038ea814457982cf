"""Mutants of the pure-Python split ring; the tests of tests/ring must notice each."""

from typing import Final

from tests.mutants.mutant import Mutant

_RING: Final = "vioblk.ring.reference.split:SplitQueue"
_HALF: Final = "vioblk.ring.reference.driver_half:DriverHalf"
_NUMBERS: Final = "vioblk.ring.reference.numbers"
_CHAINS: Final = "vioblk.ring.reference.chains"
_RAW: Final = "vioblk.ring.raw.split"

MUTANTS: Final = [
    Mutant(
        name="ring-kick-one-event-late",
        violation="notifies for an event behind the batch (SPLIT-KICK-07)",
        function=f"{_CHAINS}:event_passed",
        old="entries_since_event < new_entries",
        new="entries_since_event <= new_entries",
        test="tests/ring/test_publish.py::"
        "test_with_event_idx_a_kick_is_needed_just_when_the_event_lies_in_the_batch",
    ),
    Mutant(
        name="ring-kick-without-modulo",
        violation="compares indices as plain numbers, so it misses a kick at the wrap"
        " (SPLIT-KICK-06)",
        function=f"{_CHAINS}:event_passed",
        old="return entries_since_event < new_entries",
        new="return old_index <= event_index < new_index",
        test="tests/ring/test_split_publish.py::"
        "test_with_event_idx_the_kick_is_right_over_the_wrap_of_the_index",
    ),
    Mutant(
        name="ring-kick-despite-the-flag",
        violation="notifies although the used flags forbid it (SPLIT-KICK-03)",
        function=f"{_RING}._kick_needed",
        old="return not self._raw.used_flags & NO_NOTIFY",
        new="return True",
        test="tests/ring/test_publish.py::test_the_device_says_by_its_flags_whether_it_wants_kicks",
    ),
    Mutant(
        name="ring-flags-decide-despite-event-idx",
        violation="lets the used flags suppress a kick with EVENT_IDX (SPLIT-KICK-05)",
        function=f"{_RING}._kick_needed",
        old="if self._event_idx:",
        new="if self._event_idx and not self._raw.used_flags & NO_NOTIFY:",
        test="tests/ring/test_split_publish.py::test_with_event_idx_the_used_flags_are_ignored",
    ),
    Mutant(
        name="ring-withdraws-what-is-published",
        violation="moves the available index backwards (SPLIT-AVAIL-01)",
        function=f"{_RING}.withdraw",
        old="withdrawn = [*reversed(self._unpublished)]",
        new="withdrawn = [*reversed(self._unpublished)]\n"
        "    self._raw.available_index = (self._published_index - 1) & 0xFFFF",
        test="tests/ring/test_split_publish.py::test_the_available_index_only_ever_moves_forward",
    ),
    Mutant(
        name="ring-publishes-each-push",
        violation="makes a chain visible before the batch is published",
        function=f"{_RING}._write",
        old="return numbers",
        new="self._raw.available_index = (index + 1) & 0xFFFF\n    return numbers",
        test="tests/ring/test_publish.py::test_a_batch_becomes_visible_in_one_step",
    ),
    Mutant(
        name="ring-table-linked-with-next",
        violation="combines INDIRECT and NEXT (SPLIT-INDIR-04)",
        function=f"{_RING}._write_indirect",
        old="DESCRIPTOR_BYTES, INDIRECT\n",
        new="DESCRIPTOR_BYTES, INDIRECT | NEXT\n",
        test="tests/ring/test_split_push.py::"
        "test_an_indirect_chain_is_one_descriptor_and_a_table_linked_in_order",
    ),
    Mutant(
        name="ring-table-not-negotiated",
        violation="uses an indirect table without INDIRECT_DESC (SPLIT-INDIR-01)",
        function=f"{_CHAINS}:Plan.is_indirect",
        old="return 1 < len(self.parts) <= table_size",
        new="return len(self.parts) > 1",
        test="tests/ring/test_push.py::test_without_indirect_desc_no_descriptor_has_the_flag",
    ),
    Mutant(
        name="ring-writable-first",
        violation="puts writable segments before readable ones (FRAME-01)",
        function=f"{_CHAINS}:plan_of",
        old="parts += writable_parts",
        new="parts[:0] = writable_parts",
        test="tests/ring/test_push.py::"
        "test_the_device_finds_one_part_per_segment_and_readable_ones_first",
    ),
    Mutant(
        name="ring-chain-longer-than-the-queue",
        violation="builds chains with more descriptors than the queue size (SPLIT-INDIR-03)",
        function=f"{_CHAINS}:plan_of",
        old="if len(parts) > size:",
        new="if False:",
        test="tests/ring/test_push.py::test_a_chain_longer_than_the_queue_never_fits",
    ),
    Mutant(
        name="ring-free-list-in-shared-memory",
        violation="frees a chain by walking links that the device can write",
        function=f"{_RING}._hand_out",
        old="give_back(chain.numbers)",
        new="give_back([completion.head, "
        "*(self._raw.read_descriptor(number).next for number in chain.numbers[:-1])])",
        test="tests/ring/test_push.py::test_nothing_that_the_device_can_write_decides_what_is_free",
    ),
    Mutant(
        name="ring-free-list-reversed",
        violation="takes the descriptors of a freed chain in another order than the Rust ring",
        function=f"{_NUMBERS}:LastFreedFirst.give_back",
        old="reversed(numbers)",
        new="numbers",
        test="tests/ring/test_split_push.py::test_a_reaped_chain_is_reused_next_in_the_same_order",
    ),
    Mutant(
        name="ring-used-id-masked",
        violation="masks a used id that is out of range instead of refusing it",
        function=f"{_RING}._take_element",
        old="self._check(element)",
        new="element = element._replace(id=element.id % self._size)\n    self._check(element)",
        test="tests/ring/test_reap.py::test_a_used_id_out_of_range_breaks_the_queue",
    ),
    Mutant(
        name="ring-used-id-not-published",
        violation="takes back a chain that the device was never given",
        function=f"{_RING}._check",
        old="if used_id not in self._outstanding:",
        new="self._outstanding |= self._unpublished\n    if used_id not in self._outstanding:",
        test="tests/ring/test_reap.py::"
        "test_a_used_id_that_is_pushed_but_not_published_breaks_the_queue",
    ),
    Mutant(
        name="ring-used-index-believed",
        violation="believes a used index that is ahead of what is outstanding",
        function=f"{_RING}._look",
        old="if ahead > 0:",
        new="if False:",
        test="tests/ring/test_split_reap.py::"
        "test_a_used_index_ahead_of_what_is_outstanding_breaks_the_queue",
    ),
    Mutant(
        name="ring-used-length-believed",
        violation="reports more bytes written than the chain has (SPLIT-USED-01)",
        function=f"{_RING}._clamped",
        old="return writable_bytes",
        new="return element.written_bytes",
        test="tests/ring/test_reap.py::test_a_used_length_is_never_more_than_the_writable_bytes",
    ),
    Mutant(
        name="ring-flags-with-event-idx",
        violation="sets the available flags with EVENT_IDX (SPLIT-INTR-03)",
        function=f"{_RING}.disarm",
        old="if self._event_idx:",
        new="self._raw.available_flags = NO_INTERRUPT\n    if self._event_idx:",
        test="tests/ring/test_notifications.py::"
        "test_with_event_idx_the_flags_stay_0_and_the_event_moves",
    ),
    Mutant(
        name="ring-flags-of-another-value",
        violation="writes another value than 0 or 1 to the available flags (SPLIT-INTR-01)",
        function=f"{_RING}.disarm",
        old="= NO_INTERRUPT",
        new="= 0xFFFF",
        test="tests/ring/test_notifications.py::"
        "test_without_event_idx_arm_and_disarm_write_flags_0_and_1",
    ),
    Mutant(
        name="ring-arm-does-not-look-again",
        violation="does not look at the ring after switching notifications on (SPLIT-RECV-01)",
        function=f"{_RING}._is_used",
        old="return self._raw.used_index != self._used_index_seen",
        new="return False",
        test="tests/ring/test_notifications.py::"
        "test_arm_tells_whether_a_used_chain_is_waiting_already",
    ),
    Mutant(
        name="ring-used-ring-not-zeroed",
        violation="leaves the used flags as the memory had them (SPLIT-KICK-01)",
        function=f"{_RAW}:RawSplitRing.zero",
        old="self._zero_part(layout.used_offset, 6 + 8 * self.size)",
        new="pass",
        test="tests/ring/test_layout.py::test_a_new_ring_is_zeroed_whatever_the_memory_held",
    ),
    Mutant(
        name="ring-used-part-unaligned",
        violation="puts the used ring right behind the available ring (SPLIT-LAYOUT-01)",
        function=f"{_RAW}:split_layout",
        old="used_offset = align_up(available_offset + available_bytes, CACHE_LINE_PAIR)",
        new="used_offset = available_offset + available_bytes",
        test="tests/ring/test_layout.py::test_every_part_is_aligned_for_every_queue_size",
    ),
    Mutant(
        name="ring-region-not-pinned",
        violation="lets a region be closed while the device uses it",
        function=f"{_HALF}._add",
        old="plan.pin()",
        new="[]",
        test="tests/ring/test_reap.py::test_a_region_cannot_be_closed_while_a_chain_holds_it",
    ),
    Mutant(
        name="queue-flush-with-a-sector",
        violation="sends a flush with a sector (BLK-FLUSH-01)",
        function="vioblk.block.reference_slots:Slots.write",
        old="0 if ranged else request.sector",
        new="0 if ranged else request.sector or 8",
        test="tests/block/request_queue/test_requests.py::test_a_flush_has_sector_0_and_no_data",
    ),
    Mutant(
        name="queue-unmap-in-a-discard",
        violation="sets the unmap flag of a discard segment (BLK-DISCARD-02)",
        function="vioblk.block.reference_slots:Slots.write",
        old="= request.flags",
        new="= 1",
        test="tests/block/request_queue/test_requests.py::test_a_range_request_has_one_segment_of_16_bytes",
    ),
    Mutant(
        name="queue-status-believed-unseen",
        violation="believes a status byte past the used length (SPLIT-USED-01)",
        function="vioblk.block.reference_queue:ReferenceBlockQueue._complete",
        old="and not status_was_written:",
        new="and False:",
        test="tests/block/request_queue/test_completions.py::test_success_past_the_used_length_is_not_believed",
    ),
]
