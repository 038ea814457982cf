"""Used descriptors: VIRTIO 1.4, 2.8.1 Driver and Device Ring Wrap Counters, 2.8.4 Element Address
and Length and 2.8.22 Receiving Used Buffers From The Device."""

import pytest

from tests.ring.formats import PACKED, Language
from tests.ring.support import MakePacked, Maker, heads_of
from tests.ring.test_reap import assert_breaks
from vioblk.ring import Completion
from vioblk.ring.raw import AVAIL, NEXT, USED, WRITE


def test_slots_are_free_as_soon_as_a_later_chain_came_back_in_their_place(
    language: Language,
) -> None:
    """The first chain stays with the device for many laps; the others pass it by."""
    bench = Maker(language, PACKED)(5)
    (first,) = bench.publish_all([bench.chain((16,), (512, 1))])
    for lap in range(20):
        (head,) = bench.publish_all([bench.chain((16,), (lap + 1,))])
        assert [part.length for part in bench.device.follow(head)] == [16, lap + 1]
        bench.device.use(head, 1)
        assert bench.ring.reap() == [Completion(head, 1)]
        assert bench.ring.free_count == 2
    bench.device.use(first, 513)
    assert bench.ring.reap() == [Completion(first, 513)]
    assert bench.ring.free_count == 5


@pytest.mark.parametrize("strict", [False, True])
def test_a_used_length_without_the_write_flag_means_nothing(
    make_packed: MakePacked, strict: bool
) -> None:
    bench = make_packed(7, strict=strict)
    (head,) = bench.publish_chains(1)
    bench.device.use(head, 0xFFFF_FFFF, write_flag=False)
    assert bench.ring.reap() == [Completion(head, None)]
    assert bench.ring.clamped_count == 0


def test_the_next_flag_of_a_used_descriptor_means_nothing(make_packed: MakePacked) -> None:
    bench = make_packed(7)
    for _ in range(10):
        first, second = bench.publish_chains(2)
        for head in (first, second):
            slot, flags = bench.device.used.slot, bench.device.used.used_flags
            bench.device.use(head, 1)
            bench.device.words.write_flags(slot, flags | WRITE | NEXT)
        assert bench.ring.reap() == [Completion(first, 1), Completion(second, 1)]


@pytest.mark.parametrize("laps", [0, 1, 2, 3])
@pytest.mark.parametrize("pushed", [0, 2])
def test_a_descriptor_used_without_being_available_breaks_the_queue(
    make_packed: MakePacked, laps: int, pushed: int
) -> None:
    bench = make_packed(7)
    bench.cycle(7 * laps + 4)
    bench.ring.push_many([bench.writable(1)] * pushed)
    bench.device.use(0)
    assert_breaks(bench, "descriptor 4 is marked used, but no chain is outstanding")


def test_one_used_too_many_gives_the_others_and_then_breaks_the_queue(
    make_packed: MakePacked,
) -> None:
    bench = make_packed(7)
    heads = bench.publish_chains(6)
    bench.device.use_all()
    bench.device.use(0)
    assert heads_of(bench.ring.reap()) == heads
    assert_breaks(bench, "descriptor 6 is marked used, but no chain is outstanding")


@pytest.mark.parametrize("flags", [0, USED, AVAIL | WRITE])
def test_flags_that_do_not_say_used_are_waited_for(make_packed: MakePacked, flags: int) -> None:
    bench = make_packed(7)
    (head,) = bench.publish_chains(1)
    bench.device.words.write_flags(0, flags)
    assert bench.ring.reap() == []
    assert bench.ring.arm() is False
    bench.device.use(head)
    assert bench.ring.reap() == [Completion(head, 0)]
