"""Configuration space that somebody recorded."""

import re
from collections.abc import Iterator
from typing import Final, Self

from vioblk.errors import UnsupportedError
from vioblk.pci.sources.exact import EXPRESS_LENGTH, check_read, padded


class DumpConfig:
    """Bytes that were recorded; they can only be read."""

    def __init__(self, data: bytes, *, name: str = "") -> None:
        """`name`: of the function, as the record has it; for people."""
        self._data = bytes(data[:EXPRESS_LENGTH])
        self.name = name

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The one function of a text such as `lspci -xxx -s 00:05.0` prints.

        Raises ValueError if it does not hold exactly one, or as `parse_dumps` does.
        """
        names_and_data = list(_blocks(text))
        if len(names_and_data) != 1:
            raise ValueError(f"the text holds {len(names_and_data)} functions, not one")
        name, data = names_and_data[0]
        return cls(data, name=name)

    @property
    def length(self) -> int:
        """Bytes that were recorded, at most 4096."""
        return len(self._data)

    def read(self, offset: int, width: int) -> int:
        """See `ConfigSpace.read`."""
        check_read(offset, width)
        return padded(self._data[offset : offset + width], width)

    def write(self, offset: int, width: int, value: int) -> None:
        """Raises UnsupportedError."""
        raise UnsupportedError("a recorded configuration space cannot be written")


def parse_dumps(text: str) -> list[DumpConfig]:
    """All functions of a text in the format of `lspci -x`, `-xxx` or `-xxxx`.

    A function is a line that names it and lines `10: 01 c0 00 00 ...` of 16 bytes or fewer, with
    offsets that follow on each other. Raises ValueError, with the line's number, for anything
    else.
    """
    return [DumpConfig(data, name=name) for name, data in _blocks(text)]


_BYTES: Final = re.compile(r"([0-9a-f]{2,3}):((?:\s+[0-9a-f]{2}){1,16})\s*", re.IGNORECASE)


def _blocks(text: str) -> Iterator[tuple[str, bytes]]:
    name: str | None = None
    data = bytearray()
    for number, line in enumerate(text.splitlines(), start=1):
        match = _BYTES.fullmatch(line)
        if match is not None:
            if int(match[1], 16) != len(data):
                raise ValueError(
                    f"line {number}: bytes of offset {match[1]} where {len(data):02x} was next"
                )
            data += bytes.fromhex(match[2])
        elif line.strip() and not line[0].isspace():
            if data:
                yield name or "", bytes(data)
            name, data = line.strip(), bytearray()
        elif line.strip() and (name is None or data):
            raise ValueError(f"line {number}: {line.strip()!r} is no line of a dump")
    if data:
        yield name or "", bytes(data)


def format_dump(name: str, data: bytes) -> str:
    """A record in the format that `parse_dumps` reads."""
    digits = 2 if len(data) <= 256 else 3
    lines = [
        f"{start:0{digits if start >= 0x100 else 2}x}: {data[start : start + 16].hex(' ')}"
        for start in range(0, len(data), 16)
    ]
    return "\n".join([name, *lines, ""])
