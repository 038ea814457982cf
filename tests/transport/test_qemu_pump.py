"""The thread that turns signals into calls."""

import math
import os
import threading
from collections.abc import Iterator

import pytest

import vioblk
from tests.support.leaks import no_leaks
from tests.test_fork import in_child
from vioblk.transport.qemu.pump import Pump

WAIT_S = 30.0


@pytest.fixture
def pump() -> Iterator[Pump]:
    pump = Pump("test")
    yield pump
    pump.close()


@pytest.fixture
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def test_each_signal_leads_to_a_call(pump: Pump, eventfd: int) -> None:
    called = threading.Semaphore(0)
    pump.add(eventfd, lambda: called.release(), counter=True)
    for _ in range(10):
        os.eventfd_write(eventfd, 3)
        assert called.acquire(timeout=WAIT_S)
    assert not called.acquire(timeout=0)


def test_a_flush_waits_for_the_calls_of_earlier_signals_and_no_longer_than_told(
    pump: Pump, eventfd: int
) -> None:
    entered, leave, left = (threading.Event() for _ in range(3))

    def call() -> None:
        entered.set()
        assert leave.wait(WAIT_S)
        left.set()

    assert pump.flush(WAIT_S)  # There is no thread yet, and nobody who could be late.
    pump.add(eventfd, call, counter=True)
    os.eventfd_write(eventfd, 1)
    assert entered.wait(WAIT_S)
    assert not pump.flush(0.01)
    assert not left.is_set()
    leave.set()
    assert pump.flush(math.inf)
    assert left.is_set()


def test_what_was_removed_is_left_alone(pump: Pump, eventfd: int) -> None:
    calls: list[str] = []
    done = threading.Event()
    pump.add(eventfd, lambda: calls.append("removed"), counter=True)
    pump.remove(eventfd)
    pump.remove(eventfd)
    os.eventfd_write(eventfd, 1)
    other = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        pump.add(other, done.set, counter=True)
        os.eventfd_write(other, 1)
        assert done.wait(WAIT_S)
    finally:
        pump.remove(other)
        os.close(other)
    assert calls == []
    assert os.eventfd_read(eventfd) == 1


def test_a_call_that_is_late_is_made_again_and_one_that_has_gone_is_the_last(
    pump: Pump, eventfd: int
) -> None:
    outcomes: list[Exception | None] = [
        vioblk.TransportError("late"),
        None,
        vioblk.DeviceGoneError("gone"),
    ]
    called = threading.Semaphore(0)

    def call() -> None:
        outcome = outcomes.pop(0)
        called.release()
        if outcome is not None:
            raise outcome

    pump.add(eventfd, call, counter=True)
    for call_count in (2, 1):
        os.eventfd_write(eventfd, 1)
        for _ in range(call_count):
            assert called.acquire(timeout=WAIT_S)
    pump.close()
    os.eventfd_write(eventfd, 1)
    pump.add(eventfd, call, counter=True)
    assert outcomes == []
    assert not called.acquire(timeout=0)


def test_one_that_is_forgotten_or_closed_leaves_nothing(eventfd: int) -> None:
    def forget() -> None:
        Pump("test").add(eventfd, lambda: None, counter=True)

    def close() -> None:
        pump = Pump("test")
        pump.add(eventfd, lambda: None, counter=True)
        pump.close()
        pump.close()

    for use in (forget, close):
        use()
        with no_leaks():
            for _ in range(3):
                use()


def test_one_that_is_forgotten_in_the_middle_of_its_own_work_ends(pump: Pump, eventfd: int) -> None:
    """The garbage collector may run on any thread, one that has the lock included."""
    pump.add(eventfd, lambda: None, counter=True)

    def collect() -> None:
        assert pump._state is not None
        assert pump._stop is not None
        with pump._state._lock:
            pump._stop()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_a_forked_child_leaves_its_parents_thread_alone(pump: Pump, eventfd: int) -> None:
    called = threading.Semaphore(0)
    pump.add(eventfd, lambda: called.release(), counter=True)

    def use() -> None:
        pump.remove(eventfd)
        pump.close()

    in_child(use)
    os.eventfd_write(eventfd, 1)
    assert called.acquire(timeout=WAIT_S)
