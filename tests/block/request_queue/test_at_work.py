"""Request queues at work, against the software device."""

import os
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.block.queue_bench import (
    CAPACITY_SECTORS,
    Language,
    PuppetBench,
    limits_of,
    make_device_bench,
    make_puppet_bench,
)
from tests.support.threads import in_thread
from vioblk.block.request import RequestType
from vioblk.errors import (
    BeyondEndError,
    InvalidRequestError,
    RequestTimeoutError,
)

IN, OUT, FLUSH = RequestType.IN, RequestType.OUT, RequestType.FLUSH
GET_ID, DISCARD, WRITE_ZEROES = RequestType.GET_ID, RequestType.DISCARD, RequestType.WRITE_ZEROES


def pattern(seed: int, length: int) -> bytes:
    return bytes((seed * 37 + i * 11 + (i >> 8)) & 0xFF for i in range(length))


@pytest.mark.parametrize("indirect_table_size", [0, 3])
def test_what_is_written_is_read_back(ring: Language, indirect_table_size: int) -> None:
    bench = make_device_bench(ring, indirect_table_size=indirect_table_size)
    data = pattern(3, 65536)
    bench.write_data(data)
    count = 128
    for kind, base in ((OUT, 0), (IN, 65536)):
        statuses = bytearray(count)
        records = b"".join(
            bench.record(kind, sector=n, offset=base + 512 * n) for n in range(count)
        )
        bench.queue.execute(records, statuses, 20)
        assert statuses == bytes(count)
    assert bench.read_data(65536, 65536) == data
    bench.reset()


def test_requests_of_every_type_succeed(ring: Language) -> None:
    bench = make_device_bench(ring)
    records = b"".join(bench.record(kind) for kind in RequestType)
    statuses = bytearray(len(RequestType))
    bench.queue.execute(records, statuses, 20)
    assert statuses == bytes(len(RequestType))
    bench.reset()


def test_execute_of_1000_reads_keeps_the_queue_full(ring: Language) -> None:
    bench = make_device_bench(ring, 64, indirect_table_size=3, threaded=False)
    bench.device.reset_counters()
    records = b"".join(bench.record(IN, sector=n) for n in range(1000))
    statuses = bytearray(1000)
    join = in_thread(lambda: bench.queue.execute(records, statuses, 60))
    served = 0
    while served < 1000:
        while bench.queue.in_flight < min(64, 1000 - served):
            os.sched_yield()
        served += bench.device.serve()
    assert join() is None
    assert statuses == bytes(1000)
    counters = bench.device.counters()
    assert counters["chains"] == counters["indirect_chains"] == 1000
    assert counters["most_outstanding"] == 64
    assert bench.queue.kick_count == counters["batches"] == 16
    bench.reset()


def test_many_threads_share_a_queue(ring: Language) -> None:
    bench = make_device_bench(ring, 16)
    rounds, threads = 40, 4

    def work(number: int) -> None:
        base = number * 65536
        for turn in range(rounds):
            data = pattern(number * 100 + turn, 2048)
            bench.write_data(data, base)
            statuses = bytearray(4)
            for kind, offset in ((OUT, base), (IN, base + 4096)):
                records = b"".join(
                    bench.record(kind, sector=number * 64 + n, offset=offset + 512 * n)
                    for n in range(4)
                )
                bench.queue.execute(records, statuses, 60)
                assert statuses == bytes(4)
            assert bench.read_data(2048, base + 4096) == data

    joins = [in_thread(partial(work, number)) for number in range(threads)]
    for join in joins:
        error = join()
        assert error is None, error
    assert bench.queue.in_flight == 0
    bench.reset()


def test_submit_wait_and_reap_run_a_stream_of_requests(ring: Language) -> None:
    bench = make_device_bench(ring, 16)
    total = 300
    tokens: list[int] = []
    next_token = 0
    while len(tokens) < total:
        records = b"".join(
            bench.record(IN, sector=n % CAPACITY_SECTORS, token=n)
            for n in range(next_token, min(next_token + 8, total))
        )
        next_token += bench.queue.submit_many(records)
        assert bench.queue.wait(20)
        done = bench.reap()
        assert all(each.status == 0 and each.written_bytes == 512 for each in done)
        tokens += [each.token for each in done]
    assert sorted(tokens) == list(range(total))
    bench.reset()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_for_chain(bench: PuppetBench) -> int:
    taken: list[int] = []

    def came() -> bool:
        taken.extend(bench.puppet.take())
        return bool(taken)

    wait_until(came)
    (head,) = taken
    return head


def test_what_waits_for_room_is_not_overtaken(ring: Language) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(size_max=512, seg_max=10))
    long_reads = bench.record(IN, length=5120) + bench.record(IN, length=5120)
    statuses = bytearray(2)
    thread = threading.Thread(target=lambda: bench.queue.execute(long_reads, statuses, 20))
    thread.start()
    wait_until(lambda: bench.queue.in_flight == 1)  # 12 of 16 descriptors; the other read waits
    # A flush needs 2 and would fit.
    assert bench.queue.submit_many(bench.record(FLUSH)) == 0
    for _ in range(2):
        bench.complete(wait_for_chain(bench))
    thread.join(20)
    assert bytes(statuses) == bytes(2)
    assert bench.queue.submit_many(bench.record(FLUSH)) == 1


def test_a_batch_after_one_that_failed_half_way_gets_its_own_statuses(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    limits = bench.queue.limits
    many = bench.record(IN, length=4096) * 8
    failure: list[Exception] = []

    def run() -> None:
        try:
            bench.queue.execute(many, bytearray(8), 20)
        except InvalidRequestError as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: bench.queue.in_flight == 5)
    bench.queue.limits = limits_of(capacity_sectors=1)  # the disk shrinks under the batch
    for head in bench.puppet.take():
        bench.complete(head)
    thread.join(20)
    assert isinstance(failure[0], BeyondEndError)
    assert str(failure[0]).startswith("request 5: ")
    bench.queue.limits = limits
    statuses = bytearray(1)
    with pytest.raises(RequestTimeoutError):
        bench.queue.execute(bench.record(IN), statuses, 0.05)
    assert statuses == b"\xff"
