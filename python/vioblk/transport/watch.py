"""A thread that turns a signalled eventfd into calls."""

import os
import select
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
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
        with ExitStack() as undo:
            own_fd = os.dup(fd)
            undo.callback(os.close, own_fd)
            stop_fd, stopper_fd = os.pipe()
            undo.callback(os.close, stop_fd)
            self._stop = weakref.finalize(self, _stop, stopper_fd, os.getpid())
            self._stop.atexit = False
            undo.callback(self._stop)
            # Here, and not on the thread: if there is none to be had, the caller is told.
            poller = undo.enter_context(select.epoll(2))
            # An edge is a signal, whether or not those before it have been read.
            poller.register(own_fd, select.EPOLLIN | (select.EPOLLET if shared else 0))
            poller.register(stop_fd, select.EPOLLIN)
            ends = undo.pop_all()
        arguments = (poller, own_fd, stop_fd, callback, shared)
        self._thread = Thread(target=_watch, args=arguments, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            ends.close()  # There is no thread to be had.
            raise
        # Any other exception is one of a signal handler: the thread may run, and these are its own.

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


def _watch(
    poller: select.epoll, fd: int, stop_fd: int, callback: Callable[[], None], shared: bool
) -> None:
    try:
        while not any(ready == stop_fd for ready, _ in poller.poll()):
            if not shared:
                with suppress(BlockingIOError):
                    os.eventfd_read(fd)
            callback()
    finally:
        poller.close()
        os.close(fd)
        os.close(stop_fd)
