"""The machine's memory: a file in memory, of which this process maps pieces as it needs them."""

import os
from contextlib import ExitStack
from threading import Lock
from typing import Final

from vioblk._native import DmaSpace, Mapping

RAM_START: Final = 2 << 20
"""What devices are given lies above the first MiB, which has holes."""

RAM_UNIT: Final = 2 << 20
"""A huge page; and pieces are as far from each other, so that a device that runs over the end of
one meets nobody's."""


class GuestMemory:
    """The memory, given away from the bottom up and never taken back. Thread-safe."""

    def __init__(self, length: int, owned: ExitStack) -> None:
        self._length = length
        self.fd = memory_file("vioblk-qemu-ram", length, owned)
        self._next = RAM_START
        self._lock = Lock()

    def map(self, space: DmaSpace, length: int) -> Mapping:
        """Make a piece a part of `space`, at its own address. Raises MemoryError, OSError."""
        start = self._take(length)
        return space.map_fd(self.fd, length, start, start)

    def _take(self, length: int) -> int:
        with self._lock:
            start = self._next
            if start + length > self._length:
                raise MemoryError(
                    f"the machine has {self._length} bytes of memory, and "
                    f"{max(0, self._length - start)} are left, not {length}; start it with more "
                    "(ram=)"
                )
            self._next = (start + length + 2 * RAM_UNIT - 1) & -RAM_UNIT
            return start


def memory_file(name: str, length: int, owned: ExitStack) -> int:
    """A descriptor of a file in memory, which `owned` closes."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    owned.callback(os.close, fd)
    os.ftruncate(fd, length)
    return fd
