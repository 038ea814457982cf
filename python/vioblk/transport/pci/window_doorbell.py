"""Doorbells for a function whose BAR cannot be reached: an eventfd, and a thread that turns each
signal into a write through the PCI configuration access window.
"""

import os
import time
import weakref
from contextlib import suppress
from threading import Lock
from typing import Final

from vioblk._native import Doorbell
from vioblk.errors import DeviceGoneError, ProtocolError, TransportError, VioblkError
from vioblk.pci.access import NotifyPlace
from vioblk.pci.window import PciCfgWindow
from vioblk.transport.pci.presence import Presence
from vioblk.transport.watch import EventWatcher

RING_AGAIN_S: Final = 1e-3
"""After a wait in vain."""


class WindowDoorbell:
    """The doorbell of one queue. It carries no data: how far the ring has got is not known here.

    It is silent until the device is live: a signal of an earlier life, which the thread is late
    to see, must not reach a device that is being started (VIRTIO 1.4, 3.1.1 Driver Requirements:
    Device Initialization).
    """

    def __init__(self, window: PciCfgWindow, place: NotifyPlace, presence: Presence) -> None:
        if place.carries_data:
            raise ValueError("a doorbell through the window carries no data")
        self.place = place
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self.doorbell = Doorbell.eventfd(fd)
            self._bell = _Bell(window, place, presence)
            self._watcher = EventWatcher(fd, self._bell.ring, "vioblk-notify")
        except BaseException:
            os.close(fd)
            raise
        self._free = weakref.finalize(self, os.close, fd)

    def set_live(self, live: bool) -> None:
        """Let signals through, or none. Once this returns, none of before is under way."""
        self._bell.set_live(live)

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._bell.forget()
        self._watcher.close()
        self._free()


class _Bell:
    """What the thread holds."""

    def __init__(self, window: PciCfgWindow, place: NotifyPlace, presence: Presence) -> None:
        self._window = window
        self._place = place
        self._presence = presence
        self._live = False
        self._lock = Lock()
        """Held for the length of a write."""

    def set_live(self, live: bool) -> None:
        with self._lock:
            self._live = live

    def forget(self) -> None:
        # Without the lock: a write that is under way is not waited for.
        self._live = False

    def ring(self) -> None:
        # The thread has no caller to tell; those who wait see the hang-up.
        with suppress(VioblkError, OSError):
            while not self._try_to_ring():
                time.sleep(RING_AGAIN_S)

    def _try_to_ring(self) -> bool:
        """False if it was not heard in time: nobody else would ring again."""
        with self._lock:
            if not self._live:
                return True
            try:
                with self._presence.access():
                    self._window.write(self._place.bar, self._place.offset, 2, self._place.value)
            except (DeviceGoneError, ProtocolError):
                raise
            except TransportError:
                return False
            return True
