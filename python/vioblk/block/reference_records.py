"""Request records in pure Python: unpacked, checked against the limits, laid out as segments.

The rules, their order, and the exceptions are those of the Rust queue, and the tests compare the
two. Nothing reaches the ring unless all records of a batch have passed.
"""

from typing import Final, NamedTuple, NoReturn

from vioblk._native import BlockLimits, DmaSpace, Region
from vioblk.block.request import ID_BYTES, REQUEST_RECORD, SECTOR_BYTES, UNMAP, RequestType
from vioblk.compat import Buffer
from vioblk.errors import (
    BeyondEndError,
    InvalidRequestError,
    ReadOnlyError,
    RequestTooLongError,
    UnalignedError,
    UnsupportedError,
    ZeroLengthError,
)
from vioblk.ring import Segment

_RANGE_TYPES: Final = frozenset({RequestType.DISCARD, RequestType.WRITE_ZEROES})
_WRITING_TYPES: Final = _RANGE_TYPES | {RequestType.OUT}


class CheckedRequest(NamedTuple):
    """A record that passed, and what its data looks like in memory."""

    type: int
    flags: int
    sector: int
    length: int
    token: int
    data: tuple[Segment, ...]
    """In the caller's region; empty for types that move no data of the caller's."""


class _Record(NamedTuple):
    type: int
    flags: int
    sector: int
    offset: int
    length: int
    region: int
    token: int


def record_count(records: bytes) -> int:
    """How many REQUEST_RECORDs these are. Raises ValueError if it is not a whole number."""
    if len(records) % REQUEST_RECORD.size:
        raise ValueError(
            f"{len(records)} bytes are not a whole number of records of {REQUEST_RECORD.size} bytes"
        )
    return len(records) // REQUEST_RECORD.size


def check_requests(
    requests: Buffer, limits: BlockLimits, space: DmaSpace, segments_max: int, first: int = 0
) -> list[CheckedRequest]:
    """Copy and check a packed array of REQUEST_RECORDs, from record `first` on.

    `segments_max`: data segments that a request may have. Raises ValueError if it is not a whole
    number of records, InvalidRequestError (its subclass says why, its message which record),
    BufferError for a region that is not open.
    """
    with memoryview(requests) as view:
        records = view.tobytes()
    record_count(records)
    return [
        _Check(index, _Record(*fields), limits, space, segments_max).checked()
        for index, fields in enumerate(REQUEST_RECORD.iter_unpack(records))
        if index >= first
    ]


class _Check(NamedTuple):
    """One record, and what it is held to."""

    position: int
    record: _Record
    limits: BlockLimits
    space: DmaSpace
    segments_max: int

    def checked(self) -> CheckedRequest:
        record = self.record
        self._type_is_permitted()
        match record.type:
            case RequestType.IN | RequestType.OUT:
                self._range_is_permitted(self._data_limit_bytes())
            case RequestType.DISCARD:
                self._must_be_zero("region", "offset")
                self._range_is_permitted(self.limits.max_discard_sectors * SECTOR_BYTES)
            case RequestType.WRITE_ZEROES:
                self._must_be_zero("region", "offset")
                self._range_is_permitted(self.limits.max_write_zeroes_sectors * SECTOR_BYTES)
            case RequestType.GET_ID:
                self._must_be("sector", record.sector, 0)
                self._must_be("length", record.length, ID_BYTES)
                self._length_is_permitted(self._data_limit_bytes())
            case _:
                self._must_be_zero("region", "offset", "sector", "length")
        data = () if record.type in _RANGE_TYPES or not record.length else self._data_segments()
        return CheckedRequest(
            record.type, record.flags, record.sector, record.length, record.token, data
        )

    def _type_is_permitted(self) -> None:
        record = self.record
        if record.type not in self.limits.request_types:
            self._refuse(
                UnsupportedError,
                f"type {record.type} is unknown, or the feature that it needs was not negotiated",
            )
        flags = record.flags & UNMAP if record.type == RequestType.WRITE_ZEROES else 0
        self._must_be("flags", record.flags, flags)

    def _range_is_permitted(self, limit_bytes: int) -> None:
        """`length` bytes of the disk from `sector` on; `limit_bytes` 0: no limit."""
        record, capacity = self.record, self.limits.capacity_sectors
        if record.type in _WRITING_TYPES and self.limits.read_only:
            self._refuse(ReadOnlyError, "the disk is read-only")
        if not record.length:
            self._refuse(ZeroLengthError, "length 0: a request needs at least one sector")
        if record.length % SECTOR_BYTES:
            self._refuse(
                UnalignedError,
                f"length {record.length} is not a multiple of the sector size, 512 bytes",
            )
        if record.sector + record.length // SECTOR_BYTES > capacity:
            self._refuse(
                BeyondEndError,
                f"{record.length} bytes from sector {record.sector} reach past the end of"
                f" the disk, which has {capacity} sectors",
            )
        self._length_is_permitted(limit_bytes)

    def _length_is_permitted(self, limit_bytes: int) -> None:
        if limit_bytes and self.record.length > limit_bytes:
            self._refuse(
                RequestTooLongError,
                f"{self.record.length} bytes are more than the {limit_bytes} that the device takes"
                " in one request; split it",
            )

    def _data_limit_bytes(self) -> int:
        return self.limits.size_max * self.segments_max

    def _data_segments(self) -> tuple[Segment, ...]:
        """The data, cut into segments of at most size_max bytes."""
        record = self.record
        region = self._open_region()
        if record.offset + record.length > region.length:
            self._refuse(
                InvalidRequestError,
                f"{record.length} bytes at offset {record.offset}"
                f" are not inside the region of {region.length} bytes",
            )
        piece = self.limits.size_max or record.length
        return tuple(
            (region, record.offset + start, min(piece, record.length - start))
            for start in range(0, record.length, piece)
        )

    def _open_region(self) -> Region:
        try:
            return self.space.region(self.record.region)
        except KeyError:
            self._refuse(BufferError, f"no open region has the handle {self.record.region}")

    def _must_be_zero(self, *names: str) -> None:
        for name in names:
            self._must_be(name, getattr(self.record, name), 0)

    def _must_be(self, name: str, value: int, expected: int) -> None:
        if value != expected:
            self._refuse(
                InvalidRequestError, f"{name} is {value}, but must be {expected} for this type"
            )

    def _refuse(self, error: type[Exception], why: str) -> NoReturn:
        raise error(f"request {self.position}: {why}")
