"""A virtio device of a QEMU, as the PCI transport sees the machine around it."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Final, final

from vioblk._native import DmaSpace, Doorbell, Mapping
from vioblk.errors import ResetTimeoutError, TransportError, UnsupportedError
from vioblk.features import Feature
from vioblk.pci.access import NotifyPlace, Registers
from vioblk.pci.bars import Bar
from vioblk.pci.capabilities import walk
from vioblk.pci.command import Command, change_command
from vioblk.pci.msix import MsixTable
from vioblk.pci.registers import check_access, check_value
from vioblk.transport.qemu.controls import DeviceControls
from vioblk.transport.qemu.interrupts import IntxLine
from vioblk.transport.qemu.machine import Machine
from vioblk.transport.qemu.presence import Presence
from vioblk.transport.qemu.qtest import MEMORY_WRITE, PORT_WRITE, Qtest
from vioblk.wording import counted

SETTLE_INTERVAL_MIN_S: Final = 0.1e-3
SETTLE_INTERVAL_MAX_S: Final = 10e-3


class QemuPlatform(DeviceControls):
    """See `vioblk.pci.access.PciPlatform`; what else can be done to the device is in its base.

    `owns_machine`: closing this ends QEMU.
    """

    name = "qemu"
    mapping_count_max = 1 << 16
    maps_while_live = True
    memory_safe_after_close = True
    """No byte of the machine's memory is ever given to two."""
    transport_features: frozenset[int] = frozenset(
        {Feature.ACCESS_PLATFORM, Feature.ORDER_PLATFORM, Feature.RING_PACKED}
    )

    def __init__(self, machine: Machine, *, owns_machine: bool = True) -> None:
        super().__init__(machine)
        self._owns_machine = owns_machine
        self.space = DmaSpace()
        self.config = machine.config(machine.location)
        self._presence = machine.presence()
        self._bars = machine.bars
        self.hangup_fd: int | None = self._presence.hangup_fd
        self.vector_count_max = len(machine.doorbells.fds) if machine.doorbells else 0
        self._doorbells: dict[NotifyPlace, tuple[int, Doorbell]] = {}
        self._gate = _NotifyGate()
        self._msix: MsixTable | None = None
        self._intx: IntxLine | None = None

    def registers(self, bar: int) -> Registers:
        """The registers of a BAR, by qtest commands."""
        found = self._bars.get(bar)
        if found is None:
            raise TransportError(f"the device has no BAR {bar}")
        return BarRegisters(self.machine.qtest, self._presence, found)

    def map_memory(self, length_bytes: int) -> Mapping:
        """A part of the machine's memory, at the address that it has there."""
        return self.machine.map_memory(self.space, length_bytes)

    def doorbell(self, index: int, place: NotifyPlace) -> Doorbell:
        """An eventfd, whose signals a thread turns into stores."""
        if place.carries_data:
            raise UnsupportedError("an eventfd cannot carry the data of NOTIFICATION_DATA")
        known = self._doorbells.get(place)
        if known is None:
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            known = self._doorbells[place] = (fd, Doorbell.eventfd(fd))
            self.machine.pump.add(fd, self._store(place), counter=True)
        return known[1]

    def _store(self, place: NotifyPlace) -> Callable[[], None]:
        """What rings the device's own doorbell."""
        bar = self._bars[place.bar]
        words = PORT_WRITE if bar.kind == "io" else MEMORY_WRITE
        command = f"{words[2]} {bar.address + place.offset:#x} {place.value:#x}"
        qtest, presence, gate = self.machine.qtest, self._presence, self._gate

        def store() -> None:
            with gate.lock:
                if gate.is_open and presence.reason is None:
                    qtest.post(command)

        return store

    def let_notify(self, live: bool) -> None:
        """Let doorbells through, or none; no store of before is under way then."""
        with self._gate.lock:
            self._gate.is_open = live

    def settle_queue(self, index: int, timeout_s: float) -> None:
        """Wait until QEMU has returned all that it took of queue `index`.

        Its disks confirm the reset of a queue at once, and go on with requests in flight: they
        write to their buffers afterwards, and to the ring that is there then.
        """
        deadline = time.monotonic() + timeout_s
        # What was rung before must not be heard between the look and the reset.
        if not self.machine.pump.flush(timeout_s):
            raise ResetTimeoutError(
                f"queue {index} was not reset: QEMU has not taken a notification of it within "
                f"{timeout_s:g} s, and could begin on its requests meanwhile; try again, or reset "
                "the disk"
            )
        interval_s = SETTLE_INTERVAL_MIN_S
        while count := self.queue_status(index)["inuse"]:
            if time.monotonic() >= deadline:
                raise ResetTimeoutError(
                    f"queue {index} was not reset: QEMU still works on {counted(count, 'request')} "
                    f"of it after {timeout_s:g} s, and its reset would not keep it from writing to "
                    "their buffers; try again when they are done, or reset the disk"
                )
            time.sleep(interval_s)
            interval_s = min(2 * interval_s, SETTLE_INTERVAL_MAX_S)

    # Interrupts

    def open_vectors(self, count: int) -> list[int]:
        """Point the first `count` vectors at the doorbell device, each at an eventfd of its own."""
        table = self._msix_table()
        table.disable()
        server = self.machine.doorbells
        if count == 0:
            return []
        if server is None or count > min(len(server.fds), table.vector_count):
            raise TransportError(
                f"{count} MSI-X vectors were asked for, and {self.vector_count_max} are there"
            )
        for vector in range(count):
            data = server.message_data(vector)
            table.program(vector, self.machine.doorbell_address, data)
        table.enable()
        return server.fds[:count]

    def _msix_table(self) -> MsixTable:
        if self._msix is None:
            capability = walk(self.config).msix
            if capability is None:
                raise TransportError("the device has no MSI-X capability")
            self._msix = MsixTable(
                self.config,
                capability,
                self.registers(capability.table_bar),
                self.registers(capability.pending_bar),
            )
        return self._msix

    def open_intx(self) -> int | None:
        """An eventfd that follows the pin by way of the I/O APIC."""
        if self._intx is None:
            machine = self.machine
            line = machine.chipset.route(machine.location, machine.settings.irq)
            if line is None:
                return None
            intx = IntxLine(line)
            try:
                machine.lines.listen(line, intx.set_level)
            except BaseException:
                intx.close()
                raise
            self._intx = intx
        return self._intx.fd

    def acknowledge_intx(self) -> None:
        """Signal again at once if the pin is still, or again, asserted."""
        if self._intx is not None:
            self._intx.acknowledge()

    def set_bus_master(self, enabled: bool) -> None:
        """Bit 2 of the command register."""
        bit = Command.BUS_MASTER
        change_command(
            self.config, set_bits=bit if enabled else 0, clear_bits=0 if enabled else bit
        )

    # The end

    def explain_end(self) -> str | None:
        """Whether the device was unplugged, or QEMU has ended, and what it said then."""
        return self._presence.reason

    def explain_failure(self) -> str | None:
        """What QEMU has said of an I/O error."""
        # It tells of the error after it has completed the request, and then answers.
        with suppress(TransportError):
            self.machine.qmp("query-status")
        return self.machine.last_error

    def close(self) -> None:
        """Let go of the device, and end QEMU if it is this one's."""
        for fd, _ in self._doorbells.values():
            self.machine.pump.remove(fd)
        if self._intx is not None:
            self.machine.lines.forget(self._intx.line)
        if self._owns_machine:
            self.machine.close()
        # After the threads that used them.
        for fd, _ in self._doorbells.values():
            os.close(fd)
        self._doorbells.clear()
        if self._intx is not None:
            self._intx.close()
            self._intx = None
        self.hangup_fd = None
        self._presence.close()


@final
class BarRegisters:
    """The registers of one BAR; left alone once the device has gone."""

    def __init__(self, qtest: Qtest, presence: Presence, bar: Bar) -> None:
        io = bar.kind == "io"
        self._read = qtest.read_port if io else qtest.read_memory
        self._write = qtest.write_port if io else qtest.write_memory
        self._presence = presence
        self._address = bar.address
        self._length = bar.length or 0

    @property
    def length(self) -> int:
        """Bytes."""
        return self._length

    def read(self, offset: int, width: int) -> int:
        """See `Registers.read`."""
        check_access(offset, width, self._length)
        self._presence.check()
        return self._read(self._address + offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        """See `Registers.write`."""
        check_access(offset, width, self._length)
        check_value(value, width)
        self._presence.check()
        self._write(self._address + offset, width, value)


class _NotifyGate:
    """Whether doorbells reach the device."""

    def __init__(self) -> None:
        self.lock = Lock()
        """Held for the length of a store."""
        self.is_open = True
