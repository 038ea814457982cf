"""Publishing on a packed ring, and whether the device must be notified: VIRTIO 1.4, 2.8.10 and
2.8.21."""

import pytest

from tests.clauses import clause
from tests.ring.support import MakePackedBench, PackedBench
from vioblk.ring.raw import AT_DESCRIPTOR, DISABLE, ENABLE
from vioblk.ring.reference.packed import Position, batch_passed


def publish_batch(bench: PackedBench, count: int) -> bool:
    """Publish `count` chains in one step and complete them; what publish said."""
    assert len(bench.ring.push_many([bench.writable(1)] * count)) == count
    kick_needed = bench.ring.publish()
    assert len(bench.device.use_all()) == count
    assert len(bench.ring.reap()) == count
    return kick_needed


def ask_at(bench: PackedBench, distance: int) -> None:
    """Have the device ask for the descriptor `distance` slots from the next available one."""
    cursor = bench.device.available
    lap, slot = divmod(cursor.slot + distance, bench.ring.size)
    bench.device.words.device_event_position = slot | ((cursor.counter + lap) & 1) << 15
    bench.device.words.device_event_flags = AT_DESCRIPTOR


@pytest.mark.parametrize("size", [5, 8])
def test_a_batch_becomes_visible_with_the_flags_of_its_first_descriptor(
    make_packed: MakePackedBench, size: int
) -> None:
    bench = make_packed(size)
    for _ in range(3):
        heads = []
        for _ in range(size):
            heads.append(bench.ring.push(bench.writable(1)))
            assert bench.device.take() == []
        bench.ring.publish()
        assert bench.device.take() == heads
        bench.device.use_all()
        bench.ring.reap()


def test_publishing_nothing_writes_nothing_and_needs_no_kick(make_packed: MakePackedBench) -> None:
    bench = make_packed(7)
    with memoryview(bench.region) as memory:
        before = bytes(memory)
        assert bench.ring.publish() is False
        assert bytes(memory) == before


@clause("PACKED-DESC-02")
@pytest.mark.parametrize("size", [1, 5])
def test_what_is_withdrawn_was_never_available(make_packed: MakePackedBench, size: int) -> None:
    bench = make_packed(size)
    for _ in range(3 * size):
        flags = [bench.device.words.read_flags(slot) for slot in range(size)]
        heads = bench.ring.push_many([bench.writable(1)] * size)
        assert bench.ring.withdraw() == heads[::-1]
        assert [bench.device.words.read_flags(slot) for slot in range(size)] == flags
        publish_batch(bench, 1)


@clause("PACKED-NOTIFY-01")
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_notification_tells_offset_and_wrap_counter_of_the_next_descriptor(
    make_packed: MakePackedBench, size: int
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
def test_enable_and_disable_decide_about_the_kick(
    make_packed: MakePackedBench, event_idx: bool
) -> None:
    bench = make_packed(7, event_idx=event_idx)
    words = bench.device.words
    assert publish_batch(bench, 1) is True
    for position in (0, 1, 0x8000, 0xFFFF):
        words.device_event_position = position
        words.device_event_flags = DISABLE
        assert publish_batch(bench, 1) is False
        assert publish_batch(bench, 3) is False
        words.device_event_flags = ENABLE
        assert publish_batch(bench, 3) is True


def test_only_bits_0_and_1_of_the_device_flags_count(make_packed: MakePackedBench) -> None:
    bench = make_packed(7)
    bench.device.words.device_event_flags = 0xFFFC
    assert publish_batch(bench, 1) is True
    bench.device.words.device_event_flags = 0xFFFD
    assert publish_batch(bench, 1) is False


@pytest.mark.parametrize(("event_idx", "flags"), [(False, 2), (False, 3), (True, 3)])
def test_a_wish_that_means_nothing_is_no_reason_to_keep_silent(
    make_packed: MakePackedBench, event_idx: bool, flags: int
) -> None:
    bench = make_packed(7, event_idx=event_idx)
    bench.device.words.device_event_flags = flags
    for distance in range(-7, 8):
        bench.device.words.device_event_position = distance & 0xFFFF
        assert publish_batch(bench, 1) is True


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_with_event_idx_a_kick_is_needed_just_when_the_position_lies_in_the_batch(
    make_packed: MakePackedBench, size: int
) -> None:
    bench = make_packed(size, event_idx=True)
    for batch in range(1, size + 1):
        # Not farther than one lap: the counter is a single bit.
        for distance in range(batch - size, batch + size):
            ask_at(bench, distance)
            assert publish_batch(bench, batch) is (0 <= distance < batch)


def test_every_descriptor_of_a_list_counts_for_the_position(make_packed: MakePackedBench) -> None:
    bench = make_packed(7, event_idx=True)
    for distance in range(-3, 6):
        ask_at(bench, distance)
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


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 256])
def test_the_ring_works_over_many_laps(make_packed: MakePackedBench, size: int) -> None:
    bench = make_packed(size)
    for round_number in range(6 * size + 5):
        written = round_number % 500
        (head,) = bench.publish_chains(1)
        assert bench.device.take() == [head]
        bench.device.use(head, written)
        assert bench.ring.reap() == [(head, written)]
    assert bench.ring.next_available == bench.device.used.word == bench.device.available.word
