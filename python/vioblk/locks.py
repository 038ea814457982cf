"""Locks that a signal handler's exception, such as KeyboardInterrupt, cannot leave taken."""

from threading import Lock, RLock


def acquire(lock: "Lock | RLock", timeout_s: float, held: list[bool]) -> bool:
    """Acquire `lock` within `timeout_s`; whether that worked, which is added to `held`.

    `with lock:` waits without a bound, and after `lock.acquire()` an exception can come before
    its result is stored, so that nobody knows who has to release. Here nothing comes between:

        held: list[bool] = []
        try:
            if acquire(lock, timeout_s, held): ...
        finally:
            if True in held:
                lock.release()
    """
    # One call of C, within which no handler runs once the lock is taken.
    held.extend(map(lock.acquire, (True,), (timeout_s,)))
    return True in held
