"""A thread that turns a signalled eventfd into calls."""

import os
import select
import weakref
from collections.abc import Callable
from contextlib import suppress
from threading import Thread, current_thread
from typing import Final

JOIN_TIMEOUT_S: Final = 1.0
"""How long closing waits for a callback that is under way."""


class EventWatcher:
    """Calls `callback` after each signal of the eventfd `fd`, until it is closed or collected.

    The thread holds `callback`, and not the watcher: what must not be kept alive by a thread, the
    callback refers to weakly. `shared`: others wait for the same eventfd, so it is not read.
    """

    def __init__(
        self, fd: int, callback: Callable[[], None], name: str, *, shared: bool = False
    ) -> None:
        own_fd = os.dup(fd)
        try:
            stop_fd, stopper_fd = os.pipe()
        except BaseException:
            os.close(own_fd)
            raise
        self._thread = Thread(
            target=_watch, args=(own_fd, stop_fd, callback, shared), name=name, daemon=True
        )
        self._stop = weakref.finalize(self, _stop, stopper_fd, os.getpid())
        self._stop.atexit = False
        try:
            self._thread.start()
        except BaseException:
            self._stop()
            os.close(own_fd)
            os.close(stop_fd)
            raise

    def close(self, *, wait: bool = True) -> None:
        """No call is under way once this returns, unless a call does it or takes too long.

        A call that has not returned after JOIN_TIMEOUT_S, or at once without `wait`, is left
        behind, and is the last one. Idempotent.
        """
        self._stop()
        if wait and current_thread() is not self._thread:
            self._thread.join(JOIN_TIMEOUT_S)


def _stop(stopper_fd: int, owner_pid: int) -> None:
    # A byte, and not the mere end of the pipe: a forked child holds its end open as well.
    if os.getpid() == owner_pid:
        os.write(stopper_fd, b"x")
    os.close(stopper_fd)


def _watch(fd: int, stop_fd: int, callback: Callable[[], None], shared: bool) -> None:
    try:
        with select.epoll(2) as poller:
            # An edge is a signal, whether or not those before it have been read.
            poller.register(fd, select.EPOLLIN | (select.EPOLLET if shared else 0))
            poller.register(stop_fd, select.EPOLLIN)
            while not any(ready == stop_fd for ready, _ in poller.poll()):
                if not shared:
                    with suppress(BlockingIOError):
                        os.eventfd_read(fd)
                callback()
    finally:
        os.close(fd)
        os.close(stop_fd)
