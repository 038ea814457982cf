"""Both request queues refuse, send, and hand out the same, whatever records they are given, over
rings of every format."""

from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.block.queue_bench import (
    CAPACITY_SECTORS,
    DATA_BYTES,
    Language,
    PuppetBench,
    format_of,
    is_in_order,
    limits_of,
    make_puppet_bench,
)
from vioblk._native import BlockLimits
from vioblk.block.request import REQUEST_RECORD, UNMAP, RequestType

PAIRS: list[tuple[Language, Language]] = [
    ("native", "reference"),
    ("native-split-in-order", "reference-split-in-order"),
    ("native-packed", "reference-packed"),
    ("native-packed-in-order", "reference-packed-in-order"),
]
FIELDS = ("type", "flags", "sector", "offset", "length", "region", "token")

TYPES = st.sampled_from(RequestType).map(int)
SECTORS = st.integers(0, CAPACITY_SECTORS - 16)
OFFSETS = st.integers(0, DATA_BYTES - 8192)
LENGTHS = st.integers(1, 16).map(lambda sectors: 512 * sectors)
TOKENS = st.integers(0, (1 << 64) - 1)

ODD_VALUES = {
    "type": st.sampled_from([2, 5, 7, 10, 14, 31, 63, 64, 1 << 31, (1 << 32) - 1]),
    "flags": st.sampled_from([1, 2, 3, 1 << 31]),
    "sector": st.sampled_from([1, CAPACITY_SECTORS - 1, CAPACITY_SECTORS, 1 << 55, (1 << 64) - 1]),
    "offset": st.sampled_from([1, DATA_BYTES - 511, DATA_BYTES, (1 << 64) - 1]),
    "length": st.sampled_from([0, 1, 19, 20, 21, 511, 513, 1 << 20, (1 << 32) - 512]),
    "region": st.sampled_from([0, 5, 1 << 20, (1 << 32) - 1]),
}


@st.composite
def records(draw: st.DrawFn) -> dict[str, int]:
    """A good record, or one with a field or two that may not be; region 1 stands for the data."""
    kind = draw(TYPES)
    moves_data = kind in (RequestType.IN, RequestType.OUT, RequestType.GET_ID)
    has_range = kind not in (RequestType.FLUSH, RequestType.GET_ID)
    record = {
        "type": kind,
        "flags": draw(st.sampled_from([0, UNMAP])) if kind == RequestType.WRITE_ZEROES else 0,
        "sector": draw(SECTORS) if has_range else 0,
        "offset": draw(OFFSETS) if moves_data else 0,
        "length": draw(LENGTHS) if has_range else 20 if moves_data else 0,
        "region": int(moves_data),
        "token": draw(TOKENS),
    }
    if draw(st.integers(0, 5)) == 0:
        for field in draw(st.lists(st.sampled_from(sorted(ODD_VALUES)), min_size=1, max_size=2)):
            record[field] = draw(ODD_VALUES[field])
    return record


LIMITS = st.builds(
    lambda types, **numbers: limits_of(request_types=types, **numbers),
    types=st.one_of(st.just(frozenset(RequestType)), st.frozensets(st.sampled_from(RequestType))),
    read_only=st.sampled_from([False, False, True]),
    size_max=st.sampled_from([0, 0, 512, 1000, 4096]),
    seg_max=st.sampled_from([0, 1, 4, 126]),
    max_discard_sectors=st.sampled_from([0, 1, 8, 1024]),
    max_write_zeroes_sectors=st.sampled_from([0, 1, 8, 1024]),
)

COMPLETIONS = st.lists(
    st.tuples(
        st.integers(0, 63),
        st.sampled_from([0, 0, 0, 1, 2, 0xFF]),
        st.none() | st.sampled_from([0, 1, 20, 511, 512, 513, (1 << 32) - 1]),
        st.sampled_from([1, 1, 2, 4]),
    ),
    max_size=12,
)

STEPS = st.lists(
    st.tuples(st.lists(records(), max_size=8), COMPLETIONS, st.integers(0, 8)),
    min_size=1,
    max_size=5,
)


def pack(bench: PuppetBench, record: dict[str, int]) -> bytes:
    region = bench.data.handle if record["region"] == 1 else record["region"]
    return REQUEST_RECORD.pack(*((record | {"region": region})[field] for field in FIELDS))


def submit(batch: list[dict[str, int]], bench: PuppetBench) -> int:
    return bench.queue.submit_many(b"".join(pack(bench, record) for record in batch))


def outcome(call: Callable[[PuppetBench], Any], bench: PuppetBench) -> tuple[str, Any, str]:
    try:
        return ("returned", call(bench), "")
    except Exception as error:  # any exception must be the same one on the other queue
        # Handles differ, as no disk takes those of another.
        return ("raised", type(error), str(error).replace(str(bench.data.handle), "HANDLE"))


def sent(bench: PuppetBench) -> tuple[list[int], bytes, bytes]:
    """What has become available, and all descriptors and slots."""
    heads = bench.puppet.take()
    for head in heads:
        bench.puppet.follow(head)
    descriptors = bytes(memoryview(bench.ring_region)[: 16 * bench.queue.size])
    return heads, descriptors, bytes(memoryview(bench.slots))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: str(format_of(pair[0])))
@settings(max_examples=150, deadline=None)
@given(
    size=st.sampled_from([4, 16, 64]),
    indirect_table_size=st.sampled_from([0, 3, 4]),
    limits=LIMITS,
    steps=STEPS,
    strict=st.booleans(),
)
def test_both_queues_do_the_same_with_any_records(
    pair: tuple[Language, Language],
    size: int,
    indirect_table_size: int,
    limits: BlockLimits,
    steps: list[tuple[list[dict[str, int]], list[tuple[int, int, int | None, int]], int]],
    strict: bool,
) -> None:
    native, reference = both = [
        make_puppet_bench(
            ring, size, limits=limits, indirect_table_size=indirect_table_size, strict=strict
        )
        for ring in pair
    ]
    in_flight: list[int] = []

    def same(call: Callable[[PuppetBench], Any]) -> Any:
        first, second = (outcome(call, bench) for bench in both)
        assert first == second
        assert native.queue.in_flight == reference.queue.in_flight
        return first[1]

    for batch, completions, room in steps:
        same(partial(submit, batch))
        heads, _, _ = same(sent)
        in_flight += heads
        for position, status, used_length, batch_size in completions:
            if in_flight and is_in_order(pair[0]):
                heads, in_flight = in_flight[:batch_size], in_flight[batch_size:]
                for bench in both:
                    bench.complete_batch(heads, status, used_length)
            elif in_flight:
                head = in_flight.pop(position % len(in_flight))
                for bench in both:
                    bench.complete(head, status, used_length, write_flag=position % 3 > 0)
        same(methodcaller("reap", room))
    same(lambda bench: sorted(bench.queue.reclaim()))
