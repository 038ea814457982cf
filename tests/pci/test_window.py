"""The configuration access window: aligned, aimed in order, and at virtio structures only."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clauses import clause
from tests.pci.spaces import ModelSpace, endpoint
from tests.support.pci_model import ModernModel, RecordingRegisters, WindowSpace
from vioblk.pci.access import Registers
from vioblk.pci.modern import ModernLayout
from vioblk.pci.virtio_capabilities import (
    ConfigWindow,
    NotifyStructure,
    Structure,
    StructureType,
)
from vioblk.pci.window import PciCfgWindow

CAPABILITY = 0x84
BAR, OFFSET, LENGTH, DATA = CAPABILITY + 4, CAPABILITY + 8, CAPABILITY + 12, CAPABILITY + 16

COMMON = Structure(StructureType.COMMON, 0x40, 4, 0, 0x1000, 0x40, 0x40)
ISR = Structure(StructureType.ISR, 0x50, 2, 0, 0x7, 1, 1)
DEVICE = Structure(StructureType.DEVICE, 0x60, 4, 0, 0x2000, 0x60, 0x60)
STRUCTURES = (COMMON, ISR, DEVICE)


def window_over(space: ModelSpace) -> PciCfgWindow:
    return PciCfgWindow(space, ConfigWindow(CAPABILITY), STRUCTURES)


def space_of(registers: Registers) -> WindowSpace:
    return WindowSpace(bytes(endpoint().data), CAPABILITY, {4: (0x1000, registers)})


@clause("PCI-CFGACC-01", "PCI-CFGACC-03")
@pytest.mark.parametrize("width", [1, 2, 4])
def test_an_access_is_aimed_before_the_data_is_touched(width: int) -> None:
    registers = RecordingRegisters(0x40, bytes(range(0x40)))
    space = space_of(registers)
    window = window_over(space)
    value = int.from_bytes(bytes(range(8, 8 + width)), "little")
    assert window.read(4, 0x1008, width) == value
    aimed = [
        ("write", BAR, 1, 4),
        ("write", LENGTH, 4, width),
        ("write", OFFSET, 4, 0x1008),
    ]
    assert space.log == [*aimed, ("read", DATA, width, value)]
    space.log.clear()
    window.write(4, 0x1008, width, 1)
    assert space.log == [*aimed, ("write", DATA, width, 1)]
    assert registers.word(8, width) == 1


@clause("PCI-CFGACC-01", "PCI-CFGACC-03")
@pytest.mark.parametrize(("offset", "width"), [(0x1001, 2), (0x1002, 4), (0x1000, 3), (0x1000, 8)])
def test_an_access_that_is_not_aligned_is_not_made(offset: int, width: int) -> None:
    space = space_of(RecordingRegisters(0x40))
    window = window_over(space)
    with pytest.raises(ValueError, match=r"not aligned|1, 2 or 4 bytes"):
        window.read(4, offset, width)
    with pytest.raises(ValueError, match=r"not aligned|1, 2 or 4 bytes"):
        window.write(4, offset, width, 0)
    assert space.log == []


@clause("PCI-CFGACC-02")
@pytest.mark.parametrize(
    ("bar", "offset", "width"),
    [(4, 0x0FFC, 4), (4, 0x1040, 1), (4, 0x103F, 1), (2, 0x6, 2), (2, 0x7, 1), (0, 0x1000, 4)],
)
def test_what_belongs_to_no_structure_is_not_touched(bar: int, offset: int, width: int) -> None:
    space = WindowSpace(
        bytes(endpoint().data),
        CAPABILITY,
        {4: (0x1000, RecordingRegisters(0x40)), 2: (7, RecordingRegisters(1))},
    )
    window = window_over(space)
    inside = (bar, offset, width) in [(4, 0x103F, 1), (2, 0x7, 1)]
    if inside:
        window.read(bar, offset, width)
        return
    with pytest.raises(ValueError, match="does not lie within a virtio structure"):
        window.read(bar, offset, width)
    with pytest.raises(ValueError, match="does not lie within a virtio structure"):
        window.write(bar, offset, width, 0)
    assert space.log == []


@clause("PCI-CFGACC-01", "PCI-CFGACC-02", "PCI-CFGACC-03")
@given(
    bar=st.integers(-1, 6),
    offset=st.integers(-8, 0x2080),
    width=st.integers(0, 9),
    write=st.booleans(),
)
def test_no_access_gets_by_that_is_not_allowed(
    bar: int, offset: int, width: int, write: bool
) -> None:
    # What the space itself checks: the order, the width, and that the offset is a multiple.
    registers = RecordingRegisters(0x1060)
    space = space_of(registers)
    window = window_over(space)
    fits = any(
        each.bar == bar and each.offset <= offset and offset + width <= each.offset + each.length
        for each in (COMMON, DEVICE)
    )
    allowed = fits and width in (1, 2, 4) and offset % width == 0
    if bar == ISR.bar and (offset, width) == (ISR.offset, 1):
        return
    if not allowed:
        with pytest.raises(ValueError, match=r"an access of|written with 1, 2 or 4 bytes"):
            window.write(bar, offset, width, 0) if write else window.read(bar, offset, width)
        assert space.log == []
    elif write:
        window.write(bar, offset, width, 1)
        assert registers.word(offset - 0x1000, width) == 1
    else:
        assert window.read(bar, offset, width) == 0


def test_a_value_that_does_not_fit_is_not_written() -> None:
    space = space_of(RecordingRegisters(0x40))
    with pytest.raises(ValueError, match=r"0x100 does not fit in 1 byte$"):
        window_over(space).write(4, 0x1000, 1, 0x100)
    assert space.log == []


def test_a_structure_is_registers_of_its_own() -> None:
    registers = RecordingRegisters(0x40)
    common = window_over(space_of(registers)).registers(COMMON)
    assert common.length == 0x40
    common.write(0x14, 1, 3)
    assert common.read(0x14, 1) == 3
    assert registers.word(0x14, 1) == 3
    with pytest.raises(ValueError, match="beyond the 64 bytes"):
        common.read(0x40, 1)


def test_there_are_registers_of_the_functions_structures_only() -> None:
    window = window_over(space_of(RecordingRegisters(0x40)))
    foreign = Structure(StructureType.COMMON, 0x40, 3, 0, 0, 0x40, 0x40)
    with pytest.raises(ValueError, match="none of the structures"):
        window.registers(foreign)


def test_a_layout_works_through_the_window() -> None:
    common = ModernModel(offered=1 << 32 | 5, queues=3)
    window = window_over(space_of(common))
    notify = NotifyStructure(StructureType.NOTIFY, 0x70, 4, 0, 0x3000, 0x100, 0x100, multiplier=4)
    layout = ModernLayout(window.registers(COMMON), notify, window.registers(ISR), None)
    assert layout.read_features() == 1 << 32 | 5
    assert layout.queue_count() == 3
    layout.write_status(0xF)
    assert layout.read_status() == 0xF


def test_accesses_of_several_threads_do_not_mix() -> None:
    data = bytes(range(0x40))
    window = window_over(space_of(RecordingRegisters(0x40, data)))
    wrong: list[tuple[int, int]] = []

    def read(offset: int, width: int) -> None:
        for _ in range(200):
            value = window.read(4, 0x1000 + offset, width)
            if value != int.from_bytes(data[offset : offset + width], "little"):
                wrong.append((offset, value))

    threads = [
        threading.Thread(target=read, args=each) for each in [(0, 4), (5, 1), (0x3E, 2), (0x10, 4)]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
