"""An exception of a signal handler at every moment of a call."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

STEP_S: Final = 1e-6
LONGEST_S: Final = 200e-6


class Interruption(Exception):
    """As KeyboardInterrupt, but nobody else's."""


class Interrupter:
    """Interrupts the main thread, a little later each time."""

    def __init__(self) -> None:
        self.count = 0
        self._wanted = False
        self._delay_s = STEP_S

    def on_signal(self, *_: object) -> None:
        """The handler."""
        if self._wanted:
            self._wanted = False
            self.count += 1
            raise Interruption

    def interrupt(self, call: Callable[[], object]) -> None:
        """Make the call again and again, until it is interrupted.

        That may be unseen: Python drops what is raised while it finalizes an object.
        """
        self._delay_s = self._delay_s % LONGEST_S + STEP_S
        try:
            self._wanted = True
            signal.setitimer(signal.ITIMER_REAL, self._delay_s)
            while self._wanted:
                call()
                notice_signals()
        except Interruption:
            pass


def notice_signals() -> None:
    """Handle the signal of a timer that has expired.

    Where the main thread is waiting for a processor, the system may choose another thread to
    receive it, and Python's main thread does not notice before it takes the GIL the next time:
    never, if nobody else wants it and no call lets go of it.
    """
    if not signal.getitimer(signal.ITIMER_REAL)[0]:
        time.sleep(0)


@contextmanager
def interrupter() -> Iterator[Interrupter]:
    """Until the end of the block, SIGALRM and its timer are its own."""
    interrupter = Interrupter()
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    former = signal.signal(signal.SIGALRM, interrupter.on_signal)
    try:
        yield interrupter
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        signal.setitimer(signal.ITIMER_REAL, *timer)
