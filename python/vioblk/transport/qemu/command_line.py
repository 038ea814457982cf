"""QEMU's command line for a machine with one virtio device, whose processor stands still."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vioblk.transport.qemu.faults import ErrorRule
from vioblk.transport.qemu.options import Settings

DEVICE_ID: Final = "device0"
PORT_ID: Final = "port0"
DISK_NODE: Final = "disk"
FILE_NODE: Final = "file"
DEBUG_NODE: Final = "debug"

DEVICE_NAMES: Final = {"blk": "virtio-blk-pci", "rng": "virtio-rng-pci"}

MACHINES: Final = {
    # Without timers there are no interrupts but the device's.
    "pc": "pc,pit=off,hpet=off,usb=off,graphics=off,dump-guest-core=off,mem-merge=off",
    "q35": "q35,pit=off,hpet=off,usb=off,graphics=off,sata=off,smbus=off,dump-guest-core=off,"
    "mem-merge=off",
}

NATIVE_HOTPLUG: Final = "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"
"""A root port then has the slot registers of PCI Express, and no firmware has to take part."""


@dataclass(frozen=True)
class Descriptors:
    """What QEMU inherits."""

    ram: int
    firmware: int
    qtest: int
    qmp: int
    doorbells: int | None

    def all(self) -> list[int]:
        """All of them."""
        given = (self.ram, self.firmware, self.qtest, self.qmp, self.doorbells)
        return [fd for fd in given if fd is not None]


def command_line(settings: Settings, fds: Descriptors, doorbell_count: int) -> list[str]:
    """Everything after the program's name."""
    arguments: list[str] = [
        *("-machine", f"{MACHINES[settings.machine]},memory-backend=ram"),
        # Without KVM: its interrupt controller would keep MSI-X messages to itself.
        *("-accel", "tcg,tb-size=1"),
        *("-m", f"{settings.ram}B", "-object", _ram(settings, fds.ram)),
        *("-bios", f"/proc/self/fd/{fds.firmware}"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-name", "vioblk"),
        *("-chardev", f"socket,id=qtest,fd={fds.qtest}"),
        *("-object", "qtest,id=qtest0,chardev=qtest,log=none"),
        *("-chardev", f"socket,id=qmp,fd={fds.qmp}", "-mon", "chardev=qmp,mode=control"),
    ]
    if settings.machine == "q35":
        arguments += ["-global", NATIVE_HOTPLUG]
    if settings.root_port:
        arguments += ["-device", f"pcie-root-port,id={PORT_ID},chassis=1,addr={settings.slot:#x}"]
    if settings.iothread:
        arguments += ["-object", "iothread,id=thread0"]
    if settings.device == "blk":
        for node in block_nodes(settings):
            arguments += ["-blockdev", json.dumps(node)]
    else:
        entropy = {"qom-type": "rng-random", "id": "rng0", "filename": settings.target}
        arguments += ["-object", json.dumps(entropy)]
    if fds.doorbells is not None:
        arguments += ["-chardev", f"socket,id=doorbells,fd={fds.doorbells}"]
        arguments += ["-device", _doorbell_device(settings, doorbell_count)]
    return [*arguments, "-device", device_argument(settings)]


def device_argument(settings: Settings) -> str:
    """The value of -device for the virtio device."""
    properties = device_properties(settings, DISK_NODE)
    words = [f"{name}={value.replace(',', ',,')}" for name, value in properties.items()]
    return ",".join([DEVICE_NAMES[settings.device], *words])


def device_properties(settings: Settings, disk: str) -> dict[str, str]:
    """The device's properties. `disk`: the block node that it uses."""
    properties = {
        "id": DEVICE_ID,
        "disable-legacy": _switch(settings.interface == "modern"),
        "disable-modern": _switch(settings.interface == "legacy"),
        **_place(settings),
        **settings.feature_properties,
    }
    if settings.vectors is not None:
        properties["vectors"] = str(settings.vectors)
    if settings.page_per_vq:
        properties["page-per-vq"] = "on"
    if settings.modern_pio_notify:
        properties["modern-pio-notify"] = "on"
    own = {"rng": "rng0"} if settings.device == "rng" else _disk_properties(settings, disk)
    return {**properties, **own, **settings.extra_properties}


def _place(settings: Settings) -> dict[str, str]:
    if settings.root_port:
        return {"bus": PORT_ID, "addr": "0x0"}
    return {"addr": f"{settings.slot:#x}"}


def _disk_properties(settings: Settings, disk: str) -> dict[str, str]:
    properties = {
        "drive": disk,
        "num-queues": str(settings.num_queues),
        # Errors are the driver's to see; QEMU would stop its machine at some.
        "werror": "report",
        "rerror": "report",
    }
    if settings.queue_size is not None:
        properties["queue-size"] = str(settings.queue_size)
    if settings.serial is not None:
        properties["serial"] = os.fsdecode(settings.serial)
    if settings.write_cache is not None:
        properties["write-cache"] = _switch(settings.write_cache)
    if settings.iothread:
        properties["iothread"] = "thread0"
    return properties


def block_nodes(settings: Settings) -> list[dict[str, object]]:
    """The disk as a graph of block nodes, the lowest first: file, perhaps debug, and disk."""
    if settings.is_null:
        bottom: dict[str, object] = {
            "driver": "null-co",
            "size": settings.null_bytes,
            "read-zeroes": True,
        }
        if settings.latency is not None:
            bottom["latency-ns"] = int(settings.latency * 1e9)
    else:
        bottom = {"driver": "file", "filename": settings.target}
    nodes = [bottom | _common(settings) | {"node-name": FILE_NODE}]
    top_of_file = FILE_NODE
    if settings.inject:
        nodes.append(debug_node(DEBUG_NODE, settings.inject, settings))
        top_of_file = DEBUG_NODE
    nodes.append(disk_node(DISK_NODE, top_of_file, settings))
    return nodes


def disk_node(name: str, child: str, settings: Settings) -> dict[str, object]:
    """The node that the device uses."""
    node = {"driver": settings.format, "file": child, "node-name": name}
    return node | _common(settings)


def debug_node(name: str, rules: Sequence[ErrorRule], settings: Settings) -> dict[str, object]:
    """A node above the file, in which requests fail by `rules`, and can be held."""
    node: dict[str, object] = {"driver": "blkdebug", "node-name": name, "image": FILE_NODE}
    if rules:
        node["inject-error"] = [rule.as_blkdebug() for rule in rules]
    return node | _common(settings)


def _common(settings: Settings) -> dict[str, object]:
    """What all nodes have."""
    return {"read-only": settings.read_only, "discard": "unmap"}


def _ram(settings: Settings, fd: int) -> str:
    backend: Mapping[str, object] = {
        "qom-type": "memory-backend-file",
        "id": "ram",
        "size": settings.ram,
        "mem-path": f"/proc/self/fd/{fd}",
        "share": True,
    }
    return json.dumps(backend)


def _doorbell_device(settings: Settings, count: int) -> str:
    slot = doorbell_slot(settings)
    return f"ivshmem-doorbell,chardev=doorbells,vectors={count},addr={slot:#x}"


def doorbell_slot(settings: Settings) -> int:
    """Where the device is that turns MSI-X messages into eventfds: the last slot that is free."""
    return 30 if settings.slot != 30 else 29


def _switch(value: bool) -> str:
    return "on" if value else "off"
