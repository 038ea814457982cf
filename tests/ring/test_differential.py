"""Both rings do the same: equal results, equal exceptions and equal ring bytes after every step."""

import random
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, ClassVar, Generic

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.ring.packed_puppet import PackedPuppet
from tests.ring.puppet import PuppetDevice
from tests.ring.support import DATA_BYTES, Device, RingBench, make_bench, make_packed_bench
from vioblk.errors import QueueBroken
from vioblk.ring import Chain, Ring

SPLIT_SIZES = [1 << exponent for exponent in range(9)]
PACKED_SIZES = [1, 2, 3, 4, 5, 7, 8, 13, 31, 32, 33, 100, 255, 256]
LENGTHS = st.integers(1, 8192)
WORDS = st.integers(0, 0xFFFF)


@st.composite
def shapes(draw: st.DrawFn, max_segments: int = 6) -> list[tuple[int, int, bool]]:
    """Segments as (offset, length, device writes), most of them valid."""
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


def chain_of(bench: RingBench[Any], shape: list[tuple[int, int, bool]]) -> Chain:
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


class Pair(Generic[Device]):
    """The same ring in both languages, over memory with the same device addresses."""

    def __init__(self, make: Callable[..., RingBench[Device]], size: int, **options: Any) -> None:
        self.native = make("native", size, **options)
        self.reference = make("reference", size, **options)
        self.both = (self.native, self.reference)

    def same(self, call: Callable[[RingBench[Device]], Any]) -> Any:
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


TABLE_SHARES = st.sampled_from([0, 0, 2, 4, 256])


class AnyRing(RuleBasedStateMachine, Generic[Device]):
    """A driver and a device that keeps the rules, each at random, on both rings."""

    honest: ClassVar = True
    pair: Pair[Device]

    def begin(self, pair: Pair[Device]) -> None:
        self.pair = pair
        self.same = pair.same
        self.size = pair.native.ring.size
        self.published: list[int] = []
        self.unpublished: list[int] = []

    # -- The driver ------------------------------------------------------------------------

    @rule(shape=shapes())
    def push(self, shape: list[tuple[int, int, bool]]) -> None:
        head = self.same(lambda bench: bench.ring.push(chain_of(bench, shape)))
        if head is not None:
            self.unpublished.append(head)

    @rule(batch=st.lists(shapes(3), max_size=20))
    def push_many(self, batch: list[list[tuple[int, int, bool]]]) -> None:
        heads = self.same(
            lambda bench: bench.ring.push_many([chain_of(bench, shape) for shape in batch])
        )
        self.unpublished += heads or []

    @rule(shape=INVALID_SHAPES, before=st.integers(0, 2))
    def push_invalid(self, shape: list[tuple[int, int, bool]], before: int) -> None:
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

    @rule(limit=st.one_of(st.none(), st.integers(0, 300)))
    def reap(self, limit: int | None) -> None:
        self.same(lambda bench: [tuple(completion) for completion in bench.ring.reap(limit)])

    @rule()
    def arm(self) -> None:
        self.same(lambda bench: bench.ring.arm())

    @rule()
    def disarm(self) -> None:
        self.same(lambda bench: bench.ring.disarm())

    @rule()
    def reclaim(self) -> None:
        self.same(lambda bench: bench.ring.reclaim())
        for bench in self.pair.both:
            bench.device.restart()
        self.published.clear()
        self.unpublished.clear()

    # -- The device ------------------------------------------------------------------------

    def look_at_the_ring(self) -> None:
        """An honest device takes what was published, and finds it whole; one that has written
        over it may not."""
        for bench in self.pair.both:
            with nullcontext() if self.honest else suppress(AssertionError, IndexError):
                for head in bench.device.take():
                    bench.device.follow(head)

    @precondition(lambda self: self.published)
    @rule(data=st.data(), length=st.integers(0, 0xFFFF_FFFF) | st.integers(0, 8192))
    def use(self, data: st.DataObject, length: int) -> None:
        position = data.draw(st.integers(0, len(self.published) - 1))
        head = self.published.pop(position)
        for bench in self.pair.both:
            bench.device.use(head, length)

    @rule(count=st.integers(1, 64), length=st.integers(0, 8192))
    def use_many(self, count: int, length: int) -> None:
        for _ in range(min(count, len(self.published))):
            head = self.published.pop(0)
            for bench in self.pair.both:
                bench.device.use(head, length)


class HonestSplit(AnyRing[PuppetDevice]):
    """A split ring, and what the device writes of one besides."""

    @initialize(
        size=st.sampled_from(SPLIT_SIZES),
        legacy_align=st.sampled_from([None, None, 4, 4096]),
        table_share=TABLE_SHARES,
        event_idx=st.booleans(),
        strict=st.booleans(),
    )
    def make(
        self, size: int, legacy_align: int | None, table_share: int, event_idx: bool, strict: bool
    ) -> None:
        self.begin(
            Pair(
                make_bench,
                size,
                legacy_align=legacy_align,
                indirect_table_size=table_size_of(size, table_share),
                event_idx=event_idx,
                strict=strict,
            )
        )

    @rule(flags=WORDS | st.sampled_from([0, 1]))
    def set_used_flags(self, flags: int) -> None:
        for bench in self.pair.both:
            bench.device.words.used_flags = flags

    @rule(distance=WORDS | st.integers(0, 8))
    def set_avail_event(self, distance: int) -> None:
        for bench in self.pair.both:
            index = bench.device.words.available_index
            bench.device.words.avail_event = (index + distance) & 0xFFFF


class HostileSplit(HonestSplit):
    """The same with a device that lies."""

    honest = False

    @rule(head=st.integers(0, 300) | st.integers(0, 0xFFFF_FFFF))
    def lie_about_the_id(self, head: int) -> None:
        for bench in self.pair.both:
            bench.device.use(head, 1)
        if head in self.published:
            self.published.remove(head)

    @rule(distance=st.integers(1, 300) | WORDS)
    def lie_about_the_index(self, distance: int) -> None:
        for bench in self.pair.both:
            bench.device.words.used_index = (bench.device.used_index + distance) & 0xFFFF

    @rule(index=st.integers(0, 255), flags=st.integers(0, 7), next_index=WORDS)
    def scribble_on_a_descriptor(self, index: int, flags: int, next_index: int) -> None:
        for bench in self.pair.both:
            bench.device.words.write_descriptor(index % self.size, 0, 0, flags, next_index)


class HonestPacked(AnyRing[PackedPuppet]):
    """A packed ring, and what the device writes of one besides."""

    @initialize(
        size=st.sampled_from(PACKED_SIZES),
        table_share=TABLE_SHARES,
        event_idx=st.booleans(),
        strict=st.booleans(),
    )
    def make(self, size: int, table_share: int, event_idx: bool, strict: bool) -> None:
        self.begin(
            Pair(
                make_packed_bench,
                size,
                indirect_table_size=table_size_of(size, table_share),
                event_idx=event_idx,
                strict=strict,
            )
        )

    @precondition(lambda self: self.published)
    @rule(data=st.data(), length=st.integers(0, 0xFFFF_FFFF))
    def use_without_a_length(self, data: st.DataObject, length: int) -> None:
        head = self.published.pop(data.draw(st.integers(0, len(self.published) - 1)))
        for bench in self.pair.both:
            bench.device.use(head, length, write_flag=False)

    @rule(flags=WORDS | st.integers(0, 3))
    def set_device_flags(self, flags: int) -> None:
        for bench in self.pair.both:
            bench.device.words.device_event_flags = flags

    @rule(distance=st.integers(-300, 300) | st.integers(-8, 8))
    def set_device_position(self, distance: int) -> None:
        """A position near the next available one, in the lap in which it lies."""
        for bench in self.pair.both:
            cursor = bench.device.available
            lap, slot = divmod(cursor.slot + distance, self.size)
            counter = (cursor.counter + lap) & 1
            bench.device.words.device_event_position = slot | counter << 15

    @rule(position=WORDS)
    def set_device_position_at_random(self, position: int) -> None:
        for bench in self.pair.both:
            bench.device.words.device_event_position = position


class HostilePacked(HonestPacked):
    """The same with a device that lies, and may take what it has written itself."""

    honest = False

    @rule(head=st.integers(0, 300) | WORDS, length=st.integers(0, 0xFFFF_FFFF))
    def lie_about_the_id(self, head: int, length: int) -> None:
        for bench in self.pair.both:
            bench.device.use(head, length)
        if head in self.published:
            self.published.remove(head)

    @rule(slot=st.integers(0, 255), flags=WORDS | st.sampled_from([0, 0x80, 0x8000, 0x8080]))
    def lie_about_the_flags(self, slot: int, flags: int) -> None:
        for bench in self.pair.both:
            bench.device.words.write_flags(slot % self.size, flags)

    @rule(slot=st.integers(0, 255), buffer_id=WORDS, flags=WORDS)
    def scribble_on_a_descriptor(self, slot: int, buffer_id: int, flags: int) -> None:
        for bench in self.pair.both:
            bench.device.words.write_descriptor(slot % self.size, 1, 2, buffer_id, flags)


@pytest.mark.timeout(400)  # hypothesis may look for a shorter failing example for five minutes
@pytest.mark.parametrize("machine", [HonestSplit, HostileSplit, HonestPacked, HostilePacked])
def test_rings_agree_after_every_step_of_any_sequence(
    machine: type[RuleBasedStateMachine],
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            deadline=None,
            max_examples=200,
            stateful_step_count=60,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


@pytest.mark.parametrize("size", [1, 4, 32, 256])
@pytest.mark.parametrize("event_idx", [False, True])
def test_rings_agree_over_the_wrap_of_the_indices(size: int, event_idx: bool) -> None:
    """Both are driven to index 65,530; from there on they are compared after every step."""
    chance = random.Random(size)
    pair = Pair(make_bench, size, event_idx=event_idx)
    for bench in pair.both:
        bench.cycle(65_530)
    in_flight: list[int] = []
    for _ in range(24 + size):
        push_and_publish(pair, in_flight, chance)
        for _ in range(chance.randint(0, len(in_flight))):
            head, written = in_flight.pop(chance.randrange(len(in_flight))), chance.randint(0, 9)
            for bench in pair.both:
                bench.device.use(head, written)
        pair.same(lambda bench: bench.ring.arm())
        pair.same(lambda bench: bench.ring.reap(2))
    assert pair.native.device.words.available_index < 65_530, "the wrap was not reached"


def push_and_publish(pair: Pair[PuppetDevice], in_flight: list[int], chance: random.Random) -> None:
    """A few chains, with the device's event anywhere near the index."""
    distance, count = chance.randrange(-4, 4), chance.randint(1, 4)
    for bench in pair.both:
        event = (bench.device.words.available_index + distance) & 0xFFFF
        bench.device.words.avail_event = event
    lengths = (3,) * chance.randint(1, min(3, pair.native.ring.size))
    in_flight += pair.same(lambda bench: bench.ring.push_many([bench.writable(*lengths)] * count))
    pair.same(lambda bench: bench.ring.publish())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 32, 100, 257])
@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("table_size", [0, 3])
def test_packed_rings_agree_over_many_laps(size: int, event_idx: bool, table_size: int) -> None:
    """Completions out of order, lists over the end of the ring, events near the position."""
    chance = random.Random(size)
    options = {"event_idx": event_idx, "indirect_table_size": min(size, table_size)}
    pair = Pair(make_packed_bench, size, **options)
    cursor = pair.native.device.available
    for _ in range(12):  # laps
        counter = cursor.counter
        while cursor.counter == counter:
            packed_step(pair, chance)
    assert pair.native.ring.broken is None


def packed_step(pair: Pair[PackedPuppet], chance: random.Random) -> None:
    """Push a few chains and publish, use some of what is outstanding, arm or disarm, reap some."""
    distance, flags = chance.randrange(-4, 4), chance.randrange(4)
    size = pair.native.ring.size
    for bench in pair.both:
        words, cursor = bench.device.words, bench.device.available
        lap, slot = divmod(cursor.slot + distance, size)
        words.device_event_position = slot | ((cursor.counter + lap) & 1) << 15
        words.device_event_flags = flags
    lengths, count = (3,) * chance.randint(1, min(5, size)), chance.randint(1, 4)
    pair.same(lambda bench: bench.ring.push_many([bench.writable(*lengths)] * count))
    pair.same(lambda bench: bench.ring.publish())
    for bench in pair.both:
        for head in bench.device.take():
            bench.device.follow(head)
    held = list(pair.native.device.held)
    for _ in range(chance.randint(0, len(held))):
        head, written = held.pop(chance.randrange(len(held))), chance.randint(0, 20)
        for bench in pair.both:
            bench.device.use(head, written, write_flag=written % 3 > 0)
    armed, limit = chance.random() < 0.5, chance.randint(1, 5)
    pair.same(lambda bench: bench.ring.arm() if armed else bench.ring.disarm())
    pair.same(lambda bench: bench.ring.reap(limit))
