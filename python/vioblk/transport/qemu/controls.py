"""What can be done to a QEMU's disk from outside, beside driving it: for tests of drivers, and of
devices."""

from typing import Any, Final

from vioblk.errors import TransportError, UnsupportedError
from vioblk.transport.qemu.command_line import (
    DEBUG_NODE,
    DEVICE_ID,
    DISK_NODE,
    debug_node,
    device_properties,
    disk_node,
)
from vioblk.transport.qemu.faults import ErrorRule
from vioblk.transport.qemu.machine import Machine

UNPLUG_TIMEOUT_S: Final = 10.0

BACK_END_PATH: Final = f"/machine/peripheral/{DEVICE_ID}/virtio-backend"

SUSPEND_EVENTS: Final = {"read": "read_aio", "write": "pwritev", "flush": "flush_to_disk"}
"""blkdebug's events that stand for the start of a request of the disk."""


class DeviceControls:
    """The monitor's side of one device of `machine`.

    All calls raise TransportError if QEMU refuses or does not answer in time, and DeviceGoneError
    once it has ended.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._debug_count = 0

    def qmp(self, command: str, /, **arguments: object) -> Any:
        """Run a monitor command; what it returns. Underscores in names of arguments become
        dashes."""
        return self.machine.qmp(command, **arguments)

    def hmp(self, line: str) -> str:
        """Run a line of the human monitor; what it prints."""
        return self.machine.hmp(line)

    def resize(self, size_bytes: int) -> None:
        """Give the disk another size; the device announces the change of its configuration."""
        self.qmp("block_resize", node_name=DISK_NODE, size=size_bytes)

    def device_status(self) -> dict[str, Any]:
        """The device's own view: status, features of both sides, queues (QMP
        x-query-virtio-status)."""
        found = self.qmp("x-query-virtio-status", path=BACK_END_PATH)
        assert isinstance(found, dict)
        return found

    def queue_status(self, index: int) -> dict[str, Any]:
        """The device's own view of a queue (QMP x-query-virtio-queue-status)."""
        found = self.qmp("x-query-virtio-queue-status", path=BACK_END_PATH, queue=index)
        assert isinstance(found, dict)
        return found

    # Unplug and plug

    def unplug(self, timeout_s: float = UNPLUG_TIMEOUT_S) -> None:
        """Take the device out, and wait until it has gone.

        It is asked for by the monitor, and granted as an operating system does it. Raises
        UnsupportedError on q35 without a root port.
        """
        machine = self.machine
        if machine.settings.machine == "q35" and not machine.settings.root_port:
            raise UnsupportedError("on q35, only what is behind a root port can be unplugged")
        self.qmp("device_del", id=DEVICE_ID)
        machine.chipset.eject(machine.settings.slot)
        if not machine.monitor.wait_event("DEVICE_DELETED", timeout_s, _is_device):
            raise TransportError(
                f"the device is still there {timeout_s:g} s after it was unplugged"
            )

    def plug(self) -> None:
        """Put a device of the same kind where it was. It is another one: this disk does not come
        back, but `vioblk.transport.qemu.attach` drives the new one."""
        properties = {
            name: value.decode(errors="surrogateescape") if isinstance(value, bytes) else value
            for name, value in device_properties(self.machine.settings).items()
        }
        driver = self.machine.device_name
        self.machine.monitor.run_with("device_add", {"driver": driver, **properties})
        self.machine.place_device()

    # Faults

    def inject_error(self, *rules: ErrorRule) -> None:
        """From now on, requests fail by these rules and no others; by none, without rules.

        Requests that are under way are waited for. Raises UnsupportedError for a disk without a
        file.
        """
        settings = self.machine.settings
        if settings.device != "blk":
            raise UnsupportedError("a source of entropy has no block nodes")
        self._debug_count += 1
        name = f"{DEBUG_NODE}{self._debug_count}"
        node = debug_node(name, rules) | {"read-only": settings.read_only, "discard": "unmap"}
        self.machine.monitor.run_with("blockdev-add", node)
        # The disk goes on with another file; what is below stays the same.
        self.machine.monitor.run_with("blockdev-reopen", {"options": [disk_node(settings, name)]})

    def suspend_requests(self, request: str = "read") -> None:
        """Hold the next request of that kind (read, write, flush) until `resume_requests`.

        Needs the option suspend=on.
        """
        if request not in SUSPEND_EVENTS:
            raise ValueError(f"one of {', '.join(SUSPEND_EVENTS)}, not {request!r}")
        self._debug(f"break {SUSPEND_EVENTS[request]} held-{request}")

    def resume_requests(self, request: str = "read") -> None:
        """Let a request go on that `suspend_requests` holds."""
        self._debug(f"resume held-{request}")

    def _debug(self, command: str) -> None:
        if not self.machine.settings.suspend:
            raise UnsupportedError("requests can be held only with the option suspend=on")
        said = self.hmp(f'qemu-io {DEBUG_NODE} "{command}"').strip()
        if said:
            raise TransportError(f"QEMU did not {command}: {said}")

    def pause(self) -> None:
        """Let the whole process stand still (SIGSTOP): no register answers until `resume`."""
        self.machine.pause()

    def resume(self) -> None:
        """Let the process go on."""
        self.machine.resume()


def _is_device(event: Any) -> bool:
    return bool(event["data"].get("device") == DEVICE_ID)
