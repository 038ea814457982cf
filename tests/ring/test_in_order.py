"""Chains in order, a used element for a batch of them: VIRTIO 1.4, 2.7.9 and 2.8.8 In-order use of
descriptors. What a ring in order does like any other, the other files show."""

import random

import pytest

from tests.ring.formats import PACKED_IN_ORDER, SPLIT_IN_ORDER, Language
from tests.ring.puppet import Puppet
from tests.ring.support import Bench, Maker, heads_of
from tests.ring.test_reap import assert_breaks
from vioblk.errors import QueueBroken
from vioblk.ring import Chain, Completion

MakeInOrder = Maker[Puppet]
AnyBench = Bench[Puppet]

LENGTHS = (10, 20, 30, 40)
"""Writable bytes of the chains that `publish_four` publishes."""


def publish_four(bench: AnyBench) -> list[int]:
    return bench.publish_all([bench.writable(length) for length in LENGTHS])


@pytest.mark.parametrize("before", [0, 1, 5, 6, 7])
def test_one_element_gives_back_its_chain_and_all_before_it_which_were_used_completely(
    make_in_order: MakeInOrder, before: int
) -> None:
    bench = make_in_order()
    bench.cycle(before)
    heads = publish_four(bench)
    bench.device.use_batch(heads[:3], 7)
    assert bench.ring.reap() == [
        Completion(heads[0], 10),
        Completion(heads[1], 20),
        Completion(heads[2], 7),
    ]
    assert bench.ring.outstanding_count == 1
    assert bench.ring.free_count == bench.size - 1
    bench.device.use_batch(heads[3:], 40)
    assert bench.ring.reap() == [Completion(heads[3], 40)]


def test_a_device_may_give_back_each_chain_by_itself(make_in_order: MakeInOrder) -> None:
    bench = make_in_order()
    heads = publish_four(bench)
    for head, length in zip(heads, LENGTHS, strict=True):
        bench.device.use(head, length - 1)
    assert bench.ring.reap() == [
        Completion(head, length - 1) for head, length in zip(heads, LENGTHS, strict=True)
    ]


def test_only_the_last_length_of_a_batch_is_the_devices_word(
    make_in_order: MakeInOrder,
) -> None:
    """A chain with nothing to write was written completely with no bytes."""
    bench = make_in_order()
    chains = [bench.readable(16), bench.chain((16,), (500, 12)), bench.writable(5)]
    heads = bench.publish_all(chains)
    bench.device.use_batch(heads, 99)
    assert bench.ring.reap() == [
        Completion(heads[0], 0),
        Completion(heads[1], 512),
        Completion(heads[2], 5),
    ]
    assert bench.ring.clamped_count == 1


def test_all_of_four_gibibytes_is_told_as_the_largest_length_that_there_is(
    make_in_order: MakeInOrder,
) -> None:
    bench = make_in_order(256)
    bench.space.map(1 << 25, 1 << 40)
    large = bench.space.alloc(1 << 25)
    heads = bench.publish_all([Chain([], [(large, 0, 1 << 25)] * 128), bench.writable(1)])
    bench.device.use_batch(heads, 1)
    assert bench.ring.reap() == [Completion(heads[0], 0xFFFF_FFFF), Completion(heads[1], 1)]


@pytest.mark.parametrize("event_idx", [False, True])
def test_the_rest_of_a_batch_comes_with_the_next_calls(
    make_in_order: MakeInOrder, event_idx: bool
) -> None:
    bench = make_in_order(event_idx=event_idx)
    heads = publish_four(bench)
    bench.device.use_batch(heads, 4)
    assert bench.ring.reap(0) == []
    assert bench.ring.arm() is True
    for index, left in enumerate((3, 2, 1)):
        assert bench.ring.reap(1) == [Completion(heads[index], LENGTHS[index])]
        assert bench.ring.outstanding_count == left
        assert bench.ring.free_count == bench.size - left
        assert bench.ring.arm() is True, "the rest is waiting"
    assert bench.ring.reap(2) == [Completion(heads[3], 4)]
    assert bench.ring.arm() is False


def test_a_limit_may_end_in_a_later_batch(make_in_order: MakeInOrder) -> None:
    bench = make_in_order()
    heads = publish_four(bench) + bench.publish_chains(2)
    bench.device.use_batch(heads[:2], 1)
    bench.device.use_batch(heads[2:5], 2)
    bench.device.use_batch(heads[5:], 3)
    assert bench.ring.reap(3) == [(heads[0], 10), (heads[1], 1), (heads[2], 30)]
    assert bench.ring.reap(2) == [(heads[3], 40), (heads[4], 2)]
    assert bench.ring.reap() == [(heads[5], 3)]


def test_what_was_handed_out_of_a_batch_can_be_pushed_over(make_in_order: MakeInOrder) -> None:
    """The rest of the batch is not touched by it, nor looked for in the ring."""
    bench = make_in_order.small()
    heads = bench.publish_chains(bench.size, writable_bytes=9)
    bench.device.use_batch(heads, 4)
    for head in heads[:-1]:
        assert bench.ring.reap(1) == [Completion(head, 9)]
        assert bench.publish_chains(1, writable_bytes=8) == [head]
    assert bench.ring.reap() == [Completion(heads[-1], 4)]
    bench.device.use_batch(heads[:-1], 5)
    assert bench.ring.reap() == [
        *(Completion(head, 8) for head in heads[:-2]),
        Completion(heads[-2], 5),
    ]


def test_withdrawn_chains_leave_no_gap(make_in_order: MakeInOrder) -> None:
    bench = make_in_order.small()
    expected = make_in_order.small()
    for count in range(1, 40):
        bench.ring.push_many([bench.writable(1, 1)] * (count % 4))
        bench.ring.withdraw()
        assert bench.publish_chains(2) == expected.publish_chains(2)
        for each in (bench, expected):
            each.device.use_all()
            assert len(each.ring.reap()) == 2


@pytest.mark.parametrize("tables", [False, True])
def test_any_batches_over_many_laps_give_every_chain_back_once_and_in_order(
    make_in_order: MakeInOrder, tables: bool
) -> None:
    for size in filter(lambda size: size <= 64, make_in_order.format.sizes):
        bench = make_in_order(size, indirect_table_size=min(size, 3) if tables else 0)
        chance = random.Random(size)
        outstanding: list[tuple[int, int]] = []
        pushed = 0
        while pushed < 10 * size:
            counts = [chance.randint(1, min(4, size)) for _ in range(chance.randint(1, 6))]
            heads = bench.ring.push_many([bench.writable(*[5] * count) for count in counts])
            bench.ring.publish()
            assert bench.device.take() == heads
            outstanding += [(head, 5 * count) for head, count in zip(heads, counts, strict=False)]
            pushed += len(heads)
            expected: list[Completion] = []
            while outstanding and chance.random() < 0.6:
                count = chance.randint(1, len(outstanding))
                batch, outstanding = outstanding[:count], outstanding[count:]
                bench.device.use_batch([head for head, _ in batch], 1)
                expected += [Completion(head, length) for head, length in batch[:-1]]
                expected.append(Completion(batch[-1][0], 1))
            while expected:
                limit = chance.randint(1, 5)
                assert bench.ring.reap(limit) == expected[:limit]
                del expected[:limit]
            assert bench.ring.reap() == []
            assert bench.ring.outstanding_count == len(outstanding)


def test_reclaim_returns_the_rest_of_a_batch_and_starts_at_0(
    make_in_order: MakeInOrder,
) -> None:
    bench = make_in_order()
    bench.cycle(3)
    heads = publish_four(bench)
    bench.device.use_batch(heads, 1)
    assert heads_of(bench.ring.reap(1)) == heads[:1]
    assert bench.ring.reclaim() == sorted(heads[1:])
    assert (bench.ring.free_count, bench.ring.outstanding_count) == (bench.size, 0)
    bench.device.restart()
    assert bench.ring.arm() is False
    assert bench.ring.reap() == []
    assert bench.publish_chains(2) == [0, 1]
    bench.device.use_batch([0, 1], 1)
    assert bench.ring.reap() == [Completion(0, 512), Completion(1, 1)]


# -- A device that breaks the rules ------------------------------------------------------------


def test_an_element_for_a_chain_that_came_back_with_a_batch_breaks_the_queue(
    make_in_order: MakeInOrder,
) -> None:
    bench = make_in_order()
    heads = publish_four(bench)
    bench.device.use_batch(heads[:3], 1)
    bench.device.use(heads[1], 1)
    assert heads_of(bench.ring.reap()) == heads[:3]
    assert_breaks(bench, f"used id {heads[1]} is not outstanding")


def test_an_element_for_what_is_not_published_gives_back_nothing(
    make_in_order: MakeInOrder,
) -> None:
    bench = make_in_order()
    heads = bench.publish_chains(2)
    unpublished = bench.ring.push(bench.writable(1))
    bench.device.use_batch([heads[0], unpublished])
    assert_breaks(bench, f"used id {unpublished} is not outstanding")


def test_in_strict_mode_a_length_too_large_breaks_the_queue_and_gives_back_nothing(
    make_in_order: MakeInOrder,
) -> None:
    """Whoever lies about the last chain is not believed about the others."""
    bench = make_in_order(strict=True)
    heads = publish_four(bench)
    bench.device.use_batch(heads[:2], 20)
    bench.device.use_batch(heads[2:], 41)
    assert bench.ring.reap() == [Completion(heads[0], 10), Completion(heads[1], 20)]
    assert bench.ring.outstanding_count == 2
    assert_breaks(bench, f"used length 41 is larger than the 40 writable bytes of chain {heads[3]}")


@pytest.mark.parametrize("moved", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 3, 65_534])
def test_a_batch_of_more_chains_than_the_used_index_has_moved_breaks_the_queue(
    language: Language, moved: int, start: int
) -> None:
    bench = Maker(language, SPLIT_IN_ORDER)(256)
    bench.cycle(start)
    heads = publish_four(bench)
    words = bench.device.words
    words.write_used(bench.device.used_index % 256, heads[3], 1)
    words.used_index = (bench.device.used_index + moved) & 0xFFFF
    assert_breaks(
        bench,
        f"the device used chains up to head {heads[3]}, 4 of them, but moved the used index by"
        f" {moved}",
    )


def test_what_stands_before_a_batch_that_is_too_long_is_handed_out(language: Language) -> None:
    bench = Maker(language, SPLIT_IN_ORDER)()
    heads = publish_four(bench)
    bench.device.use_batch(heads[:2], 20)
    bench.device.words.write_used(2, heads[3], 1)
    bench.device.words.used_index = 3
    assert bench.ring.reap() == [Completion(heads[0], 10), Completion(heads[1], 20)]
    with pytest.raises(QueueBroken, match="2 of them, but moved the used index by 1"):
        bench.ring.reap()


@pytest.mark.parametrize("back_to", [1, 2, 3])
def test_an_index_that_is_moved_back_into_a_batch_does_not_take_it_back(
    language: Language, back_to: int
) -> None:
    bench = Maker(language, SPLIT_IN_ORDER)()
    heads = publish_four(bench)
    bench.device.use_batch(heads, 40)
    assert heads_of(bench.ring.reap(1)) == heads[:1]
    bench.device.words.used_index = back_to
    assert bench.ring.arm() is True
    assert bench.ring.reap() == [
        Completion(heads[1], 20),
        Completion(heads[2], 30),
        Completion(heads[3], 40),
    ]


# -- Words of one format -----------------------------------------------------------------------


def test_a_batch_crosses_the_wrap_of_the_indices(language: Language) -> None:
    bench = Maker(language, SPLIT_IN_ORDER)(8)
    bench.cycle(65_534)
    heads = publish_four(bench)
    bench.device.use_batch(heads, 1)
    assert bench.device.words.used_index == 2
    assert heads_of(bench.ring.reap()) == heads
    bench.cycle(20)


def test_amid_a_batch_the_event_of_a_split_ring_names_the_next_chain(language: Language) -> None:
    bench = Maker(language, SPLIT_IN_ORDER)(event_idx=True)
    bench.device.use_batch(publish_four(bench), 1)
    for handed_out in range(4):
        bench.ring.arm()
        assert bench.device.words.used_event == handed_out
        bench.ring.reap(1)


def test_amid_a_batch_the_event_of_a_packed_ring_names_the_next_chain(language: Language) -> None:
    bench = Maker(language, PACKED_IN_ORDER)(event_idx=True)
    bench.cycle(3)
    heads = bench.publish_all([bench.writable(1), bench.writable(1, 1, 1), bench.writable(1)])
    bench.device.use_batch(heads, 1)
    for position in (3 | 1 << 15, 4 | 1 << 15, 0):
        bench.ring.arm()
        assert bench.device.words.driver_event_position == position
        bench.ring.reap(1)


def test_the_flags_behind_a_used_descriptor_are_not_looked_at_amid_its_batch(
    language: Language,
) -> None:
    """The device writes nothing to the slots of the chains that it skipped."""
    bench = Maker(language, PACKED_IN_ORDER)()
    for _ in range(5):
        heads = bench.publish_all([bench.writable(1, 1), bench.writable(1, 1), bench.writable(1)])
        before = bench.device.descriptors()
        slot = bench.device.used.slot
        bench.device.use_batch(heads, 1)
        after = bench.device.descriptors()
        assert [n for n in range(7) if before[n] != after[n]] == [slot]
        for head in heads:
            assert heads_of(bench.ring.reap(1)) == [head]


def test_without_the_write_flag_only_the_last_length_of_a_batch_is_unknown(
    language: Language,
) -> None:
    bench = Maker(language, PACKED_IN_ORDER)()
    heads = publish_four(bench)
    bench.device.use_batch(heads, 0, write_flag=False)
    assert bench.ring.reap() == [
        Completion(heads[0], 10),
        Completion(heads[1], 20),
        Completion(heads[2], 30),
        Completion(heads[3], None),
    ]
