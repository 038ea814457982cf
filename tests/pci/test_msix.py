"""The MSI-X table: entries, masks, pending bits, and the switch in the capability."""

import pytest

from tests.clauses import clause
from tests.pci.spaces import ModelSpace, chained, endpoint
from tests.support.pci_model import RecordingRegisters, msix_capability
from vioblk.errors import ProtocolError
from vioblk.pci.capabilities import walk
from vioblk.pci.msix import MsixTable

CONTROL = 0x42


def table_of(
    count: int, *, length: int = 0x9000
) -> tuple[MsixTable, RecordingRegisters, ModelSpace]:
    """A table, its BAR, and its function."""
    space = endpoint(capabilities=chained(msix_capability(count)))
    space.writable[CONTROL : CONTROL + 2] = b"\x00\xc0"
    capability = walk(space).msix
    assert capability is not None
    bar = RecordingRegisters(length)
    return MsixTable(space, capability, bar, bar), bar, space


@clause("MSIX-01")
@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65, 2047, 2048])
def test_a_table_of_any_size_is_used_to_its_end(count: int) -> None:
    table, bar, _ = table_of(count)
    assert table.vector_count == count
    last = count - 1
    table.program(last, 0xFEE0_0000, 0x41)
    assert bar.word(16 * last, 8) == 0xFEE0_0000
    assert bar.word(16 * last + 8, 4) == 0x41
    bar.data[0x8000 + last // 8] = 1 << last % 8
    assert table.pending(last)
    assert count == 1 or not table.pending(0)
    for vector in (count, -1):
        with pytest.raises(ValueError, match=f"there is no vector {vector}: the table has {count}"):
            table.program(vector, 0, 0)
        with pytest.raises(ValueError, match="there is no vector"):
            table.pending(vector)
        with pytest.raises(ValueError, match="there is no vector"):
            table.mask(vector)


def test_an_entry_is_masked_while_it_is_changed() -> None:
    table, bar, _ = table_of(4)
    table.program(2, 0x1_FEE0_0004, 0xABCD)
    assert bar.writes() == [
        (0x2C, 1),
        (0x20, 0xFEE0_0004),
        (0x24, 1),
        (0x28, 0xABCD),
        (0x2C, 0),
    ]
    assert {each.width for each in bar.log} == {4}


def test_an_entry_can_be_left_masked() -> None:
    table, bar, _ = table_of(4)
    table.program(1, 0x1000, 7, masked=True)
    assert bar.word(0x1C, 4) == 1
    table.unmask(1)
    assert bar.word(0x1C, 4) == 0
    table.mask(1)
    assert bar.word(0x1C, 4) == 1


def test_reserved_bits_of_an_entry_stay_as_they_are() -> None:
    table, bar, _ = table_of(1)
    bar.data[12:16] = b"\xf0\x00\x00\x80"
    table.mask(0)
    assert bar.word(12, 4) == 0x8000_00F1
    table.unmask(0)
    assert bar.word(12, 4) == 0x8000_00F0


@pytest.mark.parametrize(
    ("address", "data"), [(2, 0), (-4, 0), (1 << 64, 0), (0, 1 << 32), (0, -1)]
)
def test_a_message_that_cannot_be_is_refused(address: int, data: int) -> None:
    table, bar, _ = table_of(1)
    with pytest.raises(ValueError, match=r"multiple of 4|does not fit"):
        table.program(0, address, data)
    assert bar.log == []


def test_msix_is_switched_by_the_control_word_and_nothing_else() -> None:
    table, _, space = table_of(5)
    size = 4
    states = [table.enabled]
    table.set_function_mask(True)
    table.enable()
    states.append(table.enabled)
    table.set_function_mask(True)
    table.set_function_mask(False)
    table.disable()
    states.append(table.enabled)
    assert states == [False, True, False]
    assert space.writes() == [
        (CONTROL, 2, 0x4000 | size),
        (CONTROL, 2, 0x8000 | size),
        (CONTROL, 2, 0xC000 | size),
        (CONTROL, 2, 0x8000 | size),
        (CONTROL, 2, size),
    ]


@pytest.mark.parametrize("length", [0x20, 0x8000])
def test_a_table_that_does_not_lie_in_its_bar_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError, match="cannot be where the device says"):
        table_of(3, length=length)
