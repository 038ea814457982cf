"""What the monitor tells of its own accord, as far as it concerns a device."""

from threading import Lock

from vioblk.transport.qemu.presence import Presence
from vioblk.transport.qemu.qmp import Event


class News:
    """What has been heard of, and who is to be told."""

    def __init__(self) -> None:
        self.last_error: str | None = None
        self._followed: dict[str, Presence] = {}
        self._lock = Lock()

    def follow(self, device: str, presence: Presence) -> bool:
        """Let `presence` know when the device goes; False if another one follows it already."""
        with self._lock:
            other = self._followed.get(device)
            if other is not None and other.hangup_fd >= 0:
                return False
            self._followed[device] = presence
            return True

    def on_event(self, event: Event) -> None:
        """Called with each event, on the monitor's thread."""
        data = event.get("data", {})
        if event["event"] == "DEVICE_DELETED":
            presence = self._followed.pop(data.get("device"), None)
            if presence is not None:
                presence.leave("the device was unplugged")
        elif event["event"] == "BLOCK_IO_ERROR":
            self.last_error = (
                f"the last I/O error that QEMU told of: {data['operation']}, {data.get('reason')}"
            )
