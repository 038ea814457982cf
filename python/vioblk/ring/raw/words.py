"""What the words of the two formats have in common."""

from typing import Final

from vioblk._native import Region

SIZE_MAX: Final = 32768
"""The largest queue size (VIRTIO 1.4, 2.7 Split Virtqueues, 2.8 Packed Virtqueues)."""

DESCRIPTOR_BYTES: Final = 16

CACHE_LINE_PAIR: Final = 128
"""Driver and device write different parts: on cache lines of their own they do not slow each
other. Two lines, as many processors fetch them in pairs."""

# Descriptor flags (VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor Table; 2.8 Packed Virtqueues).
NEXT: Final = 1
"""The chain goes on: at descriptor `next` of a split ring, at the next one of a packed ring."""
WRITE: Final = 2
"""The device writes this part of the buffer; without the flag it reads it."""
INDIRECT: Final = 4
"""The descriptor points to a table of descriptors."""


class DescriptorWords:
    """Descriptors of either format, one after the other in memory: a word of 64 bits, one of 32
    and two of 16, each by a view of its width."""

    def __init__(self, memory: memoryview) -> None:
        self._count: Final = len(memory) // DESCRIPTOR_BYTES
        self._by_64: Final = memory.cast("Q")
        self._by_32: Final = memory.cast("I")
        self._by_16: Final = memory.cast("H")

    def read(self, index: int) -> tuple[int, int, int, int]:
        """The words of descriptor `index`: address, length, and the two of 16 bits."""
        self._check(index)
        return (
            self._by_64[2 * index],
            self._by_32[4 * index + 2],
            self._by_16[8 * index + 6],
            self._by_16[8 * index + 7],
        )

    def write(self, index: int, address: int, length: int, third: int, fourth: int) -> None:
        """Write all words of descriptor `index`, in the order of memory."""
        self.write_body(index, address, length, third)
        self._by_16[8 * index + 7] = fourth

    def write_body(self, index: int, address: int, length: int, third: int) -> None:
        """Write all but the last word."""
        self._check(index)
        self._by_64[2 * index] = address
        self._by_32[4 * index + 2] = length
        self._by_16[8 * index + 6] = third

    def read_third(self, index: int) -> int:
        """The first of the words of 16 bits."""
        self._check(index)
        return self._by_16[8 * index + 6]

    def write_third(self, index: int, value: int) -> None:
        """Write the first of the words of 16 bits."""
        self._check(index)
        self._by_16[8 * index + 6] = value

    def read_fourth(self, index: int) -> int:
        """The last word."""
        self._check(index)
        return self._by_16[8 * index + 7]

    def write_fourth(self, index: int, value: int) -> None:
        """Write the last word."""
        self._check(index)
        self._by_16[8 * index + 7] = value

    def read_length(self, index: int) -> int:
        """The word of 32 bits."""
        self._check(index)
        return self._by_32[4 * index + 2]

    def write_length(self, index: int, value: int) -> None:
        """Write the word of 32 bits."""
        self._check(index)
        self._by_32[4 * index + 2] = value

    def _check(self, index: int) -> None:
        if not 0 <= index < self._count:
            raise IndexError(f"descriptor {index} is not in a table of {self._count}")


def check_indirect_table_size(indirect_table_size: int, size: int) -> None:
    """Raises ValueError if tables of this size make no ring."""
    if not 0 <= indirect_table_size <= size:
        raise ValueError(
            f"indirect table size {indirect_table_size} is not within 0 and the queue size {size}"
        )


def check_ring_region(region: Region, length: int, align: int) -> None:
    """Raises ValueError if the region is too short, or its device address not aligned."""
    if region.length < length:
        raise ValueError(f"the ring needs {length} bytes, its region has {region.length}")
    if region.device_address % align:
        raise ValueError(
            f"the ring's device address {region.device_address:#x} is not a multiple of {align}"
        )


def check_index(what: str, index: int, count: int, container: str) -> int:
    """The index; raises IndexError if it is none of `count`."""
    if not 0 <= index < count:
        raise IndexError(f"{what} {index} is not in a {container} of {count}")
    return index


def align_up(offset: int, align: int) -> int:
    """The next multiple of a power of two."""
    return (offset + align - 1) & -align
