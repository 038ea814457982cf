"""A device that does what the test tells it: the other half of a packed ring, in Python.

It follows lists as a strict device does and asserts what a driver owes it, of every descriptor
that it takes. It also lies on demand, because every word that a device may write is at the test's
hand (`words`).
"""

from dataclasses import dataclass

from tests.ring.puppet import Part
from vioblk._native import Region
from vioblk.ring.raw import (
    AVAIL,
    DESCRIPTOR_BYTES,
    INDIRECT,
    NEXT,
    USED,
    WRITE,
    PackedDescriptor,
    RawPackedRing,
)


@dataclass
class Cursor:
    """A slot of the descriptor ring, and the wrap counter there."""

    size: int
    slot: int = 0
    counter: int = 1

    def step(self, count: int = 1) -> None:
        """Move on; the counter flips behind the last slot."""
        for _ in range(count):
            self.slot += 1
            if self.slot == self.size:
                self.slot, self.counter = 0, 1 - self.counter

    @property
    def available_flags(self) -> int:
        return AVAIL if self.counter == 1 else USED

    @property
    def used_flags(self) -> int:
        return AVAIL | USED if self.counter == 1 else 0

    @property
    def word(self) -> int:
        return self.slot | self.counter << 15


class PackedPuppet:
    """The device's half of the ring in `region`; nothing happens but what is called."""

    def __init__(self, region: Region, size: int, *, indirect_table_size: int = 0) -> None:
        self.words = RawPackedRing(region, size, indirect_table_size=indirect_table_size)
        self.size = size
        self.restart()

    def restart(self) -> None:
        """Forget where both sides were, as a reset does."""
        self.available = Cursor(self.size)
        self.used = Cursor(self.size)
        self.held: dict[int, list[PackedDescriptor]] = {}

    def take(self) -> list[int]:
        """The buffer ids that have become available since the last call, in order."""
        ids: list[int] = []
        while self._is_available():
            descriptors = self._take_list()
            buffer_id = descriptors[-1].id
            assert buffer_id < self.size, "a buffer id out of range"
            assert buffer_id not in self.held, "a buffer id that the device has already"
            self.held[buffer_id] = descriptors
            assert sum(map(len, self.held.values())) <= self.size, "more than one lap available"
            ids.append(buffer_id)
        return ids

    def follow(self, buffer_id: int) -> list[Part]:
        """The parts of a buffer that was taken; asserts that the list is well formed."""
        descriptors = self.held[buffer_id]
        if descriptors[0].flags & INDIRECT:
            descriptors = self._follow_table(buffer_id, descriptors)
        parts = [Part(d.address, d.length, bool(d.flags & WRITE)) for d in descriptors]
        directions = [part.device_writes for part in parts]
        assert directions == sorted(directions), "a readable part stands after a writable one"
        assert all(part.length > 0 for part in parts), "a part of no bytes"
        return parts

    def use(self, buffer_id: int, length: int = 0, *, write_flag: bool = True) -> None:
        """Give a buffer back, in the slot whose turn it is. `write_flag`: the length counts."""
        flags = self.used.used_flags | (WRITE if write_flag else 0)
        self.words.write_used(self.used.slot, buffer_id, length, flags)
        self.used.step(len(self.held.pop(buffer_id, [None])))

    def use_all(self) -> list[int]:
        """Use whatever is available and not used, in order, with no bytes written; the ids."""
        self.take()
        ids = list(self.held)
        for buffer_id in ids:
            self.use(buffer_id)
        return ids

    def _is_available(self) -> bool:
        flags = self.words.read_flags(self.available.slot)
        return flags & (AVAIL | USED) == self.available.available_flags

    def _take_list(self) -> list[PackedDescriptor]:
        descriptors: list[PackedDescriptor] = []
        while True:
            assert len(descriptors) < self.size, "the list is longer than the queue"
            descriptor = self.words.read_descriptor(self.available.slot)
            flags = descriptor.flags & (AVAIL | USED)
            assert flags == self.available.available_flags, "a part of a list is not available"
            assert descriptor.flags & ~(AVAIL | USED) in range(8), "unknown flags"
            self.available.step()
            descriptors.append(descriptor)
            if not descriptor.flags & NEXT:
                return descriptors

    def _follow_table(
        self, buffer_id: int, descriptors: list[PackedDescriptor]
    ) -> list[PackedDescriptor]:
        (pointer,) = descriptors
        assert pointer.flags & ~(AVAIL | USED) == INDIRECT, "INDIRECT stands with another flag"
        assert pointer.length % DESCRIPTOR_BYTES == 0, "the table's length is not whole"
        assert pointer.address == self.words.table_address(buffer_id), "not the id's own table"
        count = pointer.length // DESCRIPTOR_BYTES
        assert 0 < count <= self.size, "the table is longer than the queue"
        entries = [self.words.read_table_entry(buffer_id, index) for index in range(count)]
        assert all(entry.flags in (0, WRITE) for entry in entries), "a flag other than WRITE"
        return entries
