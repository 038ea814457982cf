"""The capability lists: walked with bounds, whatever the device says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clauses import clause
from tests.pci.spaces import ModelSpace, chained, endpoint, recorded
from vioblk.pci.capabilities import (
    AdvancedFeaturesCapability,
    Capability,
    ExtendedCapability,
    MsiCapability,
    MsixCapability,
    PcieCapability,
    PowerManagementCapability,
    VendorCapability,
    walk,
)
from vioblk.pci.capability_names import CAPABILITY_NAMES, EXTENDED_CAPABILITY_NAMES
from vioblk.pci.sources import DumpConfig

NULL = b"\0"
PCIE = bytes([0x10, 0x02, 0x00, 0, 0, 0, 0x10])


def test_a_recorded_list_is_walked_in_its_order() -> None:
    found = walk(recorded("q35_behind_root_port"))
    assert [(each.id, each.offset) for each in found.capabilities] == [
        (0x11, 0xDC),
        (0x09, 0xC8),
        (0x09, 0xB4),
        (0x09, 0xA4),
        (0x09, 0x94),
        (0x09, 0x84),
        (0x01, 0x7C),
        (0x10, 0x40),
    ]
    assert (found.extended, found.problems) == ((), ())
    assert found.msix == MsixCapability(0x11, 0xDC, 2, 1, 0, 1, 0x800, False, False)
    assert found.pcie == PcieCapability(0x10, 0x40, 2, 0, function_level_reset=True)
    assert found.pcie.type_name == "endpoint"
    assert found.function_level_reset
    assert found.first_of(PowerManagementCapability) == PowerManagementCapability(0x01, 0x7C, 0)


def test_the_extended_list_of_a_root_port_is_walked() -> None:
    found = walk(recorded("q35_root_port"))
    assert found.pcie is not None
    assert found.pcie.type_name == "root port"
    assert [(each.name, each.version, each.offset) for each in found.extended] == [
        ("advanced error reporting", 2, 0x100),
        ("access control services", 1, 0x148),
    ]
    assert found.problems == ()


def test_a_function_without_the_status_bit_has_no_list() -> None:
    space = endpoint(capabilities=chained(NULL))
    space.data[6] = 0
    assert walk(space) == ((), (), ())
    assert walk(recorded("ivshmem_1110")) == ((), (), ())


def test_walking_writes_nothing() -> None:
    space = endpoint(capabilities=chained(PCIE, NULL), length=4096)
    walk(space)
    assert not space.writes()


def test_the_lowest_bits_of_a_pointer_are_masked() -> None:
    space = endpoint(capabilities=chained(NULL, NULL))
    space.data[0x34] |= 3
    space.data[0x41] |= 2
    assert [each.offset for each in walk(space).capabilities] == [0x40, 0x44]


@pytest.mark.parametrize(
    ("pointer", "problem"),
    [
        (0x04, "a pointer leads to 0x04, below 0x40 where capabilities start"),
        (0x3C, "a pointer leads to 0x3c, below 0x40 where capabilities start"),
        (0x40, "the list loops back to 0x40"),
        (0x44, "the list loops back to 0x44"),
    ],
)
def test_a_bad_pointer_ends_the_list_with_a_reason(pointer: int, problem: str) -> None:
    space = endpoint(capabilities=chained(NULL, NULL))
    space.data[0x45] = pointer
    found = walk(space)
    assert [each.offset for each in found.capabilities] == [0x40, 0x44]
    assert found.problems == (problem,)


@pytest.mark.parametrize("length", [66, 72, 128, 200])
def test_a_list_that_leads_out_of_a_short_space_ends_there(length: int) -> None:
    space = endpoint(capabilities=chained(NULL), length=length)
    space.data[0x41] = 0xFC
    found = walk(space)
    assert [each.offset for each in found.capabilities] == [0x40]
    assert found.problems == (f"a pointer leads to 0xfc, and only {length} bytes can be read",)


def test_half_a_capability_is_none() -> None:
    space = endpoint(capabilities=chained(NULL), length=65)
    del space.data[65:]
    assert walk(space).problems == ("a pointer leads to 0x40, and only 65 bytes can be read",)


def test_an_unprivileged_reader_is_told_that_the_list_is_out_of_reach() -> None:
    whole = recorded("modern_1042")
    first = DumpConfig(bytes(whole.read(offset, 1) for offset in range(64)))
    assert walk(first) == ((), (), ("a pointer leads to 0x98, and only 64 bytes can be read",))


def test_a_capability_of_all_ones_is_none() -> None:
    """The function has gone while its list was read."""
    space = endpoint(capabilities=chained(NULL))
    space.data[0x40:] = b"\xff" * 192
    assert walk(space) == ((), (), ("the capability at 0x40 reads as all ones",))


def test_the_longest_list_ends() -> None:
    space = endpoint(capabilities=chained(*[NULL] * 48))
    assert len(walk(space).capabilities) == 48


@clause("MSIX-01")
def test_every_table_size_is_understood() -> None:
    space = endpoint(capabilities=chained(bytes([0x11, *bytes(10)])))
    for field in range(0x800):
        # The bits above it are reserved, but for the highest two, which enable and mask.
        space.data[0x42:0x44] = (field | 0x3800).to_bytes(2, "little")
        msix = walk(space).msix
        assert msix is not None
        assert (msix.vector_count, msix.enabled, msix.masked) == (field + 1, False, False)
        assert msix.table_length == 16 * (field + 1)


def test_an_msix_capability_has_places_and_switches() -> None:
    content = bytes([0x11, 0x04, 0xC0, 0x04, 0x20, 0, 0, 0x05, 0x30, 0x01, 0])
    msix = walk(endpoint(capabilities=[(0x50, content)])).msix
    assert msix == MsixCapability(0x11, 0x50, 5, 4, 0x2000, 5, 0x13000, True, True)
    assert msix.control_offset == 0x52


def test_an_msix_table_in_a_reserved_bar_is_a_problem() -> None:
    content = bytes([0x11, 0, 0, 7, 0, 0, 0, 6, 0, 0, 0])
    found = walk(endpoint(capabilities=chained(content)))
    assert found.msix is not None
    assert found.problems == (
        "MSI-X at 0x40 names BAR 6, a reserved value",
        "MSI-X at 0x40 names BAR 7, a reserved value",
    )


def test_the_first_of_two_counts_and_the_second_is_a_problem() -> None:
    first = bytes([0x11, 1, 0, *bytes(8)])
    second = bytes([0x11, 7, 0, *bytes(8)])
    found = walk(endpoint(capabilities=chained(first, second)))
    assert found.msix is not None
    assert found.msix.vector_count == 2
    assert found.problems == ("MSI-X comes again at 0x4c",)


def test_vendor_capabilities_come_as_often_as_they_like() -> None:
    vendor = bytes([0x09, 4, 0])
    found = walk(endpoint(capabilities=chained(vendor, vendor)))
    assert found.all_of(VendorCapability) == (
        VendorCapability(0x09, 0x40, 4),
        VendorCapability(0x09, 0x44, 4),
    )
    assert found.problems == ()


@pytest.mark.parametrize("identifier", [0x01, 0x10, 0x11])
def test_a_capability_that_is_cut_off_has_no_fields(identifier: int) -> None:
    found = walk(endpoint(capabilities=[(0xFC, bytes([identifier]))]))
    assert found.capabilities == (Capability(identifier, 0xFC),)
    name = CAPABILITY_NAMES[identifier]
    assert found.problems == (f"{name} at 0xfc is cut off: the space ends at 0x100",)


def test_other_capabilities_are_understood() -> None:
    msi = bytes([0x05, 0x8B, 0x00])
    power = bytes([0x01, 0, 0, 0x03, 0])
    advanced = bytes([0x13, 6, 0x02])
    found = walk(endpoint(capabilities=chained(msi, power, advanced)))
    assert found.first_of(MsiCapability) == MsiCapability(0x05, 0x40, 32, True, True)
    assert found.first_of(PowerManagementCapability) == PowerManagementCapability(0x01, 0x44, 3)
    assert found.first_of(AdvancedFeaturesCapability) == AdvancedFeaturesCapability(
        0x13, 0x4C, True
    )
    assert found.function_level_reset


def test_unknown_capabilities_have_a_name_too() -> None:
    found = walk(endpoint(capabilities=chained(b"\x77")))
    assert [each.name for each in found.capabilities] == ["unknown capability 0x77"]
    assert ExtendedCapability(0x7777, 1, 0x100).name == "unknown capability 0x7777"


def test_every_standard_id_has_a_name() -> None:
    """PCI Code and ID Assignment 1.11."""
    assert set(CAPABILITY_NAMES) == set(range(0x16))
    assert set(EXTENDED_CAPABILITY_NAMES) == set(range(0x31)) - {0x14}


def extended_space(*words: tuple[int, int]) -> ModelSpace:
    space = endpoint(capabilities=chained(PCIE), length=4096)
    for offset, word in words:
        space.data[offset : offset + 4] = word.to_bytes(4, "little")
    return space


def entry(identifier: int, following: int) -> int:
    return following << 20 | 1 << 16 | identifier


@pytest.mark.parametrize(
    ("following", "problem"),
    [
        (0x0FC, "extended list: a pointer leads to 0xfc, below 0x100 where capabilities start"),
        (0x100, "extended list: the list loops back to 0x100"),
        (0x200, "extended list: the list loops back to 0x200"),
    ],
)
def test_a_bad_extended_pointer_ends_the_list_with_a_reason(following: int, problem: str) -> None:
    space = extended_space((0x100, entry(1, 0x200)), (0x200, entry(2, following)))
    found = walk(space)
    assert [each.offset for each in found.extended] == [0x100, 0x200]
    assert found.problems == (problem,)


def test_the_longest_extended_list_ends() -> None:
    offsets = range(0x100, 0x1000, 4)
    space = extended_space(*((at, entry(1, (at + 4) & 0xFFF)) for at in offsets))
    assert len(walk(space).extended) == len(offsets)


def test_an_extended_list_of_a_short_space_ends_there() -> None:
    space = extended_space((0x100, entry(1, 0x200)))
    found = walk(DumpConfig(bytes(space.data[:0x200])))
    assert len(found.extended) == 1
    assert found.problems == (
        "extended list: a pointer leads to 0x200, and only 512 bytes can be read",
    )


@pytest.mark.parametrize("word", [0, 0xFFFFFFFF])
def test_an_empty_extended_list_is_no_problem(word: int) -> None:
    found = walk(extended_space((0x100, word)))
    assert (found.extended, found.problems) == ((), ())


def test_without_pci_express_there_is_no_extended_list() -> None:
    """What answers there may be the first 256 bytes again."""
    space = endpoint(capabilities=chained(NULL), length=4096)
    space.data[0x100:0x104] = entry(1, 0).to_bytes(4, "little")
    assert walk(space).extended == ()


@settings(deadline=None)
@given(st.binary(max_size=192), st.binary(max_size=600))
def test_walking_any_list_ends(standard: bytes, extended: bytes) -> None:
    space = endpoint(capabilities=chained(PCIE), length=0x100 + len(extended))
    space.data[0x50 : 0x50 + len(standard[:0xB0])] = standard[:0xB0]
    space.data[0x41] = 0x50
    space.data[0x100:] = extended
    found = walk(space)
    assert len(found.capabilities) <= 48
    assert len(space.log) < 4000
    assert len({each.offset for each in found.capabilities}) == len(found.capabilities)
    assert len({each.offset for each in found.extended}) == len(found.extended)
