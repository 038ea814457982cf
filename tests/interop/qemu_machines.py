"""The machines that QEMU's disk is tested in, and what is done to them beside driving the disk."""

import time
from collections.abc import Callable, Iterable
from itertools import cycle
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import pytest

from vioblk.block import attach as block
from vioblk.block.disk import BlockDevice
from vioblk.device import VirtioDevice
from vioblk.driver import DeviceIdentity, Settings
from vioblk.pci.location import Location
from vioblk.transport.qemu import Machine, QemuPlatform, attach
from vioblk.transport.qemu.chipset import Q35
from vioblk.transport.qemu.command_line import DEVICE_ID, PORT_ID, doorbell_slot

WAIT_S: Final = 30.0
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


def alternating(name: str, values: Iterable[T], ways: tuple[Way, ...]) -> pytest.MarkDecorator:
    """Run a test, which takes `way` and the other, with each value, on one of the ways in turn."""
    return pytest.mark.parametrize(
        (name, "way"),
        [
            pytest.param(value, way, id=f"{value}-{way.name}")
            for value, way in zip(values, cycle(ways))
        ],
    )


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

    One thread of it does the requests, sends their interrupts and answers this, but not each to
    its end: from a used buffer to its interrupt it takes some turns of its loop (what is put off,
    and an eventfd), and each answer is one. (Not so with an iothread.)
    """
    for _ in range(10):
        platform.config.read(0, 2)


def await_event(machine: Machine, name: str) -> None:
    """Wait until QEMU has told of an event."""
    assert machine.monitor.wait_event(name, WAIT_S) is not None, f"no {name} in {WAIT_S} s"


def reset_machine(machine: Machine) -> None:
    """Press its reset button, and wait until it has come back, with nothing set up."""
    machine.qmp("system_reset")
    await_event(machine, "RESET")


def set_up_again(machine: Machine) -> None:
    """Do what firmware does after a reset; everything comes to where it was."""
    settings = machine.settings
    if settings.machine == "q35":
        slot = settings.slot if settings.root_port else None
        places = settings.io_address, settings.memory_address
        machine.chipset = Q35(machine.qtest, *places, slot)
    machine.place_device()
    if machine.doorbells is not None:
        machine.place_bars(Location(0, doorbell_slot(settings)))


def open_disk(machine: Machine, ring: str = "native", timeout_s: float = WAIT_S) -> BlockDevice:
    """The disk that is in a machine now; closing it leaves the machine running."""
    transport = attach(machine)
    identity = DeviceIdentity(
        transport.address, transport.device_type, "block device", transport.name
    )
    settings = Settings({"ring": ring, "timeout_s": timeout_s})
    return block.attach(VirtioDevice(transport), identity, settings)


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
