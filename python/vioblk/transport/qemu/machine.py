"""A QEMU with a PCI machine whose processor stands still: what firmware and kernel would do is
done here, by qtest."""

import os
import socket
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from vioblk._native import DmaSpace, Mapping
from vioblk.errors import DeviceGoneError, TransportError, VioblkError
from vioblk.pci.access import ConfigSpace
from vioblk.pci.bars import Bar, program_bar, size_bars
from vioblk.pci.command import DECODING, change_command
from vioblk.pci.header import read_header
from vioblk.pci.location import Location
from vioblk.transport.qemu.chipset import Q35, Chipset, Pc
from vioblk.transport.qemu.command_line import (
    DEBUG_NODE,
    DEVICE_ID,
    DEVICE_NAMES,
    DISK_NODE,
    Descriptors,
    command_line,
    doorbell_slot,
)
from vioblk.transport.qemu.events import News
from vioblk.transport.qemu.interrupts import InterruptLines
from vioblk.transport.qemu.ivshmem import DOORBELL_OFFSET, REGISTERS_BAR, DoorbellServer
from vioblk.transport.qemu.memory import GuestMemory, memory_file
from vioblk.transport.qemu.options import Settings
from vioblk.transport.qemu.presence import Presence
from vioblk.transport.qemu.process import END_TIMEOUT_S, QemuProcess, find_binary
from vioblk.transport.qemu.pump import Pump
from vioblk.transport.qemu.qmp import Qmp
from vioblk.transport.qemu.qtest import Qtest

PARKED: Final = b"\xf4" * 0x10000
"""As firmware: nothing but HLT."""

PROPERTY_SINCE: Final = {"in_order": "10"}
"""Properties that the oldest QEMU which is supported does not have."""


class Function(NamedTuple):
    """A PCI function of the machine."""

    location: Location
    config: ConfigSpace
    bars: tuple[Bar, ...]
    """With lengths; their addresses are 0 if nobody has programmed them."""


class Machine:
    """A running QEMU as `settings` say. Its one virtio device has its BARs and its interrupt line,
    and nothing else has been done to it. A context manager.

    Raises OSError if the image is not there, TransportError with what QEMU says if it does not
    start. All later calls raise DeviceGoneError once it has ended, and TransportError if it does
    not answer in time.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.disk_nodes = [DISK_NODE, DEBUG_NODE] if settings.inject else [DISK_NODE]
        """What is above the file, the node that the device uses first."""
        _check_target(settings)
        binary = find_binary(settings.binary)
        with ExitStack() as owned:
            self._start(binary, owned)
            self._release = weakref.finalize(self, owned.pop_all().close)

    def _start(self, binary: str, owned: ExitStack) -> None:
        settings = self.settings
        self.doorbells = _doorbell_server(settings, owned)
        self._memory = GuestMemory(settings.ram, owned)
        self._news = News()
        ours, theirs = zip(*(_socket_pair(owned) for _ in range(2)), strict=True)
        firmware_fd = memory_file("vioblk-qemu-firmware", len(PARKED), owned)
        os.pwrite(firmware_fd, PARKED, 0)
        fds = Descriptors(
            ram=self._memory.fd,
            firmware=firmware_fd,
            qtest=theirs[0].fileno(),
            qmp=theirs[1].fileno(),
            doorbells=self.doorbells.hand_over.fileno() if self.doorbells else None,
        )
        count = len(self.doorbells.fds) if self.doorbells else 0
        self.process = QemuProcess([binary, *command_line(settings, fds, count)], fds.all())
        owned.callback(self.process.kill)
        for each in theirs:
            each.close()
        if self.doorbells is not None:
            self.doorbells.hand_over.close()
        explain = self.process.explain_end
        self.monitor = Qmp(
            ours[1],
            timeout_s=settings.reply_timeout,
            explain_end=explain,
            on_event=self._news.on_event,
        )
        owned.callback(self.monitor.close)
        self.version = self._await_start()
        self.qtest = Qtest(ours[0], timeout_s=settings.reply_timeout, explain_end=explain)
        owned.callback(self.qtest.close)
        self.pump = Pump("vioblk-qemu-signals")
        owned.callback(self.pump.close)
        self.lines = InterruptLines(self.qtest, self.pump)
        self.chipset = _chipset(settings, self.qtest)
        self.place_device()
        self.doorbell_address = self._place_doorbells()

    def _await_start(self) -> tuple[int, int, int]:
        try:
            return self.monitor.start(self.settings.start_timeout)
        except DeviceGoneError as error:
            said = str(error)
            newer = [
                f"; {name} is known from QEMU {version} on"
                for name, version in PROPERTY_SINCE.items()
                if f".{name}' not found" in said
            ]
            raise TransportError(f"QEMU did not start: {said}{''.join(newer)}") from None

    def _place_doorbells(self) -> int:
        """Where a store of a message's data signals; 0 if there are no vectors."""
        if self.doorbells is None:
            return 0
        bars = self.place_bars(Location(0, doorbell_slot(self.settings)))
        return bars[REGISTERS_BAR].address + DOORBELL_OFFSET

    # The virtio device

    @property
    def location(self) -> Location:
        """Of the virtio device."""
        return Location(1, 0) if self.settings.root_port else Location(0, self.settings.slot)

    @property
    def device_name(self) -> str:
        """What QEMU calls it."""
        return DEVICE_NAMES[self.settings.device]

    def place_device(self) -> None:
        """Give the BARs of the virtio device their addresses, which `bars` has, and its interrupt
        pin the way to the I/O APIC."""
        self.bars = self.place_bars(self.location)
        self.chipset.route(self.location, self.settings.irq)

    def presence(self) -> Presence:
        """Follows the device that is in its slot now, for the one who drives it: its registers and
        its status are that one's until the presence is closed.

        Raises TransportError if somebody drives it already.
        """
        presence = Presence()
        if not self._news.follow(DEVICE_ID, presence):
            presence.close()
            raise TransportError(
                f"the device at {self.location} is driven already, and it has one status and one "
                "set of queues; close what is attached to it first"
            )
        explain, reference = self.process.explain_end, weakref.ref(presence)

        def tell() -> None:
            # Not kept: there may be many of them, one after the other.
            followed = reference()
            if followed is not None:
                followed.leave(explain())

        self.process.on_end(tell)
        return presence

    @property
    def last_error(self) -> str | None:
        """The last I/O error that QEMU has announced, in words; None if there was none."""
        return self._news.last_error

    # PCI

    def config(self, location: Location) -> ConfigSpace:
        """The configuration space of a function, whether it is there or not."""
        return self.chipset.config(location)

    def functions(self) -> list[Function]:
        """Every function of the machine, sized: its BARs do not answer meanwhile."""
        return [Function(location, config, size_bars(config)) for location, config in self._scan()]

    def _scan(self) -> Iterator[tuple[Location, ConfigSpace]]:
        for bus in self.chipset.buses:
            for device in range(32):
                yield from self._scan_device(bus, device)

    def _scan_device(self, bus: int, device: int) -> Iterator[tuple[Location, ConfigSpace]]:
        for function in range(8):
            location = Location(bus, device, function)
            config = self.config(location)
            header = read_header(config)
            if header is not None:
                yield location, config
            if function == 0 and (header is None or not header.multifunction):
                return

    def place_bars(self, location: Location) -> dict[int, Bar]:
        """Give every BAR of a function an address, and let it answer; by index.

        Raises TransportError if there is no such function.
        """
        config = self.config(location)
        if read_header(config) is None:
            raise TransportError(f"QEMU has no function at {location}")
        bus = self.chipset.buses[location.bus]
        placed = {}
        for bar in size_bars(config):
            free = bus.io if bar.kind == "io" else bus.memory
            address = free.take(bar.length or 1, (location, bar.index))
            placed[bar.index] = program_bar(config, bar, address)
        change_command(config, set_bits=DECODING)
        return placed

    def map_memory(self, space: DmaSpace, length_bytes: int) -> Mapping:
        """Make more of the machine's memory a part of `space`. Raises MemoryError, OSError."""
        return self._memory.map(space, length_bytes)

    # The monitor and the process

    def qmp(self, command: str, /, **arguments: object) -> Any:
        """Run a monitor command, as `Qmp.run`."""
        return self.monitor.run(command, **arguments)

    def hmp(self, line: str) -> str:
        """Run a line of the human monitor; what it prints."""
        return self.monitor.hmp(line)

    def pause(self) -> None:
        """Let the process stand still (SIGSTOP); then nothing answers, and all time-outs run."""
        self.process.pause()

    def resume(self) -> None:
        """Let the process go on."""
        self.process.resume()

    def close(self) -> None:
        """End QEMU, in good order if it can, and free everything. Idempotent, never raises.

        In a forked child only the child's copies of the descriptors are freed.
        """
        if self._release.alive and self.process.running:
            with suppress(VioblkError, OSError):
                # Its images are written out first; one that stands still could not hear of it.
                self.process.resume()
                self.monitor.run("quit")
                self.process.wait(END_TIMEOUT_S)
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _chipset(settings: Settings, qtest: Qtest) -> Chipset:
    if settings.machine == "pc":
        return Pc(qtest, settings.io_address, settings.memory_address)
    slot = settings.slot if settings.root_port else None
    return Q35(qtest, settings.io_address, settings.memory_address, slot)


def _doorbell_server(settings: Settings, owned: ExitStack) -> DoorbellServer | None:
    if settings.vector_count == 0:
        return None
    server = DoorbellServer(settings.vector_count)
    owned.callback(server.close)
    return server


def _check_target(settings: Settings) -> None:
    if not settings.is_null:
        Path(settings.target).stat()


def _socket_pair(owned: ExitStack) -> Sequence[socket.socket]:
    pair = socket.socketpair()
    for each in pair:
        owned.callback(each.close)
    return pair
