"""Whom a transport tells of configuration changes."""

from collections.abc import Callable
from threading import RLock
from typing import Final

from vioblk.locks import acquire
from vioblk.weakly import weakly

TIMEOUT_S: Final = 1.0
"""How long taking the callback away waits for a call that is under way."""


class ConfigCallback:
    """At most one callback; it may replace itself or take itself away. Thread-safe."""

    def __init__(self) -> None:
        self._callback: Callable[[], None] | None = None
        self._lock = RLock()
        """Held for the length of a call."""

    def replace(self, callback: Callable[[], None] | None) -> None:
        """See `Transport.on_config_change`."""
        self._callback = callback
        if callback is not None:
            return
        held: list[bool] = []
        try:
            acquire(self._lock, TIMEOUT_S, held)
        finally:
            if True in held:
                self._lock.release()

    @property
    def announce(self) -> Callable[[], None]:
        """Calls it, if there is one; for a thread, which keeps neither alive."""
        return weakly(self._call)

    def _call(self) -> None:
        with self._lock:
            callback = self._callback
            if callback is not None:
                callback()
