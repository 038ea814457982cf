"""Batches of request records, and what the statuses say of them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from vioblk.block.request import (
    REQUEST_RECORD,
    SECTOR_BYTES,
    STATUS_PENDING,
    RequestStatus,
    RequestType,
)
from vioblk.errors import RequestFailedError

KIND_NAMES: Final = {
    RequestType.IN: "read",
    RequestType.OUT: "write",
    RequestType.FLUSH: "flush",
    RequestType.GET_ID: "get-id",
    RequestType.DISCARD: "discard",
    RequestType.WRITE_ZEROES: "write-zeroes",
}


class Record(NamedTuple):
    """One request record, unpacked."""

    type: int
    flags: int
    sector: int
    offset: int
    length: int
    region: int
    token: int


def pieces(start: int, length: int, piece: int, align: int = 0) -> Iterator[tuple[int, int]]:
    """Cut `length` bytes from `start` on into (start, length) of at most `piece` bytes.

    With `align`, cuts fall on multiples of it where a piece is long enough to reach one.
    """
    end = start + length
    while start < end:
        stop = min(start + piece, end)
        if align and stop < end and stop // align * align > start:
            stop = stop // align * align
        yield start, stop - start
        start = stop


def transfer_batch(
    kind: RequestType, disk_offset: int, region: int, region_offset: int, length: int, piece: int
) -> bytearray:
    """Records that move `length` bytes between the disk and one region, `piece` bytes each."""
    size = REQUEST_RECORD.size
    batch = bytearray(-(-length // piece) * size)
    at = 0
    for moved in range(0, length, piece):
        sector = (disk_offset + moved) // SECTOR_BYTES
        part = min(piece, length - moved)
        REQUEST_RECORD.pack_into(batch, at, kind, 0, sector, region_offset + moved, part, region, 0)
        at += size
    return batch


def range_batch(kind: RequestType, ranges: Iterable[tuple[int, int]], flags: int = 0) -> bytearray:
    """Records of a discard or write-zeroes, one for each (start, length) in bytes."""
    return bytearray().join(
        REQUEST_RECORD.pack(kind, flags, start // SECTOR_BYTES, 0, length, 0, 0)
        for start, length in ranges
    )


def check_statuses(
    batch: bytearray, statuses: bytearray, explain: Callable[[], str | None] | None = None
) -> None:
    """Raise RequestFailedError for the first request that did not end well.

    `explain`: what else is known of an I/O error, if anything.
    """
    if statuses.count(RequestStatus.OK) == len(statuses):
        return
    index = next(i for i, status in enumerate(statuses) if status != RequestStatus.OK)
    record = Record._make(REQUEST_RECORD.unpack_from(batch, index * REQUEST_RECORD.size))
    what = describe(record)
    if len(statuses) > 1:
        what += " (one of the several requests that the call was split into)"
    why = describe_status(statuses[index])
    cause = explain() if explain and statuses[index] == RequestStatus.IOERR else None
    if cause is not None:
        why += f"; {cause}"
    raise RequestFailedError(f"{what} failed: {why}", statuses[index])


def describe(record: Record) -> str:
    """A request in words, for messages: kind, length and offset in bytes."""
    kind = KIND_NAMES.get(RequestType(record.type), str(record.type))
    if record.type in (RequestType.FLUSH, RequestType.GET_ID):
        return kind
    return f"{kind} of {record.length} bytes at offset {record.sector * SECTOR_BYTES}"


def describe_status(status: int) -> str:
    """What a status byte says (VIRTIO 1.4, 5.2.6 Device Operation)."""
    match status:
        case RequestStatus.IOERR:
            return "the device reports an I/O error (IOERR)"
        case RequestStatus.UNSUPP:
            return "the device does not support the request (UNSUPP)"
        case _ if status == STATUS_PENDING:
            return "the device completed it without writing a status"
        case _:
            return f"the device wrote status {status}, which VIRTIO does not define"
