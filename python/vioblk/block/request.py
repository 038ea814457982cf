"""Request and completion records: what crosses to the request queue, packed, many at a time.

A batch is one contiguous buffer of records, little-endian, without padding; `array`, `struct`,
or a numpy structured array of dtype `REQUEST_DTYPE` all make one.
"""

from enum import IntEnum
from struct import Struct
from typing import Final

SECTOR_BYTES: Final = 512
"""Always, whatever the logical block size of the disk (VIRTIO 1.4, 5.2.4)."""

ID_BYTES: Final = 20
"""Length of the serial number (VIRTIO 1.4, 5.2.6 Device Operation)."""


class RequestType(IntEnum):
    """`type` of struct virtio_blk_req (VIRTIO 1.4, 5.2.6 Device Operation)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class RequestStatus(IntEnum):
    """`status` of struct virtio_blk_req (VIRTIO 1.4, 5.2.6 Device Operation)."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


STATUS_PENDING: Final = 0xFF
"""What a status byte holds until the device writes it; no status of the specification."""

UNMAP: Final = 1
"""Flag of a WRITE_ZEROES record: the device may deallocate the sectors."""

REQUEST_RECORD: Final = Struct("<IIQQIIQ")
"""type, flags, sector, offset, length, region, token: 40 bytes.

- IN, OUT: `length` bytes (a multiple of 512) at `offset` of the region whose handle is `region`.
- GET_ID: the same with a length of exactly 20 and sector 0.
- DISCARD, WRITE_ZEROES: `length` bytes of the disk (a multiple of 512) from `sector` on; region
  and offset are 0. The segment itself is built by the queue.
- FLUSH: everything but type and token is 0.

`flags` is 0 or, for WRITE_ZEROES, UNMAP. `token` is the caller's own and comes back.
"""

COMPLETION_RECORD: Final = Struct("<QII")
"""token, written_bytes (data bytes that the device says it wrote, status excluded), status."""

REQUEST_DTYPE: Final = [
    ("type", "<u4"),
    ("flags", "<u4"),
    ("sector", "<u8"),
    ("offset", "<u8"),
    ("length", "<u4"),
    ("region", "<u4"),
    ("token", "<u8"),
]
"""REQUEST_RECORD as numpy.dtype takes it."""

COMPLETION_DTYPE: Final = [("token", "<u8"), ("written_bytes", "<u4"), ("status", "<u4")]
"""COMPLETION_RECORD as numpy.dtype takes it."""
