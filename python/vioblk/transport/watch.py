"""A thread that turns a signalled eventfd into calls."""

import os
import select
from collections.abc import Callable
from contextlib import suppress
from threading import Thread, current_thread


class EventWatcher:
    """Calls `callback` after each signal of the eventfd `fd`, until it is closed."""

    def __init__(self, fd: int, callback: Callable[[], None], name: str) -> None:
        self._fd = fd
        self._callback = callback
        self._closed_from_within = False
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with select.epoll(2) as poller:
            poller.register(self._fd, select.EPOLLIN)
            poller.register(self._stop_fd, select.EPOLLIN)
            while True:
                if any(fd == self._stop_fd for fd, _ in poller.poll()):
                    break
                with suppress(BlockingIOError):
                    os.eventfd_read(self._fd)
                self._callback()
        if self._closed_from_within:
            os.close(self._stop_fd)

    def close(self) -> None:
        """No call is under way once this returns, unless a call does it. Call it once."""
        self._closed_from_within = current_thread() is self._thread
        os.eventfd_write(self._stop_fd, 1)
        if not self._closed_from_within:
            self._thread.join()
            os.close(self._stop_fd)
