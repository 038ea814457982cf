"""Request slots in device memory, in pure Python.

A request is a chain of header, data and status (VIRTIO 1.4, 5.2.6 Device Operation). Header and
status of the request with head i lie in slot i of the slots region:

    0   le32 type, le32 reserved, le64 sector               the header
    16  le64 sector, le32 num_sectors, le32 flags           the segment of a discard or write-zeroes
    32  u8 status
"""

from typing import Final

from vioblk._native import Region
from vioblk.block.reference_records import CheckedRequest
from vioblk.block.request import SECTOR_BYTES, STATUS_PENDING, RequestType
from vioblk.ring import Chain, Segment

SLOT_BYTES: Final = 64
"""One cache line per head."""

HEADER_BYTES: Final = 16
SEGMENT_OFFSET: Final = 16
SEGMENT_BYTES: Final = 16
STATUS_OFFSET: Final = 32


class Slots:
    """The request slots in device memory; each word by one access of its own width."""

    def __init__(self, region: Region, size: int) -> None:
        length = SLOT_BYTES * size
        if region.length < length:
            raise ValueError(f"the slots need {length} bytes, their region has {region.length}")
        self._region = region
        memory = memoryview(region)[:length]
        self._by_64: Final = memory.cast("Q")
        self._by_32: Final = memory.cast("I")
        self._by_8: Final = memory.cast("B")

    def write(self, head: int, request: CheckedRequest) -> None:
        """Header and, where the type has one, segment; the status is set to pending."""
        start = SLOT_BYTES * head
        ranged = request.type in (RequestType.DISCARD, RequestType.WRITE_ZEROES)
        self._by_32[start // 4] = request.type
        self._by_32[start // 4 + 1] = 0
        self._by_64[start // 8 + 1] = 0 if ranged else request.sector
        if ranged:
            segment = start + SEGMENT_OFFSET
            self._by_64[segment // 8] = request.sector
            self._by_32[segment // 4 + 2] = request.length // SECTOR_BYTES
            self._by_32[segment // 4 + 3] = request.flags
        self._by_8[start + STATUS_OFFSET] = STATUS_PENDING

    def status(self, head: int) -> int:
        """What the device wrote, or STATUS_PENDING if it wrote nothing."""
        return self._by_8[SLOT_BYTES * head + STATUS_OFFSET]

    def chain(self, head: int, request: CheckedRequest) -> Chain:
        """The request as a chain: header [+ data or segment], [data +] status."""
        header = self._part(head, 0, HEADER_BYTES)
        status = self._part(head, STATUS_OFFSET, 1)
        match request.type:
            case RequestType.OUT:
                return Chain((header, *request.data), (status,))
            case RequestType.DISCARD | RequestType.WRITE_ZEROES:
                segment = self._part(head, SEGMENT_OFFSET, SEGMENT_BYTES)
                return Chain((header, segment), (status,))
            case _:
                return Chain((header,), (*request.data, status))

    def _part(self, head: int, offset: int, length: int) -> Segment:
        return (self._region, SLOT_BYTES * head + offset, length)
