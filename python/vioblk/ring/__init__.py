"""What every ring offers, whichever format and language it has.

A ring moves chains: `push` writes descriptors, `publish` makes them visible to the device and
tells whether it wants to be notified, `reap` takes back what the device has used. A ring is not
thread-safe; whoever owns it serialises the calls.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from vioblk._native import Region

Segment: TypeAlias = tuple[Region, int, int]
"""(region, offset in bytes, length in bytes): what one descriptor describes."""


class Chain(NamedTuple):
    """One buffer: what the device reads, then what it writes.

    VIRTIO 1.4, 2.7.4 Message Framing.
    """

    readable: Sequence[Segment]
    writable: Sequence[Segment]


class Completion(NamedTuple):
    """A chain that the device has used."""

    head: int
    """What `push` returned for it: the index of its first descriptor, or its buffer id."""
    written_bytes: int | None
    """How many bytes the device says it wrote, clamped to the chain's writable length.

    None where it does not say, on a packed ring: no WRITE in the used descriptor (VIRTIO 1.4,
    2.8.4 Element Address and Length), as with QEMU's devices. With IN_ORDER all the writable bytes
    of a chain that the device skipped (2.7.9 and 2.8.8 In-order use of descriptors)."""


class RingLayout(Protocol):
    """Offsets, in bytes, of a ring's parts in its region."""

    @property
    def descriptors_offset(self) -> int:
        """Of the descriptor table, or ring."""

    @property
    def driver_offset(self) -> int:
        """Of the driver area: the available ring, or the driver event suppression structure."""

    @property
    def device_offset(self) -> int:
        """Of the device area: the used ring, or the device event suppression structure."""

    @property
    def indirect_offset(self) -> int:
        """Of the indirect tables."""

    @property
    def length(self) -> int:
        """Bytes that the region must have."""


class Ring(Protocol):
    """The driver's half of a virtqueue."""

    @property
    def size(self) -> int:
        """Descriptors in the ring (the queue size)."""

    @property
    def layout(self) -> RingLayout:
        """Where its parts lie in its region."""

    @property
    def free_count(self) -> int:
        """Descriptors that are free."""

    @property
    def outstanding_count(self) -> int:
        """Chains published and not yet reaped."""

    @property
    def clamped_count(self) -> int:
        """Completions whose written length was larger than the chain's writable part."""

    @property
    def next_available(self) -> int:
        """Where the next chain is made available, as a notification with data says it.

        On a split ring the available index; on a packed ring the offset in the descriptor ring
        in bits 0 to 14, the wrap counter in bit 15. VIRTIO 1.4, 2.9 Driver Notifications.
        """

    @property
    def broken(self) -> str | None:
        """Why the ring can no longer be trusted; None while it can."""

    def push(self, chain: Chain, /) -> int:
        """Write a chain, whole or not at all, and return its head.

        Nothing is visible to the device until `publish`. Raises QueueFull if it does not fit
        now, ChainTooLong if it never fits, ValueError for an empty chain, a segment of no
        bytes or outside its region, BufferError for a closed region, QueueBroken.
        """

    def push_many(self, chains: Sequence[Chain], /) -> list[int]:
        """Push from the front as many as fit and return their heads; an invalid chain anywhere
        raises, and then nothing was pushed."""

    def withdraw(self) -> list[int]:
        """Take back what was pushed since the last publish; the heads, newest first."""

    def publish(self) -> bool:
        """Make what was pushed visible in one step; whether the device must be notified.

        False if nothing was pushed.
        """

    def reap(self, limit: int | None = None) -> list[Completion]:
        """Take back used chains, at most `limit` (all that are ready if None).

        With IN_ORDER one used element may give back many; what `limit` leaves of them comes with
        the next call.

        Raises QueueBroken if the device broke the rules, but only after everything that it
        returned correctly before has been handed out.
        """

    def arm(self) -> bool:
        """Ask for a notification of the next used chain; whether one is waiting already."""

    def disarm(self) -> None:
        """Hint that no notifications are wanted."""

    def reclaim(self) -> list[int]:
        """After a confirmed reset only: forget all chains, zero the ring, and return the heads
        that the device never gave back. The ring is as new afterwards."""
