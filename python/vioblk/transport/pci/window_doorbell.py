"""Doorbells for a function whose BAR cannot be reached: an eventfd, and a thread that turns each
signal into a write through the PCI configuration access window.
"""

import os
import weakref
from collections.abc import Callable
from contextlib import suppress

from vioblk._native import Doorbell
from vioblk.errors import VioblkError
from vioblk.pci.access import NotifyPlace
from vioblk.pci.window import PciCfgWindow
from vioblk.transport.pci.presence import Presence
from vioblk.transport.watch import EventWatcher


class WindowDoorbell:
    """The doorbell of one queue. It carries no data: how far the ring has got is not known here."""

    def __init__(self, window: PciCfgWindow, place: NotifyPlace, presence: Presence) -> None:
        if place.carries_data:
            raise ValueError("a doorbell through the window carries no data")
        self.place = place
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self.doorbell = Doorbell.eventfd(fd)
            self._watcher = EventWatcher(fd, _notifier(window, place, presence), "vioblk-notify")
        except BaseException:
            os.close(fd)
            raise
        self._free = weakref.finalize(self, os.close, fd)

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._watcher.close()
        self._free()


def _notifier(window: PciCfgWindow, place: NotifyPlace, presence: Presence) -> Callable[[], None]:
    def notify() -> None:
        # The thread has no caller to tell; those who wait see the hang-up.
        with suppress(VioblkError, OSError), presence.access():
            window.write(place.bar, place.offset, 2, place.value)

    return notify
