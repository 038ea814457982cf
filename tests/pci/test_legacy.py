"""The legacy registers: one block in the I/O BAR 0, and a configuration that moves with MSI-X."""

import pytest

from tests.clauses import clause
from tests.support.pci_model import LegacyModel, RecordingRegisters
from vioblk._native import split_layout
from vioblk.errors import ProtocolError, StateError
from vioblk.pci.access import NotifyPlace
from vioblk.pci.layout import NO_VECTOR
from vioblk.pci.legacy import QUEUE_ALIGN, QUEUE_COUNT_MAX, LegacyLayout
from vioblk.transport.base import QueueAddresses


def addresses(size: int = 256, start: int = 0x10_0000) -> QueueAddresses:
    layout = split_layout(size, legacy_align=QUEUE_ALIGN)
    return QueueAddresses(size, start, start + layout.available_offset, start + layout.used_offset)


@clause("PCI-LEG-01")
def test_the_device_is_driven_by_the_block_at_the_start_of_the_bar() -> None:
    # The model refuses any access of another width than the register's.
    registers = LegacyModel(offered=0x3000_0ED4)
    layout = LegacyLayout(registers)
    layout.write_status(0)
    assert layout.read_features() == 0x3000_0ED4
    layout.write_features(0x1000_0044)
    layout.enable_queue(1, addresses(128, 0x7000))
    layout.write_status(7)
    assert layout.read_status() == 7
    assert registers.writes() == [(18, 0), (4, 0x1000_0044), (14, 1), (8, 7), (18, 7)]
    assert layout.interface == "legacy"


@pytest.mark.parametrize("accepted", [1 << 32, -1])
def test_there_are_32_feature_bits(accepted: int) -> None:
    registers = LegacyModel()
    with pytest.raises(ValueError, match="do not fit in the legacy register"):
        LegacyLayout(registers).write_features(accepted)
    assert registers.log == []


# Queues


def test_queues_are_counted_up_to_the_first_that_does_not_exist() -> None:
    registers = LegacyModel(sizes=(256, 128, 64))
    layout = LegacyLayout(registers)
    assert layout.queue_count() == 3
    assert registers.writes(14) == [(14, 0), (14, 1), (14, 2), (14, 3)]
    assert [layout.queue_size_max(index) for index in range(4)] == [256, 128, 64, 0]


def test_the_count_is_remembered_until_the_device_is_reset() -> None:
    registers = LegacyModel(sizes=(256,))
    layout = LegacyLayout(registers)
    assert layout.queue_count() == 1
    accesses = len(registers.log)
    assert layout.queue_count() == 1
    assert len(registers.log) == accesses
    registers.sizes = (256, 256)
    layout.write_status(0)
    assert layout.queue_count() == 2


def test_a_device_that_always_has_one_more_queue_is_not_believed() -> None:
    registers = LegacyModel()
    registers.load = lambda offset, width: 8 if offset == 12 else 0  # type: ignore[method-assign]
    assert LegacyLayout(registers).queue_count() == QUEUE_COUNT_MAX


def test_a_queue_is_enabled_by_its_page_number() -> None:
    registers = LegacyModel()
    layout = LegacyLayout(registers)
    layout.enable_queue(0, addresses(256, 0xFFFF_FFFF << 12))
    layout.enable_queue(1, addresses(128, 0x1000))
    assert registers.pages == [0xFFFF_FFFF, 1]


@pytest.mark.parametrize("start", [1 << 44, (1 << 44) + 0x1000, 1 << 60, 0])
def test_an_address_that_the_register_cannot_hold_is_refused(start: int) -> None:
    registers = LegacyModel()
    with pytest.raises(ValueError, match=f"lies at {start:#x}"):
        LegacyLayout(registers).enable_queue(0, addresses(256, start))
    assert registers.log == []


def test_a_queue_starts_at_a_page() -> None:
    registers = LegacyModel()
    with pytest.raises(ValueError, match="no multiple of 4096"):
        LegacyLayout(registers).enable_queue(0, addresses(256, 0x1800))
    assert registers.log == []


def test_a_queue_is_laid_out_as_this_interface_has_it() -> None:
    registers = LegacyModel()
    modern = addresses()._replace(device_address=0x10_2000 + 64)
    with pytest.raises(ValueError, match="not laid out as the legacy interface"):
        LegacyLayout(registers).enable_queue(0, modern)
    assert registers.log == []


def test_the_device_chooses_the_size() -> None:
    registers = LegacyModel()
    with pytest.raises(ProtocolError, match="queue 1 has 128 descriptors, not 64"):
        LegacyLayout(registers).enable_queue(1, addresses(64))
    assert registers.pages == [0, 0]


def test_a_queue_that_does_not_exist_is_left_alone() -> None:
    registers = LegacyModel()
    with pytest.raises(ProtocolError, match="queue 2 has 0 descriptors"):
        LegacyLayout(registers).enable_queue(2, addresses())
    assert registers.writes() == [(14, 2)]


def test_a_queue_in_use_is_left_alone() -> None:
    registers = LegacyModel()
    layout = LegacyLayout(registers)
    layout.enable_queue(0, addresses())
    with pytest.raises(ProtocolError, match="in use already"):
        layout.enable_queue(0, addresses(256, 0x20_0000))
    assert registers.pages == [0x100, 0]


@clause("PCI-NOTIFY-01", "PCI-NOTIFY-03")
def test_all_queues_are_notified_at_one_place_by_their_index() -> None:
    layout = LegacyLayout(LegacyModel())
    assert layout.notify_place(1) == NotifyPlace(0, 16, 1, carries_data=False)


# Configuration


@clause("PCI-LEG-03")
def test_the_configuration_follows_the_header_and_moves_with_msix() -> None:
    registers = LegacyModel(config=bytes(range(0x80, 0xA8)))
    layout = LegacyLayout(registers)
    assert layout.read_config(0, 8) == bytes(range(0x80, 0x88))
    assert registers.reads() == [20, 24]
    registers.msix_enabled = True
    layout.set_msix_enabled(True)
    assert layout.read_config(0, 8) == bytes(range(0x80, 0x88))
    assert registers.reads() == [20, 24, 24, 28]
    registers.msix_enabled = False
    layout.set_msix_enabled(False)
    assert layout.read_config(2, 2) == b"\x82\x83"
    assert registers.reads()[-1] == 22


@clause("PCI-LEG-02")
def test_the_configuration_is_accessed_by_the_width_of_its_fields() -> None:
    registers = LegacyModel()
    layout = LegacyLayout(registers)
    layout.read_config(0, 8)
    layout.read_config(8, 4)
    layout.read_config(10, 2)
    layout.read_config(13, 1)
    layout.write_config(12, b"\x01")
    assert [(each.offset, each.width) for each in registers.log] == [
        (20, 4),
        (24, 4),
        (28, 4),
        (30, 2),
        (33, 1),
        (32, 1),
    ]


def test_the_configuration_ends_with_the_bar() -> None:
    registers = LegacyModel()
    layout = LegacyLayout(registers)
    assert layout.read_config(0x40 - 20, 1) == layout.read_config(40, 8) == b""
    with pytest.raises(ValueError, match="has 44 bytes"):
        layout.write_config(44, b"\x00")
    assert registers.log == []


def test_there_is_no_generation() -> None:
    registers = LegacyModel()
    assert LegacyLayout(registers).config_generation() == 0
    assert registers.log == []


# Vectors and the ISR


@clause("MSIX-05")
def test_vectors_are_read_back() -> None:
    registers = LegacyModel(refuses=frozenset({5}))
    registers.msix_enabled = True
    layout = LegacyLayout(registers)
    layout.set_msix_enabled(True)
    assert layout.set_config_vector(0)
    assert layout.set_queue_vector(1, 2)
    assert not layout.set_config_vector(5)
    assert not layout.set_queue_vector(0, 5)
    assert (registers.config_vector, registers.vectors) == (NO_VECTOR, [NO_VECTOR, 2])
    assert registers.reads() == [20, 22, 20, 22]


def test_vectors_exist_only_while_msix_is_enabled() -> None:
    registers = LegacyModel()
    layout = LegacyLayout(registers)
    with pytest.raises(StateError, match="vector 0 can be set only while MSI-X is enabled"):
        layout.set_config_vector(0)
    with pytest.raises(StateError, match="no vector can be set"):
        layout.set_queue_vector(0, NO_VECTOR)
    assert registers.log == []


def test_the_isr_is_one_byte_that_reading_clears() -> None:
    registers = LegacyModel()
    registers.isr = 3
    layout = LegacyLayout(registers)
    assert layout.read_isr() == 3
    assert layout.read_isr() == 0


# BARs that are too short


def test_a_bar_that_is_too_short_is_refused() -> None:
    with pytest.raises(ProtocolError, match="BAR 0 has 16 bytes"):
        LegacyLayout(RecordingRegisters(16))


def test_a_bar_without_room_for_vectors_cannot_have_msix() -> None:
    layout = LegacyLayout(RecordingRegisters(20))
    with pytest.raises(ProtocolError, match="no place for the vector registers"):
        layout.set_msix_enabled(True)
    assert layout.read_config(0, 1) == b""
