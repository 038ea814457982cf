"""Functions that tests make up: a configuration space of bytes, some of which can be written."""

from collections.abc import Callable, Sequence
from pathlib import Path

from vioblk.pci.bars import Bar, size_bars
from vioblk.pci.sources import DumpConfig
from vioblk.pci.sources.exact import check_read, check_write, padded

DUMPS = Path(__file__).with_name("dumps")

CAPABILITIES_START = 0x40


def recorded(name: str) -> DumpConfig:
    """What a function of QEMU's showed, once its BARs were programmed."""
    return DumpConfig.from_text((DUMPS / f"{name}.txt").read_text(encoding="ascii"))


class ModelSpace:
    """A function's configuration space, whose bits can be written where `writable` has ones.

    `log` has every access: ("read" or "write", offset, width, value).
    """

    def __init__(self, data: bytes, writable: bytes = b"") -> None:
        self.data = bytearray(data)
        self.writable = bytearray(writable.ljust(len(data), b"\0"))
        self.log: list[tuple[str, int, int, int]] = []
        self.before_access: Callable[[str, int], None] = lambda kind, offset: None

    @property
    def length(self) -> int:
        return len(self.data)

    def read(self, offset: int, width: int) -> int:
        check_read(offset, width)
        self.before_access("read", offset)
        value = padded(bytes(self.data[offset : offset + width]), width)
        self.log.append(("read", offset, width, value))
        return value

    def write(self, offset: int, width: int, value: int) -> None:
        check_write(offset, width, value, self.length)
        self.before_access("write", offset)
        self.log.append(("write", offset, width, value))
        for index, new in enumerate(value.to_bytes(width, "little"), start=offset):
            mask = self.writable[index]
            self.data[index] = (self.data[index] & ~mask) | (new & mask)

    def writes(self) -> list[tuple[int, int, int]]:
        """(offset, width, value) of each."""
        return [
            (offset, width, value) for kind, offset, width, value in self.log if kind == "write"
        ]

    def add_bar(
        self, index: int, length: int, *, flags: int = 0, address: int = 0, width_bits: int = 32
    ) -> None:
        """A BAR of `length` bytes; `flags` are its lowest bits."""
        slots = width_bits // 32
        place = slice(0x10 + 4 * index, 0x10 + 4 * (index + slots))
        mask = ((1 << width_bits) - 1) & ~(length - 1) & ~(0x3 if flags & 1 else 0xF)
        self.data[place] = (address | flags).to_bytes(4 * slots, "little")
        self.writable[place] = mask.to_bytes(4 * slots, "little")


def endpoint(
    *,
    vendor: int = 0x1AF4,
    device: int = 0x1042,
    subsystem: int = 0x1100,
    revision: int = 1,
    command: int = 0x7,
    header_type: int = 0,
    length: int = 256,
    capabilities: Sequence[tuple[int, bytes]] = (),
) -> ModelSpace:
    """A function with a list of capabilities, given as (offset, bytes without the pointer: ID,
    then what follows the pointer)."""
    data = bytearray(max(length, 256))
    data[0:4] = (device << 16 | vendor).to_bytes(4, "little")
    data[4:6] = command.to_bytes(2, "little")
    data[8] = revision
    data[0xB] = 1
    data[0xE] = header_type
    data[0x2C:0x30] = (subsystem << 16 | 0x1AF4).to_bytes(4, "little")
    pointer = 0x34
    for offset, content in capabilities:
        data[6] |= 0x10
        data[pointer] = offset
        data[offset] = content[0]
        data[offset + 2 : offset + 1 + len(content)] = content[1:]
        pointer = offset + 1
    space = ModelSpace(bytes(data[:length]))
    space.writable[4:6] = b"\x07\x04"
    return space


def virtio_cap(
    cfg_type: int,
    *,
    bar: int = 4,
    offset: int = 0,
    length: int = 0x1000,
    identifier: int = 0,
    extra: bytes = b"",
    capability_length: int | None = None,
) -> bytes:
    """struct virtio_pci_cap with what follows it, in the form that `endpoint` takes."""
    if capability_length is None:
        capability_length = 16 + len(extra)
    fields = bytes([0x09, capability_length, cfg_type, bar, identifier, 0, 0])
    return fields + offset.to_bytes(4, "little") + length.to_bytes(4, "little") + extra


def chained(*capabilities: bytes, start: int = CAPABILITIES_START) -> list[tuple[int, bytes]]:
    """Places for capabilities, one after the other."""
    places = []
    for content in capabilities:
        places.append((start, content))
        start += (len(content) + 1 + 3) & ~3
    return places


def memory_bar(index: int = 4, length: int | None = 0x4000, problem: str | None = None) -> Bar:
    """A BAR for those who only look it up."""
    return Bar(index, "memory", 64, True, 0xE0000000, length, problem)


def bars_of_kinds() -> ModelSpace:
    """A function with a BAR of each kind."""
    space = endpoint()
    space.add_bar(0, 0x40, flags=1, address=0xC300)
    space.add_bar(1, 0x1000, address=0xF2060000)
    space.add_bar(2, 1 << 33, flags=0xC, address=0x40_0000_0000, width_bits=64)
    space.add_bar(5, 0x10)
    assert len(size_bars(space)) == 4
    space.log.clear()
    return space
