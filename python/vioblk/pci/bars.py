"""Base address registers: where a function's registers are (PCI Local Bus 3.0, 6.2.5.1)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from vioblk.errors import ProtocolError
from vioblk.pci.access import ConfigSpace
from vioblk.pci.command import decoding_off
from vioblk.pci.header import BRIDGE, ENDPOINT, HEADER_TYPE_OFFSET

BARS_OFFSET: Final = 0x10
BAR_COUNTS: Final = {ENDPOINT: 6, BRIDGE: 2}
"""How many 32-bit slots there are, by header type."""

BarKind = Literal["io", "memory"]

_IO_FLAGS: Final = 0x3
_MEMORY_FLAGS: Final = 0xF
_ALL_ONES: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Bar:
    """One base address register, as it was read; a 64-bit one takes two slots."""

    index: int
    """Of its first slot, 0 to 5. Capabilities name BARs by it."""
    kind: BarKind
    width_bits: int
    """Of the address: 32 or 64."""
    prefetchable: bool
    address: int
    """0: most likely none has been given."""
    length: int | None = None
    """Bytes; None if it is not known."""
    problem: str | None = None
    """Why it cannot be used."""

    @property
    def offset(self) -> int:
        """Of its first slot in the configuration space."""
        return BARS_OFFSET + 4 * self.index


def bar_at(bars: Sequence[Bar], index: int) -> Bar | None:
    """The BAR of this index, if it is there (the upper half of a 64-bit BAR is none)."""
    return next((bar for bar in bars if bar.index == index), None)


def read_bars(config: ConfigSpace) -> tuple[Bar, ...]:
    """The BARs of a function that may be in use: nothing is written, and no length is known.

    A 32-bit memory BAR that has no address reads as 0, like one that does not exist, and is left
    out. Only a failing read raises.
    """
    bars: list[Bar] = []
    index, count = 0, _slot_count(config)
    while index < count:
        raw = config.read(BARS_OFFSET + 4 * index, 4)
        if raw not in (0, _ALL_ONES):
            bars.append(_decode(config, index, count, raw))
        index += 2 if _is_64_bits(raw) else 1
    return tuple(bars)


def size_bars(config: ConfigSpace) -> tuple[Bar, ...]:
    """The BARs of a function with their lengths, which takes writing to them.

    Meanwhile the function answers no access to its BARs, so this is for a function that nobody
    else uses. Each BAR and the command register are as before when this returns or raises. Raises
    UnsupportedError if the source only reads, OSError, TransportError.
    """
    bars: list[Bar] = []
    with decoding_off(config):
        index, count = 0, _slot_count(config)
        while index < count:
            raw = config.read(BARS_OFFSET + 4 * index, 4)
            wide = _is_64_bits(raw) and index + 1 < count
            mask = _probe(config, index, slots=2 if wide else 1)
            if raw or mask:
                bars.append(_with_length(_decode(config, index, count, raw), raw, mask))
            index += 2 if wide else 1
    return tuple(bars)


def program_bar(config: ConfigSpace, bar: Bar, address: int) -> Bar:
    """Give a BAR an address, with decoding off meanwhile, and return it with that address.

    Raises ValueError if the address does not fit the BAR, ProtocolError if the BAR does not take
    it, UnsupportedError if the source only reads, OSError, TransportError.
    """
    _check_address(bar, address)
    with decoding_off(config):
        config.write(bar.offset, 4, address & _ALL_ONES)
        taken = config.read(bar.offset, 4) & ~_flags_mask(bar.kind)
        if bar.width_bits == 64:
            config.write(bar.offset + 4, 4, address >> 32)
            taken |= config.read(bar.offset + 4, 4) << 32
    if taken != address:
        raise ProtocolError(
            f"BAR {bar.index} was given address {address:#x} and reads back {taken:#x}"
        )
    return replace(bar, address=address)


def _slot_count(config: ConfigSpace) -> int:
    return BAR_COUNTS.get(config.read(HEADER_TYPE_OFFSET, 1) & 0x7F, 0)


def _is_64_bits(raw: int) -> bool:
    return not raw & 1 and raw & 6 == 4


def _flags_mask(kind: BarKind) -> int:
    return _IO_FLAGS if kind == "io" else _MEMORY_FLAGS


def _decode(config: ConfigSpace, index: int, count: int, raw: int) -> Bar:
    """The BAR whose first slot holds `raw`."""
    if raw & 1:
        return Bar(index, "io", 32, False, raw & ~_IO_FLAGS)
    bar = Bar(index, "memory", 32, bool(raw & 8), raw & ~_MEMORY_FLAGS)
    if raw & 6 == 6:
        return replace(bar, problem="its memory type (3) is reserved")
    if not _is_64_bits(raw):
        return bar
    if index + 1 == count:
        return replace(bar, problem="it is 64 bits wide, and there is no slot for the upper half")
    upper = config.read(bar.offset + 4, 4)
    return replace(bar, width_bits=64, address=bar.address | upper << 32)


def _probe(config: ConfigSpace, index: int, slots: int) -> int:
    """What all ones read back as, in one or two slots; they are restored whatever happens."""
    offset = BARS_OFFSET + 4 * index
    before = config.read(offset, 4)
    try:
        config.write(offset, 4, _ALL_ONES)
        mask = config.read(offset, 4)
        if slots == 2:
            # An outer call restores the lower half, should the upper one fail.
            mask |= _probe(config, index + 1, slots=1) << 32
    finally:
        config.write(offset, 4, before)
    return mask


def _with_length(bar: Bar, raw: int, mask: int) -> Bar:
    """The BAR with the length that its mask stands for, or with the reason why there is none."""
    if bar.problem is not None:
        return bar
    flags = _flags_mask(bar.kind)
    if mask & flags != raw & flags:
        return replace(bar, problem=f"its type changes when all ones are written: {mask:#x}")
    writable = mask & ~flags
    if writable == 0:
        return replace(bar, length=0, problem="its size is zero: no address bit can be written")
    length = writable & -writable
    # All bits from the size up can be written; a 16-bit I/O decoder has no upper half.
    tops = (1 << bar.width_bits, 1 << 16) if bar.kind == "io" else (1 << bar.width_bits,)
    if writable + length not in tops:
        return replace(bar, problem=f"all ones read back as {mask:#x}, which is no size")
    return replace(bar, length=length)


def _check_address(bar: Bar, address: int) -> None:
    if bar.problem is not None:
        raise ValueError(f"BAR {bar.index} cannot be used: {bar.problem}")
    alignment = bar.length or _flags_mask(bar.kind) + 1
    if address < 0 or address % alignment:
        raise ValueError(f"BAR {bar.index}: {address:#x} is no multiple of {alignment:#x}")
    if address + alignment > 1 << bar.width_bits:
        raise ValueError(
            f"BAR {bar.index}: {alignment:#x} bytes at {address:#x} do not fit in "
            f"{bar.width_bits} bits"
        )
