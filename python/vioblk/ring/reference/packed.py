"""The packed ring in pure Python (VIRTIO 1.4, 2.8 Packed Virtqueues).

One ring of descriptors serves both directions. The driver writes chains one behind the other, and
the device answers in the same slots: a *used descriptor* gives a whole chain back, in the slot
where the oldest chain that was not given back begins. The next one follows after as many slots as
that chain had, so both sides have to know the length of each chain. A chain is known by its
*buffer id*, and the device may give chains back in any order.

Whose a descriptor is, is said by its flags AVAIL and USED and a *wrap counter* that starts at 1
and flips with each lap: available is AVAIL = counter and USED = not counter, used is both =
counter. What is left over from the lap before is neither.

With IN_ORDER the buffer ids go round as the slots do, and a used descriptor may stand for a batch:
it has the id of the batch's last chain, in the slot where the batch's first begins.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from vioblk._native import Region
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
from vioblk.ring.reference.chains import Part, Plan, event_passed
from vioblk.ring.reference.driver_half import DriverHalf, Pushed, UsedElement


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


class PackedQueue(DriverHalf[RawPackedRing]):
    """The driver's half of a packed ring; the verbs are those of `DriverHalf`.

    The head of a chain is its buffer id.

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
        in_order: bool = False,
        strict: bool = False,
        zeroed: bool = False,
    ) -> None:
        """Lay the ring out in `region` and zero it (unless `zeroed`).

        `size`: descriptors, from 1 to 32768, not only powers of two. `indirect_table_size`:
        descriptors in each buffer id's indirect table; 0 if INDIRECT_DESC was not negotiated.
        `event_idx`: EVENT_IDX was negotiated. `in_order`: IN_ORDER was negotiated. `strict`: a
        used length larger than the chain's writable part breaks the queue instead of being
        clamped. `zeroed`: the region is fresh from `alloc` and the device may know of it and be
        live, so its event suppression structure, which is the device's to write, is left alone.
        Raises ValueError if the layout is impossible or does not fit the region, or if `zeroed`
        and any flags are not 0.
        """
        super().__init__(
            RawPackedRing(region, size, indirect_table_size=indirect_table_size),
            event_idx=event_idx,
            in_order=in_order,
            strict=strict,
            zeroed=zeroed,
        )

    def _start(self) -> None:
        """Both wrap counters start at 1."""
        super()._start()
        # Flags of what was pushed and not published, slot by slot from `_published` on.
        self._held_back: list[int] = []
        self._published = self._used = START

    @property
    def layout(self) -> PackedLayout:
        """Where the parts of the ring lie."""
        return self._raw.layout

    @property
    def next_available(self) -> int:
        """Where the next chain is made available: slot, and wrap counter in bit 15."""
        return self._published.word

    # -- Supplying buffers (VIRTIO 1.4, 2.8.21 Supplying Buffers to The Device) ----------------

    def _write(self, plan: Plan) -> list[int]:
        """All of a chain but its flags, at the next slots of the ring."""
        # There are as many ids as descriptors, so where a descriptor is free an id is.
        (buffer_id,) = self._numbers.take(1)
        if plan.is_indirect(self._table_size):
            self._write_indirect(buffer_id, plan.parts)
        else:
            self._write_list(buffer_id, plan.parts)
        return [buffer_id]

    def _write_list(self, buffer_id: int, parts: Sequence[Part]) -> None:
        """Descriptors in a row (2.8.6 Next Flag: Descriptor Chaining).

        The buffer id counts in the last one; all have it.
        """
        for part in parts[:-1]:
            self._write_next(part.address, part.length, buffer_id, part.write_flag | NEXT)
        last = parts[-1]
        self._write_next(last.address, last.length, buffer_id, last.write_flag)

    def _write_indirect(self, buffer_id: int, parts: Sequence[Part]) -> None:
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
        position = self._published.after(len(self._held_back), self._size)
        self._raw.write_body(position.slot, address, length, buffer_id)
        self._held_back.append(flags | position.available_flags)

    def withdraw(self) -> list[int]:
        """As in any ring; the flags never said that the descriptors are available, and what is
        pushed next is written over them (2.8.16, PACKED-DESC-02)."""
        self._held_back.clear()
        return super().withdraw()

    def _make_available(self, batch: Sequence[Pushed]) -> None:
        """Store the flags that were held back.

        The device takes descriptors in order: until it sees the first one it sees none of them.
        """
        first_slot = self._published.slot
        for distance, flags in enumerate(self._held_back[1:], start=1):
            self._raw.write_flags((first_slot + distance) % self._size, flags)
        # before_publish (release): the device that sees these flags must see all the rest
        # (2.8.21.1.1 Driver Requirements: Updating flags).
        self._raw.write_flags(first_slot, self._held_back[0])
        self._published = self._published.after(len(self._held_back), self._size)
        self._held_back.clear()

    def _kick_needed(self, batch: Sequence[Pushed]) -> bool:
        """VIRTIO 1.4, 2.8.10 Driver and Device Event Suppression.

        What the device's structure cannot mean (a reserved value, a position without EVENT_IDX)
        is no reason to keep silent.
        """
        flags = self._raw.device_event_flags & EVENT_FLAGS_MASK
        if flags == AT_DESCRIPTOR and self._event_idx:
            event_word = self._raw.device_event_position
            descriptor_count = sum(chain.descriptor_count for chain in batch)
            return batch_passed(self._published, descriptor_count, self._size, event_word)
        return flags != DISABLE

    # -- Receiving used buffers (VIRTIO 1.4, 2.8.22 Receiving Used Buffers From The Device) ----

    def _look(self) -> None:
        """There is no index to look at: each descriptor says for itself whether it is used."""

    def _next_element(self) -> UsedElement | None:
        slot = self._used.slot
        flags = self._raw.read_flags(slot)
        if flags & (AVAIL | USED) != self._used.used_flags:
            return None
        if not self.outstanding_count:
            self._break(f"descriptor {slot} is marked used, but no chain is outstanding")
        # after_used_index (acquire): the rest of the descriptor and what the device wrote into
        # the buffers are read after the flags.
        buffer_id, length = self._raw.read_used(slot)
        # Without WRITE the length means nothing (2.8.4 Element Address and Length).
        return UsedElement(buffer_id, length if flags & WRITE else None)

    def _check_batch(self, head: int, chain_count: int) -> None:
        """Nothing else says how long a batch is."""

    def _step_over(self, chain: Pushed) -> None:
        self._used = self._used.after(chain.descriptor_count, self._size)

    def _is_used(self) -> bool:
        flags = self._raw.read_flags(self._used.slot)
        return flags & (AVAIL | USED) == self._used.used_flags

    def _ask(self) -> None:
        """VIRTIO 1.4, 2.8.10 Driver and Device Event Suppression."""
        if self._event_idx:
            self._raw.driver_event_position = self._used.word
            self._raw.driver_event_flags = AT_DESCRIPTOR
        else:
            self._raw.driver_event_flags = ENABLE

    def disarm(self) -> None:
        """Hint that no notifications are wanted."""
        self._raw.driver_event_flags = DISABLE
