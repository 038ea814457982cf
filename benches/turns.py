"""Driver and device in turns on this thread, and the driver's share of the time.

A turn is: the driver submits a batch of reads, the device serves it, the driver reaps it. The
device half is one and the same (the software device, in Rust) for whatever drives it. It is
measured in the loop itself, by the clock before and after each of its turns, and so is each phase
of the driver; what is not the device's is the driver's share. What the clock itself takes
is measured by a loop over nothing, and subtracted.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from benches.baselines.generic_packed import GenericPackedQueue, GenericPackedRing
from benches.baselines.generic_split import GenericSplitQueue, GenericSplitRing
from benches.baselines.memory import Memory
from benches.baselines.numpy_packed import NumpyPackedSlots
from benches.baselines.numpy_split import NumpySplitSlots
from benches.baselines.slots_packed import PackedSlots
from benches.baselines.slots_split import SplitSlots
from benches.null_device import NullDevice
from benches.shapes import SEGMENT_BYTES, Shape
from vioblk._native import BlockLimits, BlockQueue, PackedQueue, SoftwareDevice, SplitQueue
from vioblk.block.queue import RequestQueue
from vioblk.block.reference_queue import ReferenceBlockQueue
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, SECTOR_BYTES, RequestType
from vioblk.ring import Chain, Ring, Segment, reference

CAPACITY_SECTORS: Final = 1 << 16
VERSION_1, RING_PACKED, EVENT_IDX, INDIRECT_DESC = 1 << 32, 1 << 34, 1 << 29, 1 << 28
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8

SECTOR_STRIDE: Final = 7
"""Requests go to sectors that lie apart: those of slot n start at n times this."""


class Device(Protocol):
    """The device half."""

    def serve(self) -> int:
        """Serve what waits; how many chains."""


class Driver(Protocol):
    """A driver half, with a batch ready to be sent again and again."""

    memory: Memory

    def submit(self) -> object: ...

    def reap(self) -> object: ...

    def results(self) -> list[tuple[int, int]]:
        """Slot and status of what the last `reap` gave, for the test that the batch was done."""


def sectors(shape: Shape) -> list[int]:
    """Where each slot's request reads: all of them on the disk."""
    last = CAPACITY_SECTORS - shape.segments
    return [slot * SECTOR_STRIDE % last for slot in range(shape.batch)]


class GenericRequests:
    """Requests through the lean ring in Python."""

    def __init__(self, shape: Shape) -> None:
        self.memory = memory = Memory(shape)
        queue = GenericPackedQueue(memory) if shape.packed else GenericSplitQueue(memory)
        self._submit, self._reap = queue.submit, queue.reap
        self.requests = [
            (int(RequestType.IN), sector, tuple(_data(memory, slot)), slot)
            for slot, sector in enumerate(sectors(shape))
        ]
        self.done: list[tuple[int, int, int]] = []

    def submit(self) -> None:
        self._submit(self.requests)

    def reap(self) -> None:
        self.done = self._reap()

    def results(self) -> list[tuple[int, int]]:
        return [(token, status) for token, _, status in self.done]


def _data(memory: Memory, slot: int) -> list[tuple[int, int]]:
    return [
        (memory.data_address(slot, segment), SEGMENT_BYTES)
        for segment in range(memory.shape.segments)
    ]


class PythonSlots:
    """Prebuilt slots in plain Python."""

    def __init__(self, shape: Shape) -> None:
        self.memory = memory = Memory(shape)
        pool = PackedSlots(memory) if shape.packed else SplitSlots(memory)
        self._submit, self._reap = pool.submit, pool.reap
        self.slots = list(range(shape.batch))
        self.sectors = sectors(shape)
        self.done: tuple[Sequence[int], Sequence[int]] = ((), ())

    def submit(self) -> None:
        self._submit(self.slots, self.sectors)

    def reap(self) -> None:
        self.done = self._reap()

    def results(self) -> list[tuple[int, int]]:
        return list(zip(*self.done, strict=True))


class NumpySlots:
    """Prebuilt slots in batches of numpy."""

    def __init__(self, shape: Shape) -> None:
        self.memory = memory = Memory(shape)
        pool = NumpyPackedSlots(memory) if shape.packed else NumpySplitSlots(memory)
        self._submit, self._reap = pool.submit_arrays, pool.reap_arrays
        self.slots: NDArray[Any] = np.arange(shape.batch)
        self.sectors: NDArray[Any] = np.array(sectors(shape), "<u8")
        self.done: tuple[NDArray[Any], NDArray[Any]] = (self.slots[:0], self.slots[:0])

    def submit(self) -> None:
        self._submit(self.slots, self.sectors)

    def reap(self) -> None:
        self.done = self._reap()

    def results(self) -> list[tuple[int, int]]:
        slots, statuses = self.done
        return list(zip(slots.tolist(), statuses.tolist(), strict=True))


class Records:
    """Request records through a request queue of the package: the general path."""

    def __init__(
        self, shape: Shape, queue_class: type[BlockQueue | ReferenceBlockQueue] = BlockQueue
    ) -> None:
        self.memory = memory = Memory(shape)
        self.queue = make_queue(memory, queue_class)
        self.records = b"".join(
            REQUEST_RECORD.pack(
                RequestType.IN,
                0,
                sector,
                slot * shape.data_bytes,
                shape.data_bytes,
                memory.data.handle,
                slot,
            )
            for slot, sector in enumerate(sectors(shape))
        )
        self._out = bytearray(COMPLETION_RECORD.size * shape.batch)
        self._submit, self._reap = self.queue.submit_many, self.queue.reap_many

    def submit(self) -> None:
        self._submit(self.records)

    def reap(self) -> None:
        self._reap(self._out)

    def results(self) -> list[tuple[int, int]]:
        done = COMPLETION_RECORD.iter_unpack(self._out)
        return [(token, status) for token, _, status in done]


def reference_records(shape: Shape) -> Records:
    """The same through the pure-Python queue that the package ships."""
    return Records(shape, ReferenceBlockQueue)


def make_queue(
    memory: Memory, queue_class: type[BlockQueue | ReferenceBlockQueue] = BlockQueue
) -> RequestQueue:
    shape = memory.shape
    return queue_class(
        memory.space,
        memory.ring,
        memory.slots,
        shape.queue_size,
        BlockLimits(
            capacity_sectors=CAPACITY_SECTORS,
            request_types=frozenset({int(RequestType.IN)}),
            size_max=SEGMENT_BYTES,
            seg_max=shape.segments,
        ),
        packed=shape.packed,
        indirect_table_size=shape.table_size,
        event_idx=shape.event_idx,
    )


class NativePool:
    """A slot pool of the package: prebuilt slots in Rust."""

    def __init__(self, shape: Shape) -> None:
        self.memory = memory = Memory(shape)
        queue: Any = make_queue(memory)
        frames = memory.space.alloc(queue.slot_frames_length(shape.batch, shape.data_bytes))
        self.pool = pool = queue.slot_pool(memory.data, frames, shape.batch, shape.data_bytes)
        self.slots = array("I", range(shape.batch))
        self.offsets = array("Q", [SECTOR_BYTES * sector for sector in sectors(shape)])
        self._slots_out = array("I", self.slots)
        self._statuses_out = bytearray(shape.batch)
        self._submit, self._reap = pool.submit, pool.reap

    def submit(self) -> None:
        self._submit(self.slots, self.offsets)

    def reap(self) -> None:
        self._reap(self._slots_out, self._statuses_out)

    def results(self) -> list[tuple[int, int]]:
        return list(zip(self._slots_out, self._statuses_out, strict=True))


class RingChains:
    """Chains of segments through a ring of the package, in Rust or in Python."""

    def __init__(self, shape: Shape, *, native: bool = True) -> None:
        self.memory = memory = Memory(shape)
        make: Callable[..., Ring]
        if shape.packed:
            make = PackedQueue if native else reference.PackedQueue
        else:
            make = SplitQueue if native else reference.SplitQueue
        self.ring = ring = make(
            memory.ring,
            shape.queue_size,
            indirect_table_size=shape.table_size,
            event_idx=shape.event_idx,
        )
        self.chains = [_chain(memory, slot) for slot in range(shape.batch)]
        self._push, self._publish, self._reap = ring.push_many, ring.publish, ring.reap
        self._withdraw = ring.withdraw
        self.done: Sequence[object] = ()
        write_frames(memory)

    def submit(self) -> None:
        self._push(self.chains)
        self._publish()

    def push_and_withdraw(self) -> None:
        self._push(self.chains)
        self._withdraw()

    def reap(self) -> None:
        self.done = self._reap()

    def results(self) -> list[tuple[int, int]]:
        return frame_statuses(self.memory, len(self.done))


def reference_chains(shape: Shape) -> RingChains:
    return RingChains(shape, native=False)


class GenericChains:
    """The same chains, as addresses and lengths, through the lean ring in Python."""

    def __init__(self, shape: Shape) -> None:
        self.memory = memory = Memory(shape)
        self._ring = GenericPackedRing(memory) if shape.packed else GenericSplitRing(memory)
        self._push, self._publish, self._reap = (
            self._ring.push,
            self._ring.publish,
            self._ring.reap,
        )
        self._withdraw = self._ring.withdraw
        self.chains = [
            (_addresses(chain.readable), _addresses(chain.writable))
            for chain in (_chain(memory, slot) for slot in range(shape.batch))
        ]
        self.done: Sequence[object] = ()
        write_frames(memory)

    def submit(self) -> None:
        self._push(self.chains)
        self._publish()

    def push_and_withdraw(self) -> None:
        self._withdraw(self._push(self.chains))

    def reap(self) -> None:
        self.done = self._reap()

    def results(self) -> list[tuple[int, int]]:
        return frame_statuses(self.memory, len(self.done))


def _addresses(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    return [(region.device_address + offset, length) for region, offset, length in segments]


def _chain(memory: Memory, slot: int) -> Chain:
    """A slot's chain as segments of regions. Headers and status bytes lie as `write_frames` has
    them."""
    shape = memory.shape
    data = [
        (memory.data, slot * shape.data_bytes + SEGMENT_BYTES * n, SEGMENT_BYTES)
        for n in range(shape.segments)
    ]
    if not shape.framed:
        return Chain((), data)
    return Chain([(memory.slots, 64 * slot, 16)], [*data, (memory.slots, 64 * slot + 16, 1)])


def write_frames(memory: Memory) -> None:
    """Headers of reads, which stay as they are."""
    if not memory.shape.framed:
        return
    with memoryview(memory.slots) as view:
        for slot, sector in enumerate(sectors(memory.shape)):
            view[64 * slot : 64 * slot + 17] = (
                bytes(8) + sector.to_bytes(8, "little") + bytes([0xFF])
            )


def frame_statuses(memory: Memory, count: int) -> list[tuple[int, int]]:
    if not memory.shape.framed:
        return [(slot, 0) for slot in range(count)]
    with memoryview(memory.slots) as view:
        return [(slot, view[64 * slot + 16]) for slot in range(count)]


def start_device(memory: Memory, path: Path | None = None) -> Device:
    """The device half for this memory, with an empty disk or a file's. A chain of one is no request
    of a block device: for those there is a null device."""
    shape = memory.shape
    if not shape.framed:
        return NullDevice(memory)
    features = (
        VERSION_1
        | (RING_PACKED if shape.packed else 0)
        | (EVENT_IDX if shape.event_idx else 0)
        | (INDIRECT_DESC if shape.indirect else 0)
    )
    device = SoftwareDevice(
        memory.space,
        capacity_sectors=0 if path else CAPACITY_SECTORS,
        path=None if path is None else str(path),
        read_only=path is not None,
        features=features,
        queue_size_max=shape.queue_size,
        threaded=False,
    )
    device.write_status(ACKNOWLEDGE | DRIVER)
    device.write_features(features)
    device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
    assert device.read_status() & FEATURES_OK, f"the device refuses {features:#x}"
    address, layout = memory.ring.device_address, memory.layout
    device.enable_queue(
        0,
        shape.queue_size,
        address + layout.descriptors_offset,
        address + layout.driver_offset,
        address + layout.device_offset,
    )
    device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
    return device


@dataclass(frozen=True)
class Phases:
    """Where the time of a number of requests went, in seconds, the clock's own share taken out."""

    request_count: int
    submit_s: float
    device_s: float
    reap_s: float

    @property
    def driver_s(self) -> float:
        return self.submit_s + self.reap_s


class Turns:
    """A driver and its device."""

    def __init__(self, driver: Driver, path: Path | None = None) -> None:
        self.driver = driver
        self.batch = driver.memory.shape.batch
        self.device = start_device(driver.memory, path)

    def check(self) -> None:
        """One batch, with its results looked at. Raises AssertionError."""
        self.driver.submit()
        served = self.device.serve()
        self.driver.reap()
        assert served == self.batch, f"{served} of {self.batch} requests were served"
        results = sorted(self.driver.results())
        assert results == [(slot, 0) for slot in range(self.batch)], results

    def phases(self, batch_count: int) -> Phases:
        """Measure so many batches. Raises AssertionError if any was not served."""
        submit, serve, reap, clock = (
            self.driver.submit,
            self.device.serve,
            self.driver.reap,
            perf_counter_ns,
        )
        submit_ns = device_ns = reap_ns = served = 0
        for _ in range(batch_count):
            start = clock()
            submit()
            submitted = clock()
            served += serve()
            used = clock()
            reap()
            end = clock()
            submit_ns += submitted - start
            device_ns += used - submitted
            reap_ns += end - used
        assert served == batch_count * self.batch
        lost = CLOCK_NS * batch_count
        return Phases(
            served, *(1e-9 * max(0.0, ns - lost) for ns in (submit_ns, device_ns, reap_ns))
        )

    def driver_share(self, request_count: int) -> float:
        """Seconds of the driver in so many requests, as `measure.Side` has it."""
        return self.phases(request_count // self.batch).driver_s


def clock_ns() -> float:
    """What the clock shows between two looks with nothing between them: the least of many."""
    clock = perf_counter_ns
    return min(_empty(clock) for _ in range(50)) / 100


def _empty(clock: Callable[[], int]) -> int:
    total = 0
    for _ in range(100):
        start = clock()
        end = clock()
        total += end - start
    return total


CLOCK_NS: Final = clock_ns()
