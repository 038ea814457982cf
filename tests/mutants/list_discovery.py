"""Mutants of the discovery of PCI devices."""

from typing import Final

from tests.mutants.mutant import Mutant

TESTS: Final = "tests/test_discovery.py::"

MUTANTS: Final = (
    Mutant(
        name="overlooks-the-kernel",
        violation="does not see that a driver of the kernel has a device",
        function="vioblk.discovery.describe:_obstacle",
        old="if function.kernel and function.kernel.driver:",
        new="if False:",
        test=f"{TESTS}test_a_disk_of_the_kernel_is_named_and_left_to_it",
    ),
    Mutant(
        name="takes-hidden-capabilities-for-none",
        violation="judges a device by capabilities that it could not read",
        function="vioblk.discovery.describe:_read_space",
        old="if header.capabilities_pointer and",
        new="if False and",
        test=f"{TESTS}test_an_unprivileged_reader_is_told_what_is_hidden_and_how_to_see_it",
    ),
    Mutant(
        name="virtual-functions-are-silent",
        violation="takes the IDs of a virtual function for those in its own header",
        function="vioblk.discovery.sysfs:open_function",
        old="yield _function(directory, _WithIds(config, _remembered_header(directory)))",
        new="yield remember(root, location, SILENT)",
        test=f"{TESTS}test_a_virtual_function_has_the_ids_that_the_kernel_knows",
    ),
    Mutant(
        name="mourns-what-was-unplugged",
        violation="reports a function that vanished during the scan as one that cannot be read",
        function="vioblk.discovery:scan_sysfs",
        old="if (root / sysfs.DEVICES / str(place)).exists():",
        new="if True:",
        test=f"{TESTS}test_a_function_may_be_unplugged_while_it_is_read",
    ),
)
