"""The device's half of a split ring, as the test plays it."""

from collections.abc import Sequence
from random import Random

from tests.ring.puppet import Part, Puppet, parts_of
from vioblk._native import Region
from vioblk.ring.raw import INDIRECT, NEXT, Descriptor, RawSplitRing


class SplitPuppet(Puppet):
    """The device's half of the ring in `region`."""

    def __init__(
        self,
        region: Region,
        size: int,
        *,
        legacy_align: int | None = None,
        indirect_table_size: int = 0,
    ) -> None:
        self.words = RawSplitRing(
            region, size, legacy_align=legacy_align, indirect_table_size=indirect_table_size
        )
        self.size = size
        self.restart()

    def restart(self) -> None:
        self.available_index_seen = 0
        self.used_index = 0
        self.held: dict[int, None] = {}

    def take(self) -> list[int]:
        new_count = (self.words.available_index - self.available_index_seen) & 0xFFFF
        assert new_count <= self.size, "the available index ran past the ring"
        heads = [
            self.words.read_available((self.available_index_seen + i) % self.size)
            for i in range(new_count)
        ]
        self.available_index_seen = (self.available_index_seen + new_count) & 0xFFFF
        self.held |= dict.fromkeys(heads)
        return heads

    @property
    def next_available(self) -> int:
        return self.available_index_seen

    def follow(self, head: int) -> list[Part]:
        first = self.words.read_descriptor(head)
        if first.flags & INDIRECT:
            assert first.flags == INDIRECT, "INDIRECT stands with another flag"
            assert first.length % 16 == 0, "the table's length is not a multiple of 16"
            assert first.address == self.words.table_address(head), "not the head's own table"
            return parts_of(self._follow_table(head, first.length // 16))
        return parts_of(self._follow_direct(first))

    def use(self, head: int, length: int = 0) -> None:
        self.use_batch([head], length)

    def use_batch(self, heads: Sequence[int], length: int = 0) -> None:
        self.words.write_used(self.used_index % self.size, heads[-1], length)
        for head in heads:
            self.held.pop(head, None)
        self.used_index = (self.used_index + len(heads)) & 0xFFFF
        self.words.used_index = self.used_index

    def use_all(self) -> list[int]:
        """All entries before the index is moved, once."""
        self.take()
        heads = list(self.held)
        for distance, head in enumerate(heads):
            self.words.write_used((self.used_index + distance) % self.size, head, 0)
        self.held.clear()
        self.used_index = (self.used_index + len(heads)) & 0xFFFF
        self.words.used_index = self.used_index
        return heads

    def descriptors(self) -> list[Descriptor]:
        return [self.words.read_descriptor(index) for index in range(self.size)]

    def scribble(self, index: int, flags: int, other: int) -> None:
        self.words.write_descriptor(index, 1, 2, flags, other)

    def write_anything(self, chance: Random) -> None:
        words = self.words
        words.write_used(
            chance.randrange(self.size), chance.randrange(self.size + 3), chance.randrange(4)
        )
        words.used_index = (words.used_index + chance.choice([0, 1, 1, 1, 2, 3])) & 0xFFFF
        words.used_flags, words.avail_event = chance.getrandbits(16), chance.getrandbits(16)

    def want_kicks(self, wanted: bool) -> None:
        self.words.used_flags = 0 if wanted else 1

    def ask_at(self, distance: int) -> None:
        self.words.avail_event = (self.words.available_index + distance) & 0xFFFF

    def _follow_direct(self, first: Descriptor) -> list[Descriptor]:
        descriptors = [first]
        while descriptors[-1].flags & NEXT:
            assert len(descriptors) < self.size, "the chain is longer than the queue, or loops"
            descriptors.append(self.words.read_descriptor(descriptors[-1].next))
            assert not descriptors[-1].flags & INDIRECT, "INDIRECT within a chain"
        return descriptors

    def _follow_table(self, head: int, count: int) -> list[Descriptor]:
        index, seen = 0, 0
        descriptors: list[Descriptor] = []
        while True:
            seen += 1
            assert index < count, "the chain leaves its table"
            assert seen <= count, "the chain loops in its table"
            descriptors.append(self.words.read_table_entry(head, index))
            assert not descriptors[-1].flags & INDIRECT, "a table within a table"
            if not descriptors[-1].flags & NEXT:
                return descriptors
            index = descriptors[-1].next
