"""One thread that turns signals of descriptors into calls: doorbells, and lines of interrupts."""

import os
import select
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from threading import TIMEOUT_MAX, Event, Lock, RLock, Thread, current_thread
from typing import Final

from vioblk.errors import DeviceGoneError, TransportError

JOIN_TIMEOUT_S: Final = 1.0

EVENTS_MAX: Final = 16


class Pump:
    """Calls what belongs to a descriptor whenever it is readable. Thread-safe.

    It starts with its first descriptor, and ends with `close`, when it is forgotten, or when a
    call raises DeviceGoneError. A call that raises another TransportError, after a wait in vain,
    is made again: a doorbell that was not heard in time would never be rung by anybody else.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = Lock()
        self._state: _State | None = None
        self._thread: Thread | None = None
        self._stop: weakref.finalize[..., Pump] | None = None
        self._closed = False
        self._owner_pid = os.getpid()

    def add(self, fd: int, call: Callable[[], None], *, counter: bool) -> None:
        """`call` when `fd` is readable, and go on until it is removed or the pump closed.

        `counter`: it is an eventfd, whose count is taken before the call. The descriptor is the
        caller's, and has to stay open meanwhile.
        """
        with self._lock:
            if self._closed:
                return
            state = self._state or self._start()
            state.add(fd, call, counter=counter)

    def remove(self, fd: int) -> None:
        """No further call for `fd` begins; one may be under way."""
        if os.getpid() != self._owner_pid:
            return  # There is no thread here, and its locks may be held for ever.
        with self._lock:
            if self._state is not None:
                self._state.remove(fd)

    def flush(self, timeout_s: float) -> bool:
        """Wait, at most `timeout_s`, until the calls for all signals of before have been made;
        whether they have."""
        deadline = time.monotonic() + min(timeout_s, TIMEOUT_MAX)
        # Signals are seen in batches, and what is seen last may be called first in its batch.
        return all(self._await_call(deadline) for _ in range(2))

    def _await_call(self, deadline: float) -> bool:
        """Wait for a call that is asked for now."""
        if self._thread is None or not self._thread.is_alive():
            return True  # Nobody calls, or will call.
        called = Event()
        fd = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self.add(fd, called.set, counter=True)
            return called.wait(max(0.0, deadline - time.monotonic()))
        finally:
            self.remove(fd)
            os.close(fd)

    def close(self) -> None:
        """End the thread. Idempotent; one that is in a call for too long is left to itself."""
        if os.getpid() != self._owner_pid:
            return
        with self._lock:
            self._closed = True
            stop, thread = self._stop, self._thread
        if stop is not None and thread is not None:
            stop()
            if thread is not current_thread():
                thread.join(JOIN_TIMEOUT_S)

    def _start(self) -> "_State":
        state = _State()
        self._stop = weakref.finalize(self, _State.stop, state)
        self._stop.atexit = False
        thread = Thread(target=state.run, name=self._name, daemon=True)
        try:
            thread.start()
        except BaseException:
            state.end()
            raise
        self._state, self._thread = state, thread
        return state


class _State:
    """What the thread holds."""

    def __init__(self) -> None:
        self._owner_pid = os.getpid()
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._poller = select.epoll()
        self._calls: dict[int, tuple[Callable[[], None], bool]] = {}
        # One thread may take it twice: the collector ends what is forgotten on any, at any moment.
        self._lock = RLock()
        self._ended = False
        self._poller.register(self._stop_fd, select.EPOLLIN)

    def add(self, fd: int, call: Callable[[], None], *, counter: bool) -> None:
        with self._lock:
            if not self._ended:
                self._calls[fd] = (call, counter)
                self._poller.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        with self._lock:
            if self._calls.pop(fd, None) is not None and not self._ended:
                self._poller.unregister(fd)

    def stop(self) -> None:
        # An eventfd is shared with a forked child, which must not stop its parent's thread.
        if os.getpid() == self._owner_pid:
            with self._lock:
                if not self._ended:
                    os.eventfd_write(self._stop_fd, 1)

    def run(self) -> None:
        try:
            while self._turn():
                pass
        except DeviceGoneError:
            pass  # There is nobody to be called any more.
        finally:
            self.end()

    def _turn(self) -> bool:
        for fd, _ in self._poller.poll(maxevents=EVENTS_MAX):
            if fd == self._stop_fd:
                return False
            call = self._take_signal(fd)
            try:
                if call is not None:
                    call()
            except DeviceGoneError:
                raise
            except TransportError:
                self._signal_again(fd)
        return True

    def _take_signal(self, fd: int) -> Callable[[], None] | None:
        """What to call for `fd`, whose count is taken; it may have been removed since."""
        # With the lock: who has removed a descriptor closes it, and its number is given to another.
        with self._lock:
            call, counter = self._calls.get(fd, (None, False))
            if counter:
                with suppress(BlockingIOError):
                    os.eventfd_read(fd)
            return call

    def _signal_again(self, fd: int) -> None:
        with self._lock:
            _, counter = self._calls.get(fd, (None, False))
            # Anything else is still readable.
            if counter:
                os.eventfd_write(fd, 1)

    def end(self) -> None:
        with self._lock:
            self._ended = True
            self._poller.close()
            os.close(self._stop_fd)
            self._calls.clear()
