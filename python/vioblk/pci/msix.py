"""The MSI-X table of a function: where each vector's message goes
(PCI Local Bus 3.0, 6.8.2 MSI-X Capability and Table Structures).
"""

from threading import Lock
from typing import Final

from vioblk.errors import ProtocolError
from vioblk.pci.access import ConfigSpace, Registers
from vioblk.pci.capabilities import MsixCapability
from vioblk.pci.registers import RegisterPart

ENTRY_LENGTH: Final = 16
ENTRY_ADDRESS: Final = 0
ENTRY_ADDRESS_HIGH: Final = 4
ENTRY_DATA: Final = 8
ENTRY_CONTROL: Final = 12

ENTRY_MASKED: Final = 1
"""Bit of an entry's control word; the others are reserved and kept as they are."""

CONTROL_ENABLE: Final = 0x8000
CONTROL_FUNCTION_MASK: Final = 0x4000
"""Bits of the message control register."""


class MsixTable:
    """Table and pending bits of one function. Thread-safe.

    `table_bar` and `pending_bar`: the BARs that the capability names. Raises ProtocolError if they
    are too short for what it says.
    """

    def __init__(
        self,
        config: ConfigSpace,
        capability: MsixCapability,
        table_bar: Registers,
        pending_bar: Registers,
    ) -> None:
        self._config = config
        self._control_offset = capability.control_offset
        self._count = capability.vector_count
        self._table = _part(table_bar, "table", capability.table_offset, ENTRY_LENGTH * self._count)
        # 64 pending bits to each 8 bytes.
        pending_length = (self._count + 63) // 64 * 8
        self._pending = _part(
            pending_bar, "pending bits", capability.pending_offset, pending_length
        )
        self._lock = Lock()
        """Held while a word is read, changed and written."""

    @property
    def vector_count(self) -> int:
        """Entries of the table, 1 to 2048."""
        return self._count

    def program(self, vector: int, address: int, data: int, *, masked: bool = False) -> None:
        """Let `vector` write the 32-bit `data` to `address` (64 bits, a multiple of 4).

        The entry is masked while it is being changed. Raises ValueError.
        """
        entry = self._entry(vector)
        if not 0 <= address < 1 << 64 or address % 4:
            raise ValueError(f"{address:#x} is no multiple of 4 of 64 bits")
        if not 0 <= data < 1 << 32:
            raise ValueError(f"{data:#x} does not fit in 4 bytes")
        self.mask(vector)
        self._table.write(entry + ENTRY_ADDRESS, 4, address & 0xFFFF_FFFF)
        self._table.write(entry + ENTRY_ADDRESS_HIGH, 4, address >> 32)
        self._table.write(entry + ENTRY_DATA, 4, data)
        if not masked:
            self.unmask(vector)

    def mask(self, vector: int) -> None:
        """Hold the vector's message back, as a pending bit. Raises ValueError."""
        self._change_entry(vector, ENTRY_MASKED)

    def unmask(self, vector: int) -> None:
        """Let the vector's message through, the one that is pending too. Raises ValueError."""
        self._change_entry(vector, 0)

    def _change_entry(self, vector: int, masked: int) -> None:
        offset = self._entry(vector) + ENTRY_CONTROL
        with self._lock:
            control = self._table.read(offset, 4)
            self._table.write(offset, 4, control & ~ENTRY_MASKED | masked)

    def pending(self, vector: int) -> bool:
        """Whether a message of `vector` is held back. Raises ValueError."""
        self._entry(vector)
        return bool(self._pending.read(vector // 32 * 4, 4) >> vector % 32 & 1)

    def _entry(self, vector: int) -> int:
        if not 0 <= vector < self._count:
            raise ValueError(f"there is no vector {vector}: the table has {self._count}")
        return ENTRY_LENGTH * vector

    @property
    def enabled(self) -> bool:
        """MSI-X is on, so INTx is not used."""
        return bool(self._config.read(self._control_offset, 2) & CONTROL_ENABLE)

    def enable(self) -> None:
        """Switch MSI-X on, and the mask of the whole function off."""
        self._change_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK, CONTROL_ENABLE)

    def disable(self) -> None:
        """Switch MSI-X off: the function falls back to INTx."""
        self._change_control(CONTROL_ENABLE, 0)

    def set_function_mask(self, masked: bool) -> None:
        """Hold the messages of all vectors back, or let each vector's own mask decide."""
        self._change_control(CONTROL_FUNCTION_MASK, CONTROL_FUNCTION_MASK if masked else 0)

    def _change_control(self, bits: int, value: int) -> None:
        with self._lock:
            control = self._config.read(self._control_offset, 2)
            self._config.write(self._control_offset, 2, control & ~bits | value)


def _part(bar: Registers, what: str, offset: int, length: int) -> RegisterPart:
    try:
        return RegisterPart(bar, offset, length)
    except ValueError as error:
        raise ProtocolError(f"the MSI-X {what} cannot be where the device says: {error}") from None
