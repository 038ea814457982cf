"""Chains before they are written: what both formats check, and remember, of one."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from vioblk._native import Region
from vioblk.errors import ChainTooLong
from vioblk.ring import Chain, Segment
from vioblk.ring.raw.words import WRITE

CHAIN_BYTES_MAX: Final = 1 << 32
"""The largest total length of a chain (VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor Table)."""

LENGTH_MAX: Final = 0xFFFF_FFFF
"""The largest length that a descriptor, or a used element, can say."""

_INDEX_MASK: Final = 0xFFFF


def event_passed(old_index: int, new_index: int, event_index: int) -> bool:
    """Whether moving an index from `old_index` to `new_index` passes the event.

    The side that waits asked to be notified of the entry `event_index`; the entries that have
    become visible are `old_index` to `new_index` - 1. The arithmetic is modulo 65536, so the test
    holds over the wrap of the indices too (VIRTIO 1.4, 2.7.10 Available Buffer Notification
    Suppression, with a batch in the place of a single entry).
    """
    new_entries = (new_index - old_index) & _INDEX_MASK
    entries_since_event = (new_index - event_index - 1) & _INDEX_MASK
    return entries_since_event < new_entries


class Part(NamedTuple):
    """A segment that has been validated, as a descriptor will say it."""

    address: int
    length: int
    write_flag: int


class Plan(NamedTuple):
    """A chain that has been validated; nothing is allocated or written for it yet."""

    parts: list[Part]
    writable_bytes: int
    regions: list[Region]

    def is_indirect(self, table_size: int) -> bool:
        """One segment gains nothing from a table; and a table has its limit."""
        return 1 < len(self.parts) <= table_size

    def descriptors_needed(self, table_size: int) -> int:
        """Descriptors that it takes in the ring."""
        return 1 if self.is_indirect(table_size) else len(self.parts)

    def pin(self) -> list[memoryview]:
        """An export of each region: while there is one, closing it raises BufferError."""
        return [memoryview(region) for region in self.regions]


def plan_of(chain: Chain, size: int) -> Plan:
    """Check a chain against everything that does not depend on what is free."""
    readable, writable = chain
    parts = _parts_of(readable, 0)
    writable_parts = _parts_of(writable, WRITE)
    parts += writable_parts
    if not parts:
        raise ValueError("the chain is empty: it needs at least one segment")
    total_bytes = sum(part.length for part in parts)
    if total_bytes > CHAIN_BYTES_MAX:
        raise ChainTooLong(
            f"the chain has {total_bytes} bytes, the ring takes at most {CHAIN_BYTES_MAX}"
        )
    if len(parts) > size:
        raise ChainTooLong(f"the chain has {len(parts)} segments, the queue size is {size}")
    regions = [segment[0] for segment in (*readable, *writable)]
    return Plan(parts, sum(part.length for part in writable_parts), regions)


def release(pins: list[memoryview]) -> None:
    """Let go of what `Plan.pin` held."""
    for pin in pins:
        pin.release()


def _parts_of(segments: Sequence[Segment], write_flag: int) -> list[Part]:
    return [_part_of(segment, write_flag) for segment in segments]


def _part_of(segment: Segment, write_flag: int) -> Part:
    """Check one segment and say it as the device sees it."""
    region, offset, length = segment
    if region.closed:
        raise BufferError("a segment's region is closed")
    if length < 1:
        raise ValueError(f"a segment of {length} bytes: it needs at least one")
    if offset < 0 or offset + length > region.length:
        raise ValueError(
            f"segment of {length} bytes at offset {offset}"
            f" is not inside its region of {region.length} bytes"
        )
    if length > LENGTH_MAX:
        raise ValueError(f"a segment of {length} bytes: one descriptor takes up to {LENGTH_MAX}")
    return Part(region.device_address + offset, length, write_flag)
