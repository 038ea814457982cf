"""Which number is taken next: a descriptor of a split ring, or a buffer id of a packed one.

What is free is noted here, in memory that the device cannot reach. Whether enough is free the
ring knows, which counts descriptors.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Numbers(ABC):
    """The numbers below the queue size."""

    @property
    @abstractmethod
    def first(self) -> int:
        """The one that is taken next (stale if none is free)."""

    @abstractmethod
    def take(self, count: int) -> list[int]:
        """Take `count` of those that are free."""

    @abstractmethod
    def give_back(self, numbers: Sequence[int]) -> None:
        """What one chain took is free again, as the device has used it."""

    @abstractmethod
    def untake(self, numbers: Sequence[int]) -> None:
        """As if the last chain had never taken its numbers."""


class LastFreedFirst(Numbers):
    """A stack: what was freed last is taken next, in the same order."""

    def __init__(self, size: int) -> None:
        self._free = [*reversed(range(size))]

    @property
    def first(self) -> int:
        """The one on top."""
        return self._free[-1] if self._free else 0

    def take(self, count: int) -> list[int]:
        """From the top, one by one."""
        return [self._free.pop() for _ in range(count)]

    def give_back(self, numbers: Sequence[int]) -> None:
        """On top, so that they will be taken in the same order."""
        self._free.extend(reversed(numbers))

    def untake(self, numbers: Sequence[int]) -> None:
        """On top, where they were."""
        self.give_back(numbers)


class InTurn(Numbers):
    """One after the other from 0 on, and around, as IN_ORDER has it.

    What was taken first is free first, so there is nothing to note but the place.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._first = 0

    @property
    def first(self) -> int:
        """The one behind the last that was taken."""
        return self._first

    def take(self, count: int) -> list[int]:
        """In a row, which may go around."""
        numbers = [(self._first + distance) % self._size for distance in range(count)]
        self._first = (self._first + count) % self._size
        return numbers

    def give_back(self, numbers: Sequence[int]) -> None:
        """They are free, but their turn comes when all others have been taken."""

    def untake(self, numbers: Sequence[int]) -> None:
        """Go back to where they begin."""
        self._first = numbers[0]
