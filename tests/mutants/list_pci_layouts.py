"""Mutants of the register layouts and of the PCI transport."""

from typing import Final

from tests.mutants.mutant import Mutant

MODERN: Final = "vioblk.pci.modern:ModernLayout"
LEGACY: Final = "vioblk.pci.legacy:LegacyLayout"
WINDOW: Final = "vioblk.pci.window:PciCfgWindow"
PLANS: Final = "vioblk.transport.pci.plans"

MODERN_TESTS: Final = "tests/pci/test_modern.py"
LEGACY_TESTS: Final = "tests/pci/test_legacy.py"
WINDOW_TESTS: Final = "tests/pci/test_window.py"
CHOICE_TESTS: Final = "tests/pci/test_choose.py"
TRANSPORT_TESTS: Final = "tests/transport/test_pci.py"
INTERRUPT_TESTS: Final = "tests/transport/test_pci_interrupts.py"

MUTANTS: Final = (
    Mutant(
        name="a-window-for-each-structure",
        violation="lets a doorbell re-aim the window that another access has aimed (PCI-CFGACC-01)",
        function="vioblk.pci.choose:_Chooser._reach",
        old='window = None if self._access == "bar" else self._window',
        new='window = None if self._access == "bar" else self._make_window()',
        test=f"{CHOICE_TESTS}::test_a_doorbell_keeps_out_of_an_access_to_another_structure",
    ),
    Mutant(
        name="queue-enabled-first",
        violation="enables a queue before its addresses are programmed (PCI-COMMON-04)",
        function=f"{MODERN}.enable_queue",
        old="common.write(QUEUE_SIZE, 2, addresses.size)",
        new="common.write(QUEUE_ENABLE, 2, 1); common.write(QUEUE_SIZE, 2, addresses.size)",
        test=f"{MODERN_TESTS}::test_a_queue_is_enabled_after_everything_else_was_programmed",
    ),
    Mutant(
        name="vector-not-read-back",
        violation="takes every vector for mapped (MSIX-05)",
        function=f"{MODERN}._write_vector",
        old="return self._common.read(offset, 2) == vector",
        new="return True",
        test=f"{MODERN_TESTS}::test_a_vector_is_read_back_after_it_was_written",
    ),
    Mutant(
        name="notification-by-index-always",
        violation="notifies with the index though NOTIF_CONFIG_DATA was accepted (PCI-NOTIFY-05)",
        function=f"{MODERN}.notify_place",
        old="if self._has(Feature.NOTIF_CONFIG_DATA):",
        new="if False:",
        test=f"{MODERN_TESTS}::test_what_a_notification_holds_is_as_the_features_have_it",
    ),
    Mutant(
        name="queue-reset-not-awaited",
        violation="takes a queue reset for finished before the register reads 0 (PCI-VQRESET-01)",
        function=f"{MODERN}._await_queue_reset",
        old="while judge(self._read_queue_register(index, QUEUE_RESET)):",
        new="while False:",
        test=f"{MODERN_TESTS}::test_a_queue_is_reset_when_the_register_reads_zero",
    ),
    Mutant(
        name="queue-reset-asked-for-twice",
        violation="asks for a reset of a queue that is being reset already",
        function=f"{MODERN}.reset_queue",
        old="if not under_way and",
        new="if",
        test=f"{MODERN_TESTS}::"
        "test_a_reset_of_a_queue_that_is_under_way_is_waited_for_and_not_asked_for_again",
    ),
    Mutant(
        name="disabled-queue-reset",
        violation="asks for a reset of a queue that is disabled",
        function=f"{MODERN}.reset_queue",
        old="not under_way and self._common.read(QUEUE_ENABLE, 2)",
        new="not under_way",
        test=f"{MODERN_TESTS}::"
        "test_a_reset_of_a_queue_that_is_under_way_is_waited_for_and_not_asked_for_again",
    ),
    Mutant(
        name="vector-of-a-reset-queue-not-mapped-again",
        violation="takes a queue's vector for mapped after a reset of the queue (PCI-VQRESET-02)",
        function="vioblk.transport.pci.plans:VectorPlan.queue_fd",
        old="self._function.map_queue(index, vector)",
        new="(vector in self._wired or self._function.map_queue(index, vector))",
        test="tests/block/test_queue_reset.py::test_interrupts_reach_the_queue_that_was_made_anew",
    ),
    Mutant(
        name="legacy-configuration-stays",
        violation="looks for the legacy configuration in the same place with MSI-X (PCI-LEG-03)",
        function=f"{LEGACY}.set_msix_enabled",
        old="self._config = self._locate_config(offset)",
        new="pass",
        test=f"{LEGACY_TESTS}::test_the_configuration_follows_the_header_and_moves_with_msix",
    ),
    Mutant(
        name="window-offset-before-length",
        violation="writes an offset that the length of the window does not divide (PCI-CFGACC-01)",
        function=f"{WINDOW}._aim",
        old="self._config.write(self._window.length_offset, 4, width)\n"
        "    self._config.write(self._window.offset_offset, 4, offset)",
        new="self._config.write(self._window.offset_offset, 4, offset)\n"
        "    self._config.write(self._window.length_offset, 4, width)",
        test=f"{WINDOW_TESTS}::test_an_access_is_aimed_before_the_data_is_touched",
    ),
    Mutant(
        name="window-leads-anywhere",
        violation="reaches through the window what no capability describes (PCI-CFGACC-02)",
        function=f"{WINDOW}._check",
        old="if each.bar == bar and each.offset <= offset and offset + width <= end:",
        new="if each.bar == bar and offset + width <= end:",
        test=f"{WINDOW_TESTS}::test_what_belongs_to_no_structure_is_not_touched",
    ),
    Mutant(
        name="legacy-device-driven-as-modern",
        violation="does not bow out of a legacy device when the modern interface is asked for"
        " (PCI-DETECT-02)",
        function="vioblk.pci.choose:_Chooser.choose",
        old='if interface == "modern":',
        new="if False:",
        test=f"{CHOICE_TESTS}::test_a_legacy_device_is_let_alone_by_who_wants_the_modern_interface",
    ),
    Mutant(
        name="isr-read-with-msix",
        violation="reads the ISR status while MSI-X is enabled (PCI-ISR-01)",
        function=f"{PLANS}:SharedPlan._look",
        old="layout = self._function.layout",
        new="layout = self._function.layout; layout.read_isr()",
        test=f"{INTERRUPT_TESTS}::test_the_isr_is_left_alone_while_msix_is_enabled",
    ),
    Mutant(
        name="interrupt-means-one-thing",
        violation="takes an interrupt for used buffers or for a change, never both (PCI-CFGINT-01)",
        function=f"{PLANS}:IntxPlan._on_interrupt",
        old="if isr & ISR_CONFIG:",
        new="elif isr & ISR_CONFIG:",
        test=f"{INTERRUPT_TESTS}::test_an_isr_that_says_both_is_passed_on_to_both",
    ),
    Mutant(
        name="dead-registers-touched",
        violation="goes on accessing a device that has gone",
        function="vioblk.transport.pci.presence:Presence._check",
        old="if self._ended is not None:",
        new="if False:",
        test=f"{TRANSPORT_TESTS}::test_a_device_that_reads_as_all_ones_has_gone_and_is_left_alone",
    ),
    Mutant(
        name="vectors-not-mapped-again",
        violation="takes vectors for mapped though a reset has unmapped them",
        function="vioblk.transport.pci.interrupts:Interrupts.device_was_reset",
        old="self._started = False",
        new="pass",
        test=f"{TRANSPORT_TESTS}::test_what_a_reset_unmaps_is_mapped_again_at_each_start",
    ),
)
