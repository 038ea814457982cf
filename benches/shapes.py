"""What is measured: the shape of a request and of the ring that it goes through."""

from dataclasses import dataclass
from typing import Final

SEGMENT_BYTES: Final = 512
"""Of each data segment: one sector, so that moving the data costs little."""

QUEUE_SIZE_MIN: Final = 256


@dataclass(frozen=True)
class Shape:
    """Requests of so many descriptors, in batches, through a ring of this format."""

    descriptors: int = 3
    """Of a chain: header, data segments, status; 1 is a data segment alone."""
    batch: int = 64
    packed: bool = False
    indirect: bool = False
    event_idx: bool = False

    @property
    def framed(self) -> bool:
        """Whether there are a header and a status byte: a chain of one has neither."""
        return self.descriptors > 1

    @property
    def segments(self) -> int:
        """Data segments of a chain."""
        return self.descriptors - 2 if self.framed else 1

    @property
    def data_bytes(self) -> int:
        return self.segments * SEGMENT_BYTES

    @property
    def ring_descriptors(self) -> int:
        """Descriptors that a chain takes in the ring itself."""
        return 1 if self.indirect else self.descriptors

    @property
    def table_size(self) -> int:
        """Descriptors of an indirect table; 0: there are none."""
        return self.descriptors if self.indirect else 0

    @property
    def queue_size(self) -> int:
        """The power of two that holds a batch, and at least 256."""
        need = self.batch * self.ring_descriptors
        return max(QUEUE_SIZE_MIN, 1 << (need - 1).bit_length())

    def __str__(self) -> str:
        return (
            f"{'packed' if self.packed else 'split'}, {self.descriptors} descriptors"
            f"{' indirect' if self.indirect else ''}{', event index' if self.event_idx else ''},"
            f" batch {self.batch}"
        )
