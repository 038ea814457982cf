"""Asking the device for notifications, in every format: VIRTIO 1.4, 2.7.7 Used Buffer Notification
Suppression and 2.8.10 Driver and Device Event Suppression."""

import pytest

from tests.clauses import clause
from tests.ring.support import Make, MakePacked, MakeSplit, heads_of
from vioblk.ring.raw import AT_DESCRIPTOR, DISABLE, ENABLE


@clause("SPLIT-RECV-01", "PACKED-RECV-01")
@pytest.mark.parametrize("event_idx", [False, True])
def test_arm_tells_whether_a_used_chain_is_waiting_already(make: Make, event_idx: bool) -> None:
    bench = make.small(event_idx=event_idx)
    for _ in range(5):
        first, second = bench.publish_chains(2)
        assert bench.ring.arm() is False
        bench.ring.disarm()
        # The device uses a chain while notifications are off: no interrupt will tell.
        bench.device.use(first)
        assert bench.ring.arm() is True
        assert heads_of(bench.ring.reap()) == [first]
        assert bench.ring.arm() is False
        bench.device.use(second)
        assert bench.ring.arm() is True
        assert heads_of(bench.ring.reap()) == [second]


@pytest.mark.parametrize("event_idx", [False, True])
def test_what_a_limit_left_is_waiting(make: Make, event_idx: bool) -> None:
    bench = make(event_idx=event_idx)
    for head in bench.publish_chains(3):
        bench.device.use(head)
    for left in (2, 1, 0):
        bench.ring.reap(1)
        assert bench.ring.arm() is (left > 0)


@clause("SPLIT-INTR-05")
@pytest.mark.parametrize("event_idx", [False, True])
def test_a_notification_with_nothing_behind_it_does_no_harm(make: Make, event_idx: bool) -> None:
    bench = make(event_idx=event_idx)
    heads = bench.publish_chains(1)
    for _ in range(3):  # as a handler of spurious notifications does
        assert bench.ring.reap() == []
        assert bench.ring.arm() is False
    bench.device.use(heads[0])
    assert heads_of(bench.ring.reap()) == heads


# -- The words of a split ring -----------------------------------------------------------------


@clause("SPLIT-INTR-01", "SPLIT-INTR-02")
def test_without_event_idx_arm_and_disarm_write_flags_0_and_1(make_split: MakeSplit) -> None:
    bench = make_split(8)
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
def test_with_event_idx_the_flags_stay_0_and_the_event_moves(make_split: MakeSplit) -> None:
    bench = make_split(8, event_idx=True)
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


def test_arming_after_a_partial_reap_asks_for_the_next_entry_only(make_split: MakeSplit) -> None:
    bench = make_split(8, event_idx=True)
    bench.publish_chains(3)
    bench.device.use_all()
    bench.ring.reap(1)
    assert bench.ring.arm() is True
    assert bench.device.words.used_event == 1


# -- The words of a packed ring ----------------------------------------------------------------


def test_without_event_idx_arm_and_disarm_enable_and_disable(make_packed: MakePacked) -> None:
    bench = make_packed(7)
    words = bench.device.words
    assert words.driver_event_flags == ENABLE
    for _ in range(2):
        bench.ring.disarm()
        assert words.driver_event_flags == DISABLE
        bench.cycle(11)
        assert words.driver_event_flags == DISABLE
        bench.ring.arm()
        assert words.driver_event_flags == ENABLE
        bench.cycle(11)
        assert words.driver_event_flags == ENABLE
    assert words.driver_event_position == 0


def test_with_event_idx_arming_names_the_next_used_descriptor(make_packed: MakePacked) -> None:
    bench = make_packed(7, event_idx=True)
    words = bench.device.words
    assert (words.driver_event_flags, words.driver_event_position) == (ENABLE, 0)
    for index in range(30):
        bench.ring.arm()
        lap, slot = divmod(index, 7)
        assert words.driver_event_flags == AT_DESCRIPTOR
        assert words.driver_event_position == slot | (1 - lap % 2) << 15
        bench.ring.disarm()
        assert words.driver_event_flags == DISABLE
        bench.cycle(1)
        assert words.driver_event_flags == DISABLE


def test_arming_after_a_partial_reap_asks_for_the_next_descriptor_only(
    make_packed: MakePacked,
) -> None:
    bench = make_packed(7, event_idx=True)
    bench.publish_all([bench.chain((16,), (512, 1))] * 2)
    bench.device.use_all()
    bench.ring.reap(1)
    assert bench.ring.arm() is True
    assert bench.device.words.driver_event_position == 3 | 1 << 15
