"""The machine around a software device that is a PCI function: all of it in this process."""

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from vioblk._native import DmaSpace, Doorbell, Mapping, MmioWindow, PciFace, SoftwareDevice
from vioblk.errors import TransportError, VioblkError
from vioblk.features import Feature
from vioblk.pci.access import ConfigSpace, NotifyPlace, Registers
from vioblk.pci.capabilities import MsixCapability, walk
from vioblk.pci.command import Command, change_command
from vioblk.pci.msix import MsixTable
from vioblk.transport.software import explain_last_error, map_next
from vioblk.transport.software_pci.config import ModelledConfig
from vioblk.transport.software_pci.description import (
    FACE_BAR,
    FunctionDescription,
    describe_face,
    draw,
)

MESSAGE_ADDRESS: Final = 0xFEE0_0000
"""Where MSI-X messages go; the data says whom they are for."""


class SoftwarePciPlatform:
    """See `vioblk.pci.access.PciPlatform`. It owns the device.

    `describe` is given the description of the function as it is, and returns the one to show: for
    devices that lie. `face_options` are those of PciFace.

    Raises ValueError for what cannot be; then the device is closed.
    """

    name = "software"
    mapping_count_max = 1 << 16
    maps_while_live = True
    # Its thread ends before close() returns, and nothing else reaches the memory.
    memory_safe_after_close = True
    transport_features: frozenset[int] = frozenset(
        {
            Feature.ACCESS_PLATFORM,
            Feature.ORDER_PLATFORM,
            Feature.NOTIFICATION_DATA,
            Feature.NOTIF_CONFIG_DATA,
            Feature.RING_PACKED,
        }
    )

    def __init__(
        self,
        space: DmaSpace,
        device: SoftwareDevice,
        *,
        vector_count: int = 0,
        notify_multiplier: int = 4,
        describe: Callable[[FunctionDescription], FunctionDescription] | None = None,
        bar_mapped: bool = True,
        **face_options: Any,
    ) -> None:
        self.space = space
        self.device = device
        self.vector_count_max = vector_count
        self._closed = False
        self._bar_mapped = bar_mapped
        try:
            self.face = PciFace(
                device,
                vector_count=vector_count,
                notify_multiplier=notify_multiplier,
                **face_options,
            )
            description = describe_face(
                self.face.structures,
                self.face.window.length,
                vector_count=vector_count,
                notify_multiplier=notify_multiplier,
            )
            self.description = description if describe is None else describe(description)
            self.modelled = ModelledConfig(draw(self.description), self.face)
        except BaseException:
            device.close()
            raise
        self.config: ConfigSpace = self.modelled
        self._ours, self._theirs = socket.socketpair()
        self.hangup_fd: int | None = self._ours.fileno()

    def registers(self, bar: int) -> Registers:
        """The BAR of the face; another that is described has no registers behind it."""
        described = next((each for each in self.description.bars if each.index == bar), None)
        if described is None:
            raise TransportError(f"the function has no BAR {bar}")
        if described.address == 0:
            raise TransportError(f"BAR {bar} was given no address")
        if bar != FACE_BAR or not self._bar_mapped:
            raise TransportError(f"BAR {bar} is not mapped")
        return self._window

    @property
    def _window(self) -> MmioWindow:
        return self.face.window

    def map_memory(self, length_bytes: int) -> Mapping:
        """Make `length_bytes` more memory reachable for the device."""
        return map_next(self.space, length_bytes)

    def doorbell(self, index: int, place: NotifyPlace) -> Doorbell:
        """A store to the register itself."""
        if place.bar != FACE_BAR:
            raise TransportError(f"queue {index} is notified in BAR {place.bar}: nothing is there")
        return Doorbell.mmio(
            self._window, place.offset, place.value, carries_data=place.carries_data
        )

    def let_notify(self, live: bool) -> None:
        """Nothing to do: a doorbell has been stored to when its call returns."""

    # Interrupts

    def settle_queue(self, index: int, timeout_s: float) -> None:
        """Nothing to wait for: what is confirmed is done."""

    def open_vectors(self, count: int) -> list[int]:
        """Let the first `count` vectors send messages, each to an eventfd of its own."""
        capability = walk(self.config).msix
        if capability is None:
            if count == 0:
                return []
            raise TransportError("the function has no MSI-X capability")
        table = self._table(capability)
        table.disable()
        if count == 0:
            return []
        if count > min(self.vector_count_max, table.vector_count):
            raise TransportError(
                f"{count} MSI-X vectors were asked for, and {self.vector_count_max} are there"
            )
        for vector in range(count):
            table.program(vector, MESSAGE_ADDRESS, vector)
        table.enable()
        return [self.face.message_fd(vector) for vector in range(count)]

    def _table(self, capability: MsixCapability) -> MsixTable:
        return MsixTable(
            self.config,
            capability,
            self.registers(capability.table_bar),
            self.registers(capability.pending_bar),
        )

    def open_intx(self) -> int | None:
        """The eventfd of the pin, if the function has one."""
        if self.description.interrupt_pin == 0:
            return None
        change_command(self.config, clear_bits=Command.INTX_DISABLE)
        return self.face.intx_fd

    def acknowledge_intx(self) -> None:
        """Let the pin signal again."""
        self.face.acknowledge_intx()

    def set_bus_master(self, enabled: bool) -> None:
        """Bit 2 of the command register."""
        bit = Command.BUS_MASTER
        change_command(
            self.config, set_bits=bit if enabled else 0, clear_bits=0 if enabled else bit
        )

    # The end

    def unplug(self, *, quietly: bool = False) -> None:
        """Take the function off its bus. `quietly`: nobody is told, so that only its registers,
        which read as all ones, say so."""
        self.face.remove()
        if not quietly:
            with suppress(OSError):
                self._theirs.shutdown(socket.SHUT_RDWR)

    def explain_end(self) -> str | None:
        """There is but one reason for a hang-up."""
        return "the device was unplugged"

    def explain_failure(self) -> str | None:
        """The last error of the file that backs the disk."""
        return explain_last_error(self.device)

    def close(self) -> None:
        """Stop the device and wait for its thread."""
        if not self._closed:
            self._closed = True
            with suppress(VioblkError, OSError):
                self.device.close()
            self.hangup_fd = None
            self._ours.close()
            self._theirs.close()
