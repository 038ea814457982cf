"""A ring as QEMU's device sees it: where it looks, how far it has come, and what it has written.

The monitor tells where the parts are, and the memory is read by QEMU as well (`xp` of the human
monitor).
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from vioblk.errors import TransportError
from vioblk.transport.qemu import QemuPlatform
from vioblk.transport.qemu.controls import BACK_END_PATH

DESCRIPTOR_BYTES: Final = 16

NEXT: Final = 1
INDIRECT: Final = 4
AVAIL: Final = 1 << 7
USED: Final = 1 << 15
"""Flags of descriptors (VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor Table and 2.8.5 Packed virtqueue
descriptor)."""

EVENT_ENABLE: Final = 0
EVENT_DISABLE: Final = 1
EVENT_DESCRIPTOR: Final = 2
"""Flags of an event suppression structure (VIRTIO 1.4, 2.8.10)."""


class PackedEvent(NamedTuple):
    """An event suppression structure of a packed ring."""

    offset: int
    wrap: bool
    flags: int


class PackedDescriptor(NamedTuple):
    """A descriptor of a packed ring."""

    length: int
    buffer_id: int
    flags: int


class SplitDescriptor(NamedTuple):
    """A descriptor of a split ring."""

    flags: int
    next: int


@dataclass(frozen=True)
class RingView:
    """What QEMU knows of one queue at one time."""

    platform: QemuPlatform
    index: int
    status: dict[str, Any]

    @classmethod
    def of(cls, platform: QemuPlatform, index: int) -> "RingView":
        """The queue as it is now."""
        return cls(platform, index, platform.queue_status(index))

    @property
    def size(self) -> int:
        """Descriptors."""
        return int(self.status["vring-num"])

    @property
    def in_use(self) -> int:
        """Chains that the device has taken and not returned."""
        return int(self.status["inuse"])

    @property
    def taken(self) -> int:
        """Split: how many chains it has taken, modulo 65536. Packed: the place of the ring from
        which it will take the next one."""
        return int(self.status["last-avail-idx"])

    @property
    def is_packed(self) -> bool:
        """Whether it reads the ring as a packed one: it cannot show chains of those."""
        try:
            self.chain(0)
        except TransportError as error:
            if "Packed ring not supported" not in str(error):
                raise
            return True
        return False

    def chain(self, number: int) -> dict[str, Any]:
        """A chain of a split ring, by its number in the available ring."""
        found = self.platform.qmp(
            "x-query-virtio-queue-element", path=BACK_END_PATH, queue=self.index, index=number
        )
        return dict(found)

    # Of a split ring

    def split_descriptor(self, slot: int) -> SplitDescriptor:
        """An entry of the descriptor table."""
        flags, following = self._words("vring-desc", slot * DESCRIPTOR_BYTES + 12, 2)
        return SplitDescriptor(flags, following)

    @property
    def avail_event(self) -> int:
        """Which available entry it wants to hear of; it is written with EVENT_IDX alone."""
        return self._words("vring-used", 4 + 8 * self.size, 1)[0]

    @property
    def available_flags(self) -> int:
        """What the driver says of interrupts, without EVENT_IDX."""
        return self._words("vring-avail", 0, 1)[0]

    # Of a packed ring

    def packed_descriptor(self, slot: int) -> PackedDescriptor:
        """An entry of the descriptor ring."""
        low, high, buffer_id, flags = self._words("vring-desc", slot * DESCRIPTOR_BYTES + 8, 4)
        return PackedDescriptor(low | high << 16, buffer_id, flags)

    @property
    def device_event(self) -> PackedEvent:
        """What it wants to hear of."""
        return self._event("vring-used")

    @property
    def driver_event(self) -> PackedEvent:
        """What the driver wants to hear of."""
        return self._event("vring-avail")

    def _event(self, part: str) -> PackedEvent:
        place, flags = self._words(part, 0, 2)
        return PackedEvent(place & 0x7FFF, bool(place >> 15), flags)

    def _words(self, part: str, offset: int, count: int) -> list[int]:
        """16-bit words of one of the three parts."""
        address = int(self.status[part]) + offset
        dump = self.platform.hmp(f"xp /{count}hx {address:#x}")
        words = [int(word, 16) for line in dump.splitlines() for word in line.split()[1:]]
        assert len(words) == count, dump
        return words
