"""What firmware would do to the two machines: configuration space, windows, interrupt routing.

`pc` is an i440FX with a PIIX3, `q35` a Q35 with an ICH9. The facts are those of their datasheets as
QEMU models them.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from vioblk.errors import TransportError, UnsupportedError
from vioblk.pci.access import ConfigSpace
from vioblk.pci.capabilities import walk
from vioblk.pci.command import DECODING, Command, write_command
from vioblk.pci.location import Location
from vioblk.pci.sources import ConfigPorts, EcamConfig, PortIoConfig
from vioblk.transport.qemu.qtest import Qtest

HOST_BRIDGE: Final = Location(0, 0)

# A bridge's registers (PCI-to-PCI Bridge 1.2, 3.2.5).
BUS_NUMBERS: Final = 0x18
IO_WINDOW: Final = 0x1C
MEMORY_WINDOW: Final = 0x20
PREFETCHABLE_WINDOW: Final = 0x24
INTERRUPT_LINE: Final = 0x3C
INTERRUPT_PIN: Final = 0x3D


class AddressRange:
    """Addresses to give away, from `start` up to `end`."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self._next = start
        self._taken: dict[Hashable, tuple[int, int]] = {}

    def take(self, length: int, owner: Hashable) -> int:
        """`length` bytes, a power of two, at a multiple of it; for the same owner the same.

        Raises TransportError if none is left.
        """
        address, taken = self._taken.get(owner, (0, 0))
        if taken == length:
            return address
        address = (self._next + length - 1) & -length
        if address + length > self.end:
            raise TransportError(
                f"there is no room for a BAR of {length:#x} bytes below {self.end:#x}"
            )
        self._next = address + length
        self._taken[owner] = (address, length)
        return address


@dataclass(frozen=True)
class Bus:
    """A bus, and where the BARs of its functions may be."""

    number: int
    io: AddressRange
    memory: AddressRange


IO_START: Final = 0xC000
MEMORY_START: Final = 0xE0000000


class Chipset(ABC):
    """One of the two machines. `io_start` and `memory_start`: of the BARs on the first bus."""

    io_end = 0x10000
    memory_end = 0xFE000000

    def __init__(self, qtest: Qtest, io_start: int, memory_start: int) -> None:
        self._qtest = qtest
        self._ports = ConfigPorts(qtest.read_port, qtest.write_port)
        io, memory = (
            AddressRange(io_start, self.io_end),
            AddressRange(memory_start, self.memory_end),
        )
        self.buses = {0: Bus(0, io, memory)}

    @abstractmethod
    def config(self, location: Location) -> ConfigSpace:
        """The configuration space of a function, whether it is there or not."""

    @abstractmethod
    def route(self, location: Location, irq: int) -> int | None:
        """Let the interrupt pin of a function through; the input of the I/O APIC that it is
        connected to. None: it has no pin."""

    @abstractmethod
    def eject(self, slot: int) -> None:
        """Let go of a device that QEMU was asked to unplug, as an operating system does."""

    @abstractmethod
    def admit(self, slot: int) -> None:
        """Let a device that was plugged in answer."""

    def _pin(self, location: Location) -> int:
        """0 for INTA to 3 for INTD; -1: none."""
        return self.config(location).read(INTERRUPT_PIN, 1) - 1


class Pc(Chipset):
    """The i440FX: configuration by ports, interrupts routed by the PIIX3."""

    PIIX3: Final = Location(0, 1)
    PIRQ_ROUTING: Final = 0x60
    """A byte for each of PIRQA to PIRQD: the ISA interrupt; 0x80 after a reset: none."""

    HOTPLUG_BUS: Final = 0xAE10
    HOTPLUG_EJECT: Final = 0xAE08
    """A write of 1 << slot ejects it (QEMU, docs/specs/acpi_pci_hotplug)."""

    def config(self, location: Location) -> ConfigSpace:
        """256 bytes, by ports."""
        return PortIoConfig(self._ports, location)

    def route(self, location: Location, irq: int) -> int | None:
        """The pins of neighbouring slots are rotated; ISA interrupt and input are the same."""
        pin = self._pin(location)
        if pin < 0:
            return None
        pirq = (location.device - 1 + pin) & 3
        self.config(self.PIIX3).write(self.PIRQ_ROUTING + pirq, 1, irq)
        self.config(location).write(INTERRUPT_LINE, 1, irq)
        return irq

    def eject(self, slot: int) -> None:
        """By the registers that the machine's ACPI code uses."""
        self._qtest.write_port(self.HOTPLUG_BUS, 4, 0)
        self._qtest.write_port(self.HOTPLUG_EJECT, 4, 1 << slot)

    def admit(self, slot: int) -> None:
        """It answers at once."""


class Q35(Chipset):
    """The Q35: configuration mapped to memory, interrupts straight to the I/O APIC."""

    PCIEXBAR: Final = 0x60
    ECAM_ADDRESS: Final = 0xB0000000
    ECAM_ENABLE: Final = 1

    FIRST_GSI: Final = 16
    SLOT_PIRQS: Final = 4
    """Slots 0 to 24 use PIRQE to PIRQH, the second four inputs."""

    PORT_BUS: Final = 1
    PORT_IO: Final = (0xE000, 0xF000)
    PORT_MEMORY: Final = (0xF0000000, 0xF8000000)
    """What the root port passes on."""

    SLOT_CONTROL: Final = 0x18
    POWER_OFF: Final = 0x0400
    POWER_INDICATOR_ON: Final = 0x0100
    POWER_INDICATOR_OFF: Final = 0x0300
    POWER_BITS: Final = 0x0700

    def __init__(
        self, qtest: Qtest, io_start: int, memory_start: int, root_port_slot: int | None
    ) -> None:
        if root_port_slot is not None:
            self.io_end, self.memory_end = self.PORT_IO[0], self.PORT_MEMORY[0]
        super().__init__(qtest, io_start, memory_start)
        host_bridge = PortIoConfig(self._ports, HOST_BRIDGE)
        host_bridge.write(self.PCIEXBAR + 4, 4, 0)
        host_bridge.write(self.PCIEXBAR, 4, self.ECAM_ADDRESS | self.ECAM_ENABLE)
        self._root_port_slot = root_port_slot
        if root_port_slot is not None:
            self._open_root_port(Location(0, root_port_slot))

    def _open_root_port(self, place: Location) -> None:
        io, memory = AddressRange(*self.PORT_IO), AddressRange(*self.PORT_MEMORY)
        self.buses[self.PORT_BUS] = Bus(self.PORT_BUS, io, memory)
        port = self.config(place)
        # Primary, secondary and subordinate bus.
        for offset, number in enumerate((0, self.PORT_BUS, self.PORT_BUS)):
            port.write(BUS_NUMBERS + offset, 1, number)
        port.write(IO_WINDOW, 2, (io.end - 1) & 0xF000 | io.start >> 8)
        port.write(MEMORY_WINDOW, 2, memory.start >> 16)
        port.write(MEMORY_WINDOW + 2, 2, (memory.end - 1) >> 16 & 0xFFF0)
        # Its limit is below its base: prefetchable BARs are in the other window as well.
        port.write(PREFETCHABLE_WINDOW, 4, 0x0000FFF0)
        write_command(port, DECODING | Command.BUS_MASTER)

    def config(self, location: Location) -> ConfigSpace:
        """4096 bytes, mapped."""
        qtest = self._qtest
        return EcamConfig(qtest.read_memory, qtest.write_memory, self.ECAM_ADDRESS, location)

    def route(self, location: Location, irq: int) -> int | None:
        """Nothing has to be set; behind the root port its slot counts, as its one device has the
        number 0."""
        pin = self._pin(location)
        if pin < 0:
            return None
        slot = self._root_port_slot if location.bus and self._root_port_slot else location.device
        gsi = self.FIRST_GSI + self.SLOT_PIRQS + (slot + pin) % 4
        self.config(location).write(INTERRUPT_LINE, 1, gsi)
        return gsi

    def eject(self, slot: int) -> None:
        """Switch the slot's power off (PCI Express Base 5.0, 7.5.3.10 Slot Control Register)."""
        self._switch_power(self.POWER_OFF | self.POWER_INDICATOR_OFF)

    def admit(self, slot: int) -> None:
        """Switch the slot's power on."""
        self._switch_power(self.POWER_INDICATOR_ON)

    def _switch_power(self, bits: int) -> None:
        if self._root_port_slot is None:
            raise UnsupportedError(
                "on q35 only what is behind a root port can be plugged and unplugged: root_port=on"
            )
        port = self.config(Location(0, self._root_port_slot))
        capability = walk(port).pcie
        if capability is None:
            raise TransportError("the root port says that it is no PCI Express port")
        control = capability.offset + self.SLOT_CONTROL
        port.write(control, 2, port.read(control, 2) & ~self.POWER_BITS | bits)
