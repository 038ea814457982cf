"""The packed ring in pure Python (VIRTIO 1.4, 2.8 Packed Virtqueues).

One ring of descriptors serves both directions. The driver writes chains one behind the other, and
the device answers in the same slots: a *used descriptor* gives a whole chain back, in the slot
where the oldest chain that was not given back begins. The next one follows after as many slots as
that chain had, so both sides have to know the length of each chain. A chain is known by its
*buffer id*, and the device may give chains back in any order.

Whose a descriptor is, is said by its flags AVAIL and USED and a *wrap counter* that starts at 1
and flips with each lap: available is AVAIL = counter and USED = not counter, used is both =
counter. What is left over from the lap before is neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from vioblk._native import Region
from vioblk.errors import QueueBroken, QueueFull
from vioblk.ring import Chain, Completion
from vioblk.ring.raw.packed import (
    AT_DESCRIPTOR,
    AVAIL,
    DISABLE,
    ENABLE,
    EVENT_FLAGS_MASK,
    USED,
    WRAP,
    PackedLayout,
    RawPackedRing,
)
from vioblk.ring.raw.words import DESCRIPTOR_BYTES, INDIRECT, NEXT, WRITE
from vioblk.ring.reference.chains import Part, Plan, event_passed, plan_of, release


class Position(NamedTuple):
    """A slot, and the wrap counter of the lap (2.8.1 Driver and Device Ring Wrap Counters)."""

    slot: int
    counter: int

    @property
    def available_flags(self) -> int:
        """AVAIL and USED of a descriptor that becomes available here."""
        return AVAIL if self.counter else USED

    @property
    def used_flags(self) -> int:
        """AVAIL and USED of a descriptor that the device has used here."""
        return AVAIL | USED if self.counter else 0

    @property
    def word(self) -> int:
        """As an event suppression structure, or a notification, says it."""
        return self.slot | (WRAP if self.counter else 0)

    def after(self, count: int, size: int) -> "Position":
        """`count` slots further on, at most one lap."""
        laps, slot = divmod(self.slot + count, size)
        return Position(slot, self.counter ^ laps)


START: Final = Position(0, 1)


def batch_passed(next_position: Position, count: int, size: int, event_word: int) -> bool:
    """Whether a batch of `count` descriptors up to `next_position` passed the event.

    An event of the other lap lies `size` slots back; apart from that it is the test of the split
    ring (2.8.10 Driver and Device Event Suppression, for a batch).
    """
    event_slot, event_counter = event_word & ~WRAP, event_word // WRAP
    if event_counter != next_position.counter:
        event_slot -= size
    return event_passed(next_position.slot - count, next_position.slot, event_slot)


@dataclass(slots=True)
class _Pushed:
    """What the driver remembers of a chain, where the device cannot reach it."""

    descriptor_count: int
    writable_bytes: int
    pins: list[memoryview]
    published: bool = False


class PackedQueue:
    """The driver's half of a packed ring. `vioblk.ring.Ring` says what each verb means.

    The head of a chain is its buffer id. Neither side is trusted, as in `SplitQueue`.

    `push` writes all of a chain but its flags, which `publish` stores, those of the batch's first
    descriptor last. So what is withdrawn was never available, and no descriptor changes once it is
    the device's.
    """

    def __init__(
        self,
        region: Region,
        size: int,
        *,
        indirect_table_size: int = 0,
        event_idx: bool = False,
        strict: bool = False,
        zeroed: bool = False,
    ) -> None:
        """Lay the ring out in `region` and zero it (unless `zeroed`).

        `size`: descriptors, from 1 to 32768, not only powers of two. `indirect_table_size`:
        descriptors in each buffer id's indirect table; 0 if INDIRECT_DESC was not negotiated.
        `event_idx`: EVENT_IDX was negotiated. `strict`: a used length larger than the chain's
        writable part breaks the queue instead of being clamped. `zeroed`: the region is fresh
        from `alloc` and the device may know of it and be live, so its event suppression
        structure, which is the device's to write, is left alone.
        Raises ValueError if the layout is impossible or does not fit the region, or if `zeroed`
        and any flags are not 0.
        """
        self._raw: Final = RawPackedRing(region, size, indirect_table_size=indirect_table_size)
        self._size: Final = size
        self._table_size: Final = indirect_table_size
        self._event_idx: Final = event_idx
        self._strict: Final = strict
        self._clamped_count = 0
        if not zeroed:
            self._raw.zero()
        elif self._raw.driver_event_flags or any(map(self._raw.read_flags, range(size))):
            raise ValueError("the ring's memory is not zeroed: give it a region fresh from alloc")
        self._start()

    def _start(self) -> None:
        """Everything as new. Both wrap counters start at 1, and notifications start enabled."""
        self._free_count = self._size
        # A stack: the id that was freed last is taken next.
        self._free_ids = [*reversed(range(self._size))]
        self._pushed: dict[int, _Pushed] = {}
        self._unpublished: list[int] = []
        # Flags of what was pushed and not published, slot by slot from `_published` on.
        self._held_back: list[int] = []
        self._outstanding_count = 0
        self._next = self._published = self._used = START
        self._broken: str | None = None

    # -- State -------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Descriptors in the ring."""
        return self._size

    @property
    def layout(self) -> PackedLayout:
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
        """Where the next chain is made available: slot, and wrap counter in bit 15."""
        return self._published.word

    @property
    def next_head(self) -> int:
        """The buffer id that the next `push` will return, if it succeeds."""
        return self._free_ids[-1]

    @property
    def raw(self) -> RawPackedRing:
        """Every word of this ring, without any rule: for misuse on purpose."""
        return self._raw

    # -- Supplying buffers (VIRTIO 1.4, 2.8.21 Supplying Buffers to The Device) ----------------

    def push(self, chain: Chain, /) -> int:
        """Write a chain, whole or not at all, and return its buffer id."""
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
        """Take back what was pushed since the last publish; the ids, newest first.

        The descriptors stay as written, but their flags never said that they are available. A
        published chain cannot be taken back (2.8.16, PACKED-DESC-02).
        """
        withdrawn = self._unpublished[::-1]
        for buffer_id in withdrawn:
            self._free(buffer_id)
        self._unpublished.clear()
        self._held_back.clear()
        self._next = self._published
        return withdrawn

    def publish(self) -> bool:
        """Make what was pushed visible in one step; whether the device must be notified."""
        self._refuse_if_broken()
        if not self._unpublished:
            return False
        for buffer_id in self._unpublished:
            self._pushed[buffer_id].published = True
        self._outstanding_count += len(self._unpublished)
        self._unpublished.clear()
        descriptor_count = len(self._held_back)
        self._show()
        # before_notify_check (full): else the suppression could be read before the device can
        # see the flags, and both sides would wait (2.8.21.3.1 Driver Requirements: Sending
        # Available Buffer Notifications).
        return self._kick_needed(descriptor_count)

    def _show(self) -> None:
        """Store the flags that were held back.

        The device takes descriptors in order: until it sees the first one it sees none of them.
        """
        first_slot = self._published.slot
        for distance, flags in enumerate(self._held_back[1:], start=1):
            self._raw.write_flags((first_slot + distance) % self._size, flags)
        # before_publish (release): the device that sees these flags must see all the rest
        # (2.8.21.1.1 Driver Requirements: Updating flags).
        self._raw.write_flags(first_slot, self._held_back[0])
        self._held_back.clear()
        self._published = self._next

    def _kick_needed(self, descriptor_count: int) -> bool:
        """VIRTIO 1.4, 2.8.10 Driver and Device Event Suppression.

        What the device's structure cannot mean (a reserved value, a position without EVENT_IDX)
        is no reason to keep silent.
        """
        flags = self._raw.device_event_flags & EVENT_FLAGS_MASK
        if flags == AT_DESCRIPTOR and self._event_idx:
            event_word = self._raw.device_event_position
            return batch_passed(self._published, descriptor_count, self._size, event_word)
        return flags != DISABLE

    def _write(self, plan: Plan) -> int:
        """Write a validated chain that fits, all but its flags."""
        # There are as many ids as descriptors, so where a descriptor is free an id is.
        buffer_id = self._free_ids.pop()
        if plan.is_indirect(self._table_size):
            self._write_indirect(buffer_id, plan.parts)
        else:
            self._write_list(buffer_id, plan.parts)
        descriptor_count = plan.descriptors_needed(self._table_size)
        self._free_count -= descriptor_count
        self._pushed[buffer_id] = _Pushed(descriptor_count, plan.writable_bytes, plan.pin())
        self._unpublished.append(buffer_id)
        return buffer_id

    def _write_list(self, buffer_id: int, parts: list[Part]) -> None:
        """Descriptors in a row (2.8.6 Next Flag: Descriptor Chaining).

        The buffer id counts in the last one; all have it.
        """
        for part in parts[:-1]:
            self._write_next(part.address, part.length, buffer_id, part.write_flag | NEXT)
        last = parts[-1]
        self._write_next(last.address, last.length, buffer_id, last.write_flag)

    def _write_indirect(self, buffer_id: int, parts: list[Part]) -> None:
        """The id's own table, and one descriptor that points to it (2.8.7 Indirect Flag:
        Scatter-Gather Support).

        The entries stand in a row; no flag but WRITE means anything in them.
        """
        for index, part in enumerate(parts):
            self._raw.write_table_entry(
                buffer_id, index, part.address, part.length, part.write_flag
            )
        address = self._raw.table_address(buffer_id)
        self._write_next(address, len(parts) * DESCRIPTOR_BYTES, buffer_id, INDIRECT)

    def _write_next(self, address: int, length: int, buffer_id: int, flags: int) -> None:
        """Write the next descriptor of the ring; its flags are held back."""
        self._raw.write_body(self._next.slot, address, length, buffer_id)
        self._held_back.append(flags | self._next.available_flags)
        self._next = self._next.after(1, self._size)

    # -- Receiving used buffers (VIRTIO 1.4, 2.8.22 Receiving Used Buffers From The Device) ----

    def reap(self, limit: int | None = None) -> list[Completion]:
        """Take back used chains, at most `limit` (all that are ready if None)."""
        self._refuse_if_broken()
        completions: list[Completion] = []
        while limit is None or len(completions) < limit:
            flags = self._raw.read_flags(self._used.slot)
            if not self._is_used(flags):
                break
            completion = self._take_used(flags)
            if completion is None:
                break
            completions.append(completion)
        if not completions:
            self._refuse_if_broken()
        return completions

    def _is_used(self, flags: int) -> bool:
        return flags & (AVAIL | USED) == self._used.used_flags

    def _take_used(self, flags: int) -> Completion | None:
        """The chain that the next used descriptor gives back; None if that breaks the queue."""
        if not self._outstanding_count:
            slot = self._used.slot
            self._broken = f"descriptor {slot} is marked used, but no chain is outstanding"
            return None
        # after_used_index (acquire): the rest of the descriptor and what the device wrote into
        # the buffers are read after the flags.
        buffer_id, length = self._raw.read_used(self._used.slot)
        # Without WRITE the length means nothing (2.8.4 Element Address and Length).
        written_bytes = length if flags & WRITE else None
        self._broken = self._fault_of(buffer_id, written_bytes or 0)
        if self._broken is not None:
            return None
        chain = self._pushed[buffer_id]
        if written_bytes is not None and written_bytes > chain.writable_bytes:
            written_bytes = chain.writable_bytes
            self._clamped_count += 1
        self._free(buffer_id)
        self._used = self._used.after(chain.descriptor_count, self._size)
        self._outstanding_count -= 1
        return Completion(buffer_id, written_bytes)

    def _fault_of(self, buffer_id: int, written_bytes: int) -> str | None:
        """What is wrong with a used descriptor; None if nothing is."""
        if buffer_id >= self._size:
            return f"used id {buffer_id} is out of range, the queue size is {self._size}"
        chain = self._pushed.get(buffer_id)
        if chain is None or not chain.published:
            return f"used id {buffer_id} is not outstanding"
        if self._strict and written_bytes > chain.writable_bytes:
            return (
                f"used length {written_bytes} is larger than the {chain.writable_bytes}"
                f" writable bytes of chain {buffer_id}"
            )
        return None

    def arm(self) -> bool:
        """Ask for a notification of the next used chain; whether one is waiting already."""
        self._refuse_if_broken()
        if self._event_idx:
            self._raw.driver_event_position = self._used.word
            self._raw.driver_event_flags = AT_DESCRIPTOR
        else:
            self._raw.driver_event_flags = ENABLE
        # after_arm (full): a chain that the device used before it could see the wish is found
        # here, one that it uses later is notified.
        return self._is_used(self._raw.read_flags(self._used.slot))

    def disarm(self) -> None:
        """Hint that no notifications are wanted."""
        self._raw.driver_event_flags = DISABLE

    def reclaim(self) -> list[int]:
        """After a confirmed reset only: forget all chains, zero the ring; the ids, ascending.

        The ids are of all chains that were pushed and not given back, published or not.
        """
        buffer_ids = sorted(self._pushed)
        for chain in self._pushed.values():
            release(chain.pins)
        self._raw.zero()
        self._start()
        return buffer_ids

    def _refuse_if_broken(self) -> None:
        if self._broken is not None:
            raise QueueBroken(self._broken)

    def _free(self, buffer_id: int) -> None:
        chain = self._pushed.pop(buffer_id)
        self._free_ids.append(buffer_id)
        self._free_count += chain.descriptor_count
        release(chain.pins)
