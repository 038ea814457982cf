"""Locks that are always given back."""

import signal
import threading

from tests.support.interruptions import interrupter
from vioblk.locks import acquire

INTERRUPTION_COUNT = 5000


def test_an_exception_of_a_signal_handler_leaves_no_lock_taken() -> None:
    lock = threading.Lock()

    def use() -> None:
        held: list[bool] = []
        try:
            assert acquire(lock, 1, held)
        finally:
            if True in held:
                lock.release()

    with interrupter() as interruptions:
        for _ in range(INTERRUPTION_COUNT):
            interruptions.interrupt(use)
            assert not lock.locked(), f"after {interruptions.count}"


def test_an_interruption_that_another_thread_receives_is_noticed() -> None:
    """As the system may choose it, but here each time: the main thread receives none."""
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    try:
        with interrupter() as interruptions:
            for _ in range(50):
                interruptions.interrupt(lambda: None)
        assert interruptions.count == 50
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
        stop.set()
        other.join()


def test_a_lock_of_another_is_waited_for_and_left_alone() -> None:
    lock = threading.Lock()
    held: list[bool] = []
    with lock:
        assert not acquire(lock, 0.01, held)
    assert True not in held
    assert acquire(lock, 0.01, held)
    assert True in held
