"""How much one request may ask for, worked out from the configuration and the queue."""

from dataclasses import dataclass
from typing import Final, Self

from vioblk._native import BlockLimits
from vioblk.block.config import BlockConfig
from vioblk.block.features import BlockFeature
from vioblk.block.request import SECTOR_BYTES, RequestType
from vioblk.errors import NegotiationError
from vioblk.features import FeatureSet

MAX_REQUEST_BYTES: Final = 1 << 20
"""Longer transfers are split even where the device states no limit, so that the parts run side
by side and no request holds much."""

MAX_RECORD_BYTES: Final = 0xFFFF_FFFF // SECTOR_BYTES * SECTOR_BYTES
"""The longest range that a request record can name."""

OVERHEAD_DESCRIPTORS: Final = 2
"""Header and status of a request, beside its data (VIRTIO 1.4, 5.2.6 Device Operation)."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """The limits that requests are held to. Longer calls are split along them."""

    request_bytes: int
    """Data in one read or write request."""
    segment_bytes: int
    """Data in one segment (descriptor) of a request; 0: no limit."""
    segments: int
    """Data segments in one request."""
    discard_bytes: int
    """Of the disk in one discard request; 0: discard is not available."""
    discard_alignment_bytes: int
    """Where a long discard is split."""
    write_zeroes_bytes: int
    """Of the disk in one write-zeroes request; 0: write-zeroes is not available."""

    @property
    def descriptors(self) -> int:
        """In the longest chain."""
        return self.segments + OVERHEAD_DESCRIPTORS


def disk_limits(config: BlockConfig, queue_size: int) -> DiskLimits:
    """The limits of requests on queues of `queue_size` descriptors.

    Without SEG_MAX one segment is used; header and status count towards the queue size, not
    towards seg_max. Raises NegotiationError if not even one sector fits.
    """
    segment_bytes = config.size_max or 0
    room = queue_size - OVERHEAD_DESCRIPTORS
    if room < 1:
        raise NegotiationError(
            f"a queue of {queue_size} descriptors cannot hold a request, which takes three; "
            f"use a ring size of 4 or more"
        )
    segments = _segments(config, room)
    request_bytes = MAX_REQUEST_BYTES
    if segment_bytes:
        request_bytes = min(request_bytes, segment_bytes * segments) // SECTOR_BYTES * SECTOR_BYTES
    if request_bytes == 0:
        raise NegotiationError(
            f"size_max {segment_bytes} with {segments} segments is less than one sector of "
            f"{SECTOR_BYTES} bytes; decline the feature size_max, or mend the device"
        )
    discard, zeroes = config.discard, config.write_zeroes
    return DiskLimits(
        request_bytes=request_bytes,
        segment_bytes=segment_bytes,
        segments=segments,
        discard_bytes=_range_bytes(discard.max_sectors, discard.max_seg) if discard else 0,
        discard_alignment_bytes=(discard.sector_alignment if discard else 0) * SECTOR_BYTES,
        write_zeroes_bytes=_range_bytes(zeroes.max_sectors, zeroes.max_seg) if zeroes else 0,
    )


@dataclass(frozen=True, slots=True)
class RequestFeatures:
    """What the negotiation means for requests."""

    read_only: bool
    """RO was offered: the device fails writes whether or not the driver accepted the bit
    (VIRTIO 1.4, 5.2.6.2)."""
    flush: bool

    @classmethod
    def of(cls, offered: FeatureSet, accepted: FeatureSet) -> Self:
        """From the two sides of a negotiation."""
        return cls(read_only=BlockFeature.RO in offered, flush=BlockFeature.FLUSH in accepted)


def queue_limits(
    limits: DiskLimits, config: BlockConfig, features: "RequestFeatures"
) -> BlockLimits:
    """The same as the queues check every record against it."""
    return BlockLimits(
        capacity_sectors=config.capacity_sectors,
        request_types=request_types(limits, features),
        read_only=features.read_only,
        size_max=limits.segment_bytes,
        seg_max=limits.segments,
        max_discard_sectors=limits.discard_bytes // SECTOR_BYTES,
        max_write_zeroes_sectors=limits.write_zeroes_bytes // SECTOR_BYTES,
    )


def request_types(limits: DiskLimits, features: RequestFeatures) -> frozenset[int]:
    """The types of request that may be sent: only negotiated ones (VIRTIO 1.4, 5.2.3)."""
    types: set[int] = {RequestType.IN, RequestType.OUT, RequestType.GET_ID}
    if features.flush:
        types.add(RequestType.FLUSH)
    if limits.discard_bytes:
        types.add(RequestType.DISCARD)
    if limits.write_zeroes_bytes:
        types.add(RequestType.WRITE_ZEROES)
    return frozenset(types)


def _segments(config: BlockConfig, room: int) -> int:
    if not config.size_max:
        return 1  # a request's data is contiguous for the device, so one segment holds it all
    enough = -(-MAX_REQUEST_BYTES // config.size_max)
    return min(max(config.seg_max or 1, 1), room, enough)


def _range_bytes(max_sectors: int, max_seg: int) -> int:
    """0 max_sectors: no limit is stated. 0 max_seg: not one segment may be sent."""
    if max_seg == 0:
        return 0
    return min(max_sectors * SECTOR_BYTES or MAX_RECORD_BYTES, MAX_RECORD_BYTES)
