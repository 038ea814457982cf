"""Interrupt lines of the machine, and a pin that is followed at one of them."""

import os
from collections.abc import Callable
from threading import Lock

from vioblk.transport.qemu.pump import Pump
from vioblk.transport.qemu.qtest import Qtest


class InterruptLines:
    """The inputs of the I/O APIC, for those who listen to one."""

    def __init__(self, qtest: Qtest, pump: Pump) -> None:
        self._qtest = qtest
        self._pump = pump
        self._start_lock = Lock()
        self._started = False
        self._lock = Lock()
        """Held for the length of a call, so that none is under way once its line is forgotten."""
        self._listeners: dict[int, Callable[[bool], None]] = {}
        self._levels: dict[int, bool] = {}

    def listen(self, line: int, call: Callable[[bool], None]) -> None:
        """`call` with the level of an input now and after each change; it must not wait."""
        with self._start_lock:
            if not self._started:
                self._qtest.listen_to_interrupts(self._changed)
                self._pump.add(self._qtest.fileno(), self._qtest.poll, counter=False)
                self._started = True
        with self._lock:
            self._listeners[line] = call
            call(self._levels.get(line, False))

    def forget(self, line: int) -> None:
        """Call nobody for this input any more."""
        with self._lock:
            self._listeners.pop(line, None)

    def _changed(self, line: int, level: bool) -> None:
        with self._lock:
            self._levels[line] = level
            call = self._listeners.get(line)
            if call is not None:
                call(level)


class IntxLine:
    """A pin that stays asserted, made into single signals."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._asserted = False
        self._signalled = False

    def set_level(self, asserted: bool) -> None:
        """The line has changed."""
        self._asserted = asserted
        self._signal()

    def acknowledge(self) -> None:
        """Signal again, at once if the line is still asserted."""
        self._signalled = False
        self._signal()

    def _signal(self) -> None:
        if self._asserted and not self._signalled:
            self._signalled = True
            os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """Close the descriptor; once."""
        os.close(self.fd)
