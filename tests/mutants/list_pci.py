"""Mutants of the parsers of PCI configuration space."""

from typing import Final

from tests.mutants.mutant import Mutant

BARS: Final = "vioblk.pci.bars"
CAPABILITIES: Final = "vioblk.pci.capabilities"
VIRTIO: Final = "vioblk.pci.virtio_capabilities"

MUTANTS: Final = (
    Mutant(
        name="bar-not-restored",
        violation="leaves all ones in a BAR when sizing fails on the way",
        function=f"{BARS}:_probe",
        old="    finally:\n        config.write(offset, 4, before)\n",
        new="    except ArithmeticError:\n        pass\n    config.write(offset, 4, before)\n",
        test="tests/pci/test_bars.py::test_an_error_at_any_access_leaves_the_function_as_it_was",
    ),
    Mutant(
        name="sized-while-decoding",
        violation="moves the registers of a live function to address 0xfff... while sizing",
        function=f"{BARS}:size_bars",
        old="with decoding_off(config):",
        new="if config:",
        test="tests/pci/test_bars.py::test_decoding_is_off_while_a_bar_holds_all_ones",
    ),
    Mutant(
        name="capability-in-the-header",
        violation="follows a pointer into the header, and takes what is there for a capability",
        function=f"{CAPABILITIES}:_why_not_walk",
        old="if offset < start:",
        new="if offset < 0:",
        test="tests/pci/test_capabilities.py::test_a_bad_pointer_ends_the_list_with_a_reason",
    ),
    Mutant(
        name="msix-count-off-by-one",
        violation="takes the Table Size field for the number of vectors",
        function=f"{CAPABILITIES}:_vector_count",
        old="(control & 0x7FF) + 1",
        new="control & 0x7FF",
        test="tests/pci/test_capabilities.py::test_every_table_size_is_understood",
    ),
    Mutant(
        name="reserved-bar-used",
        violation="takes a reserved BAR number for a BAR",
        function=f"{VIRTIO}:_parse_one",
        old="if fields.bar > 5:",
        new="if fields.bar > 7:",
        test="tests/pci/test_virtio_capabilities.py::test_a_reserved_bar_is_skipped",
    ),
    Mutant(
        name="structure-beyond-its-bar",
        violation="uses a structure of which only the beginning lies in its BAR",
        function=f"{VIRTIO}:_usable_length",
        old="if fields.offset + needed > bar.length:",
        new="if fields.offset > bar.length:",
        test="tests/pci/test_virtio_capabilities.py::test_a_structure_beyond_its_bar_is_not_used",
    ),
    Mutant(
        name="revision-matched",
        violation="takes only transitional devices of revision 0",
        function="vioblk.pci.identity:identify",
        old="transitional = header.device_id in TRANSITIONAL_IDS",
        new="transitional = header.device_id in TRANSITIONAL_IDS and header.revision_id == 0",
        test="tests/pci/test_identity.py::test_every_revision_matches",
    ),
    Mutant(
        name="window-data-read",
        violation="reads pci_cfg_data, an access to the device, while it looks for capabilities",
        function=f"{VIRTIO}:_read_fields",
        old="start = capability.offset\n",
        new="start = capability.offset\n    config.read(start + 16, 4)\n",
        test="tests/pci/test_virtio_capabilities.py::"
        "test_the_configuration_window_is_found_and_its_fields_are_not_read",
    ),
)
