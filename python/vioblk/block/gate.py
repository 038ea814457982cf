"""Who is inside: counts the calls that use a disk, and stops new ones."""

import os
import threading
from types import TracebackType

from vioblk.errors import ForkedError, StateError


class Gate:
    """Every call on a disk passes it: `with gate: ...`. Thread-safe.

    A shut gate lets nobody in, and those inside go on. In a forked child it raises ForkedError.
    """

    def __init__(self) -> None:
        self._owner_pid = os.getpid()
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._refusal: str | None = "the disk has not been opened yet"

    def __enter__(self) -> None:
        self.check_process()
        with self._changed:
            self._check_open()
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._inside -= 1
            if self._inside == 0:
                self._changed.notify_all()

    @property
    def inside(self) -> int:
        """Calls that are inside now."""
        return self._inside

    @property
    def refusal(self) -> str | None:
        """Why nobody is let in; None while the gate is open."""
        return self._refusal

    def check(self) -> None:
        """Raise as entering does, for a call that need not be waited for."""
        self.check_process()
        self._check_open()

    def check_process(self) -> None:
        """Raise ForkedError in any process but the one that made the gate."""
        if os.getpid() != self._owner_pid:
            raise ForkedError(
                f"this disk belongs to process {self._owner_pid}, and this is process "
                f"{os.getpid()}; open it again after the fork"
            )

    def open(self) -> None:
        """Let calls in."""
        with self._changed:
            self._refusal = None

    def shut(self, refusal: str) -> None:
        """Let no more calls in: they raise StateError(refusal)."""
        with self._changed:
            self._refusal = refusal

    def shut_if_empty(self, refusal: str) -> bool:
        """Shut the gate, but only if nobody is inside; whether it is shut now."""
        with self._changed:
            if self._inside:
                return False
            self._refusal = refusal
            return True

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until nobody is inside; False after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._inside == 0, timeout_s)

    def _check_open(self) -> None:
        refusal = self._refusal
        if refusal is not None:
            raise StateError(refusal)
