"""What a device can get wrong in a used ring alone: VIRTIO 1.4, 2.7.8 The Virtqueue Used Ring."""

import pytest

from tests.ring.formats import SPLIT, Language
from tests.ring.support import Maker, MakeSplit
from tests.ring.test_reap import assert_breaks
from vioblk.errors import QueueBroken


@pytest.mark.parametrize("used_id", [0x1_0000, 0x1_0001, 0xFFFF_FFFF])
def test_a_used_id_above_16_bits_breaks_the_queue(make_split: MakeSplit, used_id: int) -> None:
    bench = make_split()
    bench.publish_chains(1)
    bench.device.use(used_id)
    assert_breaks(bench, f"used id {used_id} is out of range, the queue size is 8")


def test_a_used_id_within_a_chain_breaks_the_queue(make_split: MakeSplit) -> None:
    bench = make_split()
    (head,) = bench.publish_all([bench.chain((16,), (512, 1))])
    bench.device.use(head + 1)
    assert_breaks(bench, f"used id {head + 1} is not outstanding")


@pytest.mark.parametrize(
    ("used_index", "ahead"), [(3, 1), (8, 6), (9, 7), (0x8000, 0x7FFE), (0xFFFF, 0xFFFD)]
)
def test_a_used_index_ahead_of_what_is_outstanding_breaks_the_queue(
    make_split: MakeSplit, used_index: int, ahead: int
) -> None:
    bench = make_split()
    bench.publish_chains(2)
    bench.device.words.used_index = used_index
    assert_breaks(bench, f"used index {used_index} is {ahead} ahead of the 2 chains outstanding")


def test_a_used_index_that_moves_backwards_breaks_the_queue(make_split: MakeSplit) -> None:
    bench = make_split()
    bench.cycle(5)
    bench.publish_chains(8)
    bench.device.words.used_index = 4
    with pytest.raises(QueueBroken, match="used index 4 is 65527 ahead"):
        bench.ring.reap()


def test_out_of_order_an_id_does_not_stand_for_those_before_it(language: Language) -> None:
    """An index that moved by more than the entries that were written: the next entry is stale."""
    bench = Maker(language, SPLIT)()
    heads = bench.publish_chains(3)
    bench.device.use_batch(heads, 4)
    assert bench.ring.reap() == [(heads[2], 4), (heads[0], 0)]
    assert_breaks(bench, f"used id {heads[0]} is not outstanding")
