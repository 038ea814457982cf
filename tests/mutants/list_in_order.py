"""Mutants of the pure-Python rings in order; the tests of tests/ring must notice each."""

from typing import Final

from tests.mutants.mutant import Mutant

_HALF: Final = "vioblk.ring.reference.driver_half:DriverHalf"
_SPLIT: Final = "vioblk.ring.reference.split:SplitQueue"
_PACKED: Final = "vioblk.ring.reference.packed:PackedQueue"
_IN_TURN: Final = "vioblk.ring.reference.numbers:InTurn"
_TESTS: Final = "tests/ring/test_in_order.py::"

MUTANTS: Final = [
    Mutant(
        name="in-order-takes-what-was-freed-last",
        violation="takes descriptors in another order than that of the table (INORDER-SPLIT-02)",
        function=f"{_HALF}._start",
        old="InTurn(self._size) if self._in_order else LastFreedFirst(self._size)",
        new="LastFreedFirst(self._size)",
        test="tests/ring/test_split_push.py::"
        "test_in_order_descriptors_are_taken_in_the_order_of_the_table_and_around",
    ),
    Mutant(
        name="in-order-links-past-the-end",
        violation="begins a chain anew at slot 0 rather than link around the end of the table"
        " (INORDER-SPLIT-01)",
        function=f"{_IN_TURN}.take",
        old='"""In a row, which may go around."""',
        new="self._first = 0 if self._first + count > self._size else self._first",
        test="tests/ring/test_split_push.py::"
        "test_in_order_descriptors_are_taken_in_the_order_of_the_table_and_around",
    ),
    Mutant(
        name="in-order-table-backwards",
        violation="links an indirect table in another order than that of its entries"
        " (SPLIT-INDIR-05)",
        function=f"{_SPLIT}._write_indirect",
        old="(head, index, part.address, part.length, flags, next_index)",
        new="(head, -index % len(parts), part.address, part.length, flags,"
        " -next_index % len(parts))",
        test="tests/ring/test_split_push.py::"
        "test_an_indirect_chain_is_one_descriptor_and_a_table_linked_in_order",
    ),
    Mutant(
        name="in-order-withdrawn-leaves-a-gap",
        violation="goes on behind the descriptors of what was withdrawn (INORDER-SPLIT-02)",
        function=f"{_IN_TURN}.untake",
        old="self._first = numbers[0]",
        new="pass",
        test=f"{_TESTS}test_withdrawn_chains_leave_no_gap",
    ),
    Mutant(
        name="in-order-two-chains-of-one-id",
        violation="gives one buffer id to two chains unless the size is a power of two",
        function=f"{_IN_TURN}.take",
        old="(self._first + distance) % self._size for",
        new="(self._first + distance) & (self._size - 1) for",
        test="tests/ring/test_packed_push.py::test_in_order_buffer_ids_are_given_in_turn",
    ),
    Mutant(
        name="in-order-not-after-a-reset",
        violation="goes on in the middle of the table after a reset",
        function=f"{_HALF}._start",
        old="self._numbers: Numbers = (",
        new="self._numbers = getattr(self, '_numbers', None) or (",
        test=f"{_TESTS}test_reclaim_returns_the_rest_of_a_batch_and_starts_at_0",
    ),
    Mutant(
        name="in-order-gives-back-the-last-alone",
        violation="takes a used element for its own chain alone, and loses those it skipped",
        function=f"{_HALF}._given_back_by",
        old="if not self._in_order:",
        new="if True:",
        test=f"{_TESTS}"
        "test_one_element_gives_back_its_chain_and_all_before_it_which_were_used_completely",
    ),
    Mutant(
        name="in-order-skipped-is-not-written",
        violation="takes chains that the device skipped for chains that it wrote nothing to",
        function=f"{_HALF}._take_element",
        old="self._outstanding[head].writable_bytes",
        new="0",
        test=f"{_TESTS}"
        "test_one_element_gives_back_its_chain_and_all_before_it_which_were_used_completely",
    ),
    Mutant(
        name="in-order-newest-first",
        violation="hands the chains of a batch out in another order than they were used in",
        function=f"{_HALF}._hand_out",
        old="self._returned.popleft()",
        new="self._returned.pop()",
        test=f"{_TESTS}test_the_rest_of_a_batch_comes_with_the_next_calls",
    ),
    Mutant(
        name="in-order-next-entry-in-the-next-slot",
        violation="looks for the used entry after a batch right behind the batch's own",
        function=f"{_SPLIT}._step_over",
        old="self._used_index_seen + 1",
        new="self._used_index_seen + (not self._returned)",
        test=f"{_TESTS}test_a_limit_may_end_in_a_later_batch",
    ),
    Mutant(
        name="in-order-skips-the-last-chain-only",
        violation="looks for the next used descriptor behind as many slots as the last chain of a"
        " batch has",
        function=f"{_PACKED}._step_over",
        old="self._used.after(chain.descriptor_count, self._size)",
        new="self._used.after(chain.descriptor_count * (not self._returned), self._size)",
        test=f"{_TESTS}test_any_batches_over_many_laps_give_every_chain_back_once_and_in_order",
    ),
    Mutant(
        name="in-order-batch-past-the-index",
        violation="believes a batch of more chains than the used index has moved",
        function=f"{_SPLIT}._check_batch",
        old="if chain_count > self._ready_count:",
        new="if False:",
        test=f"{_TESTS}test_a_batch_of_more_chains_than_the_used_index_has_moved_breaks_the_queue",
    ),
    Mutant(
        name="in-order-rest-of-a-batch-forgotten",
        violation="arms and waits although chains of a batch are there (PACKED-RECV-01)",
        function=f"{_HALF}.arm",
        old="bool(self._returned) or self._is_used()",
        new="self._is_used()",
        test=f"{_TESTS}test_the_rest_of_a_batch_comes_with_the_next_calls",
    ),
]
