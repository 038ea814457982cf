"""A device that does what the test tells it: the other half of a ring, in Python.

It follows chains as a strict device does and asserts what a driver owes it. It also lies on
demand, because every word that a device may write is at the test's hand (`words`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from vioblk.ring.raw import WRITE, Descriptor, PackedDescriptor


class Part(NamedTuple):
    """One part of a buffer, as a descriptor told it to the device."""

    address: int
    length: int
    device_writes: bool


class Puppet(ABC):
    """The device's half of a ring; nothing happens but what is called."""

    size: int

    @abstractmethod
    def restart(self) -> None:
        """Forget where both sides were, as a reset does."""

    @abstractmethod
    def take(self) -> list[int]:
        """The heads that have become available since the last call, in order."""

    @property
    @abstractmethod
    def next_available(self) -> int:
        """Where the next chain will become available, as a notification with data says it."""

    @abstractmethod
    def follow(self, head: int) -> list[Part]:
        """The parts of a buffer that was taken; asserts that the chain is well formed."""

    @abstractmethod
    def use(self, head: int, length: int = 0) -> None:
        """Give back one chain that was taken."""

    @abstractmethod
    def use_batch(self, heads: Sequence[int], length: int = 0) -> None:
        """Give back chains in the order in which they were taken, with one used element."""

    @abstractmethod
    def use_all(self) -> list[int]:
        """Give back all that is available and was not, in order, one by one, with no bytes written;
        their heads."""

    @abstractmethod
    def descriptors(self) -> Sequence[Descriptor | PackedDescriptor]:
        """The descriptor table, or ring, as it is."""

    @abstractmethod
    def scribble(self, index: int, flags: int, other: int) -> None:
        """Write over a descriptor, as no device may. `other`: its other word of 16 bits."""

    @abstractmethod
    def write_anything(self, chance: Random) -> None:
        """Write at random what a device may write somewhere."""

    @abstractmethod
    def want_kicks(self, wanted: bool) -> None:
        """Ask for notifications, or for none."""

    @abstractmethod
    def ask_at(self, distance: int) -> None:
        """With EVENT_IDX: ask for one `distance` places from what becomes available next."""


def parts_of(descriptors: Sequence[Descriptor | PackedDescriptor]) -> list[Part]:
    """Asserts that they make a buffer."""
    parts = [Part(each.address, each.length, bool(each.flags & WRITE)) for each in descriptors]
    directions = [part.device_writes for part in parts]
    assert directions == sorted(directions), "a readable part stands after a writable one"
    assert all(part.length > 0 for part in parts), "a part of no bytes"
    return parts
