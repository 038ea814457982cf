"""Mutants that believe what a function says for too long, or give up too early."""

from typing import Final

from tests.mutants.mutant import Mutant

PLANS: Final = "vioblk.transport.pci.plans"
TRANSPORT: Final = "tests/transport/test_pci.py"
CHOICE: Final = "tests/pci/test_choose.py"

MUTANTS: Final = (
    Mutant(
        name="size-asked-for-again",
        violation="asks for the size of a queue each time, and trusts that it is the same",
        function="vioblk.queues:DeviceQueues.size_max",
        old="if index not in self._sizes:",
        new="if True:",
        test="tests/device/test_queues.py::"
        "test_what_the_device_says_of_its_queues_is_asked_for_once_in_each_life",
    ),
    Mutant(
        name="gone-taken-for-a-refusal",
        violation="takes the all ones of a device that has gone for a vector that was refused",
        function=f"{PLANS}:Function._took",
        old="if not taken:",
        new="if False:",
        test="tests/transport/test_pci_interrupts.py::"
        "test_a_device_that_goes_while_a_vector_is_mapped_has_not_refused_it",
    ),
    Mutant(
        name="msix-left-on",
        violation="leaves MSI-X on when the first step of switching it off has failed",
        function=f"{PLANS}:_close_vectors",
        old="continue",
        new="return",
        test=f"{TRANSPORT}::test_what_fails_at_closing_keeps_nothing_else_from_being_undone",
    ),
    Mutant(
        name="first-eventfd-watched-for-ever",
        violation="goes on watching the eventfd of the first life",
        function=f"{PLANS}:_MessagePlan._open",
        old="if self._watcher is not None:",
        new="if self._watcher is not None:\n        return\n    if False:",
        test="tests/transport/test_pci_interrupts.py::test_each_life_has_a_watcher_of_its_own",
    ),
    Mutant(
        name="pin-silenced",
        violation="listens to the pin while MSI-X is enabled",
        function=f"{PLANS}:IntxPlan.start",
        old="if function.msix_enabled:",
        new="if False:",
        test="tests/transport/test_pci_interrupts.py::"
        "test_msix_that_was_left_enabled_does_not_silence_the_pin",
    ),
    Mutant(
        name="zeros-believed",
        violation="takes a vendor ID of zeros for a device that is there",
        function="vioblk.transport.pci.presence:Presence._look",
        old="in ABSENT_VENDORS",
        new="== 0xFFFF",
        test=f"{TRANSPORT}::test_a_device_that_reads_as_zeros_has_gone_too",
    ),
    Mutant(
        name="legacy-configuration-too-early",
        violation="looks for the legacy configuration where it is without MSI-X (PCI-LEG-03)",
        function="vioblk.pci.choose:_Chooser._legacy",
        old="if msix is not None and msix.enabled:",
        new="if False:",
        test=f"{CHOICE}::"
        "test_a_legacy_device_whose_msix_was_left_enabled_has_its_configuration_further_back",
    ),
)
