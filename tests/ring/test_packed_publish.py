"""What the words of a packed ring say about publishing and kicks: VIRTIO 1.4, 2.8.10 Driver and
Device Event Suppression and 2.8.21 Supplying Buffers to The Device."""

import pytest

from tests.clauses import clause
from tests.ring.support import MakePacked
from vioblk.ring.raw import DISABLE, ENABLE
from vioblk.ring.reference.packed import Position, batch_passed


@clause("PACKED-DESC-02")
@pytest.mark.parametrize("size", [1, 5])
def test_what_is_withdrawn_was_never_available(make_packed: MakePacked, size: int) -> None:
    bench = make_packed(size)
    for _ in range(3 * size):
        flags = [bench.device.words.read_flags(slot) for slot in range(size)]
        heads = bench.ring.push_many([bench.writable(1)] * size)
        assert bench.ring.withdraw() == heads[::-1]
        assert [bench.device.words.read_flags(slot) for slot in range(size)] == flags
        bench.publish_batch(1)


@clause("PACKED-NOTIFY-01")
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_notification_tells_offset_and_wrap_counter_of_the_next_descriptor(
    make_packed: MakePacked, size: int
) -> None:
    bench = make_packed(size)
    for index in range(5 * size):
        lap, slot = divmod(index, size)
        assert bench.ring.next_available == slot | (1 - lap % 2) << 15
        bench.ring.push(bench.writable(1))
        assert bench.ring.next_available == slot | (1 - lap % 2) << 15
        bench.ring.publish()
        bench.device.use_all()
        bench.ring.reap()


@pytest.mark.parametrize("event_idx", [False, True])
def test_enable_and_disable_decide_about_the_kick(make_packed: MakePacked, event_idx: bool) -> None:
    bench = make_packed(7, event_idx=event_idx)
    words = bench.device.words
    assert bench.publish_batch(1) is True
    for position in (0, 1, 0x8000, 0xFFFF):
        words.device_event_position = position
        words.device_event_flags = DISABLE
        assert bench.publish_batch(1) is False
        assert bench.publish_batch(3) is False
        words.device_event_flags = ENABLE
        assert bench.publish_batch(3) is True


def test_only_bits_0_and_1_of_the_device_flags_count(make_packed: MakePacked) -> None:
    bench = make_packed(7)
    bench.device.words.device_event_flags = 0xFFFC
    assert bench.publish_batch(1) is True
    bench.device.words.device_event_flags = 0xFFFD
    assert bench.publish_batch(1) is False


@pytest.mark.parametrize(("event_idx", "flags"), [(False, 2), (False, 3), (True, 3)])
def test_a_wish_that_means_nothing_is_no_reason_to_keep_silent(
    make_packed: MakePacked, event_idx: bool, flags: int
) -> None:
    bench = make_packed(7, event_idx=event_idx)
    bench.device.words.device_event_flags = flags
    for distance in range(-7, 8):
        bench.device.words.device_event_position = distance & 0xFFFF
        assert bench.publish_batch(1) is True


def test_every_descriptor_of_a_list_counts_for_the_position(make_packed: MakePacked) -> None:
    bench = make_packed(7, event_idx=True)
    for distance in range(-3, 6):
        bench.device.ask_at(distance)
        bench.ring.push(bench.chain((16,), (512, 1)))
        assert bench.ring.publish() is (0 <= distance < 3)
        bench.device.use_all()
        bench.ring.reap()


@pytest.mark.parametrize(
    ("slot", "counter", "count", "event_word", "passed"),
    [
        (1, 1, 1, 0x8000, True),
        (1, 1, 1, 0x8001, False),
        (1, 1, 1, 0x0000, False),
        (0, 0, 1, 0x8004, True),
        (0, 0, 1, 0x8003, False),
        (0, 0, 5, 0x8000, True),
        (2, 0, 3, 0x8004, True),
        (2, 0, 3, 0x8003, False),
        (2, 0, 3, 0x0001, True),
        (2, 0, 3, 0x0002, False),
    ],
)
def test_the_event_test_by_the_book(
    slot: int, counter: int, count: int, event_word: int, passed: bool
) -> None:
    """In a ring of 5: a batch of `count` descriptors, behind which the next position is."""
    assert batch_passed(Position(slot, counter), count, 5, event_word) is passed
