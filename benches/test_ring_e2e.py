"""Whole three-descriptor requests, in batches of 64, over both rings.

Both sides run on this thread, driver and device in turns, and the device's half is the same Rust
code. A batch is: submit (or push and publish) 64 reads of one sector, let the device serve them,
reap 64 completions. What differs is the driver's half alone.
"""

from collections.abc import Callable
from typing import Final

from benches.measure import Spread
from benches.old_pairs import Comparison
from tests.block.queue_bench import (
    ACKNOWLEDGE,
    CAPACITY_SECTORS,
    DRIVER,
    DRIVER_OK,
    FEATURES_OK,
    VERSION_1,
    limits_of,
)
from vioblk._native import BlockQueue, DmaSpace, Region, SoftwareDevice, SplitQueue
from vioblk.block.queue import RequestQueue
from vioblk.block.reference_queue import ReferenceBlockQueue
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, SECTOR_BYTES, RequestType
from vioblk.ring import Chain, Ring, RingLayout, reference
from vioblk.ring.raw import NEXT, WRITE

BATCH: Final = 64
QUEUE_SIZE: Final = 256
TARGET: Final = 25.0
"""How many times faster the Rust ring has to be."""

PAIRS: Final = 41
NATIVE_BATCHES: Final = 200
REFERENCE_BATCHES: Final = 8


class Memory:
    """Regions for a ring, for what the driver keeps beside it, and for data."""

    def __init__(self) -> None:
        self.space = DmaSpace()
        self.space.map(1 << 20, 1 << 32)
        self.ring = self.space.alloc(reference.split_layout(QUEUE_SIZE).length)
        self.slots = self.space.alloc(64 * QUEUE_SIZE)
        self.data = self.space.alloc(BATCH * SECTOR_BYTES)


def start_device(space: DmaSpace, ring: Region, layout: RingLayout) -> SoftwareDevice:
    device = SoftwareDevice(
        space, capacity_sectors=CAPACITY_SECTORS, features=VERSION_1, threaded=False
    )
    device.write_status(ACKNOWLEDGE | DRIVER)
    device.write_features(VERSION_1)
    device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
    device.enable_queue(
        0,
        QUEUE_SIZE,
        ring.device_address + layout.descriptors_offset,
        ring.device_address + layout.driver_offset,
        ring.device_address + layout.device_offset,
    )
    device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
    return device


class RequestBatches:
    """Requests as records, through a request queue."""

    def __init__(self, queue_class: type[BlockQueue | ReferenceBlockQueue], count: int) -> None:
        self.count = count
        self.memory = memory = Memory()
        self.queue: RequestQueue = queue_class(
            memory.space, memory.ring, memory.slots, QUEUE_SIZE, limits_of()
        )
        self.device = start_device(memory.space, memory.ring, self.queue.layout)
        self.records = b"".join(
            REQUEST_RECORD.pack(
                RequestType.IN, 0, n * 7, n * SECTOR_BYTES, SECTOR_BYTES, memory.data.handle, n
            )
            for n in range(BATCH)
        )
        self.out = bytearray(COMPLETION_RECORD.size * BATCH)

    def __call__(self) -> int:
        for _ in range(self.count):
            submitted = self.queue.submit_many(self.records)
            served = self.device.serve()
            reaped = self.queue.reap_many(self.out)
            assert submitted == served == reaped == BATCH
        return self.count * BATCH


class ChainBatches:
    """The same requests as chains of segments, through the ring itself."""

    def __init__(self, make_ring: Callable[[Region, int], Ring], count: int) -> None:
        self.count = count
        self.memory = memory = Memory()
        self.ring = make_ring(memory.ring, QUEUE_SIZE)
        self.device = start_device(memory.space, memory.ring, self.ring.layout)
        with memoryview(memory.slots) as slots:
            for n in range(BATCH):
                slots[64 * n : 64 * n + 16] = bytes(8) + (n * 7).to_bytes(8, "little")
        self.chains = [
            Chain(
                [(memory.slots, 64 * n, 16)],
                [(memory.data, SECTOR_BYTES * n, SECTOR_BYTES), (memory.slots, 64 * n + 32, 1)],
            )
            for n in range(BATCH)
        ]

    def __call__(self) -> int:
        for _ in range(self.count):
            pushed = len(self.ring.push_many(self.chains))
            self.ring.publish()
            served = self.device.serve()
            reaped = len(self.ring.reap())
            assert pushed == served == reaped == BATCH
        return self.count * BATCH


class PrebuiltSlots:
    """The fastest that Python alone was made to be, for an honest second baseline.

    No queue at all: chains that were written once, for buffers that never change, so that a
    request is a sector, a status byte and an available entry. Nothing is checked.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.memory = memory = Memory()
        raw = reference.RawSplitRing(memory.ring, QUEUE_SIZE)
        self.device = start_device(memory.space, memory.ring, raw.layout)
        for n in range(BATCH):
            self._build_chain(raw, n)
        self.raw = raw
        view = memoryview(memory.slots)
        self.sectors = view.cast("Q")
        self.statuses = view
        ring = memoryview(memory.ring)
        available, used = raw.layout.driver_offset + 4, raw.layout.device_offset + 4
        self.available = ring[available : available + 2 * QUEUE_SIZE].cast("H")
        self.used = ring[used : used + 8 * QUEUE_SIZE].cast("I")
        self.index = 0

    def _build_chain(self, raw: reference.RawSplitRing, n: int) -> None:
        slot = self.memory.slots.device_address + 64 * n
        data = self.memory.data.device_address + SECTOR_BYTES * n
        raw.write_descriptor(3 * n, slot, 16, NEXT, 3 * n + 1)
        raw.write_descriptor(3 * n + 1, data, SECTOR_BYTES, NEXT | WRITE, 3 * n + 2)
        raw.write_descriptor(3 * n + 2, slot + 32, 1, WRITE)

    def __call__(self) -> int:
        sectors, statuses, available, used = (
            self.sectors,
            self.statuses,
            self.available,
            self.used,
        )
        for _ in range(self.count):
            start = self.index
            for n in range(BATCH):
                sectors[8 * n + 1] = n * 7
                statuses[64 * n + 32] = 0xFF
                available[(start + n) % QUEUE_SIZE] = 3 * n
            self.index = (start + BATCH) & 0xFFFF
            self.raw.available_index = self.index
            served = self.device.serve()
            assert served == BATCH
            assert self.raw.used_index == self.index
            for n in range(start, start + BATCH):
                head = used[2 * (n % QUEUE_SIZE)]
                assert statuses[64 * (head // 3) + 32] == 0
        return self.count * BATCH


def test_requests_through_both_rings(compare: Callable[..., Spread]) -> None:
    comparison = Comparison(
        RequestBatches(BlockQueue, NATIVE_BATCHES),
        RequestBatches(ReferenceBlockQueue, REFERENCE_BATCHES),
    )
    ratio = compare("ring_e2e_vs_reference", comparison, pairs=PAIRS, target=TARGET)
    assert ratio.median >= TARGET


def test_chains_through_both_rings(compare: Callable[..., Spread]) -> None:
    comparison = Comparison(
        ChainBatches(SplitQueue, NATIVE_BATCHES),
        ChainBatches(reference.SplitQueue, REFERENCE_BATCHES),
    )
    compare("ring_e2e_chains_vs_reference", comparison, pairs=PAIRS)


def test_requests_beside_prebuilt_slots_in_python(compare: Callable[..., Spread]) -> None:
    comparison = Comparison(
        RequestBatches(BlockQueue, NATIVE_BATCHES), PrebuiltSlots(5 * REFERENCE_BATCHES)
    )
    compare("ring_e2e_vs_prebuilt_slots", comparison, pairs=PAIRS)
