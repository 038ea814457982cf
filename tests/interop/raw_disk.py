"""A driver that does what a test says, rules or not, on a disk that is brought to life properly.

Device and transport are the package's own, the ring is the reference ring, whose every word can be
written (`vioblk.ring.raw`). A request is one piece of memory, cut into descriptors as the test
likes.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Final

from tests.interop.qemu_machines import WAIT_S, poll
from vioblk.block.config import CAPACITY
from vioblk.block.features import BLOCK_DEVICE_TYPE
from vioblk.block.request import STATUS_PENDING
from vioblk.device import VirtioDevice
from vioblk.driver import QueueHandle, QueueParts
from vioblk.features import FeatureSet, Wish
from vioblk.memory import DmaMemory
from vioblk.pci.capabilities import walk
from vioblk.pci.layout import RegisterLayout
from vioblk.pci.msix import MsixTable
from vioblk.ring import Chain, Completion, Segment
from vioblk.ring.raw import RawSplitRing, UsedEntry
from vioblk.ring.reference import SplitQueue
from vioblk.transport.pci import PciTransport
from vioblk.transport.qemu import Machine, QemuPlatform, attach, start

HEADER: Final = struct.Struct("<IIQ")
"""type, reserved, sector (VIRTIO 1.4, 5.2.6 Device Operation)."""

SEGMENT: Final = struct.Struct("<QII")
"""sector, num_sectors, flags: of discards and write-zeroes."""

RING_SIZE: Final = 64
"""Descriptors, where the driver may choose."""

INDIRECT_ENTRIES: Final = 2


class Request:
    """A block request in one piece of memory: header, what the device reads, what it writes,
    status."""

    def __init__(
        self, memory: DmaMemory, kind: int, sector: int = 0, out: bytes = b"", in_bytes: int = 0
    ) -> None:
        self.out_bytes, self.in_bytes = len(out), in_bytes
        self.region = memory.alloc(HEADER.size + len(out) + in_bytes + 1)
        self._view = memoryview(self.region)
        self._view[: self._data_end] = HEADER.pack(kind, 0, sector) + out + b"\xee" * in_bytes
        self._view[self._data_end] = STATUS_PENDING

    @property
    def _data_end(self) -> int:
        return HEADER.size + self.out_bytes + self.in_bytes

    @property
    def status(self) -> int:
        """What the device says; STATUS_PENDING before it does."""
        return self._view[self._data_end]

    @property
    def data(self) -> bytes:
        """What the device has written."""
        return bytes(self._view[HEADER.size + self.out_bytes : self._data_end])

    def part(self, offset: int, length: int) -> Segment:
        """Some of its bytes."""
        return self.region, offset, length

    def chain(self) -> Chain:
        """Three descriptors: header, data, status."""
        readable = [self.part(0, HEADER.size)]
        writable = [self.part(self._data_end, 1)]
        if self.out_bytes:
            readable.append(self.part(HEADER.size, self.out_bytes))
        if self.in_bytes:
            writable.insert(0, self.part(HEADER.size + self.out_bytes, self.in_bytes))
        return Chain(readable, writable)

    def joined_chain(self) -> Chain:
        """Two descriptors: what the device reads, and what it writes."""
        readable_bytes = HEADER.size + self.out_bytes
        return Chain([self.part(0, readable_bytes)], [self.part(readable_bytes, self.in_bytes + 1)])


class RawQueue:
    """One queue, and all words of its ring."""

    def __init__(self, parts: QueueParts) -> None:
        self.parts = parts
        self.ring = SplitQueue(
            parts.ring,
            parts.size,
            legacy_align=parts.legacy_align,
            indirect_table_size=parts.indirect_table_size,
            event_idx=parts.event_idx,
            in_order=parts.in_order,
            strict=True,
            zeroed=True,
        )
        self.aborted: str | None = None
        self.was_aborted = Event()

    @property
    def raw(self) -> RawSplitRing:
        """The words."""
        return self.ring.raw

    @property
    def in_flight(self) -> int:
        return self.ring.outstanding_count

    @property
    def broken(self) -> str | None:
        return self.aborted or self.ring.broken

    def abort(self, reason: str) -> None:
        self.aborted = reason
        self.was_aborted.set()

    def reclaim(self) -> list[int]:
        return self.ring.reclaim()

    def notify(self) -> None:
        """Ring the doorbell."""
        assert self.parts.wires.doorbell is not None
        self.parts.wires.doorbell.ring()

    def publish(self, request: Request, chain: Chain | None = None) -> int:
        """Make a request available; its head. Nobody is notified."""
        head = self.ring.push(chain or request.chain())
        self.ring.publish()
        return head

    def submit(self, request: Request, chain: Chain | None = None) -> int:
        """Make a request available, and notify the device; its head."""
        head = self.publish(request, chain)
        self.notify()
        return head

    def reap(self, count: int = 1) -> list[Completion]:
        """Wait until as many are used, and take them back. Fails if that takes too long."""
        done: list[Completion] = []

        def are_used() -> bool:
            done.extend(self.ring.reap(count - len(done)))
            return len(done) == count

        poll(are_used)
        assert len(done) == count, f"{len(done)} of {count} were used within {WAIT_S} s"
        return done

    def run(self, request: Request, chain: Chain | None = None) -> UsedEntry:
        """Submit a request, wait for it, and return what the device says of it.

        Nothing else is in flight.
        """
        assert not self.in_flight
        slot = self.raw.used_index % self.ring.size
        head = self.submit(request, chain)
        assert self.reap()[0].head == head
        return self.raw.read_used(slot)


class RamVectors:
    """MSI-X vectors whose messages land in memory that this process reads."""

    SPACING: Final = 16

    def __init__(self, memory: DmaMemory, platform: QemuPlatform, count: int) -> None:
        capability = walk(platform.config).msix
        assert capability is not None
        self._region = memory.alloc(count * self.SPACING)
        self._words = memoryview(self._region).cast("I")
        self.table = MsixTable(
            platform.config,
            capability,
            platform.registers(capability.table_bar),
            platform.registers(capability.pending_bar),
        )
        for vector in range(count):
            address = self._region.device_address + vector * self.SPACING
            self.table.program(vector, address, self._message(vector))
        self.table.enable()

    @staticmethod
    def _message(vector: int) -> int:
        return 0xFEED0000 + vector

    def _word(self, vector: int) -> int:
        return self._words[vector * self.SPACING // 4]

    def arrived(self, vector: int) -> bool:
        """Whether a message has come since `forget`."""
        return self._word(vector) == self._message(vector)

    def forget(self, vector: int) -> None:
        """Wait for the next one."""
        self._words[vector * self.SPACING // 4] = 0

    def wait(self, vector: int) -> None:
        """Wait for a message, and forget it. Fails if none comes."""
        assert poll(lambda: self.arrived(vector)), f"no message of vector {vector} in {WAIT_S} s"
        self.forget(vector)


class RawDriver:
    """Takes the features and queues that a test asks for, and leaves the rest to it."""

    name = "raw"
    device_type = BLOCK_DEVICE_TYPE

    def __init__(
        self,
        *,
        features: frozenset[int] = frozenset(),
        ring_features: frozenset[int] = frozenset(),
        queue_count: int = 1,
        vectors: bool = False,
        before_queues: Callable[[VirtioDevice], object] | None = None,
    ) -> None:
        """`vectors`: vector 0 is for configuration changes, and 1 for queue 0, and they are
        `RamVectors`."""
        self.features = features
        self.ring_features = ring_features
        self.queue_count = queue_count
        self.with_vectors = vectors
        self.before_queues = before_queues
        self.vectors: RamVectors | None = None
        self.handles: list[QueueHandle[RawQueue]] = []
        self.config_changes = Event()

    def wish(self, offered: FeatureSet) -> Wish:
        return Wish(wanted=self.features, ring_features=self.ring_features)

    def check(self, device: VirtioDevice) -> None:
        pass

    def start(self, device: VirtioDevice) -> None:
        if self.before_queues is not None:
            self.before_queues(device)
        if self.with_vectors:
            self._map_vectors(device)
        self.handles = [
            device.add_queue(
                index,
                device.queue_size_max(index) if device.legacy else RING_SIZE,
                RawQueue,
                indirect_table_size=INDIRECT_ENTRIES,
            )
            for index in range(self.queue_count)
        ]

    def _map_vectors(self, device: VirtioDevice) -> None:
        transport = device.transport
        assert isinstance(transport, PciTransport)
        assert isinstance(transport.platform, QemuPlatform)
        self.vectors = RamVectors(device.memory, transport.platform, 2)
        layout = transport.layout
        layout.set_msix_enabled(True)
        assert layout.set_config_vector(0)
        if self.queue_count:
            assert layout.set_queue_vector(0, 1)

    def live(self, device: VirtioDevice) -> None:
        pass

    def config_changed(self, device: VirtioDevice) -> None:
        self.config_changes.set()

    def drain(self, device: VirtioDevice, timeout_s: float) -> bool:
        return True

    def stopped(self, device: VirtioDevice, lost: Mapping[int, Sequence[int]]) -> None:
        self.handles = []


class RawDisk:
    """A disk that a RawDriver has."""

    def __init__(self, machine: Machine, transport: PciTransport, driver: RawDriver) -> None:
        self.machine = machine
        self.transport = transport
        self.driver = driver
        self.device = VirtioDevice(transport)

    @property
    def platform(self) -> QemuPlatform:
        """The controls."""
        assert isinstance(self.transport.platform, QemuPlatform)
        return self.transport.platform

    @property
    def layout(self) -> RegisterLayout:
        """The registers."""
        return self.transport.layout

    @property
    def queue(self) -> RawQueue:
        """The first queue."""
        return self.driver.handles[0].queue

    @property
    def vectors(self) -> RamVectors:
        """Where messages land."""
        assert self.driver.vectors is not None
        return self.driver.vectors

    @property
    def capacity_sectors(self) -> int:
        """As the device says now."""
        return self.device.read_config(CAPACITY)

    def initialize(self) -> None:
        """Bring it to life."""
        self.device.initialize(self.driver, timeout_s=WAIT_S)

    def restart(self) -> None:
        """Reset it, and bring it to life again."""
        self.device.reset(timeout_s=WAIT_S)
        self.initialize()

    def notify(self, index: int = 0) -> None:
        """Notify the device by its register, without a thread between: once this returns, it has
        been notified."""
        place = self.layout.notify_place(index)
        self.platform.registers(place.bar).write(place.offset, 2, place.value)

    def request(self, kind: int, sector: int = 0, out: bytes = b"", in_bytes: int = 0) -> Request:
        """A request in the device's memory."""
        return Request(self.device.memory, kind, sector, out, in_bytes)


@contextmanager
def raw_disk(address: str, driver: RawDriver | None = None, **options: object) -> Iterator[RawDisk]:
    """The disk of a qemu: address, live with `driver`. It has no interrupts unless asked for."""
    with start(address, **{"interrupts": "none", **options}) as machine:
        with attached(machine, driver) as disk:
            yield disk


@contextmanager
def attached(machine: Machine, driver: RawDriver | None = None) -> Iterator[RawDisk]:
    """The disk that is in a machine now, live with `driver`."""
    transport = attach(machine)
    try:
        disk = RawDisk(machine, transport, driver or RawDriver())
        disk.initialize()
        yield disk
    finally:
        disk.device.close(drain=True, timeout_s=WAIT_S)
