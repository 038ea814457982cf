"""Asking the device for notifications: VIRTIO 1.4, 2.8.10 Driver and Device Event Suppression."""

import pytest

from tests.clauses import clause
from tests.ring.support import MakePackedBench
from vioblk.ring.raw import AT_DESCRIPTOR, DISABLE, ENABLE


def test_without_event_idx_arm_and_disarm_enable_and_disable(make_packed: MakePackedBench) -> None:
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


def test_with_event_idx_arming_names_the_next_used_descriptor(make_packed: MakePackedBench) -> None:
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


@clause("PACKED-RECV-01")
@pytest.mark.parametrize("event_idx", [False, True])
def test_arm_tells_whether_a_used_chain_is_waiting_already(
    make_packed: MakePackedBench, event_idx: bool
) -> None:
    bench = make_packed(3, event_idx=event_idx)
    for _ in range(5):
        first, second = bench.publish_chains(2)
        bench.device.take()
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


def test_arming_after_a_partial_reap_asks_for_the_next_descriptor_only(
    make_packed: MakePackedBench,
) -> None:
    bench = make_packed(7, event_idx=True)
    bench.ring.push_many([bench.chain((16,), (512, 1))] * 2)
    bench.ring.publish()
    bench.device.use_all()
    bench.ring.reap(1)
    assert bench.ring.arm() is True
    assert bench.device.words.driver_event_position == 3 | 1 << 15


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_notification_with_nothing_behind_it_does_no_harm(
    make_packed: MakePackedBench, event_idx: bool
) -> None:
    bench = make_packed(7, event_idx=event_idx)
    heads = bench.publish_chains(1)
    bench.device.take()
    for _ in range(3):  # as a handler of spurious notifications does
        assert bench.ring.reap() == []
        assert bench.ring.arm() is False
    bench.device.use(heads[0])
    assert [completion.head for completion in bench.ring.reap()] == heads
