"""The split ring in pure Python (VIRTIO 1.4, 2.7 Split Virtqueues).

A *chain* of descriptors describes one buffer; its first descriptor is its *head*. `push` writes
the chain and puts the head in the next slot of the available ring; `publish` moves the available
index, and from then on the device may read it. When the device has used the buffer it puts the
head in the used ring and moves the used index; `reap` finds it there. Both indices run freely
modulo 65536; an entry's slot is its index modulo the queue size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vioblk._native import Region
from vioblk.errors import QueueBroken, QueueFull
from vioblk.ring import Chain, Completion
from vioblk.ring.raw.split import (
    NO_INTERRUPT,
    NO_NOTIFY,
    RawSplitRing,
    SplitLayout,
    UsedEntry,
)
from vioblk.ring.raw.words import DESCRIPTOR_BYTES, INDIRECT, NEXT
from vioblk.ring.reference.chains import Part, Plan, event_passed, plan_of, release

_INDEX_MASK: Final = 0xFFFF


@dataclass(slots=True)
class _Pushed:
    """What the driver remembers of a chain, where the device cannot reach it."""

    descriptor_count: int
    writable_bytes: int
    pins: list[memoryview]
    published: bool = False


class SplitQueue:
    """The driver's half of a split ring. `vioblk.ring.Ring` says what each verb means.

    Neither side is trusted: a chain is checked before anything is written, and of the device's
    words each is read once, checked, and only then used. The free list, the lengths and the set
    of outstanding chains are our own copies, which the device cannot reach.

    While a chain is pushed, an export of each of its regions is held, so closing the region
    raises BufferError. (The Rust ring counts it in `Region.in_flight` instead.)
    """

    def __init__(
        self,
        region: Region,
        size: int,
        *,
        legacy_align: int | None = None,
        indirect_table_size: int = 0,
        event_idx: bool = False,
        strict: bool = False,
        zeroed: bool = False,
    ) -> None:
        """Lay the ring out in `region` and zero it (unless `zeroed`).

        `size`: descriptors, a power of two. `legacy_align`: bytes, for the legacy layout.
        `indirect_table_size`: descriptors in each head's indirect table; 0 if INDIRECT_DESC was
        not negotiated. `event_idx`: EVENT_IDX was negotiated. `strict`: a used length larger
        than the chain's writable part breaks the queue instead of being clamped. `zeroed`: the
        region is fresh from `alloc` and the device may know of it and be live, so the used ring,
        which is the device's to write, is left alone.
        Raises ValueError if the layout is impossible or does not fit the region, or if `zeroed`
        and an index is not 0.
        """
        self._raw: Final = RawSplitRing(
            region, size, legacy_align=legacy_align, indirect_table_size=indirect_table_size
        )
        self._size: Final = size
        self._table_size: Final = indirect_table_size
        self._event_idx: Final = event_idx
        self._strict: Final = strict
        self._clamped_count = 0
        if not zeroed:
            self._raw.zero()
        elif self._raw.used_index or self._raw.available_index:
            raise ValueError("the ring's memory is not zeroed: give it a region fresh from alloc")
        self._start()

    def _start(self) -> None:
        """Everything as new. All indices start at 0, and notifications start enabled."""
        self._free_count = self._size
        self._free_head = 0
        # The free descriptors are linked in our own memory; the device may write the table's
        # `next` fields whenever it likes. The links of a chain stay while it is in use, so that
        # it can be freed by walking them.
        self._next_free = [*range(1, self._size), 0]
        self._pushed: dict[int, _Pushed] = {}
        self._unpublished: list[int] = []
        self._outstanding_count = 0
        self._available_index = 0
        self._published_index = 0
        self._used_index_seen = 0
        self._broken: str | None = None

    # -- State -------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Descriptors in the ring."""
        return self._size

    @property
    def layout(self) -> SplitLayout:
        """Where the parts of the ring lie."""
        return self._raw.layout

    @property
    def free_count(self) -> int:
        """Descriptors that are free."""
        return self._free_count

    @property
    def outstanding_count(self) -> int:
        """Chains published and not yet reaped."""
        return self._outstanding_count

    @property
    def clamped_count(self) -> int:
        """Completions whose written length was larger than the chain's writable part."""
        return self._clamped_count

    @property
    def broken(self) -> str | None:
        """Why the ring can no longer be trusted; None while it can."""
        return self._broken

    @property
    def next_available(self) -> int:
        """Where the next chain is made available: the available index."""
        return self._published_index

    @property
    def next_head(self) -> int:
        """The head that the next `push` will return, if it succeeds."""
        return self._free_head

    @property
    def raw(self) -> RawSplitRing:
        """Every word of this ring, without any rule: for misuse on purpose."""
        return self._raw

    # -- Supplying buffers (VIRTIO 1.4, 2.7.13 Supplying Buffers to The Device) ---------------

    def push(self, chain: Chain, /) -> int:
        """Write a chain, whole or not at all, and return its head."""
        self._refuse_if_broken()
        plan = plan_of(chain, self._size)
        needed = plan.descriptors_needed(self._table_size)
        if needed > self._free_count:
            raise QueueFull(f"the chain needs {needed} descriptors, {self._free_count} are free")
        return self._write(plan)

    def push_many(self, chains: Sequence[Chain], /) -> list[int]:
        """Push from the front as many as fit; validates all before it writes any."""
        self._refuse_if_broken()
        heads: list[int] = []
        for plan in [plan_of(chain, self._size) for chain in chains]:
            if plan.descriptors_needed(self._table_size) > self._free_count:
                break
            heads.append(self._write(plan))
        return heads

    def withdraw(self) -> list[int]:
        """Take back what was pushed since the last publish; the heads, newest first.

        The entries stay in the available ring's slots, but the index never covered them, so the
        device must not look there. A published chain cannot be taken back (2.7.6.1 Driver
        Requirements: The Virtqueue Available Ring).
        """
        withdrawn = self._unpublished[::-1]
        for head in withdrawn:
            self._free(head)
        self._unpublished.clear()
        self._available_index = self._published_index
        return withdrawn

    def publish(self) -> bool:
        """Make what was pushed visible in one step; whether the device must be notified."""
        self._refuse_if_broken()
        if not self._unpublished:
            return False
        for head in self._unpublished:
            self._pushed[head].published = True
        self._outstanding_count += len(self._unpublished)
        self._unpublished.clear()
        old_index, new_index = self._published_index, self._available_index
        # before_publish (release): the device that sees the index must see what it covers
        # (2.7.13.3.1 Driver Requirements: Updating idx).
        self._raw.available_index = new_index
        self._published_index = new_index
        # before_notify_check (full): else the suppression could be read before the device can
        # see the index, and both sides would wait (2.7.13.4.1 Driver Requirements: Notifying
        # The Device).
        return self._kick_needed(old_index, new_index)

    def _kick_needed(self, old_index: int, new_index: int) -> bool:
        """VIRTIO 1.4, 2.7.10 Available Buffer Notification Suppression."""
        if self._event_idx:
            return event_passed(old_index, new_index, self._raw.avail_event)
        return not self._raw.used_flags & NO_NOTIFY

    def _write(self, plan: Plan) -> int:
        """Write a validated chain that fits, and its entry in the available ring."""
        if plan.is_indirect(self._table_size):
            head = self._take_free(1)
            self._write_indirect(head, plan.parts)
        else:
            head = self._take_free(len(plan.parts))
            self._write_direct(head, plan.parts)
        self._pushed[head] = _Pushed(
            plan.descriptors_needed(self._table_size),
            plan.writable_bytes,
            plan.pin(),
        )
        self._raw.write_available(self._available_index % self._size, head)
        self._available_index = (self._available_index + 1) & _INDEX_MASK
        self._unpublished.append(head)
        return head

    def _write_direct(self, head: int, parts: list[Part]) -> None:
        """A chain in the descriptor table, linked by `next` (2.7.5)."""
        index = head
        for part in parts[:-1]:
            next_index = self._next_free[index]
            self._raw.write_descriptor(
                index, part.address, part.length, part.write_flag | NEXT, next_index
            )
            index = next_index
        last = parts[-1]
        self._raw.write_descriptor(index, last.address, last.length, last.write_flag)

    def _write_indirect(self, head: int, parts: list[Part]) -> None:
        """A chain in the head's own table, which one descriptor points to (2.7.5.3)."""
        last_index = len(parts) - 1
        for index, part in enumerate(parts):
            if index < last_index:
                flags, next_index = part.write_flag | NEXT, index + 1
            else:
                flags, next_index = part.write_flag, 0
            self._raw.write_table_entry(head, index, part.address, part.length, flags, next_index)
        self._raw.write_descriptor(
            head, self._raw.table_address(head), len(parts) * DESCRIPTOR_BYTES, INDIRECT
        )

    # -- Receiving used buffers (VIRTIO 1.4, 2.7.14 Receiving Used Buffers From The Device) ---

    def reap(self, limit: int | None = None) -> list[Completion]:
        """Take back used chains, at most `limit` (all that are ready if None)."""
        self._refuse_if_broken()
        completions: list[Completion] = []
        ready_count = self._count_used()
        for _ in range(ready_count if limit is None else min(limit, ready_count)):
            entry = self._raw.read_used(self._used_index_seen % self._size)
            self._broken = self._fault_of(entry)
            if self._broken is not None:
                break
            chain = self._pushed[entry.id]
            if entry.length > chain.writable_bytes:
                self._clamped_count += 1
            completions.append(Completion(entry.id, min(entry.length, chain.writable_bytes)))
            self._free(entry.id)
            self._outstanding_count -= 1
            self._used_index_seen = (self._used_index_seen + 1) & _INDEX_MASK
        if not completions:
            self._refuse_if_broken()
        return completions

    def _count_used(self) -> int:
        """How many used entries wait; breaks the queue if there cannot be so many."""
        used_index = self._raw.used_index
        # after_used_index (acquire): the entries and what the device wrote into the buffers are
        # read after the index that covers them.
        ready_count = (used_index - self._used_index_seen) & _INDEX_MASK
        if ready_count > self._outstanding_count:
            ahead = ready_count - self._outstanding_count
            self._broken = (
                f"used index {used_index} is {ahead} ahead of"
                f" the {self._outstanding_count} chains outstanding"
            )
            raise QueueBroken(self._broken)
        return ready_count

    def _fault_of(self, entry: UsedEntry) -> str | None:
        """What is wrong with a used entry; None if nothing is."""
        if entry.id >= self._size:
            return f"used id {entry.id} is out of range, the queue size is {self._size}"
        chain = self._pushed.get(entry.id)
        if chain is None or not chain.published:
            return f"used id {entry.id} is not outstanding"
        if self._strict and entry.length > chain.writable_bytes:
            return (
                f"used length {entry.length} is larger than the {chain.writable_bytes}"
                f" writable bytes of chain {entry.id}"
            )
        return None

    def arm(self) -> bool:
        """Ask for a notification of the next used chain; whether one is waiting already.

        VIRTIO 1.4, 2.7.7 Used Buffer Notification Suppression.
        """
        self._refuse_if_broken()
        if self._event_idx:
            self._raw.used_event = self._used_index_seen
        else:
            self._raw.available_flags = 0
        # after_arm (full): a chain that the device used before it could see the wish is found
        # here, one that it uses later is notified.
        return self._raw.used_index != self._used_index_seen

    def disarm(self) -> None:
        """Hint that no notifications are wanted.

        With EVENT_IDX the flags stay 0 (2.7.7.1 Driver Requirements: Used Buffer Notification
        Suppression); the event is put where the used index arrives last.
        """
        if self._event_idx:
            self._raw.used_event = (self._used_index_seen - 1) & _INDEX_MASK
        else:
            self._raw.available_flags = NO_INTERRUPT

    def reclaim(self) -> list[int]:
        """After a confirmed reset only: forget all chains, zero the ring; the heads, ascending.

        The heads are of all chains that were pushed and not given back, published or not.
        """
        heads = sorted(self._pushed)
        for chain in self._pushed.values():
            release(chain.pins)
        self._raw.zero()
        self._start()
        return heads

    def _refuse_if_broken(self) -> None:
        if self._broken is not None:
            raise QueueBroken(self._broken)

    # -- The free list -----------------------------------------------------------------------

    def _take_free(self, count: int) -> int:
        """Take `count` descriptors from the front, in order; the first of them is the head."""
        head = last = self._free_head
        for _ in range(count - 1):
            last = self._next_free[last]
        self._free_head = self._next_free[last]
        self._free_count -= count
        return head

    def _free(self, head: int) -> None:
        """Put a chain back in front, so that its descriptors are taken next in the same order."""
        chain = self._pushed.pop(head)
        last = head
        for _ in range(chain.descriptor_count - 1):
            last = self._next_free[last]
        self._next_free[last] = self._free_head
        self._free_head = head
        self._free_count += chain.descriptor_count
        release(chain.pins)
