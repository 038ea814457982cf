"""Requests of slots reach the disk and come back, whatever the ring, beside all others."""

import random
from array import array
from collections.abc import Callable

import pytest

from tests.block.queue_bench import DeviceBench, limits_of
from tests.block.slot_pool.conftest import (
    Kind,
    fill_disk,
    fill_slot,
    is_closed,
    make_pool,
    offsets,
    reap,
    reap_good,
    sector_data,
    slot_data,
    slots,
    submit,
)
from vioblk.block.request import SECTOR_BYTES, STATUS_PENDING, RequestType


def test_each_slot_gets_the_bytes_of_its_offset_and_no_other_byte_changes(
    bench: DeviceBench,
) -> None:
    fill_disk(bench, 40)
    pool = make_pool(bench)
    for slot in range(8):
        fill_slot(pool, slot, b"\xee" * SECTOR_BYTES)
    wanted = {0: 39, 7: 0, 3: 17, 4: 17}
    assert submit(pool, wanted.items()) == 4
    assert pool.in_flight == bench.queue.in_flight == 4
    assert bench.device.serve() == 4
    assert reap(pool) == dict.fromkeys(wanted, 0)
    assert pool.in_flight == bench.queue.in_flight == 0
    for slot in range(8):
        expected = sector_data(wanted[slot]) if slot in wanted else b"\xee" * SECTOR_BYTES
        assert slot_data(pool, slot) == expected


def test_slots_for_writes_put_their_bytes_at_their_offsets(bench: DeviceBench) -> None:
    fill_disk(bench, 8)
    pool = make_pool(bench, write=True)
    for slot in range(8):
        fill_slot(pool, slot, bytes([0x80 + slot]) * SECTOR_BYTES)
    assert submit(pool, [(slot, 7 - slot) for slot in (1, 2, 6)]) == 3
    assert bench.device.serve() == 3
    assert reap_good(pool) == {1, 2, 6}
    pool.close()
    reads = make_pool(bench, 8)
    assert submit(reads, [(slot, slot) for slot in range(8)]) == 8
    bench.device.serve()
    reap(reads)
    for sector in range(8):
        written = 7 - sector in (1, 2, 6)
        expected = bytes([0x87 - sector]) * SECTOR_BYTES if written else sector_data(sector)
        assert slot_data(reads, sector) == expected


def test_a_slot_is_as_long_as_several_segments_of_the_device(
    make_queue: Callable[..., DeviceBench],
) -> None:
    bench = make_queue(limits=limits_of(size_max=1024, seg_max=3))
    fill_disk(bench, 40)
    pool = make_pool(bench, 4, 2560)
    assert submit(pool, [(3, 30), (1, 2)]) == 2
    assert bench.device.serve() == 2
    assert reap(pool) == {3: 0, 1: 0}
    for slot, first in ((3, 30), (1, 2)):
        assert slot_data(pool, slot) == b"".join(map(sector_data, range(first, first + 5)))


def test_the_way_to_the_ring_is_the_cheapest_that_leaves_room_for_others(
    make_queue: Callable[..., DeviceBench], kind: Kind
) -> None:
    each = 1 if kind.indirect else 3
    for count, reserved in ((8, "direct"), (11, "indirect"), (31, "indirect"), (32, "table")):
        bench = make_queue()
        pool = make_pool(bench, count)
        expected = "table" if kind.indirect else "general"
        if kind.reserves and (kind.indirect or reserved == "direct"):
            expected = reserved
        assert pool.way == expected
        taken = {"direct": 3 * count, "indirect": count}.get(expected, 0)
        assert bench.queue.depth == (32 - taken) // each
        pool.close()
        assert is_closed(pool)
        assert bench.queue.depth == 32 // each


@pytest.mark.parametrize("count", [4, 9, 31, 40])
def test_slots_are_used_again_and_again_in_any_order_around_the_ring(
    make_queue: Callable[..., DeviceBench], count: int
) -> None:
    bench = make_queue()
    fill_disk(bench, 64)
    pool = make_pool(bench, count)
    rng = random.Random(count)
    free, wanted = set(range(count)), dict[int, int]()
    for _ in range(60):
        chosen = rng.sample(sorted(free), rng.randint(0, len(free)))
        places = [rng.randrange(64) for _ in chosen]
        accepted = submit(pool, zip(chosen, places, strict=True))
        assert accepted == len(chosen) or pool.way in ("table", "general")
        wanted |= dict(zip(chosen[:accepted], places, strict=False))
        free -= set(chosen[:accepted])
        assert pool.in_flight == len(wanted)
        bench.device.serve(rng.randint(1, 8))
        for slot, status in reap(pool, rng.randint(1, 8)).items():
            assert status == 0
            assert slot_data(pool, slot) == sector_data(wanted.pop(slot))
            free.add(slot)
    while wanted:
        bench.device.serve()
        for slot, status in reap(pool).items():
            assert (status, slot_data(pool, slot)) == (0, sector_data(wanted.pop(slot)))
    pool.close()
    assert bench.device.violation is None


def test_where_slots_have_no_descriptors_as_many_are_accepted_as_there_is_room_for(
    make_queue: Callable[..., DeviceBench], kind: Kind
) -> None:
    bench = make_queue(8)
    pool = make_pool(bench, 12)
    if kind.reserves and kind.indirect:
        assert pool.way == "table"
    room = 8 if kind.indirect else 2
    everything = [(slot, slot) for slot in range(12)]
    assert submit(pool, everything) == room
    assert submit(pool, everything[room:]) == 0, "there is no room left"
    assert bench.device.serve() == room
    assert set(reap(pool)) == set(range(room))
    assert submit(pool, everything[room:]) == min(room, 12 - room), "what found none stayed free"


def test_other_requests_leave_slots_the_descriptors_that_are_theirs(
    bench: DeviceBench, kind: Kind
) -> None:
    pool = make_pool(bench, 8)
    depth = bench.queue.depth
    general = bench.queue.submit_many(b"".join(bench.record(token=n) for n in range(40)))
    assert general == depth
    slots_sent = submit(pool, [(slot, slot) for slot in range(8)])
    assert slots_sent == (8 if kind.reserves else 0)
    assert bench.device.serve() == general + slots_sent
    assert len(bench.reap()) == general
    assert reap(pool) == dict.fromkeys(range(slots_sent), 0)


def test_every_way_shares_the_ring_with_general_requests_and_other_pools(
    bench: DeviceBench,
) -> None:
    fill_disk(bench, 32)
    pools = [make_pool(bench, 4), make_pool(bench, 2), make_pool(bench, 3)]
    assert submit(pools[0], [(0, 5), (3, 6)]) == 2
    assert bench.queue.submit_many(bench.record(sector=7, token=70)) == 1
    assert submit(pools[2], [(2, 8)]) == 1
    assert bench.queue.in_flight == 4
    assert bench.device.serve() == 4
    assert reap(pools[1]) == {}, "nothing of it was in flight"
    assert bench.queue.in_flight == 4, "what was not taken is still there"
    assert [each.token for each in bench.reap()] == [70]
    assert bench.read_data(SECTOR_BYTES) == sector_data(7)
    assert reap(pools[2]) == {2: 0}
    assert reap(pools[0]) == {0: 0, 3: 0}
    assert [slot_data(pools[0], slot) for slot in (0, 3)] == [sector_data(5), sector_data(6)]
    assert slot_data(pools[2], 2) == sector_data(8)
    assert bench.queue.in_flight == 0
    for pool in pools:
        pool.close()


def test_reaping_for_one_loses_nothing_of_another(bench: DeviceBench) -> None:
    pool, other = make_pool(bench, 4), make_pool(bench, 4)
    assert bench.queue.submit_many(b"".join(bench.record(token=n) for n in range(2))) == 2
    assert submit(pool, [(0, 0), (1, 1)]) == submit(other, [(2, 2), (3, 3)]) == 2
    bench.device.serve()
    assert set(reap(other, 1)) | set(reap(other, 1)) == {2, 3}
    assert reap(other) == {}
    assert {each.token for each in bench.reap(1) + bench.reap(1)} == {0, 1}
    assert reap(pool) == {0: 0, 1: 0}


def test_execute_on_a_queue_with_pools_gets_its_own_statuses(
    make_queue: Callable[..., DeviceBench],
) -> None:
    bench = make_queue(threaded=True)
    fill_disk_threaded = b"".join(bench.record(RequestType.OUT, sector=n) for n in range(20))
    pool = make_pool(bench, 8)
    statuses = bytearray(20)
    assert submit(pool, [(slot, slot) for slot in range(4)]) == 4
    bench.queue.execute(fill_disk_threaded, statuses, 30)
    assert statuses == bytes(20)
    back: dict[int, int] = {}
    while len(back) < 4:
        assert pool.wait(30)
        back |= reap(pool)
    assert back == dict.fromkeys(range(4), 0)
    assert pool.wait(30) is False, "nothing of it is in flight"


def test_a_wait_for_one_is_not_ended_by_the_completions_of_another(bench: DeviceBench) -> None:
    pool = make_pool(bench, 4)
    assert submit(pool, [(0, 0)]) == 1
    bench.device.serve()
    assert bench.queue.wait(30) is False, "nothing of its own is in flight"
    assert pool.wait(0) is True
    assert bench.queue.submit_many(bench.record(token=5)) == 1
    assert reap(pool) == {0: 0}
    bench.device.serve()
    assert pool.wait(30) is False
    assert bench.queue.wait(0) is True
    assert [each.token for each in bench.reap()] == [5]


def test_a_call_rings_the_doorbell_once_at_most(bench: DeviceBench) -> None:
    pool = make_pool(bench, 8)
    before = bench.queue.kick_count
    assert submit(pool, [(slot, slot) for slot in range(8)]) == 8
    assert bench.queue.kick_count == before + 1
    assert submit(pool, []) == 0
    assert bench.queue.kick_count == before + 1


@pytest.mark.parametrize("value", [1, 2, 7, STATUS_PENDING])
def test_what_the_device_failed_is_told_by_its_status(bench: DeviceBench, value: int) -> None:
    pool = make_pool(bench, 4)
    assert submit(pool, [(slot, slot) for slot in range(3)]) == 3
    bench.device.inject("status", after=1, value=value)
    assert bench.device.serve() == 3
    assert reap(pool) == {0: 0, 1: value, 2: 0}


def test_a_status_of_the_request_before_does_not_pass_for_one(bench: DeviceBench) -> None:
    pool = make_pool(bench, 1)
    for expected in (0, STATUS_PENDING):
        assert submit(pool, [(0, 0)]) == 1
        bench.device.serve()
        assert reap(pool) == {0: expected}
        # The next one is used without a word about it: nothing is written at all.
        bench.device.inject("status", value=STATUS_PENDING)
        bench.device.inject("short_length", value=0)


def test_a_success_that_the_used_length_does_not_reach_is_none(bench: DeviceBench) -> None:
    pool = make_pool(bench, 2)
    bench.device.inject("short_length", value=SECTOR_BYTES)
    assert submit(pool, [(0, 0)]) == 1
    bench.device.serve()
    assert reap(pool) == {0: STATUS_PENDING}


def test_numbers_may_be_in_any_buffer_of_their_kind(bench: DeviceBench) -> None:
    fill_disk(bench, 4)
    pool = make_pool(bench, 4)
    region = bench.space.alloc(4096)
    with memoryview(region) as view:
        numbers, places = view[:8].cast("I"), view[64:80].cast("Q")
        numbers[0], numbers[1] = 2, 0
        places[0], places[1] = 512, 1024
        assert pool.submit(numbers, places) == 2
        bench.device.serve()
        statuses = view[128:130]
        assert pool.reap(numbers, statuses) == 2
        assert sorted(numbers) == [0, 2]
        assert bytes(statuses) == b"\0\0"
        numbers.release()
        places.release()
        statuses.release()
    assert slot_data(pool, 2) == sector_data(1)
    unaligned = memoryview(bytearray(9))[1:].cast("Q")
    assert pool.submit(array("I", [1]), unaligned) == 1
    bench.device.serve()
    assert pool.reap(slots(0)) == 1
    assert slot_data(pool, 1) == sector_data(0)
    assert pool.submit(slots(), offsets()) == pool.reap(slots()) == 0
