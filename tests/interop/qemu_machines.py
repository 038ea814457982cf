"""The machines that QEMU's disk is tested in, and what is done to them beside driving the disk."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import pytest

from vioblk.transport.qemu import Machine, QemuPlatform
from vioblk.transport.qemu.command_line import DEVICE_ID, PORT_ID

WAIT_S: Final = 10.0
"""How long anything may take that takes milliseconds on an idle machine."""

POLL_INTERVAL_S: Final = 50e-6

CAPACITY_BYTES: Final = 16 << 20
CAPACITY_SECTORS: Final = CAPACITY_BYTES // 512

QEMU_10: Final = (10, 0, 0)

T = TypeVar("T")


class Way(NamedTuple):
    """A machine, and the interface by which its disk is driven."""

    name: str
    options: str
    """Of a qemu: address."""

    @property
    def legacy(self) -> bool:
        """Whether it is the legacy interface."""
        return self.name.endswith("legacy")

    @property
    def q35(self) -> bool:
        """The disk is behind a root port."""
        return self.name.startswith("q35")


_LEGACY: Final = "interface=transitional&drive=legacy"

WAYS: Final = (
    Way("pc-legacy", f"machine=pc&{_LEGACY}"),
    Way("pc-modern", "machine=pc&interface=transitional&drive=modern"),
    Way("q35-legacy", f"machine=q35&root_port=on&{_LEGACY}"),
    Way("q35-modern", "machine=q35&root_port=on&interface=modern"),
)

MODERN_WAYS: Final = tuple(way for way in WAYS if not way.legacy)
LEGACY_WAYS: Final = tuple(way for way in WAYS if way.legacy)


def on(ways: tuple[Way, ...]) -> pytest.MarkDecorator:
    """Run a test, which takes `way`, on each of them."""
    return pytest.mark.parametrize("way", ways, ids=[way.name for way in ways])


def blank_disk(directory: Path, size_bytes: int = CAPACITY_BYTES) -> Path:
    """A raw image of zeroes, which takes no room."""
    image = directory / "disk.raw"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    return image


def numbered_disk(directory: Path, sector_count: int = 64) -> Path:
    """An image whose first sectors are filled with their numbers, from 1 on."""
    image = blank_disk(directory)
    with image.open("r+b") as file:
        for number in range(sector_count):
            file.write(content_of(number))
    return image


def content_of(number: int) -> bytes:
    """What `numbered_disk` has in a sector."""
    return bytes([number + 1]) * 512


def poll(look: Callable[[], T], timeout_s: float = WAIT_S) -> T:
    """Look until what is seen is true, and return it; what was seen last, if it never is."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
    return seen


def settle(platform: QemuPlatform) -> None:
    """Wait until QEMU has done everything that it had begun when this was called.

    One thread of it does the requests, sends their interrupts and answers this, each to its end.
    (Not so with an iothread.)
    """
    for _ in range(2):
        platform.config.read(0, 2)


def await_event(machine: Machine, name: str) -> None:
    """Wait until QEMU has told of an event."""
    assert machine.monitor.wait_event(name, WAIT_S) is not None, f"no {name} in {WAIT_S} s"


def plug_vhost_user(machine: Machine, socket_path: Path) -> None:
    """Put a disk that a vhost-user back end serves where the machine's own was."""
    settings = machine.settings
    place = {"type": "unix", "data": {"path": str(socket_path)}}
    connection = {"type": "socket", "data": {"addr": place, "server": False}}
    machine.qmp("chardev-add", id="back-end", backend=connection)
    properties = {
        "driver": "vhost-user-blk-pci",
        "id": DEVICE_ID,
        "chardev": "back-end",
        "num-queues": settings.num_queues,
        "disable-legacy": "on" if settings.interface == "modern" else "off",
        "disable-modern": settings.interface == "legacy",
        "addr": "0" if settings.root_port else f"{settings.slot:#x}",
    }
    if settings.root_port:
        properties["bus"] = PORT_ID
    machine.monitor.run_with("device_add", properties)
    machine.chipset.admit(settings.slot)
    machine.place_device()
