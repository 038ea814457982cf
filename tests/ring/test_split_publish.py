"""What the words of a split ring say about publishing and kicks: VIRTIO 1.4, 2.7.6 The Virtqueue
Available Ring and 2.7.10 Available Buffer Notification Suppression."""

import pytest

from tests.clauses import clause
from tests.ring.support import MakeSplit
from vioblk.ring import reference


@clause("SPLIT-AVAIL-01")
@pytest.mark.parametrize("size", [1, 4])
def test_the_available_index_only_ever_moves_forward(make_split: MakeSplit, size: int) -> None:
    bench = make_split(size)
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


def test_only_bit_0_of_the_used_flags_counts(make_split: MakeSplit) -> None:
    bench = make_split(8)
    bench.device.words.used_flags = 0xFFFE
    assert bench.publish_batch(1) is True
    bench.device.words.used_flags = 0xFFFF
    assert bench.publish_batch(1) is False


@clause("SPLIT-KICK-02")
@pytest.mark.parametrize("avail_event", [0, 1, 2, 7, 0x8000, 0xFFFF])
def test_without_event_idx_the_avail_event_is_ignored(
    make_split: MakeSplit, avail_event: int
) -> None:
    bench = make_split(8)
    bench.device.words.avail_event = avail_event
    for _ in range(10):
        assert bench.publish_batch(1) is True
    bench.device.words.used_flags = 1
    for _ in range(10):
        assert bench.publish_batch(1) is False


@clause("SPLIT-KICK-05")
def test_with_event_idx_the_used_flags_are_ignored(make_split: MakeSplit) -> None:
    bench = make_split(8, event_idx=True)
    for flags in (0, 1, 0xFFFF):
        bench.device.words.used_flags = flags
        bench.device.words.avail_event = bench.device.words.available_index
        assert bench.publish_batch(1) is True
        bench.device.words.avail_event = bench.device.words.available_index + 1
        assert bench.publish_batch(1) is False


@clause("SPLIT-KICK-06", "SPLIT-KICK-07")
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_with_event_idx_an_event_more_than_a_lap_away_needs_no_kick(
    make_split: MakeSplit, batch: int
) -> None:
    bench = make_split(8, event_idx=True)
    for event_offset in range(-10, 11):
        old_index = bench.device.words.available_index
        bench.device.words.avail_event = (old_index + event_offset) & 0xFFFF
        assert bench.publish_batch(batch) is (0 <= event_offset < batch)


@clause("SPLIT-KICK-06", "SPLIT-KICK-07")
@pytest.mark.parametrize(
    ("event_index", "kick_needed"), [(65_531, False), (65_534, True), (2, True), (4, False)]
)
def test_with_event_idx_the_kick_is_right_over_the_wrap_of_the_index(
    make_split: MakeSplit, event_index: int, kick_needed: bool
) -> None:
    bench = make_split(256, event_idx=True)
    bench.cycle(65_532)
    bench.device.words.avail_event = event_index
    assert bench.publish_batch(8) is kick_needed
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


@pytest.mark.parametrize("size", [1, 256])
def test_the_ring_works_over_the_wrap_of_the_indices(make_split: MakeSplit, size: int) -> None:
    bench = make_split(size)
    bench.cycle(65_536 - 2 * size)
    for round_number in range(4 * size + 4):
        written = round_number % 500
        (head,) = bench.publish_chains(1)
        bench.device.use(head, written)
        assert bench.ring.reap() == [(head, written)]
    assert bench.device.words.available_index == bench.device.words.used_index == 2 * size + 4
