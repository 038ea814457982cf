"""Two machines with one disk: that of the 2011 port, and one as they are today."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import vioblk
from vioblk.bus import BusDevice, Connection
from vioblk.device_types import BLOCK
from vioblk.driver import BusDriver, DeviceIdentity, Settings
from vioblk.transport import qemu

CAPACITY_BYTES: Final = 4 << 20

IO_ADDRESS: Final = 0xC300
MEMORY_ADDRESS: Final = 0xF2060000
IRQ: Final = 10
"""Where the firmware of that machine had put the registers of the disk, and its interrupt."""


@dataclass(frozen=True)
class Era:
    """A machine, and what is to be found in it."""

    name: str
    machine: str
    """Options of a qemu: address."""
    disk: str
    """Further ones, of a disk."""
    place: str
    """Of the disk on the bus."""
    chip: int
    """Device ID and vendor ID."""
    card: int
    """Subsystem ID and subsystem vendor ID."""
    interface: str
    interrupts: str
    steps: tuple[int, ...]
    """What a driver writes to the status on the way from the reset to the live device."""

    def address(self, target: Path | str, **options: object) -> str:
        """Of this machine with a disk that is `target`: an image, or `null:SIZE`."""
        further = "".join(f"&{name}={value}" for name, value in options.items())
        return f"qemu:{target}?{self.machine}{self.disk}{further}"


PORT_2011: Final = Era(
    name="2011",
    machine="machine=pc&interface=legacy&interrupts=intx&slot=5"
    f"&io_address={IO_ADDRESS:#x}&memory_address={MEMORY_ADDRESS:#x}&irq={IRQ}",
    # It had not been invented, and the I/O BAR is as small as it was then.
    disk="&withhold=discard,write_zeroes",
    place="0000:00:05.0",
    chip=0x10011AF4,
    card=0x00021AF4,
    interface="legacy",
    interrupts="intx",
    steps=(0, 1, 3, 7),
)

TODAY: Final = Era(
    name="today",
    machine="machine=q35&interface=modern&interrupts=msix",
    disk="",
    place="0000:01:00.0",
    chip=0x10421AF4,
    card=0x11001AF4,
    interface="modern",
    interrupts="msix",
    steps=(0, 1, 3, 11, 15),
)

ERAS: Final = (PORT_2011, TODAY)


@dataclass
class DiskIn:
    """The disk of a machine that runs already, as a candidate for a bus."""

    machine: qemu.Machine
    ring: str = "native"

    @property
    def identity(self) -> DeviceIdentity:
        """It is known by its place on the PCI bus."""
        return DeviceIdentity(str(self.machine.location), BLOCK, "block", "qemu")

    def connect(self, driver: BusDriver) -> Connection:
        """Reach it."""
        return Connection(qemu.attach(self.machine), Settings({"ring": self.ring}))


def disk_of(device: BusDevice) -> vioblk.BlockDevice:
    """What the driver made of a device that is attached."""
    assert isinstance(device.attached, vioblk.BlockDevice), device.reason
    return device.attached
