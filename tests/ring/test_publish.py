"""Publishing, and whether the device must be notified: VIRTIO 1.4, 2.7.6, 2.7.10 and 2.7.13."""

import pytest

from tests.clauses import clause
from tests.ring.support import Bench, MakeBench
from vioblk.ring import reference


def publish_batch(bench: Bench, count: int) -> bool:
    """Publish `count` chains in one step and complete them; what publish said."""
    assert len(bench.ring.push_many([bench.writable(1)] * count)) == count
    kick_needed = bench.ring.publish()
    bench.device.use_all()
    assert len(bench.ring.reap()) == count
    return kick_needed


@clause("SPLIT-ADD-01", "SPLIT-ADD-03")
def test_a_batch_becomes_visible_with_one_update_of_the_index(make: MakeBench) -> None:
    bench = make(8)
    heads = []
    for _ in range(5):
        heads.append(bench.ring.push(bench.writable(1)))
        assert bench.device.take() == []
    bench.ring.publish()
    assert bench.device.take() == heads
    assert bench.device.words.available_index == 5


def test_publishing_nothing_writes_nothing_and_needs_no_kick(make: MakeBench) -> None:
    bench = make(8)
    with memoryview(bench.region) as memory:
        before = bytes(memory)
        assert bench.ring.publish() is False
        assert bytes(memory) == before


@clause("SPLIT-AVAIL-01")
@pytest.mark.parametrize("size", [1, 4])
def test_the_available_index_only_ever_moves_forward(make: MakeBench, size: int) -> None:
    bench = make(size)
    for index in range(3 * size):
        # What is withdrawn was never visible, and withdrawing does not move the index.
        bench.ring.push(bench.writable(1))
        bench.ring.withdraw()
        assert bench.device.words.available_index == index
        bench.ring.push(bench.writable(1))
        bench.ring.publish()
        assert bench.device.words.available_index == index + 1
        assert bench.ring.withdraw() == []
        bench.device.use_all()
        bench.ring.reap()
        assert bench.device.words.available_index == index + 1


@clause("SPLIT-KICK-03", "SPLIT-KICK-04")
def test_without_event_idx_the_used_flags_decide_about_the_kick(make: MakeBench) -> None:
    bench = make(8)
    assert publish_batch(bench, 1) is True
    bench.device.words.used_flags = 1
    assert publish_batch(bench, 1) is False
    assert publish_batch(bench, 3) is False
    bench.device.words.used_flags = 0
    assert publish_batch(bench, 3) is True


def test_only_bit_0_of_the_used_flags_counts(make: MakeBench) -> None:
    bench = make(8)
    bench.device.words.used_flags = 0xFFFE
    assert publish_batch(bench, 1) is True
    bench.device.words.used_flags = 0xFFFF
    assert publish_batch(bench, 1) is False


@clause("SPLIT-KICK-02")
@pytest.mark.parametrize("avail_event", [0, 1, 2, 7, 0x8000, 0xFFFF])
def test_without_event_idx_the_avail_event_is_ignored(make: MakeBench, avail_event: int) -> None:
    bench = make(8)
    bench.device.words.avail_event = avail_event
    for _ in range(10):
        assert publish_batch(bench, 1) is True
    bench.device.words.used_flags = 1
    for _ in range(10):
        assert publish_batch(bench, 1) is False


@clause("SPLIT-KICK-05")
def test_with_event_idx_the_used_flags_are_ignored(make: MakeBench) -> None:
    bench = make(8, event_idx=True)
    for flags in (0, 1, 0xFFFF):
        bench.device.words.used_flags = flags
        bench.device.words.avail_event = bench.device.words.available_index
        assert publish_batch(bench, 1) is True
        bench.device.words.avail_event = bench.device.words.available_index + 1
        assert publish_batch(bench, 1) is False


@clause("SPLIT-KICK-06", "SPLIT-KICK-07")
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_with_event_idx_a_kick_is_needed_just_when_the_event_lies_in_the_batch(
    make: MakeBench, batch: int
) -> None:
    bench = make(8, event_idx=True)
    for event_offset in range(-10, 11):
        old_index = bench.device.words.available_index
        bench.device.words.avail_event = (old_index + event_offset) & 0xFFFF
        assert publish_batch(bench, batch) is (0 <= event_offset < batch)


@clause("SPLIT-KICK-06", "SPLIT-KICK-07")
@pytest.mark.parametrize(
    ("event_index", "kick_needed"), [(65_531, False), (65_534, True), (2, True), (4, False)]
)
def test_with_event_idx_the_kick_is_right_over_the_wrap_of_the_index(
    make: MakeBench, event_index: int, kick_needed: bool
) -> None:
    bench = make(256, event_idx=True)
    bench.cycle(65_532)
    bench.device.words.avail_event = event_index
    assert publish_batch(bench, 8) is kick_needed
    assert bench.device.words.available_index == 4


@pytest.mark.parametrize(
    ("old", "new", "event", "passed"),
    [
        (0, 1, 0, True),
        (0, 1, 1, False),
        (0, 1, 0xFFFF, False),
        (5, 8, 4, False),
        (5, 8, 5, True),
        (5, 8, 7, True),
        (5, 8, 8, False),
        (0xFFFE, 2, 0xFFFD, False),
        (0xFFFE, 2, 0xFFFE, True),
        (0xFFFE, 2, 0xFFFF, True),
        (0xFFFE, 2, 0, True),
        (0xFFFE, 2, 1, True),
        (0xFFFE, 2, 2, False),
        (7, 7, 7, False),
        (7, 7, 6, False),
    ],
)
def test_the_event_test_by_the_book(old: int, new: int, event: int, passed: bool) -> None:
    assert reference.event_passed(old, new, event) is passed


@pytest.mark.parametrize("size", [1, 2, 8, 256])
def test_the_ring_works_over_the_wrap_of_the_indices(make: MakeBench, size: int) -> None:
    bench = make(size)
    bench.cycle(65_536 - 2 * size)
    for round_number in range(4 * size + 4):
        written = round_number % 500
        head = bench.publish_chains(1)[0]
        bench.device.take()
        bench.device.use(head, written)
        assert bench.ring.reap() == [(head, written)]
    assert bench.device.words.available_index == bench.device.words.used_index == 2 * size + 4
