"""A QEMU with a PCI machine whose processor stands still: what firmware and kernel would do is
done here, by qtest."""

import os
import socket
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock
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
from vioblk.transport.qemu.ivshmem import DOORBELL_OFFSET, REGISTERS_BAR, DoorbellServer
from vioblk.transport.qemu.options import Settings
from vioblk.transport.qemu.presence import Presence
from vioblk.transport.qemu.process import END_TIMEOUT_S, QemuProcess, find_binary
from vioblk.transport.qemu.pump import Pump
from vioblk.transport.qemu.qmp import Event, Qmp
from vioblk.transport.qemu.qtest import Qtest

PARKED: Final = b"\xf4" * 0x10000
"""As firmware: nothing but HLT."""

RAM_START: Final = 2 << 20
"""What devices are given lies above the first MiB, which has holes."""

RAM_UNIT: Final = 2 << 20

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
        self._ram_fd = _memory_file("vioblk-qemu-ram", settings.ram, owned)
        self._ram = _Ram(settings.ram)
        self._news = _News()
        ours, theirs = zip(*(_socket_pair(owned) for _ in range(2)), strict=True)
        firmware_fd = _memory_file("vioblk-qemu-firmware", len(PARKED), owned)
        os.pwrite(firmware_fd, PARKED, 0)
        fds = Descriptors(
            ram=self._ram_fd,
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
        explain = self.process.explain_end
        self.process.on_end(lambda: presence.leave(explain()))
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
        offset = self._ram.take(length_bytes)
        return space.map_fd(self._ram_fd, length_bytes, offset, offset)

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


class InterruptLines:
    """The inputs of the I/O APIC, for those who listen to one."""

    def __init__(self, qtest: Qtest, pump: Pump) -> None:
        self._qtest = qtest
        self._pump = pump
        self._listeners: dict[int, Callable[[bool], None]] = {}
        self._levels: dict[int, bool] = {}
        self._lock = Lock()
        self._started = False

    def listen(self, line: int, call: Callable[[bool], None]) -> None:
        """`call` with the level of an input now and after each change; it must not wait."""
        with self._lock:
            if not self._started:
                self._started = True
                # What the methods of a dictionary do is done at once, whichever thread does it.
                self._qtest.listen_to_interrupts(self._changed)
                self._pump.add(self._qtest.fileno(), self._qtest.poll, counter=False)
            self._listeners[line] = call
        call(self._levels.get(line, False))

    def forget(self, line: int) -> None:
        """Call nobody for this input any more."""
        self._listeners.pop(line, None)

    def _changed(self, line: int, level: bool) -> None:
        self._levels[line] = level
        call = self._listeners.get(line)
        if call is not None:
            call(level)


class _News:
    """What the monitor's thread has heard of."""

    def __init__(self) -> None:
        self.last_error: str | None = None
        self._followed: dict[str, Presence] = {}
        self._lock = Lock()

    def follow(self, device: str, presence: Presence) -> bool:
        """Whether nobody else follows it, so that `presence` does from now on."""
        with self._lock:
            other = self._followed.get(device)
            if other is not None and other.hangup_fd >= 0:
                return False
            self._followed[device] = presence
            return True

    def on_event(self, event: Event) -> None:
        data = event.get("data", {})
        if event["event"] == "DEVICE_DELETED":
            presence = self._followed.pop(data.get("device"), None)
            if presence is not None:
                presence.leave("the device was unplugged")
        elif event["event"] == "BLOCK_IO_ERROR":
            self.last_error = (
                f"the last I/O error that QEMU told of: {data['operation']}, {data.get('reason')}"
            )


class _Ram:
    """The machine's memory, given away from the bottom up and never taken back."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._next = RAM_START
        self._lock = Lock()

    def take(self, length: int) -> int:
        with self._lock:
            start = self._next
            if start + length > self._length:
                raise MemoryError(
                    f"the machine has {self._length} bytes of memory, and {self._length - start} "
                    f"are left, not {length}; start it with more (ram=)"
                )
            # A gap behind each, so that a device that runs over its end meets nobody's.
            self._next = (start + length + 2 * RAM_UNIT - 1) & -RAM_UNIT
            return start


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


def _memory_file(name: str, length: int, owned: ExitStack) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    owned.callback(os.close, fd)
    os.ftruncate(fd, length)
    return fd


def _socket_pair(owned: ExitStack) -> Sequence[socket.socket]:
    pair = socket.socketpair()
    for each in pair:
        owned.callback(each.close)
    return pair
