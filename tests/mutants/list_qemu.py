"""Mutants of the machines that QEMU is."""

from typing import Final

from tests.mutants.mutant import Mutant

PACKAGE: Final = "vioblk.transport.qemu"

ORPHAN_TESTS: Final = "tests/transport/test_qemu_orphans.py"
QTEST_TESTS: Final = "tests/transport/test_qemu_qtest.py"
MACHINE_TESTS: Final = "tests/transport/test_qemu.py"

MUTANTS: Final = (
    Mutant(
        name="qemu-outlives-its-parent",
        violation="starts QEMU without a parent death signal",
        function=f"{PACKAGE}.process:guard",
        old='"--pdeathsig", "KILL"',
        new='"--pdeathsig", "clear"',
        test=f"{ORPHAN_TESTS}::test_qemu_has_a_parent_death_signal",
    ),
    Mutant(
        name="qemu-late-answer",
        violation="takes the late answer to one register access for that of the next",
        function=f"{PACKAGE}.qtest:Qtest._take_turn",
        old="self._in_step = False",
        new="self._in_step = True",
        test=f"{QTEST_TESTS}::test_a_late_answer_is_not_taken_for_that_of_the_next_command",
    ),
    Mutant(
        name="lock-left-taken",
        violation="lets an exception come between taking a lock and knowing of it",
        function="vioblk.locks:acquire",
        old="held.extend(map(lock.acquire, (True,), (timeout_s,)))",
        new="held.append(lock.acquire(True, timeout_s))",
        test="tests/test_locks.py::test_an_exception_of_a_signal_handler_leaves_no_lock_taken",
    ),
    Mutant(
        name="qemu-one-vector-for-all",
        violation="lets all vectors signal the first descriptor",
        function=f"{PACKAGE}.ivshmem:DoorbellServer.message_data",
        old="_OUR_PEER << 16 | vector",
        new="_OUR_PEER << 16",
        test=f"{MACHINE_TESTS}::test_each_vector_signals_its_own_descriptor",
    ),
    Mutant(
        name="qemu-pins-not-rotated",
        violation="routes the interrupt pin of every slot as that of slot 1",
        function=f"{PACKAGE}.chipset:Pc.route",
        old="(location.device - 1 + pin) & 3",
        new="pin & 3",
        test="tests/interop/test_qemu_behaviour.py::"
        "test_the_pin_of_each_slot_comes_out_where_it_is_listened_to",
    ),
    Mutant(
        name="qemu-queue-reset-believed",
        violation="believes QEMU that it has reset a queue while requests are in flight",
        function=f"{PACKAGE}.platform:QemuPlatform.settle_queue",
        old='while count := self.queue_status(index)["inuse"]:',
        new="while count := 0:",
        test="tests/interop/test_qemu_queue_reset.py::"
        "test_a_queue_is_reset_only_when_qemu_has_let_go_of_its_requests",
    ),
)
