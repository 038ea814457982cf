"""Mutants that a device notices whose registers are strict, or that lies or goes."""

from typing import Final

from tests.mutants.mutant import Mutant

MODERN: Final = "vioblk.pci.modern:ModernLayout"
PLANS: Final = "vioblk.transport.pci.plans"
USE: Final = "tests/transport/test_software_pci.py"
HOSTILE: Final = "tests/transport/test_software_pci_hostile.py"

MUTANTS: Final = (
    Mutant(
        name="status-read-by-two-bytes",
        violation="reads the status together with the generation (PCI-ACC-01)",
        function=f"{MODERN}.read_status",
        old="return self._common.read(DEVICE_STATUS, 1)",
        new="return self._common.read(DEVICE_STATUS, 2) & 0xFF",
        test=f"{USE}::test_no_register_is_accessed_but_in_the_way_that_it_has",
    ),
    Mutant(
        name="upper-half-left-out",
        violation="writes the lower half of an address only",
        function=f"{MODERN}._write_address",
        old="self._common.write(offset + 4, 4, address >> 32)",
        new="pass",
        test=f"{USE}::test_an_address_is_written_as_two_halves",
    ),
    Mutant(
        name="notified-by-index",
        violation="takes the index of a queue for its queue_notify_off",
        function=f"{MODERN}.notify_place",
        old="within = notify_off * self._notify.multiplier",
        new="within = index * self._notify.multiplier",
        test=f"{USE}::test_a_doorbell_is_where_its_queue_is_notified",
    ),
    Mutant(
        name="notified-by-four-bytes",
        violation="notifies by four bytes through the window without data (PCI-NOTIFY-01)",
        function="vioblk.transport.pci.window_doorbell:_Bell._try_to_ring",
        old="self._place.offset, 2, self._place.value",
        new="self._place.offset, 4, self._place.value",
        test=f"{USE}::test_a_doorbell_rings_through_the_window_by_the_index_in_two_bytes",
    ),
    Mutant(
        name="vector-beyond-the-table",
        violation="maps queues to vectors that the table does not have (MSIX-04)",
        function=f"{PLANS}:VectorPlan.queue_fd",
        old="candidates = [index + 1]",
        new="self._function.layout.set_queue_vector(index, index + 2)\n    "
        "candidates = [index + 1]",
        test=f"{USE}::test_a_table_of_any_size_is_used_as_far_as_it_goes",
    ),
    Mutant(
        name="reset-looked-at-once",
        violation="writes on while a reset goes on (PCI-COMMON-05)",
        function="vioblk.device:VirtioDevice._await_reset",
        old="while (status := transport.read_status()) != 0:",
        new="while (status := transport.read_status()) > 0xFF:",
        test=f"{USE}::test_a_slow_reset_is_waited_for_and_nothing_is_written_meanwhile",
    ),
    Mutant(
        name="bus-master-left-on",
        violation="leaves the device in reach of memory when it is closed",
        function="vioblk.transport.pci.transport:PciTransport._keep_out",
        old="self._platform.set_bus_master(False)",
        new="pass",
        test=f"{USE}::test_the_device_reaches_no_memory_before_driver_ok_and_none_after_closing",
    ),
    Mutant(
        name="all-ones-believed",
        violation="takes what a device that has gone reads as for its registers",
        function="vioblk.transport.pci.presence:Presence.judge",
        old="self._look()",
        new="pass",
        test="tests/transport/test_pci.py::"
        "test_a_device_that_reads_as_all_ones_has_gone_and_is_left_alone",
    ),
    Mutant(
        name="generation-not-compared",
        violation="puts a configuration together from before and after a change",
        function="vioblk.config_space:read_snapshot",
        old="steady = transport.config_generation() == before",
        new="steady = True",
        test=f"{HOSTILE}::test_a_configuration_that_never_holds_still_is_an_error",
    ),
    Mutant(
        name="doorbell-out-of-bounds",
        violation="rings doorbells beyond the notification structure",
        function=f"{MODERN}._check_place",
        old="if within + width > notify.length:",
        new="if within < 0:",
        test=f"{HOSTILE}::test_doorbells_beyond_their_structure_are_an_error",
    ),
)
