"""Pools that are closed, dropped, lost: their descriptors come back, and their memory stays pinned
as long as the device may use it."""

import gc
import os
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

import vioblk
from tests.block.queue_bench import DeviceBench
from tests.block.slot_pool.conftest import (
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
from vioblk.block.queue import QueueSlotPool
from vioblk.block.request import STATUS_PENDING


def whole_ring_works(bench: DeviceBench) -> None:
    """As many general requests fit as ever did."""
    depth = bench.queue.depth
    records = b"".join(bench.record(token=token) for token in range(depth))
    assert bench.queue.submit_many(records) == depth
    assert bench.device.serve() == depth
    assert sorted(each.token for each in bench.reap()) == list(range(depth))


def test_a_pool_that_is_closed_gives_all_back(bench: DeviceBench) -> None:
    depth = bench.queue.depth
    for _ in range(5):
        pools = [make_pool(bench, 3), make_pool(bench, 4, write=True), make_pool(bench, 12)]
        for pool in pools:
            accepted = submit(pool, [(slot, slot) for slot in range(pool.count)])
            assert bench.device.serve() == len(reap(pool)) == accepted
        for pool in pools:
            with pytest.raises(BufferError):
                pool.buffer.close()
            pool.close()
            pool.close()
            pool.buffer.close()
        assert bench.queue.depth == depth
        whole_ring_works(bench)


@pytest.mark.parametrize("served", [False, True])
def test_a_pool_in_flight_cannot_be_closed(bench: DeviceBench, served: bool) -> None:
    pool = make_pool(bench)
    submit(pool, [(0, 0), (1, 1)])
    if served:
        bench.device.serve()
    with pytest.raises(vioblk.StateError, match="2 requests of the slot pool in flight, or not"):
        pool.close()
    bench.device.serve()
    assert reap(pool) == {0: 0, 1: 0}
    pool.close()


def test_a_pool_that_was_closed_says_so(bench: DeviceBench) -> None:
    pool = make_pool(bench)
    pool.close()
    another = make_pool(bench)
    calls: list[Callable[[], object]] = [
        lambda: pool.submit(slots(0), offsets(0)),
        lambda: pool.reap(slots(0)),
        lambda: pool.reap(slots(0), bytearray(1)),
    ]
    for call in calls:
        with pytest.raises(vioblk.StateError, match="the slot pool has been closed"):
            call()
    assert pool.in_flight == 0
    assert pool.wait(0) is True, "there is an error to tell"
    assert submit(another, [(0, 0)]) == 1


def test_a_block_closes_its_pool_and_its_exception_stays_the_one_that_is_seen(
    bench: DeviceBench,
) -> None:
    with make_pool(bench) as pool:
        assert not is_closed(pool)
    assert is_closed(pool)
    pool = make_pool(bench)
    submit(pool, [(0, 0)])
    with pytest.raises(KeyError) as raised:
        with pool:
            raise KeyError("mine")
    assert any("could not be closed: 1 request" in note for note in raised.value.__notes__)
    with pytest.raises(vioblk.StateError, match="1 request of the slot pool in flight"):
        with pool:
            pass


def test_a_pool_that_is_dropped_in_flight_stays_pinned_until_the_device_is_done(
    bench: DeviceBench,
) -> None:
    depth = bench.queue.depth
    pool = make_pool(bench)
    reduced = bench.queue.depth
    buffer = pool.buffer
    submit(pool, [(0, 0), (5, 1)])
    del pool
    gc.collect()
    assert bench.queue.in_flight == 2
    assert bench.queue.depth == reduced
    with pytest.raises(BufferError):
        buffer.close()
    assert bench.device.serve() == 2
    assert bench.reap() == [], "nobody can take them"
    assert bench.queue.in_flight == 0
    assert bench.queue.depth == depth
    buffer.close()
    whole_ring_works(bench)


def test_a_pool_that_is_dropped_idle_gives_all_back_at_once(bench: DeviceBench) -> None:
    depth = bench.queue.depth
    pool = make_pool(bench)
    submit(pool, [(0, 0)])
    bench.device.serve()
    reap(pool)
    del pool
    gc.collect()
    bench.reap()
    assert bench.queue.depth == depth
    whole_ring_works(bench)


def test_a_wait_on_the_queue_waits_for_what_was_dropped(bench: DeviceBench) -> None:
    pool = make_pool(bench)
    submit(pool, [(0, 0)])
    del pool
    gc.collect()
    assert bench.queue.wait(0) is False
    assert bench.queue.in_flight == 1
    bench.device.serve()
    assert bench.queue.wait(30) is False
    assert bench.queue.in_flight == 0


def test_after_a_reset_a_pool_is_lost_and_its_memory_free(bench: DeviceBench) -> None:
    depth = bench.queue.depth
    pool, dropped = make_pool(bench, 4), make_pool(bench, 3)
    submit(pool, [(0, 0), (1, 1)])
    submit(dropped, [(0, 0)])
    buffer = dropped.buffer
    del dropped
    gc.collect()
    bench.reset()
    assert bench.queue.reclaim() == [], "they have no tokens"
    assert bench.queue.in_flight == 0
    assert pool.in_flight == 2, "nobody has been told that they were lost"
    for call in (lambda: submit(pool, [(2, 0)]), lambda: reap(pool)):
        with pytest.raises(vioblk.StateError, match="the slot pool is lost; make a new one"):
            call()
    assert pool.wait(0) is True
    assert pool.in_flight == 0
    pool.buffer.close()
    buffer.close()
    pool.close()
    assert bench.queue.depth == depth


@pytest.mark.parametrize("told_by", ["submit", "reap"])
def test_requests_that_a_reset_lost_are_in_flight_until_their_user_is_told(
    bench: DeviceBench, told_by: str
) -> None:
    pool = make_pool(bench, 4)
    assert submit(pool, [(0, 0), (1, 1), (2, 2)]) == 3
    bench.device.serve(1)
    bench.queue.wait(0)  # which takes the completion in, for whoever reaps
    bench.reset()
    bench.queue.reclaim()
    assert bench.queue.in_flight == pool.in_flight - 2 == 1
    assert pool.wait(0) is True
    assert len(reap(pool)) == 1
    assert pool.in_flight == 2
    assert pool.wait(0) is True
    assert pool.reap(slots()) == 0, "no room is no question"
    assert pool.in_flight == 2
    with pytest.raises(vioblk.StateError, match="the slot pool is lost; make a new one"):
        submit(pool, [(3, 0)]) if told_by == "submit" else reap(pool)
    assert pool.in_flight == 0
    assert pool.wait(0) is True
    with pytest.raises(vioblk.StateError, match="lost"):
        reap(pool)


def test_a_pool_that_lost_requests_can_be_closed(bench: DeviceBench) -> None:
    pool = make_pool(bench, 4)
    submit(pool, [(0, 0)])
    bench.reset()
    bench.queue.reclaim()
    pool.close()
    assert pool.in_flight == 0


def test_completions_from_before_a_reset_can_still_be_taken(bench: DeviceBench) -> None:
    pool, other = make_pool(bench, 4), make_pool(bench, 2)
    submit(pool, [(2, 0)])
    submit(other, [(0, 0)])
    bench.device.serve()
    assert reap(other) == {0: 0}
    bench.reset()
    bench.queue.reclaim()
    assert pool.in_flight == 1
    assert reap(pool) == {2: 0}
    assert pool.in_flight == 0
    with pytest.raises(vioblk.StateError, match="lost"):
        reap(pool)


def test_a_pool_of_a_queue_that_was_given_up_says_why(bench: DeviceBench) -> None:
    pool = make_pool(bench, 4)
    submit(pool, [(0, 0), (1, 1)])
    bench.device.serve(1)
    bench.queue.abort("the moon is full")
    with pytest.raises(vioblk.DeviceGoneError, match="the moon is full"):
        submit(pool, [(2, 0)])
    assert len(reap(pool)) == 1, "what the device finished before is finished"
    with pytest.raises(vioblk.DeviceGoneError, match="the moon is full"):
        reap(pool)
    buffer = pool.buffer
    pool.close()
    with pytest.raises(BufferError):
        buffer.close()  # the device may still write there
    bench.reset()
    bench.queue.reclaim()
    buffer.close()


def test_pools_that_were_ended_say_why_and_forget_what_they_had(bench: DeviceBench) -> None:
    pool = make_pool(bench, 4)
    submit(pool, [(0, 0), (1, 1)])
    bench.device.serve(1)
    bench.queue.end_pools("no more pools today")
    for call in (lambda: submit(pool, [(2, 0)]), lambda: reap(pool)):
        with pytest.raises(vioblk.StateError, match="no more pools today"):
            call()
    assert pool.wait(0) is True
    bench.device.serve()
    assert bench.queue.wait(0) is False
    assert bench.queue.in_flight == 0
    assert bench.queue.submit_many(bench.record()) == 1, "the queue goes on"


def test_the_error_is_what_the_pool_was_told_to_make_of_it(bench: DeviceBench) -> None:
    seen: list[Exception] = []

    def explain(error: Exception) -> Exception:
        seen.append(error)
        return vioblk.StateError(f"told: {error}")

    pool = make_pool(bench, 2, explain=explain)
    with pytest.raises(vioblk.InvalidRequestError, match="there is no slot 2"):
        submit(pool, [(2, 0)])
    assert seen == []
    bench.queue.abort("gone for lunch")
    with pytest.raises(vioblk.StateError, match="told: gone for lunch"):
        submit(pool, [(0, 0)])
    with pytest.raises(vioblk.StateError, match="told: gone for lunch"):
        reap(pool)
    assert [type(error) for error in seen] == [vioblk.DeviceGoneError] * 2


@pytest.mark.parametrize("parked", [False, True])
def test_without_statuses_failures_are_raised_once_all_else_was_handed_out(
    bench: DeviceBench, parked: bool
) -> None:
    pool = make_pool(bench, 5)
    submit(pool, [(slot, slot) for slot in range(5)])
    bench.device.inject("status", count=2, after=1, value=1)
    bench.device.serve()
    if parked:
        assert bench.reap() == []  # whoever reaps, reaps for all
    assert reap_good(pool, 2) | reap_good(pool, 2) == {0, 3, 4}
    failed = []
    for _ in range(2):
        with pytest.raises(vioblk.RequestFailedError, match=r"slot \d failed: .*IOERR") as raised:
            reap_good(pool)
        assert raised.value.status == 1
        failed.append(raised.value.slot)
    assert failed == [1, 2]
    assert reap_good(pool) == set()
    assert pool.in_flight == 0
    assert submit(pool, [(slot, slot) for slot in range(5)]) == 5


def test_statuses_of_failures_that_were_held_back_can_be_asked_for(bench: DeviceBench) -> None:
    pool = make_pool(bench, 2)
    submit(pool, [(0, 0), (1, 1)])
    bench.device.inject("status", value=2)
    bench.device.serve()
    assert reap_good(pool) == {1}
    assert reap(pool) == {0: 2}


def test_a_thread_that_waits_is_woken_by_its_own_completions(
    make_queue: Callable[..., DeviceBench],
) -> None:
    bench = make_queue(64, threaded=True)  # with room for all of it at once
    rounds, failures = 30, list[BaseException]()

    def pooled(pool: QueueSlotPool, turn: int) -> None:
        waiting = set(range(3))
        assert submit(pool, [(slot, turn) for slot in waiting]) == 3
        while waiting:
            assert pool.wait(30), "the device did not answer"
            for slot, status in reap(pool).items():
                assert status == 0
                waiting.remove(slot)

    def general(turn: int) -> None:
        statuses = bytearray([STATUS_PENDING]) * 8
        bench.queue.execute(bench.record(sector=turn) * 8, statuses, 30)
        assert statuses == bytes(8)

    def repeat(work: Callable[[int], None]) -> None:
        try:
            for turn in range(rounds):
                work(turn)
        except BaseException as error:
            failures.append(error)

    works = [partial(pooled, make_pool(bench, 3)), partial(pooled, make_pool(bench, 3)), general]
    threads = [threading.Thread(target=repeat, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []
    assert bench.queue.in_flight == 0
    assert bench.device.violation is None


def test_a_thread_that_waits_is_told_that_the_queue_was_given_up(bench: DeviceBench) -> None:
    pool = make_pool(bench, 2)
    submit(pool, [(0, 0)])
    results: list[object] = []

    def wait() -> None:
        results.append(pool.wait(30))
        try:
            reap(pool)
        except vioblk.DeviceGoneError as error:
            results.append(str(error))

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0)
    bench.queue.abort("over")
    waiter.join(30)
    assert results == [True, "over"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_pool_is_of_no_use_in_a_child(bench: DeviceBench) -> None:
    pool = make_pool(bench, 2)
    submit(pool, [(0, 0)])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for call in (lambda: submit(pool, [(1, 0)]), lambda: reap(pool), pool.close):
                try:
                    call()
                except vioblk.ForkedError:
                    continue
                os._exit(2)
            del pool
            gc.collect()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bench.device.serve()
    assert reap(pool) == {0: 0}
    assert slot_data(pool, 0) != sector_data(1)
