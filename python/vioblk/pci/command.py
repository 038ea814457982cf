"""The command register: what a function may do (PCI Local Bus 3.0, 6.2.2 Device Control)."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntFlag
from typing import Final

from vioblk.pci.access import ConfigSpace

COMMAND_OFFSET: Final = 0x04


class Command(IntFlag):
    """Bits of the command register that software has a use for."""

    IO = 1
    """Answers I/O accesses to its BARs."""
    MEMORY = 2
    """Answers memory accesses to its BARs."""
    BUS_MASTER = 4
    """May reach memory, and send MSI-X messages."""
    SPECIAL_CYCLES = 8
    MEMORY_WRITE_INVALIDATE = 0x10
    VGA_SNOOP = 0x20
    PARITY_RESPONSE = 0x40
    SERR = 0x100
    FAST_BACK_TO_BACK = 0x200
    INTX_DISABLE = 0x400


DECODING: Final = Command.IO | Command.MEMORY


def read_command(config: ConfigSpace) -> Command:
    """The command register."""
    return Command(config.read(COMMAND_OFFSET, 2))


def write_command(config: ConfigSpace, command: int) -> None:
    """Write the command register.

    16 bits only: the status register beside it has bits that are cleared by writing them.
    """
    config.write(COMMAND_OFFSET, 2, command)


def change_command(config: ConfigSpace, *, set_bits: int = 0, clear_bits: int = 0) -> Command:
    """Set and clear bits, and leave the others; returns the register as it was before."""
    before = read_command(config)
    # As plain numbers: the complement of a flag has none of the bits that have no name here.
    after = (int(before) | set_bits) & ~int(clear_bits)
    if after != before:
        write_command(config, after)
    return before


@contextmanager
def decoding_off(config: ConfigSpace) -> Iterator[None]:
    """While inside, the function answers no access to its BARs; then the register is as before."""
    before = change_command(config, clear_bits=DECODING)
    try:
        yield
    finally:
        if before & DECODING:
            write_command(config, before)
