"""What every source of configuration space checks before it reads or writes."""

from typing import Final

from vioblk.pci.registers import check_value
from vioblk.wording import counted

WIDTHS: Final = (1, 2, 4)
CONVENTIONAL_LENGTH: Final = 256
EXPRESS_LENGTH: Final = 4096


def check_read(offset: int, width: int) -> None:
    """Raises ValueError unless `width` is 1, 2 or 4 and `offset` a multiple of it."""
    if width not in WIDTHS:
        raise ValueError(f"configuration space is accessed by 1, 2 or 4 bytes, not {width}")
    if offset < 0 or offset % width:
        raise ValueError(f"an access of {counted(width, 'byte')} cannot be at offset {offset:#x}")


def check_write(offset: int, width: int, value: int, length: int) -> None:
    """As `check_read`; also what is written has to fit, and to lie in the space."""
    check_read(offset, width)
    check_value(value, width)
    if offset + width > length:
        raise ValueError(f"offset {offset:#x} is beyond the {length} bytes of this space")


def all_ones(width: int) -> int:
    """What a read that nobody answers gives."""
    return (1 << 8 * width) - 1


def padded(data: bytes, width: int) -> int:
    """A little-endian value; bytes that are not there are all ones."""
    return int.from_bytes(data.ljust(width, b"\xff"), "little")
