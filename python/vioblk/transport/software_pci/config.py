"""A configuration space that is modelled in this process."""

from collections.abc import Iterator
from threading import RLock
from typing import Final

from vioblk._native import PciFace
from vioblk.pci.capabilities import MSIX, VENDOR
from vioblk.pci.command import COMMAND_OFFSET, Command
from vioblk.pci.sources.exact import all_ones, check_read, check_write, padded
from vioblk.pci.virtio_capabilities import StructureType
from vioblk.transport.software_pci.description import FACE_BAR, ConfigImage

VIOLATIONS_MAX: Final = 64

_STATUS_OFFSET: Final = 0x06
_INTERRUPT_STATUS: Final = 0x08

_WINDOW_BAR: Final = 4
_WINDOW_OFFSET: Final = 8
_WINDOW_LENGTH: Final = 12
_WINDOW_DATA: Final = 16

_MSIX_CONTROL: Final = 2
_MSIX_ENABLE: Final = 0x8000
_MSIX_MASK: Final = 0x4000


class ModelledConfig:
    """The configuration space of the function whose registers `face` is. Thread-safe.

    What is written takes effect as in hardware: the command register and the control of MSI-X on
    the face, pci_cfg_data on the registers that its window points at. What may not be written
    keeps its value. `violations` has the first VIOLATIONS_MAX things that a driver did and may not
    do, in words; `access_count` counts every access, those of a function that was removed too.
    """

    def __init__(self, image: ConfigImage, face: PciFace) -> None:
        self.violations: list[str] = []
        self.access_count = 0
        self._face = face
        self._bar = face.window
        self._data = bytearray(image.data)
        self._writable = image.writable
        self._entries = image.entries
        self._window = self._find(VENDOR, StructureType.PCI_CFG)
        self._msix = self._find(MSIX)
        self._lock = RLock()
        self._apply_command()

    def _find(self, capability_id: int, cfg_type: int | None = None) -> int | None:
        """Where the first entry of a kind stands, if all of it lies in the space."""
        for offset, entry in self._entries.items():
            content = entry.content
            if content[0] == capability_id and (cfg_type is None or content[2] == cfg_type):
                return offset if offset + len(content) < len(self._data) else None
        return None

    @property
    def length(self) -> int:
        """Bytes that can be read."""
        return len(self._data)

    def read(self, offset: int, width: int) -> int:
        """See `ConfigSpace.read`."""
        check_read(offset, width)
        with self._lock:
            self.access_count += 1
            if self._face.removed:
                return all_ones(width)
            if self._reaches_window_data(offset, width):
                return self._read_window(offset, width)
            data = self._data[offset : offset + width]
            if offset <= _STATUS_OFFSET < offset + width and self._face.interrupt_status:
                data[_STATUS_OFFSET - offset] |= _INTERRUPT_STATUS
            return padded(bytes(data), width)

    def write(self, offset: int, width: int, value: int) -> None:
        """See `ConfigSpace.write`."""
        check_write(offset, width, value, self.length)
        with self._lock:
            self.access_count += 1
            if self._face.removed:
                return
            self._judge_write(offset, width)
            self._store(offset, width, value)
            if self._reaches_window_data(offset, width):
                self._write_window(offset, width, value)
            if offset <= COMMAND_OFFSET + 1 and offset + width > COMMAND_OFFSET:
                self._apply_command()
            if self._msix is not None and self._overlaps(
                offset, width, self._msix + _MSIX_CONTROL, 2
            ):
                self._apply_msix(self._msix)

    @staticmethod
    def _overlaps(offset: int, width: int, start: int, length: int) -> bool:
        return offset < start + length and offset + width > start

    def _store(self, offset: int, width: int, value: int) -> None:
        for at, new in enumerate(value.to_bytes(width, "little"), start=offset):
            mask = self._writable[at]
            self._data[at] = self._data[at] & ~mask | new & mask

    def _number(self, offset: int, width: int) -> int:
        return int.from_bytes(self._data[offset : offset + width], "little")

    # What a driver may not do

    def _judge_write(self, offset: int, width: int) -> None:
        """A driver writes to no virtio capability but the window (VIRTIO 1.4, 4.1.4.1)."""
        for start, entry in self._entries.items():
            if entry.content[0] != VENDOR or not self._overlaps(
                offset, width, start, len(entry.content) + 1
            ):
                continue
            if not all(self._writable[at] for at in range(offset, offset + width)):
                self._object(
                    f"a write of {width} bytes at {offset:#x}, in the capability at {start:#x}, "
                    "which is read-only"
                )

    def _object(self, violation: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(violation)

    # What takes effect elsewhere

    def _apply_command(self) -> None:
        command = Command(self._number(COMMAND_OFFSET, 2))
        self._face.set_command(
            memory=bool(command & Command.MEMORY),
            bus_master=bool(command & Command.BUS_MASTER),
            intx_disabled=bool(command & Command.INTX_DISABLE),
        )

    def _apply_msix(self, start: int) -> None:
        control = self._number(start + _MSIX_CONTROL, 2)
        self._face.set_msix(enabled=bool(control & _MSIX_ENABLE), masked=bool(control & _MSIX_MASK))

    # The window

    def _reaches_window_data(self, offset: int, width: int) -> bool:
        start = self._window
        return start is not None and self._overlaps(offset, width, start + _WINDOW_DATA, 4)

    def _read_window(self, offset: int, width: int) -> int:
        place = self._aim(offset, width)
        return all_ones(width) if place is None else self._bar.read(place, width)

    def _write_window(self, offset: int, width: int, value: int) -> None:
        place = self._aim(offset, width)
        if place is not None:
            self._bar.write(place, width, value)

    def _aim(self, offset: int, width: int) -> int | None:
        """Where in the BAR an access of pci_cfg_data goes; None for one that may not be made
        (VIRTIO 1.4, 4.1.4.9.1 Driver Requirements: PCI configuration access capability)."""
        start = self._window
        assert start is not None, "there is a window, as its data was reached"
        bar = self._data[start + _WINDOW_BAR]
        place = self._number(start + _WINDOW_OFFSET, 4)
        length = self._number(start + _WINDOW_LENGTH, 4)
        why = None
        if offset != start + _WINDOW_DATA or width != length:
            why = f"{width} bytes at {offset:#x} are not the {length} bytes that it was set to"
        elif place % length:
            why = f"offset {place:#x} is no multiple of {length}"
        elif not any(
            bar == its_bar and begin <= place and place + length <= end
            for its_bar, begin, end in self._regions()
        ):
            why = f"{length} bytes at {place:#x} of BAR {bar} lie in no virtio structure"
        if why is None and bar == FACE_BAR and place + length <= self._bar.length:
            return place
        self._object(f"pci_cfg_data was accessed, but {why or 'nothing is there'}")
        return None

    def _regions(self) -> Iterator[tuple[int, int, int]]:
        """(BAR, start, end) of each structure that a capability describes."""
        for start, entry in self._entries.items():
            if entry.content[0] == VENDOR and entry.content[2] != StructureType.PCI_CFG:
                place = self._number(start + _WINDOW_OFFSET, 4)
                length = self._number(start + _WINDOW_LENGTH, 4)
                yield self._data[start + _WINDOW_BAR], place, place + length
