"""Rings of both languages over memory of their own, with a puppet device at the other end."""

from dataclasses import dataclass
from typing import Any, Generic, TypeAlias

from tests.ring.formats import Device, Format, Language
from tests.ring.packed_puppet import PackedPuppet
from tests.ring.puppet import Part, Puppet
from tests.ring.split_puppet import SplitPuppet
from vioblk._native import DmaSpace, Region
from vioblk.ring import Chain, Completion, Ring, Segment

DATA_BYTES = 1 << 16
MEMORY_BYTES = 1 << 21
DEVICE_ADDRESS = 0x1_0000_0000


@dataclass
class Bench(Generic[Device]):
    """A ring, the device that it faces, and memory for buffers."""

    format: Format[Device]
    space: DmaSpace
    region: Region
    ring: Ring
    device: Device
    data: Region

    @property
    def size(self) -> int:
        """Descriptors in the ring."""
        return self.ring.size

    # -- Chains ------------------------------------------------------------------------------

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

    # -- The driver and the device, a few steps at once ----------------------------------------

    def publish_chains(self, count: int, *, writable_bytes: int = 512) -> list[int]:
        """Publish chains of one segment, and have the device take them; their heads."""
        return self.publish_all([self.writable(writable_bytes)] * count)

    def publish_all(self, chains: list[Chain]) -> list[int]:
        heads = self.ring.push_many(chains)
        assert len(heads) == len(chains)
        self.ring.publish()
        assert self.device.take() == heads
        return heads

    def publish_and_follow(self, chain: Chain) -> list[Part]:
        (head,) = self.publish_all([chain])
        return self.device.follow(head)

    def publish_batch(self, count: int) -> bool:
        """Publish `count` chains in one step and complete them; what publish said."""
        assert len(self.ring.push_many([self.writable(1)] * count)) == count
        kick_needed = self.ring.publish()
        assert len(self.device.use_all()) == count
        assert len(self.ring.reap()) == count
        return kick_needed

    def cycle(self, chain_count: int) -> None:
        """Push, publish, use and reap `chain_count` chains, as many at once as fit."""
        while chain_count:
            at_once = min(chain_count, self.size)
            self.publish_batch(at_once)
            chain_count -= at_once

    def memory(self) -> bytes:
        """The bytes of the ring as they are."""
        with memoryview(self.region) as memory:
            return bytes(memory)


def heads_of(completions: list[Completion]) -> list[int]:
    return [completion.head for completion in completions]


@dataclass(frozen=True)
class Maker(Generic[Device]):
    """Makes benches of one format in one language."""

    language: Language
    format: Format[Device]

    def small(self, **options: Any) -> Bench[Device]:
        """Around a ring that is soon full."""
        return self(self.format.small_size, **options)

    def __call__(
        self,
        size: int | None = None,
        *,
        event_idx: bool = False,
        strict: bool = False,
        **shape: int | None,
    ) -> Bench[Device]:
        """`shape`: what the layout depends on besides. Two calls with the same arguments give
        memory of the same device addresses."""
        space = DmaSpace()
        space.map(MEMORY_BYTES, DEVICE_ADDRESS)
        size = size or self.format.size
        region = space.alloc(self.format.layout(self.language)(size, **shape).length)
        queue_class = self.format.queue_class(self.language)
        ring = queue_class(
            region,
            size,
            event_idx=event_idx,
            in_order=self.format.in_order,
            strict=strict,
            **shape,
        )
        device = self.format.puppet(region, size, **shape)
        return Bench(self.format, space, region, ring, device, space.alloc(DATA_BYTES))


Make: TypeAlias = Maker[Puppet]
MakeSplit: TypeAlias = Maker[SplitPuppet]
MakePacked: TypeAlias = Maker[PackedPuppet]
