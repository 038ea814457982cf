"""Base address registers: read, sized, programmed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pci.spaces import ModelSpace, bars_of_kinds, endpoint, recorded
from vioblk.errors import ProtocolError, UnsupportedError
from vioblk.pci.bars import Bar, bar_at, program_bar, read_bars, size_bars
from vioblk.pci.command import read_command
from vioblk.pci.header import BRIDGE, CARDBUS_BRIDGE

EXPECTED = (
    Bar(0, "io", 32, False, 0xC300, 0x40),
    Bar(1, "memory", 32, False, 0xF2060000, 0x1000),
    Bar(2, "memory", 64, True, 0x40_0000_0000, 1 << 33),
    Bar(5, "memory", 32, False, 0, 0x10),
)


def without_length(bar: Bar) -> Bar:
    return Bar(bar.index, bar.kind, bar.width_bits, bar.prefetchable, bar.address)


def test_reading_bars_writes_nothing_and_knows_no_length() -> None:
    space = bars_of_kinds()
    # BAR 5 has no address, so that it cannot be told from one that does not exist.
    assert read_bars(space) == tuple(without_length(bar) for bar in EXPECTED[:3])
    assert not space.writes()


def test_sizing_finds_the_length_of_every_kind() -> None:
    assert size_bars(bars_of_kinds()) == EXPECTED


def test_recorded_bars_are_read_where_they_were_programmed() -> None:
    assert [(bar.index, bar.kind, bar.address) for bar in read_bars(recorded("legacy_1001"))] == [
        (0, "io", 0xC300),
        (1, "memory", 0xF2060000),
    ]
    assert read_bars(recorded("modern_1042"))[-1] == Bar(4, "memory", 64, True, 0xE0004000)


def test_decoding_is_off_while_a_bar_holds_all_ones() -> None:
    space = bars_of_kinds()
    decoding: list[int] = []
    space.before_access = lambda kind, offset: (
        decoding.append(space.data[4] & 3) if 0x10 <= offset < 0x28 else None
    )
    size_bars(space)
    assert set(decoding) == {0}
    assert read_command(space) == 7


def test_bus_mastering_is_left_alone() -> None:
    space = bars_of_kinds()
    size_bars(space)
    assert all(value & 4 for offset, _, value in space.writes() if offset == 4)


def test_sizing_leaves_every_byte_as_it_was() -> None:
    space = bars_of_kinds()
    before = bytes(space.data)
    size_bars(space)
    assert space.data == before


def accesses_of_sizing() -> list[tuple[str, int, int, int]]:
    space = bars_of_kinds()
    size_bars(space)
    return space.log


@pytest.mark.parametrize("failing", range(len(accesses_of_sizing())))
def test_an_error_at_any_access_leaves_the_function_as_it_was(failing: int) -> None:
    kind, offset, width, value = accesses_of_sizing()[failing]
    space = bars_of_kinds()
    before = bytes(space.data)
    remaining = iter(range(failing))

    def fail_once(kind: str, offset: int) -> None:
        if next(remaining, None) is None:
            space.before_access = lambda kind, offset: None
            raise OSError("the access failed")

    space.before_access = fail_once
    with pytest.raises(OSError, match="the access failed"):
        size_bars(space)
    place = slice(offset, offset + width)
    if kind == "write" and value == int.from_bytes(before[place], "little"):
        # It was this register that could not be restored; all others are.
        space.data[place] = before[place]
    assert space.data == before


@pytest.mark.parametrize(("header_type", "slots"), [(BRIDGE, 2), (CARDBUS_BRIDGE, 0), (0x55, 0)])
def test_other_headers_have_fewer_bars(header_type: int, slots: int) -> None:
    space = endpoint(header_type=header_type)
    for index in range(6):
        space.add_bar(index, 0x1000, address=0x1000 * (index + 1))
    assert [bar.index for bar in read_bars(space)] == list(range(slots))
    assert [bar.index for bar in size_bars(space)] == list(range(slots))


def test_a_bar_that_does_not_exist_is_left_out() -> None:
    assert size_bars(endpoint()) == ()
    assert read_bars(endpoint()) == ()


def hostile(index: int, raw: int, writable: int) -> ModelSpace:
    space = endpoint()
    place = slice(0x10 + 4 * index, 0x14 + 4 * index)
    space.data[place] = raw.to_bytes(4, "little")
    space.writable[place] = writable.to_bytes(4, "little")
    return space


@pytest.mark.parametrize(
    ("raw", "writable", "length", "reason"),
    [
        (0x00000008, 0, 0, "its size is zero: no address bit can be written"),
        (0x00000001, 0, 0, "its size is zero: no address bit can be written"),
        (0x00001000, 0, None, "all ones read back as 0x1000, which is no size"),
        (0, 0xFFF0F000, None, "all ones read back as 0xfff0f000, which is no size"),
        (0, 0x7FFFF000, None, "all ones read back as 0x7ffff000, which is no size"),
        (0, 0xFFFFF008, None, "its type changes when all ones are written: 0xfffff008"),
        (0x1, 0x00FFFFC0, None, "all ones read back as 0xffffc1, which is no size"),
        (0x6, 0xFFFFF000, None, "its memory type (3) is reserved"),
    ],
)
def test_a_mask_that_is_no_size_makes_a_bar_unusable(
    raw: int, writable: int, length: int | None, reason: str
) -> None:
    (bar,) = size_bars(hostile(2, raw, writable))
    assert (bar.length, bar.problem) == (length, reason)


def test_an_io_decoder_of_16_bits_is_sized() -> None:
    (bar,) = size_bars(hostile(0, 0x1, 0x0000FFE0))
    assert (bar.kind, bar.length, bar.problem) == ("io", 0x20, None)


def test_a_memory_bar_below_1_mib_is_an_ordinary_one() -> None:
    (bar,) = size_bars(hostile(0, 0x2, 0xFFFFF000))
    assert (bar.width_bits, bar.length, bar.problem) == (32, 0x1000, None)


def test_a_64_bit_bar_in_the_last_slot_has_no_upper_half() -> None:
    space = hostile(5, 0x4, 0xFFFFF000)
    before = bytes(space.data)
    (bar,) = size_bars(space)
    assert bar.problem == "it is 64 bits wide, and there is no slot for the upper half"
    (read,) = read_bars(space)
    assert read.problem == bar.problem
    assert space.data == before
    assert not [offset for offset, *_ in space.writes() if offset >= 0x28]


def test_the_upper_half_of_a_wide_bar_is_no_bar() -> None:
    space = bars_of_kinds()
    assert bar_at(size_bars(space), 3) is None
    assert bar_at(read_bars(space), 2) is not None


def test_a_wide_bar_can_be_larger_than_4_gib() -> None:
    space = endpoint()
    space.add_bar(0, 1 << 63, flags=4, width_bits=64)
    assert size_bars(space) == (Bar(0, "memory", 64, False, 0, 1 << 63),)


def test_a_recording_cannot_be_sized() -> None:
    with pytest.raises(UnsupportedError, match="cannot be written"):
        size_bars(recorded("modern_1042"))


@pytest.mark.parametrize(
    ("index", "address"), [(0, 0xC340), (1, 0xE0000000), (2, 0x80_0000_0000), (5, 0xFFFFFFF0)]
)
def test_a_bar_takes_its_address(index: int, address: int) -> None:
    space = bars_of_kinds()
    bar = bar_at(size_bars(space), index)
    assert bar is not None
    programmed = program_bar(space, bar, address)
    assert programmed.address == address
    assert bar_at(size_bars(space), index) == programmed
    assert read_command(space) == 7


def test_decoding_is_off_while_a_bar_moves() -> None:
    """In between, half of a 64-bit address is old."""
    space = bars_of_kinds()
    bar = bar_at(size_bars(space), 2)
    assert bar is not None
    decoding: list[int] = []
    space.before_access = lambda kind, offset: (
        decoding.append(space.data[4] & 3) if offset >= 0x10 else None
    )
    program_bar(space, bar, 0)
    assert set(decoding) == {0}


@pytest.mark.parametrize(
    ("bar", "address", "message"),
    [
        (EXPECTED[0], 0xC310, "BAR 0: 0xc310 is no multiple of 0x40"),
        (EXPECTED[1], 1 << 32, "BAR 1: 0x1000 bytes at 0x100000000 do not fit in 32 bits"),
        (EXPECTED[2], -(1 << 33), "BAR 2: -0x200000000 is no multiple of 0x200000000"),
        (Bar(1, "memory", 32, False, 0), 8, "BAR 1: 0x8 is no multiple of 0x10"),
        (Bar(3, "io", 32, False, 0, 0, "its size is zero"), 0, "BAR 3 cannot be used: its size"),
    ],
)
def test_an_address_that_does_not_fit_is_refused_before_anything_is_written(
    bar: Bar, address: int, message: str
) -> None:
    space = bars_of_kinds()
    with pytest.raises(ValueError, match=message):
        program_bar(space, bar, address)
    assert not space.log


def test_a_bar_that_does_not_take_its_address_is_an_error() -> None:
    space = hostile(0, 0xF0000000, 0xF0000000)
    with pytest.raises(ProtocolError, match="was given address 0xe1000000 and reads back 0xe00000"):
        program_bar(space, Bar(0, "memory", 32, False, 0xF0000000), 0xE1000000)
    assert read_command(space) == 7


@settings(deadline=None)
@given(data=st.binary(min_size=64, max_size=64), writable=st.binary(min_size=64, max_size=64))
def test_sizing_any_function_ends_and_restores_it(data: bytes, writable: bytes) -> None:
    space = ModelSpace(data, writable)
    size_bars(space)
    assert space.data == data
    assert len(space.log) < 60
    assert all(offset == 4 or 0x10 <= offset < 0x28 for offset, *_ in space.writes())
