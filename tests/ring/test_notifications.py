"""Asking the device for notifications: VIRTIO 1.4, 2.7.7 Used Buffer Notification Suppression."""

import pytest

from tests.clauses import clause
from tests.ring.support import MakeBench


@clause("SPLIT-INTR-01", "SPLIT-INTR-02")
def test_without_event_idx_arm_and_disarm_write_flags_0_and_1(make: MakeBench) -> None:
    bench = make(8)
    words = bench.device.words
    assert words.available_flags == 0
    for _ in range(2):
        bench.ring.disarm()
        assert words.available_flags == 1
        bench.cycle(11)
        assert words.available_flags == 1
        bench.ring.arm()
        assert words.available_flags == 0
        bench.cycle(11)
        assert words.available_flags == 0
    assert words.used_event == 0


@clause("SPLIT-INTR-03", "SPLIT-INTR-04")
def test_with_event_idx_the_flags_stay_0_and_the_event_moves(make: MakeBench) -> None:
    bench = make(8, event_idx=True)
    words = bench.device.words
    assert (words.available_flags, words.used_event) == (0, 0)
    bench.cycle(5)
    bench.ring.arm()
    assert (words.available_flags, words.used_event) == (0, 5)
    bench.ring.disarm()
    assert (words.available_flags, words.used_event) == (0, 4)
    bench.cycle(65_536 - 5)
    bench.ring.arm()
    assert (words.available_flags, words.used_event) == (0, 0)
    bench.ring.disarm()
    assert (words.available_flags, words.used_event) == (0, 0xFFFF)


@clause("SPLIT-RECV-01")
@pytest.mark.parametrize("event_idx", [False, True])
def test_arm_tells_whether_a_used_chain_is_waiting_already(
    make: MakeBench, event_idx: bool
) -> None:
    bench = make(8, event_idx=event_idx)
    first, second = bench.publish_chains(2)
    assert bench.ring.arm() is False
    bench.ring.disarm()
    # The device uses a chain while notifications are off: no interrupt will tell.
    bench.device.use(first)
    assert bench.ring.arm() is True
    assert [completion.head for completion in bench.ring.reap()] == [first]
    assert bench.ring.arm() is False
    bench.device.use(second)
    assert bench.ring.arm() is True
    assert [completion.head for completion in bench.ring.reap()] == [second]


@pytest.mark.parametrize("event_idx", [False, True])
def test_arming_after_a_partial_reap_asks_for_the_next_entry_only(
    make: MakeBench, event_idx: bool
) -> None:
    bench = make(8, event_idx=event_idx)
    bench.publish_chains(3)
    bench.device.use_all()
    bench.ring.reap(1)
    assert bench.ring.arm() is True
    if event_idx:
        assert bench.device.words.used_event == 1


@clause("SPLIT-INTR-05")
@pytest.mark.parametrize("event_idx", [False, True])
def test_a_notification_with_nothing_behind_it_does_no_harm(
    make: MakeBench, event_idx: bool
) -> None:
    bench = make(8, event_idx=event_idx)
    heads = bench.publish_chains(1)
    for _ in range(3):  # as a handler of spurious notifications does
        assert bench.ring.reap() == []
        assert bench.ring.arm() is False
    bench.device.use(heads[0])
    assert [completion.head for completion in bench.ring.reap()] == heads
