"""A device that does what the test tells it: the other half of a split ring, in Python.

It follows chains as a strict device does and asserts what a driver owes it. It also lies on
demand, because every word that a device may write is at the test's hand (`words`).
"""

from typing import NamedTuple

from vioblk._native import Region
from vioblk.ring.raw import INDIRECT, NEXT, WRITE, Descriptor, RawSplitRing


class Part(NamedTuple):
    """One part of a buffer, as a descriptor told it to the device."""

    address: int
    length: int
    device_writes: bool


class PuppetDevice:
    """The device's half of the ring in `region`; nothing happens but what is called."""

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
        self.available_index_seen = 0
        self.used_index = 0

    def take(self) -> list[int]:
        """The heads that have become available since the last call, in order."""
        new_count = (self.words.available_index - self.available_index_seen) & 0xFFFF
        assert new_count <= self.size, "the available index ran past the ring"
        heads = [
            self.words.read_available((self.available_index_seen + i) % self.size)
            for i in range(new_count)
        ]
        self.available_index_seen = (self.available_index_seen + new_count) & 0xFFFF
        return heads

    def follow(self, head: int) -> list[Part]:
        """The parts of the buffer at `head`; asserts that the chain is well formed."""
        first = self.words.read_descriptor(head)
        if first.flags & INDIRECT:
            assert first.flags == INDIRECT, "INDIRECT stands with another flag"
            assert first.length % 16 == 0, "the table's length is not a multiple of 16"
            assert first.address == self.words.table_address(head), "not the head's own table"
            descriptors = self._follow_table(head, first.length // 16)
        else:
            descriptors = self._follow_direct(first)
        parts = [Part(d.address, d.length, bool(d.flags & WRITE)) for d in descriptors]
        directions = [part.device_writes for part in parts]
        assert directions == sorted(directions), "a readable part stands after a writable one"
        assert all(part.length > 0 for part in parts), "a part of no bytes"
        return parts

    def use(self, head: int, length: int = 0) -> None:
        """Put an entry in the used ring and move the index."""
        self.fill(head, length)
        self.words.used_index = self.used_index

    def fill(self, head: int, length: int = 0) -> None:
        """Put an entry in the used ring; the index that the driver sees stays."""
        self.words.write_used(self.used_index % self.size, head, length)
        self.used_index = (self.used_index + 1) & 0xFFFF

    def use_all(self) -> list[int]:
        """Use whatever has become available, in order, with no bytes written; the heads."""
        heads = self.take()
        for head in heads:
            self.fill(head)
        self.words.used_index = self.used_index
        return heads

    def restart(self) -> None:
        """Forget where both sides were, as a reset does."""
        self.available_index_seen = 0
        self.used_index = 0

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
