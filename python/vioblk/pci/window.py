"""The PCI configuration access capability: registers of a BAR without reaching the BAR
(VIRTIO 1.4, 4.1.4.9 PCI configuration access capability).
"""

from collections.abc import Sequence
from threading import Lock
from typing import final

from vioblk.pci.access import ConfigSpace
from vioblk.pci.registers import check_access, check_value
from vioblk.pci.virtio_capabilities import ConfigWindow, Structure
from vioblk.wording import counted


class PciCfgWindow:
    """The window of one function. Thread-safe.

    It is for the structures that other virtio capabilities describe (`structures`) and for nothing
    else (4.1.4.9.1 Driver Requirements: PCI configuration access capability). Each access takes
    four accesses of the configuration space.
    """

    def __init__(
        self, config: ConfigSpace, window: ConfigWindow, structures: Sequence[Structure]
    ) -> None:
        self._config = config
        self._window = window
        self._structures = tuple(structures)
        self._lock = Lock()

    def registers(self, structure: Structure) -> "WindowRegisters":
        """The registers of a structure. Raises ValueError for one that the window is not for."""
        if structure not in self._structures:
            raise ValueError(f"{structure} is none of the structures that the window is for")
        return WindowRegisters(self, structure)

    def read(self, bar: int, offset: int, width: int) -> int:
        """Read `width` bytes of a BAR: 1, 2 or 4, naturally aligned.

        Raises ValueError if they are not, or do not lie within one structure, TransportError.
        """
        self._check(bar, offset, width)
        with self._lock:
            self._aim(bar, offset, width)
            return self._config.read(self._window.data_offset, width)

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        """The same, written. Raises as `read`, and ValueError if `value` does not fit."""
        self._check(bar, offset, width)
        check_value(value, width)
        with self._lock:
            self._aim(bar, offset, width)
            self._config.write(self._window.data_offset, width, value)

    def _check(self, bar: int, offset: int, width: int) -> None:
        check_access(offset, width, 1 << 32)
        for each in self._structures:
            end = each.offset + each.length
            if each.bar == bar and each.offset <= offset and offset + width <= end:
                return
        raise ValueError(
            f"an access of {counted(width, 'byte')} at offset {offset:#x} of BAR {bar} does not "
            "lie within a virtio structure, and the window is for these only"
        )

    def _aim(self, bar: int, offset: int, width: int) -> None:
        # The length before the offset, which has to be a multiple of it.
        self._config.write(self._window.bar_offset, 1, bar)
        self._config.write(self._window.length_offset, 4, width)
        self._config.write(self._window.offset_offset, 4, offset)


@final
class WindowRegisters:
    """`Registers` of one structure, reached through the window."""

    def __init__(self, window: PciCfgWindow, structure: Structure) -> None:
        self._window = window
        self._bar = structure.bar
        self._offset = structure.offset
        self._length = structure.length

    @property
    def length(self) -> int:
        """Bytes."""
        return self._length

    def read(self, offset: int, width: int) -> int:
        """As `Registers.read`."""
        check_access(offset, width, self._length)
        return self._window.read(self._bar, self._offset + offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        """As `Registers.write`."""
        check_access(offset, width, self._length)
        self._window.write(self._bar, self._offset + offset, width, value)
