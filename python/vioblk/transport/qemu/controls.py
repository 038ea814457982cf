"""What can be done to a QEMU's disk from outside, beside driving it: for tests of drivers, and of
devices."""

from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any, Final

from vioblk.errors import TransportError, UnsupportedError
from vioblk.transport.qemu.command_line import (
    DEBUG_NODE,
    DEVICE_ID,
    DISK_NODE,
    FILE_NODE,
    debug_node,
    device_properties,
    disk_node,
)
from vioblk.transport.qemu.faults import ErrorRule
from vioblk.transport.qemu.machine import Machine

UNPLUG_TIMEOUT_S: Final = 10.0

DEVICE_PATH: Final = f"/machine/peripheral/{DEVICE_ID}"
BACK_END_PATH: Final = f"{DEVICE_PATH}/virtio-backend"

HELD_EVENTS: Final = {"read": "read_aio", "write": "pwritev", "flush": "flush_to_disk"}
"""blkdebug's events that stand for the start of a request of the disk."""


class DeviceControls:
    """The monitor's side of one device of `machine`.

    All calls raise TransportError if QEMU refuses or does not answer in time, and DeviceGoneError
    once it has ended.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._numbers = count(1)

    def qmp(self, command: str, /, **arguments: object) -> Any:
        """Run a monitor command; what it returns. Underscores in names of arguments become
        dashes."""
        return self.machine.qmp(command, **arguments)

    def hmp(self, line: str) -> str:
        """Run a line of the human monitor; what it prints."""
        return self.machine.hmp(line)

    def resize(self, size_bytes: int) -> None:
        """Give the disk another size; the device announces the change of its configuration."""
        self.qmp("block_resize", node_name=self.machine.disk_nodes[0], size=size_bytes)

    def device_status(self) -> dict[str, Any]:
        """The device's own view: status, features of both sides, queues (QMP
        x-query-virtio-status)."""
        return dict(self.qmp("x-query-virtio-status", path=BACK_END_PATH))

    def queue_status(self, index: int) -> dict[str, Any]:
        """The device's own view of a queue (QMP x-query-virtio-queue-status)."""
        return dict(self.qmp("x-query-virtio-queue-status", path=BACK_END_PATH, queue=index))

    # Unplug and plug

    def unplug(self, timeout_s: float = UNPLUG_TIMEOUT_S) -> None:
        """Take the device out, and wait until it has gone.

        It is asked for by the monitor, and granted as an operating system does it. Raises
        UnsupportedError on q35 without a root port.
        """
        machine = self.machine
        if machine.settings.machine == "q35" and not machine.settings.root_port:
            raise UnsupportedError("on q35, only what is behind a root port can be unplugged")
        while machine.monitor.wait_event("DEVICE_DELETED", 0, _is_device) is not None:
            pass  # The news of one before it.
        self.qmp("device_del", id=DEVICE_ID)
        machine.chipset.eject(machine.settings.slot)
        if not machine.monitor.wait_event("DEVICE_DELETED", timeout_s, _is_device):
            raise TransportError(
                f"the device is still there {timeout_s:g} s after it was unplugged"
            )

    def plug(self) -> None:
        """Put a device of the same kind where it was. It is another one: this disk does not come
        back, but `vioblk.transport.qemu.attach` drives the new one."""
        machine = self.machine
        driver = machine.device_name
        listed = self.qmp("device-list-properties", typename=driver)
        types = {each["name"]: each["type"] for each in listed}
        properties = device_properties(machine.settings, machine.disk_nodes[0])
        # A place is text, whatever some versions say of its type.
        types["addr"] = "str"
        typed = {name: _typed(value, types.get(name, "str")) for name, value in properties.items()}
        machine.monitor.run_with("device_add", {"driver": driver, **typed})
        machine.chipset.admit(machine.settings.slot)
        machine.place_device()

    # Faults

    def inject_error(self, *rules: ErrorRule) -> None:
        """From now on, requests of the disk fail by these rules and by no others; without rules,
        none fails.

        Requests that are under way are waited for, and what was held must have been released.
        """
        self._replace_nodes(rules or None)

    def hold_requests(self, request: str = "read") -> None:
        """Hold the next request of that kind (read, write or flush), and it alone, until
        `release_requests`: what comes after it overtakes it.

        The device makes one request of neighbours that it is notified of together."""
        event = _held_event(request)
        if len(self.machine.disk_nodes) == 1:
            self._replace_nodes(())
        self._debug(f"break {event} held-{request}")

    def release_requests(self, request: str = "read") -> None:
        """Let the request go on that `hold_requests` holds."""
        _held_event(request)
        self._debug(f"resume held-{request}")

    def _replace_nodes(self, rules: Sequence[ErrorRule] | None) -> None:
        """Put other nodes between the device and the file, which it does not notice. `rules` of
        None: no node in which requests can fail or be held."""
        machine = self.machine
        if machine.settings.device != "blk":
            raise UnsupportedError("a source of entropy has no requests that could fail or be held")
        number = next(self._numbers)
        add = partial(machine.monitor.run_with, "blockdev-add")
        nodes = [f"{DISK_NODE}{number}"]
        if rules is not None:
            nodes.append(f"{DEBUG_NODE}{number}")
            add(debug_node(nodes[-1], rules, machine.settings))
        add(disk_node(nodes[0], [*nodes, FILE_NODE][1], machine.settings))
        self.qmp("qom-set", path=DEVICE_PATH, property="drive", value=nodes[0])
        old, machine.disk_nodes = machine.disk_nodes, nodes
        for node in old:
            self.qmp("blockdev-del", node_name=node)

    def _debug(self, command: str) -> None:
        said = self.hmp(f'qemu-io -d {BACK_END_PATH} "{command}"').strip()
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


def _held_event(request: str) -> str:
    if request not in HELD_EVENTS:
        raise ValueError(f"one of {', '.join(HELD_EVENTS)}, not {request!r}")
    return HELD_EVENTS[request]


_SWITCHES: Final = {
    **dict.fromkeys(("on", "yes", "true", "y"), True),
    **dict.fromkeys(("off", "no", "false", "n"), False),
}


def _typed(value: str, type_name: str) -> object:
    """A property as the monitor takes it, which is stricter than the command line."""
    if type_name == "bool":
        return _SWITCHES.get(value, value)
    if type_name.startswith(("int", "uint", "size")):
        return int(value, 0)
    return value
