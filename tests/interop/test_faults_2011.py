"""What the ports of 2011 and after got wrong, each as a test on their own device, and on one of
today. What the device saw is what QEMU tells of it."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import vioblk
from tests.conftest import RingName
from tests.interop.eras import CAPACITY_BYTES, ERAS, DiskIn, Era, disk_of
from tests.interop.qemu_machines import poll
from tests.support.patience import AMPLE_S, standing_still
from tests.support.qemu import qemu_of
from tests.support.qemu_trace import QemuTrace, Seen
from tests.support.rings import rings_in_turn
from vioblk._native import Region
from vioblk.block import attach as block
from vioblk.block.config import Geometry, Topology
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, RequestStatus, RequestType
from vioblk.bus import Bus, BusState
from vioblk.errors import TransportError
from vioblk.features import feature_name
from vioblk.transport import qemu

RING_SIZE = 8
DESCRIPTOR_BYTES = 16

LATENCY_S = 0.2

STARTS = ("virtio_blk_handle_read", "virtio_blk_handle_write")
END = "virtio_blk_req_complete"

on_both = rings_in_turn("era", ERAS)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Each sector holds its number, as often as it fits."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(map(numbered, range(CAPACITY_BYTES // 512))))
    return path


def numbered(sector: int) -> bytes:
    return sector.to_bytes(4, "little") * 128


def requests(
    disk: vioblk.BlockDevice, kind: RequestType, sectors: Sequence[int]
) -> tuple[Region, bytes]:
    """One for each of the sectors, with its place as token; and their memory, to be kept."""
    region = disk.alloc(512 * len(sectors))
    return region, b"".join(
        REQUEST_RECORD.pack(kind, 0, sector, place * 512, 512, region.handle, place)
        for place, sector in enumerate(sectors)
    )


def trace(disk: vioblk.BlockDevice, directory: Path, *events: str) -> QemuTrace:
    return QemuTrace(qemu_of(disk.device).machine, directory / "log", *events)


def await_starts(seen: QemuTrace, count: int) -> None:
    """Wait until the device has begun so many requests in all."""
    assert poll(lambda: len(seen.seen(*STARTS)) == count), seen.seen()


def depths(seen: Sequence[Seen]) -> list[int]:
    """How many requests the device had after each event."""
    found, depth = [], 0
    for each in seen:
        depth += -1 if each.event == END else 1
        found.append(depth)
    return found


# Features


@on_both
def test_bit_10_is_topology_and_limits_no_transfer(
    image: Path, tmp_path: Path, era: Era, ring: RingName
) -> None:
    """The device prefers 4 KiB at a time; a whole mebibyte is one request all the same."""
    preferred = {"property": "physical_block_size=4096,min_io_size=4096,opt_io_size=4096"}
    with vioblk.open(era.address(image, **preferred), ring=ring) as disk:
        assert feature_name(10, 2) == "topology"
        assert disk.device.has(10)
        assert disk.topology == Topology(3, 0, 8, 8)
        with_topology = disk.limits
        seen = trace(disk, tmp_path, *STARTS)
        buffer = memoryview(disk.alloc(1 << 20))
        assert disk.readinto(0, buffer) == 1 << 20
        assert bytes(buffer) == image.read_bytes()[: 1 << 20]
        disk.write(512, bytes(512))
        assert disk.read(0, 1024) == numbered(0) + bytes(512)
        assert [each.values["nsectors"] for each in seen.seen()] == [2048, 1, 2]
    with vioblk.open(era.address(image, **preferred), ring=ring, topology="off") as disk:
        assert not disk.device.has(10)
        assert disk.topology is None
        assert disk.limits == with_topology


@on_both
def test_attaching_needs_no_geometry_and_no_other_feature(
    image: Path, era: Era, ring: RingName
) -> None:
    """Of a disk that says what geometry it has, and of one that is asked nothing."""
    optional = ("geometry", "topology", "blk_size", "seg_max", "flush", "config_wce")
    with vioblk.open(era.address(image), ring=ring) as disk:
        assert isinstance(disk.geometry, Geometry)
    without: dict[str, Any] = dict.fromkeys([*optional, "indirect_desc", "event_idx"], "off")
    with vioblk.open(era.address(image), ring=ring, **without) as disk:
        assert disk.geometry is None
        assert not {*optional, "indirect_desc", "event_idx"} & set(disk.info.accepted.names)
        assert disk.capacity_bytes == CAPACITY_BYTES
        assert disk.read(3 * 512, 512) == numbered(3)
        disk.write(3 * 512, bytes(512))
        assert disk.read(2 * 512, 1536) == numbered(2) + bytes(512) + numbered(4)


# Slots


@on_both
def test_a_write_to_a_read_only_disk_is_an_error_and_costs_no_slot(
    image: Path, tmp_path: Path, era: Era, ring: RingName
) -> None:
    address = era.address(image, read_only="on", queue_size=RING_SIZE)
    with vioblk.open(address, ring=ring, timeout_s=AMPLE_S) as disk:
        seen = trace(disk, tmp_path, *STARTS)
        _region, writes = requests(disk, RequestType.OUT, range(RING_SIZE))
        for _ in range(3 * RING_SIZE):
            with pytest.raises(vioblk.ReadOnlyError):
                disk.write(0, bytes(512))
            with pytest.raises(vioblk.ReadOnlyError):
                disk.submit_many(writes)
        assert seen.seen() == [], "nothing has reached the device"
        sectors = range(4 * RING_SIZE)
        region, reads = requests(disk, RequestType.IN, sectors)
        disk.execute(reads, bytearray(len(sectors)))
        assert bytes(memoryview(region)) == b"".join(map(numbered, sectors))
        assert disk.device.in_flight == 0


@on_both
def test_a_write_that_the_device_refuses_is_an_error_and_gives_its_slot_back(
    image: Path, era: Era, ring: RingName
) -> None:
    address = era.address(image, inject="write:errno=EROFS", queue_size=RING_SIZE)
    with vioblk.open(address, ring=ring, timeout_s=AMPLE_S) as disk:
        for _ in range(2 * RING_SIZE):
            with pytest.raises(vioblk.RequestFailedError) as caught:
                disk.write(0, bytes(512))
            assert caught.value.status == RequestStatus.IOERR
        count = 4 * RING_SIZE
        _region, writes = requests(disk, RequestType.OUT, range(count))
        statuses = bytearray(count)
        disk.execute(writes, statuses)
        assert statuses == bytes([RequestStatus.IOERR]) * count
        region, reads = requests(disk, RequestType.IN, range(count))
        disk.execute(reads, statuses)
        assert statuses == bytes(count)
        assert bytes(memoryview(region)) == b"".join(map(numbered, range(count)))


# Order


@on_both
def test_a_request_that_does_not_fit_now_keeps_its_place(
    image: Path, tmp_path: Path, era: Era, ring: RingName
) -> None:
    sectors = random.Random(2011).sample(range(CAPACITY_BYTES // 512), 10 * RING_SIZE)
    address = era.address(image, queue_size=RING_SIZE)
    with vioblk.open(address, ring=ring, timeout_s=AMPLE_S) as disk:
        region, reads = requests(disk, RequestType.IN, sectors)
        seen = trace(disk, tmp_path, *STARTS)
        disk.execute(reads, bytearray(len(sectors)))
        assert [each.values["sector"] for each in seen.seen()] == sectors
        assert bytes(memoryview(region)) == b"".join(map(numbered, sectors))


@on_both
def test_what_is_refused_for_want_of_room_can_be_tried_again_in_its_order(
    era: Era, ring: RingName
) -> None:
    """All that fits is accepted, from the front; none is lost, and none comes twice."""
    address = era.address("null:1M", queue_size=RING_SIZE, latency=LATENCY_S / 4)
    with vioblk.open(address, ring=ring, timeout_s=AMPLE_S) as disk:
        _region, reads = requests(disk, RequestType.IN, range(3 * RING_SIZE))
        out, submitted, done = bytearray(COMPLETION_RECORD.size * RING_SIZE), 0, list[int]()
        while len(done) < 3 * RING_SIZE:
            submitted += disk.submit_many(reads[submitted * REQUEST_RECORD.size :])
            assert submitted - len(done) == min(RING_SIZE, 3 * RING_SIZE - len(done))
            assert disk.wait(AMPLE_S)
            count = disk.reap_many(out)
            done += [token for token, _, _ in COMPLETION_RECORD.iter_unpack(out)][:count]
        assert sorted(done) == list(range(3 * RING_SIZE))


@on_both
def test_one_completion_restarts_all_of_the_backlog_that_fits(
    tmp_path: Path, era: Era, ring: RingName
) -> None:
    """Requests that take the same time end together. Then the device has a full ring again: not
    one request for each interrupt."""
    address = era.address("null:1M", queue_size=RING_SIZE, latency=LATENCY_S)
    with vioblk.open(address, ring=ring, timeout_s=AMPLE_S) as disk:
        _region, reads = requests(disk, RequestType.IN, range(2 * RING_SIZE))
        seen = trace(disk, tmp_path, *STARTS, END)
        disk.execute(reads, bytearray(2 * RING_SIZE))
        found = depths(seen.seen())
    assert max(found) == RING_SIZE
    assert found.count(RING_SIZE) >= 2
    assert found[-1] == 0


# What the device can write


@on_both
def test_the_free_list_is_not_where_the_device_can_write(
    tmp_path: Path, era: Era, ring: RingName
) -> None:
    """The whole descriptor table is overwritten once the device has read what it needs of it."""
    address = era.address("null:1M", queue_size=RING_SIZE, latency=LATENCY_S / 2)
    with vioblk.open(address, ring=ring, timeout_s=AMPLE_S, indirect_desc="off") as disk:
        machine = qemu_of(disk.device).machine
        table = qemu_of(disk.device).queue_status(0)["vring-desc"]
        count = RING_SIZE // 3
        region, reads = requests(disk, RequestType.IN, range(3 * count))
        memoryview(region)[:] = b"\xee" * region.length
        seen = trace(disk, tmp_path, *STARTS)
        for turn, garbage in enumerate((0xFFFFFFFF, 0, 0x00030003)):
            batch = reads[turn * count * REQUEST_RECORD.size :]
            assert disk.submit_many(batch) == count
            await_starts(seen, (turn + 1) * count)
            for offset in range(0, RING_SIZE * DESCRIPTOR_BYTES, 4):
                machine.qtest.write_memory(table + offset, 4, garbage)
            assert reap(disk, count) == [(turn * count + place, 0) for place in range(count)]
        assert bytes(memoryview(region)) == bytes(region.length)


def reap(disk: vioblk.BlockDevice, count: int) -> list[tuple[int, int]]:
    """Token and status of so many completions, by token."""
    out, found = bytearray(count * COMPLETION_RECORD.size), list[tuple[int, int]]()
    while len(found) < count:
        assert disk.wait(AMPLE_S)
        done = disk.reap_many(out)
        records = list(COMPLETION_RECORD.iter_unpack(out))[:done]
        found += [(token, status) for token, _, status in records]
    return sorted(found)


@on_both
@pytest.mark.parametrize("used_id", [RING_SIZE, 0xFFFFFFFF, RING_SIZE - 1])
def test_a_used_id_is_checked(image: Path, era: Era, ring: RingName, used_id: int) -> None:
    """QEMU tells no lies, so one is written in its place: an ID out of range, or of nobody."""
    address = era.address(image, queue_size=RING_SIZE)
    with vioblk.open(address, ring=ring, timeout_s=AMPLE_S) as disk:
        platform = qemu_of(disk.device)
        used = platform.queue_status(0)["vring-used"]
        platform.set_bus_master(False)
        _region, reads = requests(disk, RequestType.IN, [0])
        assert disk.submit_many(reads) == 1
        platform.machine.qtest.write_memory(used + 4, 4, used_id)
        platform.machine.qtest.write_memory(used + 8, 4, 513)
        platform.machine.qtest.write_memory(used + 2, 2, 1)
        assert disk.wait(AMPLE_S), "there is an error to be raised"
        with pytest.raises(vioblk.QueueBroken, match=rf"\b{used_id}\b"):
            disk.reap_many(bytearray(COMPLETION_RECORD.size))
        with pytest.raises(vioblk.QueueBroken):
            disk.read(0, 512)
        assert disk.reset() == {0: [0]}
        assert disk.read(7 * 512, 512) == numbered(7)


# Life


@on_both
def test_after_a_reset_the_device_has_nothing_left_to_do(
    tmp_path: Path, era: Era, ring: RingName
) -> None:
    """QEMU finishes what it has before a reset is over. Until then its buffers are held; then the
    next life begins."""
    address = era.address("null:1M", latency=LATENCY_S)
    with vioblk.open(address, ring=ring, timeout_s=AMPLE_S) as disk:
        region, reads = requests(disk, RequestType.IN, range(4))
        seen = trace(disk, tmp_path, *STARTS, END, "virtio_set_status")
        assert disk.submit_many(reads) == 4
        await_starts(seen, 4)
        with pytest.raises(BufferError):
            region.close()
        assert disk.reset() == {0: [0, 1, 2, 3]}
        region.close()
        steps = [(each.event, each.values.get("val")) for each in seen.seen()[4:]]
        assert disk.read(0, 512) == bytes(512)
    before = steps[: steps.index(("virtio_set_status", 1))]
    assert ("virtio_set_status", 0) in before
    assert before.count((END, None)) == 4, steps


@on_both
def test_a_device_that_does_not_answer_to_a_reset_is_an_error_in_time(
    image: Path, era: Era, ring: RingName
) -> None:
    with vioblk.open(era.address(image), ring=ring, timeout_s=AMPLE_S) as disk:
        begun = time.monotonic()
        with standing_still(qemu_of(disk.device), 0.1):
            with pytest.raises(TransportError, match="QEMU has not answered"):
                disk.reset(timeout_s=0.5)
            with pytest.raises(vioblk.StateError, match="the last reset failed"):
                disk.read(0, 512)
        assert time.monotonic() - begun < AMPLE_S
        disk.reset()
        assert disk.read(512, 512) == numbered(1)


@pytest.fixture
def machine(era: Era, image: Path) -> Iterator[qemu.Machine]:
    with qemu.start(era.address(image, reply_timeout=3)) as machine:
        yield machine


@on_both
def test_a_disk_in_use_refuses_to_be_detached(machine: qemu.Machine, ring: RingName) -> None:
    """QEMU stands still meanwhile, so that nothing completes too early."""
    bus = Bus()
    bus.register(block.DRIVER)
    device = bus.add(DiskIn(machine, ring))
    disk = disk_of(device)
    region, reads = requests(disk, RequestType.IN, range(4))
    machine.pause()
    try:
        assert disk.submit_many(reads) == 4
        with pytest.raises(vioblk.DeviceBusyError, match="4 requests in flight"):
            bus.detach(device.address, timeout_s=1)
    finally:
        machine.resume()
    assert [each.state for each in bus.devices] == [BusState.ATTACHED]
    assert reap(disk, 4) == [(token, 0) for token in range(4)]
    assert bytes(memoryview(region)) == b"".join(map(numbered, range(4)))
    bus.detach(device.address)
    assert disk.closed


@on_both
def test_a_disk_that_somebody_reads_refuses_to_be_detached(
    machine: qemu.Machine, ring: RingName
) -> None:
    bus = Bus()
    bus.register(block.DRIVER)
    device = bus.add(DiskIn(machine, ring))
    disk = disk_of(device)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(disk.read(512, 512)))
    machine.pause()
    try:
        reader.start()
        assert poll(lambda: disk.device.in_flight == 1)
        with pytest.raises(vioblk.DeviceBusyError):
            bus.detach(device.address, timeout_s=1)
    finally:
        machine.resume()
        reader.join(AMPLE_S)
    assert got == [numbered(1)], "the read was not disturbed"
    bus.detach(device.address, drain=True)
    assert [each.state for each in bus.devices] == [BusState.DETACHED]
