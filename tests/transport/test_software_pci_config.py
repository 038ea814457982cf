"""The configuration space that is modelled: what it shows, takes, and notices."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.pci_machine import make_platform, of, uses
from vioblk._native import PciFace
from vioblk.errors import TransportError
from vioblk.pci.access import NotifyPlace
from vioblk.pci.bars import Bar, program_bar, size_bars
from vioblk.pci.capabilities import MsixCapability, walk
from vioblk.pci.command import Command, read_command, write_command
from vioblk.pci.header import Status, read_header
from vioblk.pci.identity import Identity, identify
from vioblk.pci.virtio_capabilities import ConfigWindow, StructureType, parse
from vioblk.transport.software_pci import SoftwarePciPlatform
from vioblk.transport.software_pci.config import ModelledConfig
from vioblk.transport.software_pci.description import (
    BAR_ADDRESS,
    FACE_BAR,
    CapabilityEntry,
    FunctionDescription,
    MemoryBar,
    describe_face,
    draw,
    virtio_entry,
)

STATUS_REGISTER = 0x14
"""device_status, in the BAR."""


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Callable[..., SoftwarePciPlatform]:
    def make(**options: object) -> SoftwarePciPlatform:
        platform = make_platform(**options)  # type: ignore[arg-type]
        request.addfinalizer(platform.close)
        return platform

    return make


Make = Callable[..., SoftwarePciPlatform]


@pytest.fixture
def platform(make: Make) -> SoftwarePciPlatform:
    return make(vectors=3)


@pytest.fixture
def config(platform: SoftwarePciPlatform) -> ModelledConfig:
    return platform.modelled


def window_of(config: ModelledConfig) -> ConfigWindow:
    (window,) = parse(config, walk(config), size_bars(config)).pci_cfg
    return window


# What it shows


def test_a_function_says_that_it_is_a_modern_block_device(config: ModelledConfig) -> None:
    header = read_header(config)
    assert header is not None
    assert (header.vendor_id, header.device_id, header.class_code) == (0x1AF4, 0x1042, 0x010000)
    identity = identify(header)
    assert isinstance(identity, Identity)
    assert (identity.device_type, identity.transitional) == (2, False)
    assert header.command == Command.MEMORY
    assert config.length == 256


def test_its_bar_can_be_sized_and_moved(
    platform: SoftwarePciPlatform, config: ModelledConfig
) -> None:
    length = platform.face.window.length
    (bar,) = size_bars(config)
    assert bar == Bar(FACE_BAR, "memory", 64, True, BAR_ADDRESS, length)
    moved = program_bar(config, bar, 0x40_0000_0000)
    assert size_bars(config) == (moved,)
    assert read_command(config) == Command.MEMORY


def test_all_structures_are_where_the_face_has_them(
    platform: SoftwarePciPlatform, config: ModelledConfig
) -> None:
    capabilities = walk(config)
    assert capabilities.problems == ()
    found = parse(config, capabilities, size_bars(config))
    assert found.skipped == ()
    places = platform.face.structures
    for name, structures in (
        ("common", found.common),
        ("notify", found.notify),
        ("isr", found.isr),
        ("device", found.device),
    ):
        (structure,) = structures
        assert (structure.offset, structure.claimed_length) == places[name]
    assert found.notify[0].multiplier == 4
    msix = capabilities.msix
    assert isinstance(msix, MsixCapability)
    assert (msix.vector_count, msix.enabled, msix.masked) == (3, False, False)
    assert (msix.table_bar, msix.table_offset) == (FACE_BAR, places["msix_table"][0])
    assert (msix.pending_bar, msix.pending_offset) == (FACE_BAR, places["msix_pending"][0])


def test_a_function_without_vectors_has_no_msix(make: Make) -> None:
    platform = make(vectors=0)
    assert walk(platform.config).msix is None
    assert platform.open_vectors(0) == []
    with pytest.raises(TransportError, match="no MSI-X capability"):
        platform.open_vectors(1)


def test_an_interrupt_that_waits_is_seen_in_the_status_register(
    platform: SoftwarePciPlatform, config: ModelledConfig
) -> None:
    def waits() -> bool:
        header = read_header(config)
        assert header is not None
        return bool(header.status & Status.INTERRUPT)

    assert not waits()
    platform.device.inject("spurious_interrupt")
    assert waits()
    platform.face.window.read(platform.face.structures["isr"][0], 1)
    assert not waits()


def test_what_is_beyond_the_space_reads_as_all_ones(make: Make) -> None:
    short = make(describe=lambda honest: replace(honest, length=64)).config
    assert short.read(0x3C, 4) == 0x100
    assert short.read(0x40, 4) == 0xFFFF_FFFF
    with pytest.raises(ValueError, match="beyond the 64 bytes"):
        short.write(0x40, 1, 0)


# What it takes


def test_the_command_register_opens_the_bar(
    platform: SoftwarePciPlatform, config: ModelledConfig
) -> None:
    window = platform.face.window
    write_command(config, 0)
    assert window.read(STATUS_REGISTER, 1) == 0xFF
    write_command(config, 0xFFFF)
    kept = Command.MEMORY | Command.BUS_MASTER | Command.INTX_DISABLE
    assert read_command(config) == kept, "the others have no bits here"
    assert window.read(STATUS_REGISTER, 1) == 0


def test_what_cannot_be_written_keeps_its_value(config: ModelledConfig) -> None:
    before = [config.read(offset, 1) for offset in range(0x10)]
    for offset in (0x00, 0x08, 0x0C):
        config.write(offset, 4, 0)
    after = [config.read(offset, 1) for offset in range(0x10)]
    assert before == after
    config.write(0x3C, 1, 11)
    assert config.read(0x3C, 1) == 11, "the interrupt line is software's own"


def test_messages_are_sent_once_msix_is_enabled(
    platform: SoftwarePciPlatform, config: ModelledConfig
) -> None:
    fds = platform.open_vectors(2)
    assert len(fds) == 2
    msix = walk(config).msix
    assert msix is not None
    assert msix.enabled
    assert not msix.masked
    platform.open_vectors(0)
    msix = walk(config).msix
    assert msix is not None
    assert not msix.enabled
    with pytest.raises(TransportError, match="4 MSI-X vectors were asked for, and 3 are there"):
        platform.open_vectors(4)


# The window


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_window_reaches_the_registers(
    platform: SoftwarePciPlatform, config: ModelledConfig, width: int
) -> None:
    window = window_of(config)
    place = {1: 0x14, 2: 0x16, 4: 0x00}[width]
    config.write(window.bar_offset, 1, FACE_BAR)
    config.write(window.length_offset, 4, width)
    config.write(window.offset_offset, 4, place)
    config.write(window.data_offset, width, 1)
    assert config.read(window.data_offset, width) == 1
    offsets = [(offset, size, written) for offset, size, _, written in platform.face.accesses]
    assert offsets == [(place, width, True), (place, width, False)]
    assert config.violations == []


@pytest.mark.parametrize(
    ("bar", "place", "length", "width", "why"),
    [
        (FACE_BAR, 0x14, 4, 1, "1 bytes at 0x.* are not the 4 bytes that it was set to"),
        (FACE_BAR, 0x14, 0, 4, "are not the 0 bytes"),
        (FACE_BAR, 0x15, 2, 2, "offset 0x15 is no multiple of 2"),
        (FACE_BAR, 0x40, 4, 4, "4 bytes at 0x40 of BAR 4 lie in no virtio structure"),
        (0, 0x14, 1, 1, "of BAR 0 lie in no virtio structure"),
        (FACE_BAR, 0x3000, 4, 4, "4 bytes at 0x3000 of BAR 4 lie in no virtio structure"),
    ],
)
def test_a_window_that_is_used_wrongly_is_noticed_and_reaches_nothing(
    platform: SoftwarePciPlatform,
    config: ModelledConfig,
    bar: int,
    place: int,
    length: int,
    width: int,
    why: str,
) -> None:
    """The last one is the MSI-X table, which is no virtio structure."""
    window = window_of(config)
    config.write(window.bar_offset, 1, bar)
    config.write(window.length_offset, 4, length)
    config.write(window.offset_offset, 4, place)
    assert config.violations == []
    assert config.read(window.data_offset, width) == (1 << 8 * width) - 1
    config.write(window.data_offset, width, 1)
    assert len(config.violations) == 2
    assert all(re.search(why, violation) for violation in config.violations)
    assert platform.face.access_count == 0


def test_a_write_to_a_capability_is_noticed_and_changes_nothing(config: ModelledConfig) -> None:
    found = parse(config, walk(config), size_bars(config))
    start = found.common[0].capability_offset
    before = config.read(start + 8, 4)
    config.write(start + 8, 4, 0x1234)
    assert config.read(start + 8, 4) == before
    (violation,) = config.violations
    assert f"in the capability at {start:#x}, which is read-only" in violation


# Removal


def test_a_function_that_was_removed_is_all_ones_and_counts(
    platform: SoftwarePciPlatform, config: ModelledConfig
) -> None:
    platform.unplug()
    before = config.access_count
    assert config.read(0, 4) == 0xFFFF_FFFF
    write_command(config, 7)
    assert read_header(config) is None
    assert config.access_count > before
    assert config.violations == []


# Descriptions


def drawn(description: FunctionDescription, platform: SoftwarePciPlatform) -> ModelledConfig:
    return ModelledConfig(draw(description), platform.face)


def honest(face: PciFace) -> FunctionDescription:
    return describe_face(face.structures, face.window.length, vector_count=3, notify_multiplier=4)


def test_capabilities_stand_where_a_description_puts_them(platform: SoftwarePciPlatform) -> None:
    entry = virtio_entry(StructureType.ISR, 4, 0x1000, 1)
    description = FunctionDescription(
        bars=(MemoryBar(4, 0x10000),),
        capabilities=(replace(entry, offset=0x80), replace(entry, offset=0x50), entry),
    )
    config = drawn(description, platform)
    assert [each.offset for each in walk(config).capabilities] == [0x80, 0x50, 0x60]


def test_pointers_may_lead_anywhere(platform: SoftwarePciPlatform) -> None:
    entry = CapabilityEntry(b"\x09\x04\x00", next_offset=0x40)
    found = walk(drawn(FunctionDescription(capabilities=(entry,)), platform))
    assert len(found.capabilities) == 1
    assert any("0x40" in problem for problem in found.problems)


def test_patches_have_the_last_word(platform: SoftwarePciPlatform) -> None:
    description = replace(honest(platform.face), patches={0x00: b"\x86\x80", 0x40: b"\xff" * 8})
    config = drawn(description, platform)
    assert config.read(0, 2) == 0x8086
    assert config.read(0x44, 4) == 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("description", "why"),
    [
        (FunctionDescription(length=32), "64 to 4096 bytes, not 32"),
        (FunctionDescription(patches={0xFF: b"ab"}), "2 bytes at offset 0xff do not fit"),
        (
            FunctionDescription(capabilities=(CapabilityEntry(bytes(20), offset=0xF0),)),
            "do not fit in a configuration space of 256 bytes",
        ),
    ],
)
def test_what_fits_in_no_space_is_refused(description: FunctionDescription, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        draw(description)


def test_a_space_may_be_as_long_as_pci_express_has_it(platform: SoftwarePciPlatform) -> None:
    config = drawn(replace(honest(platform.face), length=4096), platform)
    assert config.length == 4096
    assert config.read(0xFFC, 4) == 0
    assert walk(config).problems == ()


# The machine


def test_a_bar_without_an_address_or_registers_is_not_there(make: Make) -> None:
    def several(description: FunctionDescription) -> FunctionDescription:
        (bar,) = description.bars
        others = (MemoryBar(0, 4096, 0xF000_0000, 32, False), MemoryBar(1, 4096, 0, 32, False))
        return replace(description, bars=(bar, *others))

    platform = make(describe=several)
    assert platform.registers(FACE_BAR).length == platform.face.window.length
    for bar, why in [(0, "is not mapped"), (1, "was given no address"), (2, "has no BAR 2")]:
        with pytest.raises(TransportError, match=why):
            platform.registers(bar)
    with pytest.raises(TransportError, match="BAR 4 is not mapped"):
        make(bar_mapped=False).registers(FACE_BAR)


def test_a_doorbell_in_another_bar_is_refused(platform: SoftwarePciPlatform) -> None:
    with pytest.raises(TransportError, match="notified in BAR 2"):
        platform.doorbell(0, NotifyPlace(2, 0, 0, carries_data=False))


def test_a_function_without_a_pin_has_no_intx(make: Make) -> None:
    platform = make(describe=lambda honest: replace(honest, interrupt_pin=0))
    assert platform.open_intx() is None


def test_memory_is_mapped_side_by_side(platform: SoftwarePciPlatform) -> None:
    first, second = platform.map_memory(4096), platform.map_memory(8192)
    assert second.device_address >= first.device_address + 4096 + (1 << 20)
    assert platform.space.mappings[1].length == 8192


def test_an_error_of_the_description_closes_the_device() -> None:
    made: list[SoftwarePciPlatform] = []

    def refuse(description: FunctionDescription) -> FunctionDescription:
        raise RuntimeError("no such function")

    with pytest.raises(RuntimeError, match="no such function"):
        made.append(make_platform(describe=refuse))
    assert made == []


def test_closing_twice_is_closing_once(platform: SoftwarePciPlatform) -> None:
    platform.close()
    platform.close()
    assert of(uses(platform.face), "common") == []
