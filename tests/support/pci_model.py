"""A virtio PCI function of registers only: it does as a test tells it, and logs every access.

It is strict: an access of another width than the field's, or a write to a field that is the
device's, fails the test at once.
"""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tests.pci.spaces import ModelSpace, chained, endpoint, virtio_cap
from vioblk._native import DmaSpace, Doorbell
from vioblk._native import Mapping as DmaMapping
from vioblk.errors import DeviceGoneError, TransportError
from vioblk.features import Feature
from vioblk.pci.access import ConfigSpace, NotifyPlace, Registers
from vioblk.pci.command import Command, change_command
from vioblk.pci.layout import NO_VECTOR
from vioblk.pci.registers import check_access


class RegisterAccess(NamedTuple):
    kind: Literal["read", "write"]
    offset: int
    width: int
    value: int


class RecordingRegisters:
    """Memory as registers. What `on_read` has for an offset is read there, what `on_write` has is
    called with what is written."""

    def __init__(self, length: int, data: bytes = b"") -> None:
        self.data = bytearray(data.ljust(length, b"\0"))
        self.log: list[RegisterAccess] = []
        self.on_read: dict[int, Callable[[], int]] = {}
        self.on_write: dict[int, Callable[[int], None]] = {}
        self.all_ones = False
        """The function has been unplugged."""

    @property
    def length(self) -> int:
        return len(self.data)

    def read(self, offset: int, width: int) -> int:
        check_access(offset, width, self.length)
        value = self.load(offset, width)
        if self.all_ones:
            value = (1 << 8 * width) - 1
        self.log.append(RegisterAccess("read", offset, width, value))
        return value

    def load(self, offset: int, width: int) -> int:
        hook = self.on_read.get(offset)
        if hook is not None:
            return hook()
        return int.from_bytes(self.data[offset : offset + width], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        check_access(offset, width, self.length)
        assert 0 <= value < 1 << 8 * width, f"{value:#x} in {width} bytes"
        self.log.append(RegisterAccess("write", offset, width, value))
        if not self.all_ones:
            self.store(offset, width, value)

    def store(self, offset: int, width: int, value: int) -> None:
        self.data[offset : offset + width] = value.to_bytes(width, "little")
        hook = self.on_write.get(offset)
        if hook is not None:
            hook(value)

    def word(self, offset: int, width: int) -> int:
        """What is there, without a trace."""
        return int.from_bytes(self.data[offset : offset + width], "little")

    def writes(self, *offsets: int) -> list[tuple[int, int]]:
        """(offset, value) of each write, or only of those at `offsets`."""
        return [
            (each.offset, each.value)
            for each in self.log
            if each.kind == "write" and (not offsets or each.offset in offsets)
        ]

    def reads(self, *offsets: int) -> list[int]:
        """The offset of each read, or only of those at `offsets`."""
        return [
            each.offset
            for each in self.log
            if each.kind == "read" and (not offsets or each.offset in offsets)
        ]


@dataclass
class QueueModel:
    """What one queue's registers hold. The first three are the device's."""

    size_max: int = 256
    notify_off: int = 0
    notif_config_data: int = 0
    size: int = 0
    vector: int = NO_VECTOR
    enabled: int = 0
    resetting: int = 0
    descriptors: int = 0
    driver: int = 0
    device: int = 0

    def reset(self) -> None:
        self.size, self.vector, self.enabled = self.size_max, NO_VECTOR, 0
        self.resetting = self.descriptors = self.driver = self.device = 0


COMMON_WIDTHS: Mapping[int, int] = {
    0x00: 4,
    0x04: 4,
    0x08: 4,
    0x0C: 4,
    0x10: 2,
    0x12: 2,
    0x14: 1,
    0x15: 1,
    **dict.fromkeys(range(0x16, 0x20, 2), 2),
    **dict.fromkeys(range(0x20, 0x38, 4), 4),
    **dict.fromkeys(range(0x38, 0x40, 2), 2),
}
"""Of each field, and of each half of an 8-byte one."""

COMMON_READ_ONLY = frozenset({0x04, 0x12, 0x15, 0x1E, 0x38, 0x3C, 0x3E})


class ModernModel(RecordingRegisters):
    """A common configuration structure."""

    def __init__(
        self,
        *,
        offered: int = 1 << Feature.VERSION_1,
        queues: int = 2,
        length: int = 0x40,
        refuses: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(length)
        self.offered = offered
        self.accepted = 0
        self.queues = [QueueModel(notify_off=index) for index in range(queues)]
        self.status = 0
        self.generation = 0
        self.config_vector = NO_VECTOR
        self.refuses = refuses
        """Vectors that it does not take."""
        self.resets = True
        self.reset_queue()

    def reset_queue(self) -> None:
        for queue in self.queues:
            queue.reset()

    def queue(self) -> QueueModel:
        index = self.word(0x16, 2)
        return self.queues[index] if index < len(self.queues) else QueueModel(size_max=0)

    def load(self, offset: int, width: int) -> int:
        assert COMMON_WIDTHS.get(offset) == width, f"{width} bytes read at {offset:#x}"
        if offset in self.on_read:
            return self.on_read[offset]()
        window = self.word(0x00, 4)
        queue = self.queue()
        values = {
            0x04: self.offered >> 32 * window & 0xFFFF_FFFF,
            0x10: self.config_vector,
            0x12: len(self.queues),
            0x14: self.status,
            0x15: self.generation,
            0x18: queue.size,
            0x1A: queue.vector,
            0x1C: queue.enabled,
            0x1E: queue.notify_off,
            0x38: queue.notif_config_data,
            0x3A: queue.resetting,
        }
        return values.get(offset, self.word(offset, width))

    def store(self, offset: int, width: int, value: int) -> None:
        assert COMMON_WIDTHS.get(offset) == width, f"{width} bytes written at {offset:#x}"
        assert offset not in COMMON_READ_ONLY, f"the field at {offset:#x} was written"
        super().store(offset, width, value)
        queue = self.queue()
        if offset == 0x0C:
            shift = 32 * self.word(0x08, 4)
            self.accepted = self.accepted & ~(0xFFFF_FFFF << shift) | value << shift
        elif offset == 0x10:
            self.config_vector = NO_VECTOR if value in self.refuses else value
        elif offset == 0x14:
            self._store_status(value)
        elif offset == 0x18:
            queue.size = value
        elif offset == 0x1A:
            queue.vector = NO_VECTOR if value in self.refuses else value
        elif offset == 0x1C:
            assert value == 1, "queue_enable takes 1 only"
            queue.enabled = 1
        elif offset == 0x3A:
            queue.reset()
        elif 0x20 <= offset < 0x38:
            self._store_address(queue, offset, value)

    def _store_status(self, value: int) -> None:
        if value:
            self.status = value
        elif self.resets:
            self.status, self.config_vector = 0, NO_VECTOR
            self.reset_queue()

    def _store_address(self, queue: QueueModel, offset: int, value: int) -> None:
        assert not queue.enabled, "an address was changed while the queue was enabled"
        name = ("descriptors", "driver", "device")[(offset - 0x20) // 8]
        shift = 32 if offset % 8 else 0
        rest = getattr(queue, name) & ~(0xFFFF_FFFF << shift)
        setattr(queue, name, rest | value << shift)


class LegacyModel(RecordingRegisters):
    """The legacy registers, with the configuration behind them where it belongs."""

    def __init__(
        self,
        *,
        offered: int = 0,
        sizes: tuple[int, ...] = (256, 128),
        config: bytes = bytes(range(40)),
        refuses: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(0x40)
        self.offered = offered
        self.sizes = sizes
        self.config = config
        self.refuses = refuses
        self.msix_enabled = False
        self.pages = [0] * len(sizes)
        self.vectors = [NO_VECTOR] * len(sizes)
        self.config_vector = NO_VECTOR
        self.isr = 0

    def _selected(self) -> int | None:
        index = self.word(14, 2)
        return index if index < len(self.sizes) else None

    def load(self, offset: int, width: int) -> int:
        index = self._selected()
        header = 24 if self.msix_enabled else 20
        if offset >= header:
            start = offset - header
            return int.from_bytes(self.config[start : start + width], "little")
        widths = {0: 4, 4: 4, 8: 4, 12: 2, 14: 2, 16: 2, 18: 1, 19: 1, 20: 2, 22: 2}
        assert widths.get(offset) == width, f"{width} bytes read at {offset}"
        if offset == 19:
            isr, self.isr = self.isr, 0
            return isr
        values = {
            0: self.offered,
            8: 0 if index is None else self.pages[index],
            12: 0 if index is None else self.sizes[index],
            20: self.config_vector,
            22: NO_VECTOR if index is None else self.vectors[index],
        }
        return values.get(offset, self.word(offset, width))

    def store(self, offset: int, width: int, value: int) -> None:
        assert offset not in (0, 12, 19), f"the register at {offset} was written"
        super().store(offset, width, value)
        index = self._selected()
        taken = NO_VECTOR if value in self.refuses else value
        if offset == 18 and value == 0:
            self.pages = [0] * len(self.sizes)
            self.vectors, self.config_vector = [NO_VECTOR] * len(self.sizes), NO_VECTOR
        elif offset == 8 and index is not None:
            self.pages[index] = value
        elif self.msix_enabled and offset == 20:
            self.config_vector = taken
        elif self.msix_enabled and offset == 22 and index is not None:
            self.vectors[index] = taken


class Mosaic:
    """A BAR made of registers at offsets."""

    def __init__(self, length: int, parts: Mapping[int, Registers]) -> None:
        self.length = length
        self.parts = dict(parts)

    def _part(self, offset: int) -> tuple[Registers, int]:
        start = max(each for each in self.parts if each <= offset)
        return self.parts[start], offset - start

    def read(self, offset: int, width: int) -> int:
        part, within = self._part(offset)
        return part.read(within, width)

    def write(self, offset: int, width: int, value: int) -> None:
        part, within = self._part(offset)
        part.write(within, width, value)


class WindowSpace(ModelSpace):
    """The configuration space of a function whose window works. It refuses, as no device would,
    what a driver must not do with it."""

    def __init__(
        self, data: bytes, capability: int, behind: Mapping[int, tuple[int, Registers]]
    ) -> None:
        """`capability`: where the window is. `behind`: for each BAR, where its registers start."""
        super().__init__(data, b"\xff" * 256)
        self.behind = behind
        self.bar_at, self.offset_at = capability + 4, capability + 8
        self.length_at, self.data_at = capability + 12, capability + 16

    def _field(self, offset: int) -> int:
        return int.from_bytes(self.data[offset : offset + 4], "little")

    def _target(self, width: int) -> tuple[Registers, int]:
        assert self._field(self.length_at) == width, "the width of the access is the length"
        start, registers = self.behind[self.data[self.bar_at]]
        return registers, self._field(self.offset_at) - start

    def read(self, offset: int, width: int) -> int:
        if offset != self.data_at:
            return super().read(offset, width)
        registers, within = self._target(width)
        value = registers.read(within, width)
        self.log.append(("read", offset, width, value))
        return value

    def write(self, offset: int, width: int, value: int) -> None:
        super().write(offset, width, value)
        if offset == self.offset_at:
            assert value % self._field(self.length_at) == 0, "no multiple of the length"
        if offset == self.data_at:
            registers, within = self._target(width)
            registers.write(within, width, value)


class ModelPlatform:
    """A machine around one function, all of it in this process."""

    name = "model"
    mapping_count_max = 8
    maps_while_live = True
    memory_safe_after_close = True

    def __init__(
        self,
        config: ConfigSpace,
        bars: Mapping[int, Registers],
        *,
        vector_count_max: int = 8,
        intx: bool = True,
        features: frozenset[int] = frozenset(),
        hangs_up: bool = False,
    ) -> None:
        self.config: ConfigSpace = config
        self.bars = dict(bars)
        self.space = DmaSpace()
        self.vector_count_max = vector_count_max
        self.transport_features = features
        self.log: list[object] = []
        self.vectors: list[int] = []
        self.places: dict[int, NotifyPlace] = {}
        self.on_vectors: Callable[[int], None] = lambda count: None
        self.bus_master: list[bool] = []
        self.notifying: list[bool] = []
        self.acknowledged = 0
        self.closed = 0
        self._doorbell_fds: dict[int, int] = {}
        self._intx_fd = os.eventfd(0, os.EFD_NONBLOCK) if intx else None
        self._sockets = socket.socketpair() if hangs_up else None
        self.hangup_fd: int | None = None if self._sockets is None else self._sockets[0].fileno()

    def registers(self, bar: int) -> Registers:
        if bar not in self.bars:
            raise TransportError(f"BAR {bar} is not there")
        return self.bars[bar]

    def map_memory(self, length_bytes: int) -> DmaMapping:
        return self.space.map(length_bytes, (len(self.space.mappings) + 1) << 32)

    def doorbell(self, index: int, place: NotifyPlace) -> Doorbell:
        self.places[index] = place
        if index not in self._doorbell_fds:
            self._doorbell_fds[index] = os.eventfd(0, os.EFD_NONBLOCK)
        return Doorbell.eventfd(self._doorbell_fds[index])

    def let_notify(self, live: bool) -> None:
        self.notifying.append(live)

    def settle_queue(self, index: int, timeout_s: float) -> None:
        self.log.append(("settle_queue", index))

    def open_vectors(self, count: int) -> list[int]:
        self.log.append(("open_vectors", count))
        self.on_vectors(count)
        self._close(self.vectors)
        self.vectors = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        return list(self.vectors)

    def open_intx(self) -> int | None:
        self.log.append("open_intx")
        return self._intx_fd

    def acknowledge_intx(self) -> None:
        self.acknowledged += 1

    def set_bus_master(self, enabled: bool) -> None:
        self.bus_master.append(enabled)
        bits = Command.BUS_MASTER
        if enabled:
            change_command(self.config, set_bits=bits)
        else:
            change_command(self.config, clear_bits=bits)

    def explain_end(self) -> str | None:
        return None

    def explain_failure(self) -> str | None:
        return "the model knows of nothing"

    # What the test does.

    def interrupt(self, vector: int) -> None:
        """The device sends a message."""
        os.eventfd_write(self.vectors[vector], 1)

    def raise_pin(self) -> None:
        assert self._intx_fd is not None
        os.eventfd_write(self._intx_fd, 1)

    def hang_up(self) -> None:
        assert self._sockets is not None
        self._sockets[1].shutdown(socket.SHUT_RDWR)

    @property
    def space_writes(self) -> list[tuple[int, int, int]]:
        """What was written to the configuration space."""
        assert isinstance(self.config, ModelSpace)
        return self.config.writes()

    def unplug(self) -> None:
        """From now on everything reads as all ones."""
        assert isinstance(self.config, ModelSpace)
        self.config.data[:] = b"\xff" * self.config.length
        for bar in self.bars.values():
            for part in bar.parts.values() if isinstance(bar, Mosaic) else [bar]:
                assert isinstance(part, RecordingRegisters)
                part.all_ones = True

    def close(self) -> None:
        self.closed += 1
        if self.closed > 1:
            return
        self._close(self.vectors)
        self._close(list(self._doorbell_fds.values()))
        if self._intx_fd is not None:
            os.close(self._intx_fd)
        for each in self._sockets or ():
            each.close()

    @staticmethod
    def _close(fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)


class GoneRegisters:
    """Registers whose machine says itself that the function has gone."""

    def __init__(self, length: int) -> None:
        self.length = length

    def read(self, offset: int, width: int) -> int:
        raise DeviceGoneError("unplugged")

    def write(self, offset: int, width: int, value: int) -> None:
        raise DeviceGoneError("unplugged")


MULTIPLIER = 4
COMMON_AT, ISR_AT, DEVICE_AT, NOTIFY_AT = 0x0000, 0x1000, 0x2000, 0x3000


def msix_capability(vector_count: int, *, bar: int = 1) -> bytes:
    """In the form that `endpoint` takes."""
    table, pending = bar, 0x8000 | bar
    return (
        bytes([0x11])
        + (vector_count - 1).to_bytes(2, "little")
        + table.to_bytes(4, "little")
        + pending.to_bytes(4, "little")
    )


def modern_space(
    *capabilities: bytes,
    multiplier: int = MULTIPLIER,
    device: int = 0x1042,
    vector_count: int = 0,
    window: bool = True,
    common_length: int = 0x40,
) -> ModelSpace:
    """A modern function: the four structures in BAR 4 as above, and what else is given."""
    structures = [
        virtio_cap(1, offset=COMMON_AT, length=common_length),
        virtio_cap(3, offset=ISR_AT, length=1),
        virtio_cap(4, offset=DEVICE_AT, length=0x60),
        virtio_cap(2, offset=NOTIFY_AT, extra=multiplier.to_bytes(4, "little")),
    ]
    if window:
        structures.append(virtio_cap(5, bar=0, length=0, extra=bytes(4)))
    if vector_count:
        structures.append(msix_capability(vector_count))
    space = endpoint(device=device, capabilities=chained(*capabilities, *structures))
    space.add_bar(4, 0x4000, flags=0xC, address=0xE000_0000, width_bits=64)
    return space


def legacy_space(*, vector_count: int = 0) -> ModelSpace:
    """A function of the legacy interface alone."""
    extra = [msix_capability(vector_count)] if vector_count else []
    space = endpoint(device=0x1001, subsystem=2, revision=0, capabilities=chained(*extra))
    space.add_bar(0, 0x40, flags=1, address=0xC300)
    return space


class ModernFunction:
    """A modern function and its registers, for the whole transport."""

    def __init__(
        self,
        common: ModernModel | None = None,
        *,
        vector_count: int = 4,
        vector_count_max: int = 8,
        intx: bool = True,
        features: frozenset[int] = frozenset(),
        hangs_up: bool = False,
    ) -> None:
        self.common = ModernModel() if common is None else common
        self.isr = RecordingRegisters(1)
        self.device = RecordingRegisters(0x60, (2048).to_bytes(8, "little"))
        self.notify = RecordingRegisters(0x1000)
        self.bar = Mosaic(
            0x4000,
            {
                COMMON_AT: self.common,
                ISR_AT: self.isr,
                DEVICE_AT: self.device,
                NOTIFY_AT: self.notify,
            },
        )
        self.isr.on_read[0] = self._take_isr
        self.isr_value = 0
        self.platform = ModelPlatform(
            modern_space(vector_count=vector_count, common_length=self.common.length),
            {4: self.bar},
            vector_count_max=vector_count_max,
            intx=intx,
            features=features,
            hangs_up=hangs_up,
        )

    def _take_isr(self) -> int:
        value, self.isr_value = self.isr_value, 0
        return value

    def interrupt_pin(self, isr: int) -> None:
        """The device sets its ISR status and raises INTx."""
        self.isr_value = isr
        self.platform.raise_pin()


class LegacyFunction:
    """A legacy function and its registers, for the whole transport."""

    def __init__(self, registers: LegacyModel | None = None, *, vector_count: int = 4) -> None:
        self.registers = LegacyModel() if registers is None else registers
        self.platform = ModelPlatform(
            legacy_space(vector_count=vector_count), {0: self.registers}, vector_count_max=8
        )
        self.platform.on_vectors = self._switch

    def _switch(self, count: int) -> None:
        self.registers.msix_enabled = count > 0
