"""Publishing, and whether the device must be notified, in every format: VIRTIO 1.4, 2.7.6, 2.7.10
and 2.7.13, 2.8.10 and 2.8.21."""

from tests.clauses import clause
from tests.ring.support import Make


@clause("SPLIT-ADD-01", "SPLIT-ADD-03")
def test_a_batch_becomes_visible_in_one_step(make: Make) -> None:
    bench = make()
    for _ in range(3):
        heads = []
        for _ in range(bench.size):
            heads.append(bench.ring.push(bench.writable(1)))
            assert bench.device.take() == []
        bench.ring.publish()
        assert bench.device.take() == heads
        bench.device.use_all()
        bench.ring.reap()


def test_publishing_nothing_writes_nothing_and_needs_no_kick(make: Make) -> None:
    bench = make()
    before = bench.memory()
    assert bench.ring.publish() is False
    assert bench.memory() == before


@clause("PACKED-DESC-02", "SPLIT-AVAIL-01")
def test_what_is_withdrawn_was_never_available_and_what_is_published_stays(make: Make) -> None:
    bench = make.small()
    for _ in range(3 * bench.size):
        heads = bench.ring.push_many([bench.writable(1)] * bench.size)
        before = bench.ring.next_available
        assert bench.ring.withdraw() == heads[::-1]
        assert bench.device.take() == []
        assert bench.ring.next_available == before
        (head,) = bench.publish_chains(1)
        assert bench.ring.withdraw() == []
        assert bench.ring.outstanding_count == 1
        bench.device.use(head)
        assert len(bench.ring.reap()) == 1


@clause("SPLIT-KICK-03", "SPLIT-KICK-04")
def test_the_device_says_by_its_flags_whether_it_wants_kicks(make: Make) -> None:
    bench = make()
    assert bench.publish_batch(1) is True
    for _ in range(3):
        bench.device.want_kicks(False)
        assert bench.publish_batch(1) is False
        assert bench.publish_batch(3) is False
        bench.device.want_kicks(True)
        assert bench.publish_batch(3) is True


@clause("SPLIT-KICK-06", "SPLIT-KICK-07")
def test_with_event_idx_a_kick_is_needed_just_when_the_event_lies_in_the_batch(
    make: Make,
) -> None:
    for size in filter(lambda size: size <= 8, make.format.sizes):
        bench = make(size, event_idx=True)
        for batch in range(1, size + 1):
            # Not farther than one lap: on a packed ring the counter is a single bit.
            for distance in range(batch - size, batch + size):
                bench.device.ask_at(distance)
                assert bench.publish_batch(batch) is (0 <= distance < batch)


def test_the_ring_works_over_many_laps(make: Make) -> None:
    for size in make.format.sizes:
        bench = make(size)
        for round_number in range(6 * size + 5):
            written = round_number % 500
            (head,) = bench.publish_chains(1)
            bench.device.use(head, written)
            assert bench.ring.reap() == [(head, written)]
            assert bench.ring.next_available == bench.device.next_available
