"""What is refused before anything reaches the device."""

from vioblk.block.request import SECTOR_BYTES
from vioblk.errors import (
    BeyondEndError,
    InvalidRequestError,
    ReadOnlyError,
    UnalignedError,
    UnsupportedError,
    ZeroLengthError,
)


def check_range(kind: str, offset: int, length: int, capacity_bytes: int) -> None:
    """Raise unless [offset, offset + length) is a range of whole sectors on the disk.

    ZeroLengthError, UnalignedError, BeyondEndError; InvalidRequestError for negative numbers.
    """
    if length == 0:
        raise ZeroLengthError(f"{kind} of 0 bytes at offset {offset}: ask for at least one sector")
    if offset < 0 or length < 0:
        raise InvalidRequestError(
            f"{kind} of {length} bytes at offset {offset}: neither can be negative"
        )
    for name, value in (("offset", offset), ("length", length)):
        if value % SECTOR_BYTES:
            raise UnalignedError(
                f"{kind} of {length} bytes at offset {offset}: the {name} must be a multiple of "
                f"{SECTOR_BYTES}, and the next {_neighbour(value)}"
            )
    if offset >= capacity_bytes:
        raise BeyondEndError(
            f"{kind} of {length} bytes at offset {offset}: the offset is at or behind the end of "
            f"the disk, which has {capacity_bytes} bytes"
        )
    if offset + length > capacity_bytes:
        raise BeyondEndError(
            f"{kind} of {length} bytes at offset {offset} ends at {offset + length}, and the disk "
            f"at {capacity_bytes}; ask for at most {capacity_bytes - offset} bytes there"
        )


def _neighbour(value: int) -> str:
    """The multiple of a sector to use instead: a lower one, but not 0."""
    lower = value - value % SECTOR_BYTES
    return f"lower one is {lower}" if lower else f"higher one is {SECTOR_BYTES}"


def check_writable(kind: str, *, read_only: bool) -> None:
    """Raise ReadOnlyError on a read-only disk."""
    if read_only:
        raise ReadOnlyError(f"{kind}: the disk is read-only; open one that can be written")


def check_supported(kind: str, max_bytes: int) -> None:
    """Raise UnsupportedError if the device takes no such request (`max_bytes` is 0)."""
    if max_bytes == 0:
        raise UnsupportedError(
            f"{kind}: the device does not offer it, or it was declined; `info.features` says which"
        )
