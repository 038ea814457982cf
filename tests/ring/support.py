"""Rings of both languages over memory of their own, with a puppet device at the other end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from tests.ring.packed_puppet import PackedPuppet
from tests.ring.puppet import PuppetDevice
from vioblk import _native
from vioblk._native import DmaSpace, Region
from vioblk.ring import Chain, Ring, Segment, reference

Language: TypeAlias = Literal["native", "reference"]

DATA_BYTES = 1 << 16
MEMORY_BYTES = 1 << 21
DEVICE_ADDRESS = 0x1_0000_0000


Device = TypeVar("Device", bound=PuppetDevice | PackedPuppet)


@dataclass
class RingBench(Generic[Device]):
    """A ring, the device that it faces, and memory for buffers."""

    space: DmaSpace
    region: Region
    ring: Ring
    device: Device
    data: Region

    def segment(self, offset: int, length: int) -> Segment:
        return (self.data, offset, length)

    def readable(self, *lengths: int) -> Chain:
        """A chain of readable segments of these lengths, one after the other in memory."""
        return self.chain(lengths, ())

    def writable(self, *lengths: int) -> Chain:
        return self.chain((), lengths)

    def chain(self, readable: tuple[int, ...], writable: tuple[int, ...]) -> Chain:
        segments: list[Segment] = []
        offset = 0
        for length in (*readable, *writable):
            segments.append(self.segment(offset, length))
            offset += length
        return Chain(segments[: len(readable)], segments[len(readable) :])

    def address(self, offset: int) -> int:
        """Where the device sees byte `offset` of the data region."""
        return self.data.device_address + offset

    def publish_chains(self, count: int, *, writable_bytes: int = 512) -> list[int]:
        heads = self.ring.push_many([self.writable(writable_bytes)] * count)
        assert len(heads) == count
        self.ring.publish()
        return heads

    def cycle(self, chain_count: int) -> None:
        """Push, publish, use and reap `chain_count` chains, as many at once as fit."""
        chain = self.writable(1)
        while chain_count:
            pushed = self.ring.push_many([chain] * min(chain_count, self.ring.size))
            self.ring.publish()
            self.device.use_all()
            assert len(self.ring.reap()) == len(pushed)
            chain_count -= len(pushed)


class Bench(RingBench[PuppetDevice]):
    """Around a split ring."""


class PackedBench(RingBench[PackedPuppet]):
    """Around a packed ring."""


MakeBench: TypeAlias = Callable[..., Bench]
MakePackedBench: TypeAlias = Callable[..., PackedBench]


def make_bench(
    language: Language,
    size: int = 8,
    *,
    legacy_align: int | None = None,
    indirect_table_size: int = 0,
    event_idx: bool = False,
    strict: bool = False,
) -> Bench:
    """Two calls with the same arguments give memory of the same device addresses."""
    space = DmaSpace()
    space.map(MEMORY_BYTES, DEVICE_ADDRESS)
    queue_class = _native.SplitQueue if language == "native" else reference.SplitQueue
    layout = reference.split_layout(
        size, legacy_align=legacy_align, indirect_table_size=indirect_table_size
    )
    region = space.alloc(layout.length)
    ring = queue_class(
        region,
        size,
        legacy_align=legacy_align,
        indirect_table_size=indirect_table_size,
        event_idx=event_idx,
        strict=strict,
    )
    device = PuppetDevice(
        region, size, legacy_align=legacy_align, indirect_table_size=indirect_table_size
    )
    return Bench(space, region, ring, device, space.alloc(DATA_BYTES))


def make_packed_bench(
    language: Language,
    size: int = 8,
    *,
    indirect_table_size: int = 0,
    event_idx: bool = False,
    strict: bool = False,
) -> PackedBench:
    """Two calls with the same arguments give memory of the same device addresses."""
    space = DmaSpace()
    space.map(MEMORY_BYTES, DEVICE_ADDRESS)
    queue_class = _native.PackedQueue if language == "native" else reference.PackedQueue
    layout = reference.packed_layout(size, indirect_table_size=indirect_table_size)
    region = space.alloc(layout.length)
    ring = queue_class(
        region,
        size,
        indirect_table_size=indirect_table_size,
        event_idx=event_idx,
        strict=strict,
    )
    device = PackedPuppet(region, size, indirect_table_size=indirect_table_size)
    return PackedBench(space, region, ring, device, space.alloc(DATA_BYTES))
