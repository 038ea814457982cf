"""Reading and writing the device configuration space, a whole snapshot at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vioblk.errors import ProtocolError
from vioblk.transport.base import Transport

READ_ATTEMPTS_MAX: Final = 64
"""How often a snapshot is tried before the device is said never to hold still."""


@dataclass(frozen=True)
class ConfigField:
    """One field of a device's configuration structure, little-endian."""

    name: str
    offset: int
    """Bytes."""
    width: int
    """Bytes: 1, 2, 4 or 8."""
    feature: int | None = None
    """The bit that must be offered for the field to exist; None: it always does."""
    after_features_ok: bool = False
    """It may not be read before FEATURES_OK has been set."""
    writable: bool = False
    """The driver may write it, once `feature` has been accepted."""

    def __post_init__(self) -> None:
        if self.width not in (1, 2, 4, 8):
            raise ValueError(f"{self.name}: a field has 1, 2, 4 or 8 bytes, not {self.width}")
        if self.offset < 0 or self.offset % min(self.width, 4):
            raise ValueError(f"{self.name}: offset {self.offset} is not aligned")


def read_snapshot(transport: Transport, fields: Sequence[ConfigField]) -> dict[str, int]:
    """All `fields` as they were at one moment (VIRTIO 1.4, 2.5.1 Driver Requirements).

    The generation is read before and after, and everything again until both agree. The legacy
    interface has no generation: there, until two rounds in a row read the same values. Raises
    ProtocolError if that does not happen in READ_ATTEMPTS_MAX rounds.
    """
    previous: dict[str, int] | None = None
    legacy = transport.legacy_align is not None
    for _ in range(READ_ATTEMPTS_MAX):
        before = transport.config_generation()
        values = {field.name: _read(transport, field) for field in fields}
        steady = transport.config_generation() == before
        if steady and (not legacy or values == previous):
            return values
        previous = values
    names = ", ".join(field.name for field in fields)
    raise ProtocolError(
        f"the configuration changed during each of {READ_ATTEMPTS_MAX} attempts to read {names}; "
        "reset the device"
    )


def write_field(transport: Transport, field: ConfigField, value: int) -> None:
    """Write one field of at most 4 bytes.

    Raises ValueError if `value` does not fit, ProtocolError if the configuration space ends before
    the field does.
    """
    if field.width > 4:
        raise ValueError(f"{field.name}: fields of {field.width} bytes cannot be written")
    if not 0 <= value < 1 << 8 * field.width:
        raise ValueError(f"{field.name}: {value} does not fit in {field.width} bytes")
    try:
        transport.write_config(field.offset, value.to_bytes(field.width, "little"))
    except ValueError as error:
        raise ProtocolError(
            f"the configuration space ends before {field.name}, which its features say is there: "
            f"{error}"
        ) from error


def _read(transport: Transport, field: ConfigField) -> int:
    # No transport promises that 8 bytes are read in one piece (VIRTIO 1.4, 2.5.1).
    if field.width == 8:
        low = _read_bytes(transport, field, field.offset, 4)
        return low | _read_bytes(transport, field, field.offset + 4, 4) << 32
    return _read_bytes(transport, field, field.offset, field.width)


def _read_bytes(transport: Transport, field: ConfigField, offset: int, length_bytes: int) -> int:
    data = transport.read_config(offset, length_bytes)
    if len(data) != length_bytes:
        raise ProtocolError(
            f"the configuration space ends within {field.name}: {len(data)} of {length_bytes} "
            f"bytes at offset {offset}"
        )
    return int.from_bytes(data, "little")
