"""What the two formats have in common: the verbs, and what the driver remembers of its chains.

A format says how a chain is written, how a batch becomes available, and where the device tells what
it has used.

With IN_ORDER (VIRTIO 1.4, 2.7.9 and 2.8.8 In-order use of descriptors) the device uses chains in
the order in which they were made available. So it need not write a used element for each: one gives
back its own chain and all before it. Those that were skipped count as used completely.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, Generic, NamedTuple, NoReturn, TypeVar

from vioblk.errors import QueueBroken, QueueFull
from vioblk.ring import Chain, Completion
from vioblk.ring.raw import RawPackedRing, RawSplitRing
from vioblk.ring.reference.chains import LENGTH_MAX, Plan, plan_of, release
from vioblk.ring.reference.numbers import InTurn, LastFreedFirst, Numbers

Raw = TypeVar("Raw", RawSplitRing, RawPackedRing)


@dataclass(slots=True)
class Pushed:
    """What the driver remembers of a chain, where the device cannot reach it."""

    numbers: list[int]
    """Split: of its descriptors in the table. Packed: its buffer id."""
    descriptor_count: int
    """In the ring: one for an indirect chain."""
    writable_bytes: int
    """All of 2^32 bytes, of which no used length can speak, count as one less."""
    pins: list[memoryview]


class UsedElement(NamedTuple):
    """What the device says of the last chain of a batch, as it wrote it."""

    id: int
    written_bytes: int | None
    """None if it does not say."""


class DriverHalf(ABC, Generic[Raw]):
    """The driver's half of a ring of either format. `vioblk.ring.Ring` says what each verb means.

    Neither side is trusted: a chain is checked before anything is written, and of the device's
    words each is read once, checked, and only then used. Which numbers are free, the lengths and
    the chains outstanding are our own copies, which the device cannot reach.

    While a chain is pushed, an export of each of its regions is held, so closing the region
    raises BufferError. (The Rust ring counts it in `Region.in_flight` instead.)
    """

    def __init__(
        self,
        raw: Raw,
        *,
        event_idx: bool,
        in_order: bool,
        strict: bool,
        zeroed: bool,
    ) -> None:
        """Zero the ring, unless it is `zeroed`. Raises ValueError if it is not after all."""
        self._raw: Final[Raw] = raw
        self._size: Final = raw.size
        self._table_size: Final = raw.indirect_table_size
        self._event_idx: Final = event_idx
        self._in_order: Final = in_order
        self._strict: Final = strict
        self._clamped_count = 0
        if not zeroed:
            raw.zero()
        elif not raw.is_zeroed:
            raise ValueError("the ring's memory is not zeroed: give it a region fresh from alloc")
        self._start()

    def _start(self) -> None:
        """Everything as new, notifications enabled."""
        self._free_count = self._size
        self._numbers: Numbers = (
            InTurn(self._size) if self._in_order else LastFreedFirst(self._size)
        )
        # By head, in the order in which they were pushed.
        self._unpublished: dict[int, Pushed] = {}
        self._outstanding: dict[int, Pushed] = {}
        # What a used element gave back and `reap` has yet to hand out.
        self._returned: deque[Completion] = deque()
        self._broken: str | None = None

    # -- State -------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Descriptors in the ring."""
        return self._size

    @property
    def free_count(self) -> int:
        """Descriptors that are free."""
        return self._free_count

    @property
    def outstanding_count(self) -> int:
        """Chains published and not yet reaped."""
        return len(self._outstanding)

    @property
    def clamped_count(self) -> int:
        """Completions whose written length was larger than the chain's writable part."""
        return self._clamped_count

    @property
    def broken(self) -> str | None:
        """Why the ring can no longer be trusted; None while it can."""
        return self._broken

    @property
    def next_head(self) -> int:
        """The head that the next `push` will return, if it succeeds."""
        return self._numbers.first

    @property
    def raw(self) -> Raw:
        """Every word of this ring, without any rule: for misuse on purpose."""
        return self._raw

    # -- Supplying buffers ---------------------------------------------------------------------

    def push(self, chain: Chain, /) -> int:
        """Write a chain, whole or not at all, and return its head."""
        self._refuse_if_broken()
        plan = plan_of(chain, self._size)
        needed = plan.descriptors_needed(self._table_size)
        if needed > self._free_count:
            raise QueueFull(f"the chain needs {needed} descriptors, {self._free_count} are free")
        return self._add(plan)

    def push_many(self, chains: Sequence[Chain], /) -> list[int]:
        """Push from the front as many as fit; validates all before it writes any."""
        self._refuse_if_broken()
        heads: list[int] = []
        for plan in [plan_of(chain, self._size) for chain in chains]:
            if plan.descriptors_needed(self._table_size) > self._free_count:
                break
            heads.append(self._add(plan))
        return heads

    def _add(self, plan: Plan) -> int:
        """Write a validated chain that fits, and remember it."""
        numbers = self._write(plan)
        head, descriptor_count = numbers[0], plan.descriptors_needed(self._table_size)
        writable_bytes = min(plan.writable_bytes, LENGTH_MAX)
        self._unpublished[head] = Pushed(numbers, descriptor_count, writable_bytes, plan.pin())
        self._free_count -= descriptor_count
        return head

    def withdraw(self) -> list[int]:
        """Take back what was pushed since the last publish; the heads, newest first.

        What was written stays, but it was never available, so the device must not look there. A
        published chain cannot be taken back.
        """
        withdrawn = [*reversed(self._unpublished)]
        for head in withdrawn:
            chain = self._unpublished.pop(head)
            self._numbers.untake(chain.numbers)
            self._forget(chain)
        return withdrawn

    def publish(self) -> bool:
        """Make what was pushed visible in one step; whether the device must be notified."""
        self._refuse_if_broken()
        if not self._unpublished:
            return False
        batch = [*self._unpublished.values()]
        self._outstanding |= self._unpublished
        self._unpublished.clear()
        self._make_available(batch)
        # before_notify_check (full): else the device's wish could be read before the device can
        # see what is available, and both sides would wait (VIRTIO 1.4, 2.7.13.4.1 Driver
        # Requirements: Notifying The Device; 2.8.21.3.1 Driver Requirements: Sending Available
        # Buffer Notifications).
        return self._kick_needed(batch)

    # -- Receiving used buffers ----------------------------------------------------------------

    def reap(self, limit: int | None = None) -> list[Completion]:
        """Take back used chains, at most `limit` (all that are ready if None)."""
        self._refuse_if_broken()
        completions: list[Completion] = []
        try:
            self._look()
            while limit is None or len(completions) < limit:
                if not self._returned and not self._take_element():
                    break
                completions.append(self._hand_out())
        except QueueBroken:
            if not completions:
                raise
        return completions

    def _take_element(self) -> bool:
        """Note the chains that the next used element gives back; False if there is none."""
        element = self._next_element()
        if element is None:
            return False
        self._check(element)
        *skipped, last = self._given_back_by(element.id)
        self._check_batch(last, len(skipped) + 1)
        for head in skipped:
            self._returned.append(Completion(head, self._outstanding[head].writable_bytes))
        self._returned.append(Completion(last, self._clamped(element)))
        return True

    def _given_back_by(self, head: int) -> list[int]:
        """All chains that a used element with this id gives back, in their order."""
        if not self._in_order:
            return [head]
        return [*takewhile(lambda older: older != head, self._outstanding), head]

    def _check(self, element: UsedElement) -> None:
        """Break the ring if the element names nothing that is outstanding, or lies otherwise."""
        used_id, written_bytes = element
        if used_id >= self._size:
            self._break(f"used id {used_id} is out of range, the queue size is {self._size}")
        if used_id not in self._outstanding:
            self._break(f"used id {used_id} is not outstanding")
        writable_bytes = self._outstanding[used_id].writable_bytes
        if self._strict and written_bytes is not None and written_bytes > writable_bytes:
            self._break(
                f"used length {written_bytes} is larger than the {writable_bytes}"
                f" writable bytes of chain {used_id}"
            )

    def _clamped(self, element: UsedElement) -> int | None:
        """What the device wrote, at most what it could."""
        writable_bytes = self._outstanding[element.id].writable_bytes
        if element.written_bytes is None or element.written_bytes <= writable_bytes:
            return element.written_bytes
        self._clamped_count += 1
        return writable_bytes

    def _hand_out(self) -> Completion:
        """The next chain of those that were given back; it is free from here on."""
        completion = self._returned.popleft()
        chain = self._outstanding.pop(completion.head)
        self._numbers.give_back(chain.numbers)
        self._forget(chain)
        self._step_over(chain)
        return completion

    @property
    def has_used(self) -> bool:
        """Whether `reap` would find something; a look that asks for no interrupt."""
        return self.broken is None and self._is_used()

    def arm(self) -> bool:
        """Ask for a notification of the next used chain; whether one is waiting already."""
        self._refuse_if_broken()
        self._ask()
        # after_arm (full): a chain that the device used before it could see the wish is found
        # here, one that it uses later is notified.
        return bool(self._returned) or self._is_used()

    def reclaim(self) -> list[int]:
        """After a confirmed reset only: forget all chains, zero the ring; the heads, ascending.

        The heads are of all chains that were pushed and not given back, published or not.
        """
        kept = self._outstanding | self._unpublished
        for chain in kept.values():
            release(chain.pins)
        self._raw.zero()
        self._start()
        return sorted(kept)

    # -- What a format has to say --------------------------------------------------------------

    @abstractmethod
    def _write(self, plan: Plan) -> list[int]:
        """Write a validated chain that fits, not yet available; the numbers that it took, its
        head first."""

    @abstractmethod
    def _make_available(self, batch: Sequence[Pushed]) -> None:
        """Show the device all that was pushed, in one step."""

    @abstractmethod
    def _kick_needed(self, batch: Sequence[Pushed]) -> bool:
        """Whether the device wants to hear of the batch that has just become available."""

    @abstractmethod
    def _look(self) -> None:
        """See once what is ready; it breaks the ring if there cannot be so much."""

    @abstractmethod
    def _next_element(self) -> UsedElement | None:
        """The used element whose turn it is; None if the device has not written it."""

    @abstractmethod
    def _check_batch(self, head: int, chain_count: int) -> None:
        """Break the ring if one element cannot have given back so many chains."""

    @abstractmethod
    def _step_over(self, chain: Pushed) -> None:
        """Go on behind a chain that was handed out, where the next used element will be."""

    @abstractmethod
    def _is_used(self) -> bool:
        """Whether the next used element is there."""

    @abstractmethod
    def _ask(self) -> None:
        """Write the wish for a notification of the next used chain."""

    # -- Helpers -------------------------------------------------------------------------------

    def _forget(self, chain: Pushed) -> None:
        """The chain is in the ring no more."""
        self._free_count += chain.descriptor_count
        release(chain.pins)

    def _break(self, reason: str) -> NoReturn:
        self._broken = reason
        raise QueueBroken(reason)

    def _refuse_if_broken(self) -> None:
        if self._broken is not None:
            raise QueueBroken(self._broken)
