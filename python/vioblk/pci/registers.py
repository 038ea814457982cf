"""A part of a BAR, so that what is used for one structure reaches nothing beyond it."""

from typing import final

from vioblk.pci.access import Registers
from vioblk.wording import counted


def check_access(offset: int, width: int, length: int) -> None:
    """Raise ValueError unless an access is of 1, 2 or 4 bytes, aligned, and within `length`."""
    if width not in (1, 2, 4):
        raise ValueError(f"a register is read or written with 1, 2 or 4 bytes, not {width}")
    if offset % width:
        raise ValueError(f"an access of {width} bytes at offset {offset:#x} is not aligned")
    if not 0 <= offset <= length - width:
        raise ValueError(
            f"an access of {counted(width, 'byte')} at offset {offset:#x} is beyond the "
            f"{counted(length, 'byte')} there"
        )


def check_value(value: int, width: int) -> None:
    """Raise ValueError unless `value` fits in `width` bytes."""
    if not 0 <= value < 1 << 8 * width:
        raise ValueError(f"{value:#x} does not fit in {counted(width, 'byte')}")


@final
class RegisterPart:
    """`length` bytes of `registers` from `offset` on, as registers of their own.

    Raises ValueError if they do not lie within `registers`. What is aligned in the part has to be
    aligned in the whole as well; else an access raises ValueError.
    """

    def __init__(self, registers: Registers, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > registers.length:
            raise ValueError(
                f"{length} bytes at offset {offset:#x} do not lie within the "
                f"{counted(registers.length, 'byte')} there"
            )
        self._registers = registers
        self._offset = offset
        self._length = length

    @property
    def length(self) -> int:
        """Bytes."""
        return self._length

    def read(self, offset: int, width: int) -> int:
        """As `Registers.read`."""
        check_access(offset, width, self._length)
        return self._registers.read(self._offset + offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        """As `Registers.write`."""
        check_access(offset, width, self._length)
        self._registers.write(self._offset + offset, width, value)
