"""Locks that are always given back."""

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


def test_a_lock_of_another_is_waited_for_and_left_alone() -> None:
    lock = threading.Lock()
    held: list[bool] = []
    with lock:
        assert not acquire(lock, 0.01, held)
    assert True not in held
    assert acquire(lock, 0.01, held)
    assert True in held
