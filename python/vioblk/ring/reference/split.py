"""The split ring in pure Python (VIRTIO 1.4, 2.7 Split Virtqueues).

A *chain* of descriptors describes one buffer; its first descriptor is its *head*. `push` writes
the chain and puts the head in the next slot of the available ring; `publish` moves the available
index, and from then on the device may read it. When the device has used the buffer it puts the
head in the used ring and moves the used index; `reap` finds it there. Both indices run freely
modulo 65536; an entry's slot is its index modulo the queue size.

With IN_ORDER descriptors are taken in the order of the table, around its end too, and a used entry
may stand for a batch: it has the head of the batch's last chain, lies in the slot of the batch's
first, and the used index moves by the number of its chains.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from vioblk._native import Region
from vioblk.ring.raw.split import NO_INTERRUPT, NO_NOTIFY, RawSplitRing, SplitLayout
from vioblk.ring.raw.words import DESCRIPTOR_BYTES, INDIRECT, NEXT
from vioblk.ring.reference.chains import Part, Plan, event_passed
from vioblk.ring.reference.driver_half import DriverHalf, Pushed, UsedElement

_INDEX_MASK: Final = 0xFFFF


class SplitQueue(DriverHalf[RawSplitRing]):
    """The driver's half of a split ring; the verbs are those of `DriverHalf`."""

    def __init__(
        self,
        region: Region,
        size: int,
        *,
        legacy_align: int | None = None,
        indirect_table_size: int = 0,
        event_idx: bool = False,
        in_order: bool = False,
        strict: bool = False,
        zeroed: bool = False,
    ) -> None:
        """Lay the ring out in `region` and zero it (unless `zeroed`).

        `size`: descriptors, a power of two. `legacy_align`: bytes, for the legacy layout.
        `indirect_table_size`: descriptors in each head's indirect table; 0 if INDIRECT_DESC was
        not negotiated. `event_idx`: EVENT_IDX was negotiated. `in_order`: IN_ORDER was negotiated.
        `strict`: a used length larger than the chain's writable part breaks the queue instead of
        being clamped. `zeroed`: the region is fresh from `alloc` and the device may know of it and
        be live, so the used ring, which is the device's to write, is left alone.
        Raises ValueError if the layout is impossible or does not fit the region, or if `zeroed`
        and an index is not 0.
        """
        super().__init__(
            RawSplitRing(
                region, size, legacy_align=legacy_align, indirect_table_size=indirect_table_size
            ),
            event_idx=event_idx,
            in_order=in_order,
            strict=strict,
            zeroed=zeroed,
        )

    def _start(self) -> None:
        """All indices start at 0."""
        super()._start()
        self._published_index = 0
        self._used_index = 0
        self._used_index_seen = 0

    @property
    def layout(self) -> SplitLayout:
        """Where the parts of the ring lie."""
        return self._raw.layout

    @property
    def next_available(self) -> int:
        """Where the next chain is made available: the available index."""
        return self._published_index

    # -- Supplying buffers (VIRTIO 1.4, 2.7.13 Supplying Buffers to The Device) ---------------

    def _write(self, plan: Plan) -> list[int]:
        """A chain, and its entry in the available ring, which no index covers yet."""
        if plan.is_indirect(self._table_size):
            numbers = self._numbers.take(1)
            self._write_indirect(numbers[0], plan.parts)
        else:
            numbers = self._numbers.take(len(plan.parts))
            self._write_direct(numbers, plan.parts)
        index = self._published_index + len(self._unpublished)
        self._raw.write_available(index % self._size, numbers[0])
        return numbers

    def _write_direct(self, numbers: Sequence[int], parts: Sequence[Part]) -> None:
        """A chain in the descriptor table, linked by `next` (2.7.5)."""
        for part, (number, following) in zip(parts, pairwise(numbers), strict=False):
            flags = part.write_flag | NEXT
            self._raw.write_descriptor(number, part.address, part.length, flags, following)
        last = parts[-1]
        self._raw.write_descriptor(numbers[-1], last.address, last.length, last.write_flag)

    def _write_indirect(self, head: int, parts: Sequence[Part]) -> None:
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

    def _make_available(self, batch: Sequence[Pushed]) -> None:
        """Move the index over the batch; it never moves backwards (2.7.6.1 Driver Requirements:
        The Virtqueue Available Ring)."""
        self._published_index = (self._published_index + len(batch)) & _INDEX_MASK
        # before_publish (release): the device that sees the index must see what it covers
        # (2.7.13.3.1 Driver Requirements: Updating idx).
        self._raw.available_index = self._published_index

    def _kick_needed(self, batch: Sequence[Pushed]) -> bool:
        """VIRTIO 1.4, 2.7.10 Available Buffer Notification Suppression."""
        if self._event_idx:
            new_index = self._published_index
            return event_passed(new_index - len(batch), new_index, self._raw.avail_event)
        return not self._raw.used_flags & NO_NOTIFY

    # -- Receiving used buffers (VIRTIO 1.4, 2.7.14 Receiving Used Buffers From The Device) ---

    @property
    def _ready_count(self) -> int:
        """Chains that the used index covers and that were not handed out."""
        return (self._used_index - self._used_index_seen) & _INDEX_MASK

    def _look(self) -> None:
        self._used_index = self._raw.used_index
        # after_used_index (acquire): the entries and what the device wrote into the buffers are
        # read after the index that covers them.
        ahead = self._ready_count - self.outstanding_count
        if ahead > 0:
            self._break(
                f"used index {self._used_index} is {ahead} ahead of"
                f" the {self.outstanding_count} chains outstanding"
            )
        if self._ready_count < len(self._returned):
            # Moved back, but what was given back stays so, and ends what can be ready.
            self._used_index = (self._used_index_seen + len(self._returned)) & _INDEX_MASK

    def _next_element(self) -> UsedElement | None:
        if not self._ready_count:
            return None
        return UsedElement(*self._raw.read_used(self._used_index_seen % self._size))

    def _check_batch(self, head: int, chain_count: int) -> None:
        if chain_count > self._ready_count:
            self._break(
                f"the device used chains up to head {head}, {chain_count} of them,"
                f" but moved the used index by {self._ready_count}"
            )

    def _step_over(self, chain: Pushed) -> None:
        self._used_index_seen = (self._used_index_seen + 1) & _INDEX_MASK

    def _is_used(self) -> bool:
        return self._raw.used_index != self._used_index_seen

    def _ask(self) -> None:
        """VIRTIO 1.4, 2.7.7 Used Buffer Notification Suppression."""
        if self._event_idx:
            self._raw.used_event = self._used_index_seen
        else:
            self._raw.available_flags = 0

    def disarm(self) -> None:
        """Hint that no notifications are wanted.

        With EVENT_IDX the flags stay 0 (2.7.7.1 Driver Requirements: Used Buffer Notification
        Suppression); the event is put where the used index arrives last.
        """
        if self._event_idx:
            self._raw.used_event = (self._used_index_seen - 1) & _INDEX_MASK
        else:
            self._raw.available_flags = NO_INTERRUPT
