"""How those wait who use a request queue."""

import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest

from tests.block.queue_bench import (
    Language,
    is_packed,
    make_puppet_bench,
)
from tests.support.leaks import no_leaks
from tests.support.threads import in_thread
from vioblk._native import Doorbell
from vioblk.block.request import STATUS_PENDING, RequestType
from vioblk.errors import (
    DeviceGoneError,
    ForkedError,
    RequestTimeoutError,
)

IN, OUT, FLUSH = RequestType.IN, RequestType.OUT, RequestType.FLUSH
GET_ID, DISCARD, WRITE_ZEROES = RequestType.GET_ID, RequestType.DISCARD, RequestType.WRITE_ZEROES


@pytest.fixture
def interrupt_fd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture(params=["interrupted", "polled"])
def any_interrupt_fd(request: pytest.FixtureRequest) -> int | None:
    """Waits must end in the same ways where the device gives no interrupt."""
    fd: int | None = None
    if request.param == "interrupted":
        fd = request.getfixturevalue("interrupt_fd")
    return fd


def test_wait_gives_up_when_time_is_up(ring: Language, interrupt_fd: int) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=interrupt_fd)
    bench.queue.submit_many(bench.record(FLUSH))
    assert bench.queue.wait(0) is False
    assert bench.queue.wait(0.02) is False


def test_wait_ends_with_a_completion(ring: Language, interrupt_fd: int) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=interrupt_fd)
    bench.queue.submit_many(bench.record(FLUSH, token=4))
    head = bench.puppet.take()[0]

    def device() -> None:
        bench.complete(head)
        bench.interrupt()

    join = in_thread(device)
    assert bench.queue.wait(20) is True
    assert [done.token for done in bench.reap()] == [4]
    assert join() is None
    assert bench.queue.wait(0) is False


def test_spurious_interrupts_do_no_harm(ring: Language, interrupt_fd: int) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=interrupt_fd)
    bench.interrupt()
    assert bench.queue.wait(0.01) is False
    assert bench.reap() == []


def test_a_lost_interrupt_delays_but_does_not_hang(ring: Language, interrupt_fd: int) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=interrupt_fd)
    bench.queue.submit_many(bench.record(FLUSH))
    head = bench.puppet.take()[0]
    join = in_thread(lambda: bench.complete(head))  # and no interrupt
    assert bench.queue.wait(20) is True
    assert join() is None


def test_a_queue_without_an_interrupt_is_polled(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(FLUSH))
    head = bench.puppet.take()[0]
    join = in_thread(lambda: bench.complete(head))
    assert bench.queue.wait(20) is True
    assert join() is None


def test_a_polled_queue_finds_completions_long_before_a_wait_without_interrupts_would_end(
    ring: Language,
) -> None:
    bench = make_puppet_bench(ring)

    def run_4() -> float:
        start = time.monotonic()
        for _ in range(4):
            bench.queue.submit_many(bench.record(FLUSH))
            head = bench.puppet.take()[0]
            join = in_thread(partial(bench.complete, head))
            assert bench.queue.wait(20) is True
            assert join() is None
            assert len(bench.reap()) == 1
        return time.monotonic() - start

    # 0.4 s if each took one sleep of 100 ms. A busy machine makes many late, but not all.
    assert any(run_4() < 0.2 for _ in range(100))


def test_waiting_for_a_device_without_interrupts_leaves_the_processor_to_others(
    ring: Language,
) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(FLUSH))
    start, busy = time.monotonic(), time.thread_time()
    assert bench.queue.wait(0.3) is False
    elapsed_s, busy_s = time.monotonic() - start, time.thread_time() - busy
    assert elapsed_s >= 0.3
    assert busy_s < elapsed_s / 3


def test_every_queue_that_shares_an_interrupt_is_woken_by_it(
    ring: Language, interrupt_fd: int
) -> None:
    benches = [make_puppet_bench(ring, interrupt_fd=interrupt_fd) for _ in range(3)]
    with select.epoll() as loop:
        for token, bench in enumerate(benches):
            loop.register(bench.queue.fileno(), select.EPOLLIN)
            bench.queue.submit_many(bench.record(FLUSH, token=token))
            assert bench.queue.arm() is False
        for bench in benches:
            bench.complete(bench.puppet.take()[0])
        benches[0].interrupt()
        ready = {fd for fd, _ in loop.poll(20)}
        assert ready == {bench.queue.fileno() for bench in benches}
    for token, bench in enumerate(benches):
        assert [done.token for done in bench.reap()] == [token]


def test_a_queue_tells_its_doorbell_how_far_it_is_where_the_doorbell_carries_data(
    ring: Language, tmp_path: Path
) -> None:
    path = tmp_path / "register"
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        bench = make_puppet_bench(
            ring, doorbell=Doorbell.file(file.fileno(), 4, 0x1234, carries_data=True)
        )
        # On a packed ring: how many descriptors, and the wrap counter.
        steps = ((1, 0x8002), (3, 0x8008)) if is_packed(ring) else ((1, 1), (3, 4))
        for count, available in steps:
            assert bench.queue.submit_many(bench.record(FLUSH) * count) == count
            assert path.read_bytes() == struct.pack("<IHH", 0, 0x1234, available)
        assert not bench.queue.take_kick(), "nothing is left to the owner"
        bench.queue.reclaim()
        assert bench.queue.submit_many(bench.record(FLUSH) * 2) == 2
        anew = 0x8004 if is_packed(ring) else 2
        assert path.read_bytes() == struct.pack("<IHH", 0, 0x1234, anew)


def test_a_doorbell_that_cannot_be_rung_is_the_end_of_the_queue(ring: Language) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        bench = make_puppet_bench(ring, doorbell=Doorbell.file(full.fileno(), 0, 1))
        why = r"the device cannot be notified: .*No space left"
        with pytest.raises(DeviceGoneError, match=why):
            bench.queue.execute(bench.record(FLUSH), bytearray(1), 20)
        with pytest.raises(DeviceGoneError, match=why):
            bench.queue.submit_many(bench.record(FLUSH))
        assert bench.queue.in_flight == 1, "the device may have seen it"


def test_execute_that_times_out_leaves_its_requests_pending_and_pinned(
    ring: Language, any_interrupt_fd: int | None
) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=any_interrupt_fd)
    region = bench.space.alloc(4096)
    record = bench.record(IN, region=region.handle)
    statuses = bytearray(2)
    with pytest.raises(RequestTimeoutError):
        bench.queue.execute(record * 2, statuses, 0.02)
    assert statuses == bytes([STATUS_PENDING] * 2)
    assert bench.queue.in_flight == 2
    with pytest.raises(BufferError):
        region.close()
    # What comes late is not handed out, and touches nothing of the caller's.
    for head in bench.puppet.take():
        bench.complete(head)
    assert bench.reap() == []
    assert statuses == bytes([STATUS_PENDING] * 2)
    assert bench.queue.in_flight == 0
    region.close()


def test_abort_sends_every_waiter_away(ring: Language, any_interrupt_fd: int | None) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=any_interrupt_fd)
    waiting = threading.Barrier(4)

    def execute() -> None:
        waiting.wait(20)
        bench.queue.execute(bench.record(FLUSH), bytearray(1))

    joins = [in_thread(execute) for _ in range(3)]
    waiting.wait(20)
    bench.queue.abort("pulled out")
    for join in joins:
        error = join()
        assert isinstance(error, DeviceGoneError)
        assert "pulled out" in str(error)
    with pytest.raises(DeviceGoneError, match="pulled out"):
        bench.queue.submit_many(bench.record(FLUSH))
    with pytest.raises(DeviceGoneError, match="pulled out"):
        bench.reap()
    assert bench.queue.broken == "pulled out"


def test_a_hang_up_ends_every_wait(ring: Language, any_interrupt_fd: int | None) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        bench = make_puppet_bench(ring, interrupt_fd=any_interrupt_fd, hangup_fd=ours.fileno())
        join = in_thread(lambda: bench.queue.execute(bench.record(FLUSH), bytearray(1)))
        theirs.close()
        assert isinstance(join(), DeviceGoneError)
        with pytest.raises(DeviceGoneError):
            bench.queue.submit_many(bench.record(FLUSH))


def test_a_signal_ends_a_wait_and_the_request_stays_owned(
    ring: Language, any_interrupt_fd: int | None
) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=any_interrupt_fd)
    bench.queue.submit_many(bench.record(IN, token=6))

    def interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    def alarm_and_wait() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        bench.queue.wait(20)

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            alarm_and_wait()
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert bench.queue.in_flight == 1
    bench.complete(bench.puppet.take()[0])
    assert [done.token for done in bench.reap()] == [6]


def test_the_descriptor_is_readable_with_an_interrupt_and_quiet_once_it_is_armed(
    ring: Language, interrupt_fd: int
) -> None:
    bench = make_puppet_bench(ring, interrupt_fd=interrupt_fd)
    bench.queue.submit_many(bench.record(FLUSH))
    assert bench.queue.arm() is False
    bench.complete(bench.puppet.take()[0])
    bench.interrupt()
    assert bench.queue.arm() is True
    bench.interrupt()
    assert select.select([bench.queue.fileno()], [], [], 20)[0]
    assert len(bench.reap()) == 1
    assert bench.queue.arm() is False
    assert not select.select([bench.queue.fileno()], [], [], 0)[0]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_fork_is_refused(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    record = bench.record(FLUSH)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            bench.queue.submit_many(record)
        except ForkedError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bench.queue.submit_many(record) == 1


def test_a_queue_leaves_no_descriptor_behind(ring: Language) -> None:
    with no_leaks():
        for _ in range(10):
            make_puppet_bench(ring)
