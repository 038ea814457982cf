"""QEMU's command line for a machine with one virtio device, whose processor stands still."""

import json
from collections.abc import Mapping
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


def command_line(settings: Settings, fds: Descriptors, doorbell_count: int) -> list[str | bytes]:
    """Everything after the program's name."""
    arguments: list[str | bytes] = [
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


def device_argument(settings: Settings) -> bytes:
    """The value of -device for the virtio device."""
    words = [DEVICE_NAMES[settings.device].encode()]
    for name, value in device_properties(settings).items():
        encoded = value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
        words.append(name.encode() + b"=" + encoded.replace(b",", b",,"))
    if settings.extra_properties is not None:
        words.append(settings.extra_properties.encode(errors="surrogateescape"))
    return b",".join(words)


def device_properties(settings: Settings) -> dict[str, str | bytes]:
    """The device's properties, without the free text of the option `property`."""
    properties: dict[str, str | bytes] = {
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
    if settings.device == "rng":
        return properties | {"rng": "rng0"}
    return properties | _disk_properties(settings)


def _place(settings: Settings) -> dict[str, str | bytes]:
    if settings.root_port:
        return {"bus": PORT_ID, "addr": "0x0"}
    return {"addr": f"{settings.slot:#x}"}


def _disk_properties(settings: Settings) -> dict[str, str | bytes]:
    properties: dict[str, str | bytes] = {
        "drive": DISK_NODE,
        "num-queues": str(settings.num_queues),
        # Errors are the driver's to see; QEMU would stop its machine at some.
        "werror": "report",
        "rerror": "report",
    }
    if settings.queue_size is not None:
        properties["queue-size"] = str(settings.queue_size)
    if settings.serial is not None:
        properties["serial"] = settings.serial
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
    common: dict[str, object] = {"read-only": settings.read_only, "discard": "unmap"}
    nodes = [bottom | common | {"node-name": FILE_NODE}]
    top_of_file = FILE_NODE
    if settings.inject or settings.suspend:
        nodes.append(debug_node(DEBUG_NODE, settings.inject) | common)
        top_of_file = DEBUG_NODE
    nodes.append(disk_node(settings, top_of_file))
    return nodes


def disk_node(settings: Settings, child: str) -> dict[str, object]:
    """The node that the device uses."""
    return {
        "driver": settings.format,
        "file": child,
        "node-name": DISK_NODE,
        "read-only": settings.read_only,
        "discard": "unmap",
    }


def debug_node(name: str, rules: tuple[ErrorRule, ...]) -> dict[str, object]:
    """A node above the file in which requests fail by `rules`."""
    return {
        "driver": "blkdebug",
        "node-name": name,
        "image": FILE_NODE,
        "inject-error": [rule.as_blkdebug() for rule in rules],
    }


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
