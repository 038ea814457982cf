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
from typing import Any, Final, NamedTuple, Protocol

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


class Call(NamedTuple):
    """A call that is made again and again: kept apart, so that nothing stands between the loop that
    is measured and what it calls."""

    function: Callable[..., object]
    arguments: tuple[object, ...] = ()

    def __call__(self) -> Any:
        return self.function(*self.arguments)


class Driver(Protocol):
    """A driver half, with a batch ready to be sent again and again."""

    memory: Memory
    submit: Call
    reap: Call

    def results(self, reaped: Any) -> list[tuple[int, int]]:
        """Slot and status of each request, from what `reap` gave."""


def sectors(shape: Shape) -> list[int]:
    """Where each slot's request reads: all of them on the disk."""
    last = CAPACITY_SECTORS - shape.segments
    return [slot * SECTOR_STRIDE % last for slot in range(shape.batch)]


class GenericRequests:
    """Requests through the lean ring in Python."""

    def __init__(self, shape: Shape) -> None:
        self.memory = memory = Memory(shape)
        queue = GenericPackedQueue(memory) if shape.packed else GenericSplitQueue(memory)
        requests = [
            (int(RequestType.IN), sector, tuple(_data(memory, slot)), slot)
            for slot, sector in enumerate(sectors(shape))
        ]
        self.submit, self.reap = Call(queue.submit, (requests,)), Call(queue.reap)

    def results(self, reaped: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
        return [(token, status) for token, _, status in reaped]


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
        self.submit = Call(pool.submit, (list(range(shape.batch)), sectors(shape)))
        self.reap = Call(pool.reap)

    def results(self, reaped: tuple[list[int], list[int]]) -> list[tuple[int, int]]:
        return list(zip(*reaped, strict=True))


class NumpySlots:
    """Prebuilt slots in batches of numpy."""

    def __init__(self, shape: Shape) -> None:
        self.memory = memory = Memory(shape)
        pool = NumpyPackedSlots(memory) if shape.packed else NumpySplitSlots(memory)
        slots, numbers = np.arange(shape.batch), np.array(sectors(shape), "<u8")
        self.submit = Call(pool.submit_arrays, (slots, numbers))
        self.reap = Call(pool.reap_arrays)

    def results(self, reaped: tuple[NDArray[Any], NDArray[Any]]) -> list[tuple[int, int]]:
        slots, statuses = reaped
        return list(zip(slots.tolist(), statuses.tolist(), strict=True))


class Records:
    """Request records through a request queue of the package: the general path."""

    def __init__(
        self, shape: Shape, queue_class: type[BlockQueue | ReferenceBlockQueue] = BlockQueue
    ) -> None:
        self.memory = memory = Memory(shape)
        self.queue = make_queue(memory, queue_class)
        records = b"".join(
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
        self.submit = Call(self.queue.submit_many, (records,))
        self.reap = Call(self.queue.reap_many, (self._out,))

    def results(self, reaped: int) -> list[tuple[int, int]]:
        assert reaped == self.memory.shape.batch
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
        queue = make_queue(memory)
        frames = memory.space.alloc(queue.slot_frames_length(shape.batch, shape.data_bytes))
        pool = queue.slot_pool(memory.data, frames, shape.batch, shape.data_bytes)
        slots = array("I", range(shape.batch))
        offsets = array("Q", [SECTOR_BYTES * sector for sector in sectors(shape)])
        self._slots, self._statuses = array("I", slots), bytearray(shape.batch)
        self.submit = Call(pool.submit, (slots, offsets))
        self.reap = Call(pool.reap, (self._slots, self._statuses))

    def results(self, reaped: int) -> list[tuple[int, int]]:
        assert reaped == self.memory.shape.batch
        return list(zip(self._slots, self._statuses, strict=True))


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
        self._push, self._publish, self._withdraw = ring.push_many, ring.publish, ring.withdraw
        self.submit, self.reap = Call(self._push_and_publish), Call(ring.reap)
        self.allocate = Call(self._push_and_withdraw)
        write_frames(memory)

    def _push_and_publish(self) -> None:
        self._push(self.chains)
        self._publish()

    def _push_and_withdraw(self) -> None:
        self._push(self.chains)
        self._withdraw()

    def results(self, reaped: Sequence[object]) -> list[tuple[int, int]]:
        return frame_statuses(self.memory, len(reaped))


def reference_chains(shape: Shape) -> RingChains:
    return RingChains(shape, native=False)


class GenericChains:
    """The same chains, as addresses and lengths, through the lean ring in Python."""

    def __init__(self, shape: Shape) -> None:
        self.memory = memory = Memory(shape)
        ring = GenericPackedRing(memory) if shape.packed else GenericSplitRing(memory)
        self._push, self._publish, self._withdraw = ring.push, ring.publish, ring.withdraw
        self.submit, self.reap = Call(self._push_and_publish), Call(ring.reap)
        self.allocate = Call(self._push_and_withdraw)
        self.chains = [
            (_addresses(chain.readable), _addresses(chain.writable))
            for chain in (_chain(memory, slot) for slot in range(shape.batch))
        ]
        write_frames(memory)

    def _push_and_publish(self) -> None:
        self._push(self.chains)
        self._publish()

    def _push_and_withdraw(self) -> None:
        self._withdraw(self._push(self.chains))

    def results(self, reaped: Sequence[object]) -> list[tuple[int, int]]:
        return frame_statuses(self.memory, len(reaped))


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
        reaped = self.driver.reap()
        assert served == self.batch, f"{served} of {self.batch} requests were served"
        results = sorted(self.driver.results(reaped))
        assert results == [(slot, 0) for slot in range(self.batch)], results

    def phases(self, batch_count: int) -> Phases:
        """Measure so many batches. Raises AssertionError if any was not served."""
        submit, request = self.driver.submit
        reap, place = self.driver.reap
        serve, clock = self.device.serve, perf_counter_ns
        submit_ns = device_ns = reap_ns = served = 0
        for _ in range(batch_count):
            start = clock()
            submit(*request)
            submitted = clock()
            served += serve()
            used = clock()
            reap(*place)
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
