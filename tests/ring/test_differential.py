"""Both rings do the same: equal results, equal exceptions and equal ring bytes after every step."""

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from operator import methodcaller
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.ring.formats import FORMATS, SPLIT_FORMATS, Device, Format
from tests.ring.packed_puppet import PackedPuppet
from tests.ring.puppet import Puppet
from tests.ring.split_puppet import SplitPuppet
from tests.ring.support import DATA_BYTES, Bench, Maker
from vioblk.errors import QueueBroken
from vioblk.ring import Chain, Ring

LENGTHS = st.integers(1, 8192)
USED_LENGTHS = st.integers(0, 0xFFFF_FFFF) | st.integers(0, 8192)
WORDS = st.integers(0, 0xFFFF)

Shape = list[tuple[int, int, bool]]
"""Segments as (offset, length, device writes)."""


@st.composite
def shapes(draw: st.DrawFn, max_segments: int = 6) -> Shape:
    """Most of them are valid."""
    offset = st.integers(0, DATA_BYTES - 8192)
    segment = st.tuples(offset, LENGTHS, st.booleans())
    return draw(st.lists(segment, min_size=1, max_size=max_segments))


INVALID_SHAPES = st.sampled_from(
    [
        [],
        [(0, 0, True)],
        [(0, 16, False), (5, 0, True)],
        [(DATA_BYTES, 1, False)],
        [(DATA_BYTES - 1, 2, True)],
        [(1 << 63, 1, True)],
        [(0, 1 << 32, True)],
        [(0, 1, True)] * 257,
    ]
)


def chain_of(bench: Bench[Any], shape: Shape) -> Chain:
    return Chain(
        [bench.segment(offset, length) for offset, length, writes in shape if not writes],
        [bench.segment(offset, length) for offset, length, writes in shape if writes],
    )


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """What a call returned or raised, in a form that can be compared."""
    try:
        return ("returned", call())
    except QueueBroken as error:
        return ("broken", str(error))
    except Exception as error:  # any exception must be the same one on the other ring
        return ("raised", type(error))


class Pair:
    """The same ring in both languages, over memory with the same device addresses."""

    def __init__(self, form: Format[Device], size: int, **options: Any) -> None:
        self.native: Bench[Any] = Maker("native", form)(size, **options)
        self.reference: Bench[Any] = Maker("reference", form)(size, **options)
        self.both = (self.native, self.reference)
        self.size = size

    def same(self, call: Callable[[Bench[Any]], Any]) -> Any:
        """Do it on both; the result if there was one, None if both raised the same."""
        native = outcome(lambda: call(self.native))
        reference = outcome(lambda: call(self.reference))
        assert native == reference
        self.check()
        return native[1] if native[0] == "returned" else None

    def check(self) -> None:
        """Both say the same of themselves, and the ring bytes are equal."""
        assert state_of(self.native.ring) == state_of(self.reference.ring)
        with (
            memoryview(self.native.region) as native,
            memoryview(self.reference.region) as reference,
        ):
            assert bytes(native) == bytes(reference)


def state_of(ring: Ring) -> tuple[int | str | None, ...]:
    return (
        ring.size,
        ring.free_count,
        ring.outstanding_count,
        ring.clamped_count,
        ring.next_available,
        ring.broken,
    )


def table_size_of(size: int, share: int) -> int:
    """A full table for each head of a large queue makes the comparison of all bytes slow."""
    return min(size, share) if size <= 33 else min(share, 4)


class AnyRing(RuleBasedStateMachine):
    """A driver and a device that keeps the rules, each at random, on both rings.

    `machine` makes one of it for each format, where a device that lies has more rules.
    """

    format: ClassVar[Format[Puppet]]
    honest: ClassVar = True

    @initialize(
        data=st.data(),
        legacy_align=st.sampled_from([None, None, 4, 4096]),
        table_share=st.sampled_from([0, 0, 2, 4, 256]),
        event_idx=st.booleans(),
        strict=st.booleans(),
    )
    def make(
        self,
        data: st.DataObject,
        legacy_align: int | None,
        table_share: int,
        event_idx: bool,
        strict: bool,
    ) -> None:
        self.size = data.draw(st.sampled_from(self.format.sizes))
        shape = {"indirect_table_size": table_size_of(self.size, table_share)}
        if self.format in SPLIT_FORMATS and legacy_align is not None:
            shape["legacy_align"] = legacy_align
        self.may_break = strict or not self.honest
        self.pair = Pair(self.format, self.size, event_idx=event_idx, strict=strict, **shape)
        self.same = self.pair.same
        self.published: list[int] = []
        self.unpublished: list[int] = []

    @invariant()
    def what_is_right_breaks_nothing(self) -> None:
        assert self.may_break or self.pair.native.ring.broken is None

    # -- The driver ------------------------------------------------------------------------

    @rule(shape=shapes())
    def push(self, shape: Shape) -> None:
        head = self.same(lambda bench: bench.ring.push(chain_of(bench, shape)))
        if head is not None:
            self.unpublished.append(head)

    @rule(batch=st.lists(shapes(3), max_size=20))
    def push_many(self, batch: list[Shape]) -> None:
        heads = self.same(
            lambda bench: bench.ring.push_many([chain_of(bench, shape) for shape in batch])
        )
        self.unpublished += heads or []

    @rule(shape=INVALID_SHAPES, before=st.integers(0, 2))
    def push_invalid(self, shape: Shape, before: int) -> None:
        good = [(0, 1, True)]
        assert self.same(lambda bench: bench.ring.push(chain_of(bench, shape))) is None
        self.same(
            lambda bench: bench.ring.push_many(
                [chain_of(bench, each) for each in [good] * before + [shape, good]]
            )
        )

    @rule()
    def withdraw(self) -> None:
        self.same(lambda bench: bench.ring.withdraw())
        self.unpublished.clear()

    @rule()
    def publish(self) -> None:
        if self.same(lambda bench: bench.ring.publish()) is not None:
            self.published += self.unpublished
            self.unpublished.clear()
            self.look_at_the_ring()

    @rule(limit=st.none() | st.integers(0, 3) | st.integers(0, 300), then_reset=st.booleans())
    def reap(self, limit: int | None, then_reset: bool) -> None:
        self.same(lambda bench: [tuple(completion) for completion in bench.ring.reap(limit)])
        if self.pair.native.ring.broken is not None and then_reset:
            self.reset()

    @rule()
    def arm(self) -> None:
        self.same(lambda bench: bench.ring.arm())

    @rule()
    def disarm(self) -> None:
        self.same(lambda bench: bench.ring.disarm())

    @rule(chance=st.integers(0, 4))
    def reclaim(self, chance: int) -> None:
        """Not so often that a ring never gets around."""
        if not chance:
            self.reset()

    def reset(self) -> None:
        self.same(lambda bench: bench.ring.reclaim())
        self.do(lambda device: device.restart())
        self.published.clear()
        self.unpublished.clear()

    @rule(rounds=st.integers(1, 5), segment_count=st.integers(1, 4), limit=st.integers(1, 4))
    def go_on(self, rounds: int, segment_count: int, limit: int) -> None:
        """All that was published comes back, and some more: so it gets around the ring."""
        chain = [(0, 8, True)] * min(segment_count, self.size)
        for _ in range(rounds):
            self.push_many([chain] * limit)
            self.publish()
            self.use_many(64, 8)
            self.reap(limit, False)

    # -- The device ------------------------------------------------------------------------

    def do(self, act: Callable[[Any], None]) -> None:
        """The device does it on both rings."""
        for bench in self.pair.both:
            act(bench.device)

    def look_at_the_ring(self) -> None:
        """An honest device takes what was published, and finds it whole; one that has written
        over it may not."""
        for bench in self.pair.both:
            with nullcontext() if self.honest else suppress(AssertionError, IndexError):
                for head in bench.device.take():
                    bench.device.follow(head)

    @precondition(lambda self: self.published)
    @rule(data=st.data(), length=USED_LENGTHS)
    def use(self, data: st.DataObject, length: int) -> None:
        """Any chain, or the oldest where the ring is in order."""
        last = 0 if self.format.in_order else len(self.published) - 1
        head = self.published.pop(data.draw(st.integers(0, last)))
        self.do(lambda device: device.use(head, length))

    @rule(count=st.integers(1, 64), length=st.integers(0, 8192))
    def use_many(self, count: int, length: int) -> None:
        for head in self.published[:count]:
            self.do(methodcaller("use", head, length))
        del self.published[:count]

    @precondition(lambda self: self.published and self.format.in_order)
    @rule(count=st.integers(1, 64) | st.integers(1, 4), length=USED_LENGTHS)
    def use_batch(self, count: int, length: int) -> None:
        heads = self.published[:count]
        del self.published[:count]
        self.do(lambda device: device.use_batch(heads, length))

    @precondition(lambda self: self.format.in_order)
    @rule(counts=st.lists(st.integers(1, 4), max_size=4), limit=st.integers(1, 3))
    def reap_batches_bit_by_bit(self, counts: list[int], limit: int) -> None:
        self.push_many([[(0, 8, True)]] * sum(counts))
        self.publish()
        for count in counts:
            if self.published:
                self.use_batch(count, count)
        for _ in counts:
            self.reap(limit, False)
            self.arm()

    @rule(wanted=st.booleans())
    def want_kicks(self, wanted: bool) -> None:
        self.do(lambda device: device.want_kicks(wanted))

    @rule(distance=st.integers(-300, 300) | st.integers(-8, 8))
    def ask_at(self, distance: int) -> None:
        self.do(lambda device: device.ask_at(distance))


class OfSplit(AnyRing):
    """What a device writes of a split ring alone."""

    @rule(flags=WORDS)
    def set_used_flags(self, flags: int) -> None:
        self.do(lambda device: setattr(device.words, "used_flags", flags))

    @rule(index=WORDS)
    def set_avail_event(self, index: int) -> None:
        self.do(lambda device: setattr(device.words, "avail_event", index))


class OfPacked(AnyRing):
    """What a device writes of a packed ring alone."""

    @precondition(lambda self: self.published)
    @rule(length=st.integers(0, 0xFFFF_FFFF), count=st.integers(1, 4))
    def use_without_a_length(self, length: int, count: int) -> None:
        heads = self.published[: count if self.format.in_order else 1]
        del self.published[: len(heads)]
        self.do(lambda device: device.use_batch(heads, length, write_flag=False))

    @rule(flags=WORDS | st.integers(0, 3))
    def set_device_flags(self, flags: int) -> None:
        self.do(lambda device: setattr(device.words, "device_event_flags", flags))

    @rule(position=WORDS)
    def set_device_position(self, position: int) -> None:
        self.do(lambda device: setattr(device.words, "device_event_position", position))


class Lies(AnyRing):
    """What no device may do."""

    honest = False

    @rule(
        head=st.integers(0, 8) | st.integers(0, 300) | st.integers(0, 0xFFFF_FFFF),
        count=st.integers(1, 3) | st.integers(0, 300),
        length=USED_LENGTHS,
    )
    def lie_about_the_id(self, head: int, count: int, length: int) -> None:
        """In a used element that claims to stand for as many chains."""
        packed = self.format not in SPLIT_FORMATS
        heads = [*self.published[: max(count - 1, 0)], head & (0xFFFF if packed else 0xFFFF_FFFF)]
        self.do(lambda device: device.use_batch(heads, length))
        self.published = [each for each in self.published if each not in heads]

    @precondition(lambda self: len(self.published) > 1)
    @rule(data=st.data(), length=USED_LENGTHS, look=st.booleans())
    def pass_over(self, data: st.DataObject, length: int, look: bool) -> None:
        """Use a chain before those that came before it, as if it were a batch of one."""
        if look:
            self.reap(None, True)
        if len(self.published) > 1:
            head = self.published.pop(data.draw(st.integers(1, len(self.published) - 1)))
            self.do(lambda device: device.use(head, length))
        if look:
            self.reap(None, True)

    @rule(index=st.integers(0, 255), flags=WORDS | st.integers(0, 7), other=WORDS)
    def scribble_on_a_descriptor(self, index: int, flags: int, other: int) -> None:
        self.do(lambda device: device.scribble(index % self.size, flags, other))


class LiesOfSplit(Lies, OfSplit):
    @rule(distance=st.integers(-3, 3) | st.integers(1, 300) | WORDS)
    def lie_about_the_index(self, distance: int) -> None:
        def move(device: SplitPuppet) -> None:
            device.words.used_index = (device.used_index + distance) & 0xFFFF

        self.do(move)


class LiesOfPacked(Lies, OfPacked):
    @rule(slot=st.integers(0, 255), flags=WORDS | st.sampled_from([0, 0x80, 0x8000, 0x8080]))
    def lie_about_the_flags(self, slot: int, flags: int) -> None:
        self.do(lambda device: device.words.write_flags(slot % self.size, flags))


def machine(form: Format[Puppet], *, honest: bool) -> type[AnyRing]:
    if form in SPLIT_FORMATS:
        base: type[AnyRing] = OfSplit if honest else LiesOfSplit
    else:
        base = OfPacked if honest else LiesOfPacked
    return type(base.__name__, (base,), {"format": form})


@pytest.mark.timeout(400)  # hypothesis may look for a shorter failing example for five minutes
@pytest.mark.parametrize("honest", [True, False], ids=["honest", "hostile"])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_rings_agree_after_every_step_of_any_sequence(form: Format[Puppet], honest: bool) -> None:
    run_state_machine_as_test(
        machine(form, honest=honest),
        settings=settings(
            deadline=None,
            max_examples=100,
            stateful_step_count=60,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


# -- Long runs, each step of them legal --------------------------------------------------------


@pytest.mark.parametrize("form", SPLIT_FORMATS, ids=str)
@pytest.mark.parametrize("size", [4, 256])
@pytest.mark.parametrize("event_idx", [False, True])
def test_rings_agree_over_the_wrap_of_the_indices(
    form: Format[SplitPuppet], size: int, event_idx: bool
) -> None:
    """Both are driven to index 65,530; from there on they are compared after every step."""
    chance = random.Random(size)
    pair = Pair(form, size, event_idx=event_idx)
    for bench in pair.both:
        bench.cycle(65_530)
    for _ in range(24 + size):
        random_step(pair, chance)
    assert pair.native.device.words.available_index < 65_530, "the wrap was not reached"
    assert pair.native.ring.broken is None


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("table_size", [0, 3])
def test_rings_agree_over_many_laps(form: Format[Puppet], event_idx: bool, table_size: int) -> None:
    """Completions in any legal order and batch, chains over the end of the ring, events near the
    position."""
    for size in (1, 2, 3, 7, 32, 100, 257) if form not in SPLIT_FORMATS else (1, 2, 4, 8, 32, 256):
        chance = random.Random(size)
        pair = Pair(form, size, event_idx=event_idx, indirect_table_size=min(size, table_size))
        pushed = 0
        while pushed < 12 * size:
            pushed += random_step(pair, chance)
        assert pair.native.ring.broken is None


def random_step(pair: Pair, chance: random.Random) -> int:
    """Push a few chains and publish, use some of what is outstanding, arm or disarm, reap some;
    how many descriptors, or tables, were pushed."""
    distance, wish = chance.randrange(-4, 4), chance.randrange(3)
    for bench in pair.both:
        if wish:
            bench.device.want_kicks(wish == 1)
        else:
            bench.device.ask_at(distance)
    lengths, count = (3,) * chance.randint(1, min(5, pair.size)), chance.randint(1, 4)
    free_count = pair.native.ring.free_count
    pair.same(lambda bench: bench.ring.push_many([bench.writable(*lengths)] * count))
    pushed = free_count - pair.native.ring.free_count
    pair.same(lambda bench: bench.ring.publish())
    for bench in pair.both:
        for head in bench.device.take():
            bench.device.follow(head)
    for heads in groups(list(pair.native.device.held), pair.native.format.in_order, chance):
        use(pair, heads, chance.randint(0, 20))
    armed, limit = chance.random() < 0.5, chance.randint(1, 5)
    pair.same(lambda bench: bench.ring.arm() if armed else bench.ring.disarm())
    pair.same(lambda bench: bench.ring.reap(limit))
    return int(pushed)


def groups(heads: list[int], in_order: bool, chance: random.Random) -> Sequence[Sequence[int]]:
    """Some of the heads, as a device uses them: in batches, or one by one in any order."""
    if not in_order:
        chance.shuffle(heads)
        return [[head] for head in heads[: chance.randint(0, len(heads))]]
    found: list[list[int]] = []
    while heads and chance.random() < 0.7:
        count = chance.randint(1, min(4, len(heads)))
        found.append(heads[:count])
        del heads[:count]
    return found


def use(pair: Pair, heads: Sequence[int], written: int) -> None:
    for bench in pair.both:
        if isinstance(bench.device, PackedPuppet):
            bench.device.use_batch(heads, written, write_flag=written % 3 > 0)
        else:
            bench.device.use_batch(heads, written)
