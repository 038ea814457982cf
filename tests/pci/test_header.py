"""The header of a configuration space."""

import pytest

from tests.pci.spaces import ModelSpace, endpoint, recorded
from vioblk.pci.command import Command
from vioblk.pci.header import BRIDGE, CARDBUS_BRIDGE, ENDPOINT, Status, Window, read_header
from vioblk.pci.sources import DumpConfig


def test_the_header_of_the_device_of_2011_reads_as_pciconf_showed_it() -> None:
    header = read_header(recorded("legacy_1001"))
    assert header is not None
    assert (header.class_code, header.card, header.chip) == (0x010000, 0x00021AF4, 0x10011AF4)
    assert (header.revision_id, header.header_type, header.multifunction) == (0, ENDPOINT, False)
    assert (header.interrupt_line, header.interrupt_pin) == (10, 1)
    assert header.command == Command.IO | Command.MEMORY | Command.BUS_MASTER
    assert header.status == Status.CAPABILITY_LIST
    assert header.capabilities_pointer == 0x40
    assert (header.bridge, header.problem) == (None, None)


@pytest.mark.parametrize("vendor", [b"\xff\xff", b"\0\0"])
def test_where_no_function_answers_there_is_no_header(vendor: bytes) -> None:
    rest = b"\xff" if vendor == b"\xff\xff" else b"\0"
    assert read_header(DumpConfig(vendor + 254 * rest)) is None


def test_nothing_at_all_is_no_function() -> None:
    assert read_header(DumpConfig(b"")) is None


def test_64_bytes_are_a_whole_header() -> None:
    whole = recorded("transitional_1001")
    first = DumpConfig(bytes(whole.read(offset, 1) for offset in range(64)))
    assert read_header(first) == read_header(whole)


def test_a_header_that_is_cut_off_says_so() -> None:
    header = read_header(DumpConfig(b"\xf4\x1a\x42\x10"))
    assert header is not None
    assert (header.vendor_id, header.device_id) == (0x1AF4, 0x1042)
    assert header.problem == "the header has 64 bytes, and only 4 can be read"


def test_reading_a_header_writes_nothing() -> None:
    space = endpoint()
    read_header(space)
    assert not space.writes()


def test_a_rom_has_an_address_and_a_switch() -> None:
    space = endpoint()
    space.data[0x30:0x34] = (0xFEB00000 | 1).to_bytes(4, "little")
    header = read_header(space)
    assert header is not None
    assert (header.rom_address, header.rom_enabled) == (0xFEB00000, True)


def test_several_functions_are_seen_beside_the_type() -> None:
    header = read_header(endpoint(header_type=0x80))
    assert header is not None
    assert (header.header_type, header.multifunction) == (ENDPOINT, True)


def test_a_root_port_shows_its_buses_and_windows() -> None:
    header = read_header(recorded("q35_root_port"))
    assert header is not None
    assert header.header_type == BRIDGE
    assert (header.subsystem_vendor_id, header.subsystem_id) == (0, 0)
    bridge = header.bridge
    assert bridge is not None
    assert (bridge.primary_bus, bridge.secondary_bus, bridge.subordinate_bus) == (0, 1, 1)
    assert bridge.io == Window(0xC000, 0xCFFF)
    assert bridge.memory == Window(0xE0000000, 0xE0FFFFFF)


def bridge_space() -> ModelSpace:
    return endpoint(header_type=BRIDGE)


def test_a_window_whose_limit_is_below_its_base_is_off() -> None:
    space = bridge_space()
    space.data[0x20:0x24] = bytes([0xF0, 0xFF, 0x00, 0x00])
    header = read_header(space)
    assert header is not None
    assert header.bridge is not None
    assert header.bridge.memory == Window(0xFFF00000, 0x000FFFFF)
    assert not header.bridge.memory.enabled
    assert header.bridge.io.enabled


def test_windows_of_full_width_have_an_upper_half() -> None:
    space = bridge_space()
    space.data[0x1C:0x1E] = bytes([0xC1, 0xD1])
    space.data[0x30:0x34] = bytes([0x12, 0x00, 0x13, 0x00])
    space.data[0x24:0x28] = bytes([0x01, 0x80, 0x11, 0x80])
    space.data[0x28:0x30] = bytes([0x40, 0, 0, 0, 0x41, 0, 0, 0])
    header = read_header(space)
    assert header is not None
    assert header.bridge is not None
    assert header.bridge.io == Window(0x12C000, 0x13DFFF)
    assert header.bridge.prefetchable == Window(0x40_8000_0000, 0x41_801F_FFFF)


@pytest.mark.parametrize(
    ("header_type", "offset", "pointer"),
    [(ENDPOINT, 0x34, 0x50), (BRIDGE, 0x34, 0x50), (CARDBUS_BRIDGE, 0x14, 0x50), (3, 0x34, 0)],
)
def test_the_capability_pointer_is_where_the_header_type_has_it(
    header_type: int, offset: int, pointer: int
) -> None:
    space = endpoint(header_type=header_type)
    space.data[6] = Status.CAPABILITY_LIST
    space.data[offset] = 0x53  # The lowest two bits are reserved.
    header = read_header(space)
    assert header is not None
    assert header.capabilities_pointer == pointer


def test_a_pointer_without_the_status_bit_is_none() -> None:
    space = endpoint()
    space.data[0x34] = 0x40
    header = read_header(space)
    assert header is not None
    assert header.capabilities_pointer == 0


def test_an_unknown_header_type_is_a_problem_and_not_an_error() -> None:
    header = read_header(endpoint(header_type=0x7F))
    assert header is not None
    assert header.problem == "header type 0x7f is not known, so only its first 16 bytes are"
