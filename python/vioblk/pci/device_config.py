"""The device configuration as both register layouts reach it: a run of registers."""

from vioblk.pci.access import Registers
from vioblk.wording import counted

FIELD_WIDTHS = (1, 2, 4, 8)


class DeviceConfigRegisters:
    """Reads and writes one field at a time, each access of the field's own width.

    Fields of 8 bytes are two accesses of 4, the lower half first (VIRTIO 1.4, 4.1.3.1 Driver
    Requirements: PCI Device Layout).
    """

    def __init__(self, registers: Registers | None) -> None:
        self._registers = registers

    @property
    def length(self) -> int:
        """Bytes; 0 if the device has no configuration of its own."""
        return 0 if self._registers is None else self._registers.length

    def read(self, offset: int, length_bytes: int) -> bytes:
        """One field; nothing if it does not lie wholly within the configuration.

        Raises ValueError unless it is one naturally aligned field.
        """
        _check_field(offset, length_bytes)
        registers = self._registers
        if registers is None or offset + length_bytes > registers.length:
            return b""
        width = min(length_bytes, 4)
        return b"".join(
            registers.read(at, width).to_bytes(width, "little")
            for at in range(offset, offset + length_bytes, width)
        )

    def write(self, offset: int, data: bytes) -> None:
        """One field. Raises ValueError as `read` does, and if it is not within."""
        _check_field(offset, len(data))
        registers = self._registers
        if registers is None or offset + len(data) > registers.length:
            raise ValueError(
                f"a field of {counted(len(data), 'byte')} at offset {offset:#x} cannot be written: "
                f"the device configuration has {counted(self.length, 'byte')}"
            )
        width = min(len(data), 4)
        for at in range(0, len(data), width):
            value = int.from_bytes(data[at : at + width], "little")
            registers.write(offset + at, width, value)


def _check_field(offset: int, length_bytes: int) -> None:
    if length_bytes not in FIELD_WIDTHS:
        raise ValueError(f"a field has 1, 2, 4 or 8 bytes, not {length_bytes}")
    if offset < 0 or offset % min(length_bytes, 4):
        raise ValueError(
            f"a field of {counted(length_bytes, 'byte')} at offset {offset:#x} is not aligned"
        )
