"""The device's half of a packed ring, as the test plays it. It asserts what a driver owes it of
every descriptor that it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.ring.puppet import Part, Puppet, parts_of
from vioblk._native import Region
from vioblk.ring.raw import (
    AT_DESCRIPTOR,
    AVAIL,
    DESCRIPTOR_BYTES,
    DISABLE,
    ENABLE,
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


class PackedPuppet(Puppet):
    """The device's half of the ring in `region`."""

    def __init__(self, region: Region, size: int, *, indirect_table_size: int = 0) -> None:
        self.words = RawPackedRing(region, size, indirect_table_size=indirect_table_size)
        self.size = size
        self.restart()

    def restart(self) -> None:
        self.available = Cursor(self.size)
        self.used = Cursor(self.size)
        self.held: dict[int, list[PackedDescriptor]] = {}

    def take(self) -> list[int]:
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

    @property
    def next_available(self) -> int:
        return self.available.word

    def follow(self, buffer_id: int) -> list[Part]:
        descriptors = self.held[buffer_id]
        if descriptors[0].flags & INDIRECT:
            descriptors = self._follow_table(buffer_id, descriptors)
        return parts_of(descriptors)

    def use(self, head: int, length: int = 0, *, write_flag: bool = True) -> None:
        """In the slot whose turn it is. `write_flag`: the length counts."""
        self.use_batch([head], length, write_flag=write_flag)

    def use_batch(self, heads: Sequence[int], length: int = 0, *, write_flag: bool = True) -> None:
        flags = self.used.used_flags | (WRITE if write_flag else 0)
        self.words.write_used(self.used.slot, heads[-1], length, flags)
        for head in heads:
            self.used.step(len(self.held.pop(head, [None])))

    def use_all(self) -> list[int]:
        self.take()
        heads = list(self.held)
        for head in heads:
            self.use(head)
        return heads

    def descriptors(self) -> list[PackedDescriptor]:
        return [self.words.read_descriptor(slot) for slot in range(self.size)]

    def scribble(self, index: int, flags: int, other: int) -> None:
        self.words.write_descriptor(index, 1, 2, other, flags)

    def write_anything(self, chance: Random) -> None:
        words, slot = self.words, chance.randrange(self.size)
        words.write_used(
            slot, chance.randrange(self.size + 3), chance.randrange(4), chance.getrandbits(16)
        )
        words.device_event_flags = chance.getrandbits(16)
        words.device_event_position = chance.getrandbits(16)

    def want_kicks(self, wanted: bool) -> None:
        self.words.device_event_flags = ENABLE if wanted else DISABLE

    def ask_at(self, distance: int) -> None:
        """In the lap in which the place lies; not farther than one, as the counter is one bit."""
        lap, slot = divmod(self.available.slot + distance, self.size)
        counter = (self.available.counter + lap) & 1
        self.words.device_event_position = slot | counter << 15
        self.words.device_event_flags = AT_DESCRIPTOR

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
