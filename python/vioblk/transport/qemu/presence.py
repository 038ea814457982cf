"""Whether a device is still there, and a descriptor that hangs up when it is not."""

import socket
import weakref
from contextlib import suppress
from threading import Lock

from vioblk.errors import DeviceGoneError


class Presence:
    """Starts as there; `leave` is for ever."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._lock = Lock()
        self._reason: str | None = None
        self._free = weakref.finalize(self, _close, self._ours, self._theirs)

    @property
    def hangup_fd(self) -> int:
        """Hangs up when the device leaves; -1 once it is closed."""
        return self._ours.fileno()

    @property
    def reason(self) -> str | None:
        """Why it has gone; None while it is there."""
        return self._reason

    def leave(self, reason: str) -> None:
        """It has gone. The first reason counts."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
                # By shutdown: a forked child has a copy of the descriptor, which keeps it open.
                with suppress(OSError):
                    self._theirs.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Raises DeviceGoneError if it has gone."""
        if self._reason is not None:
            raise DeviceGoneError(self._reason)

    def close(self) -> None:
        """Close the descriptors. Idempotent."""
        with self._lock:
            self._free()


def _close(*ends: socket.socket) -> None:
    for each in ends:
        each.close()
