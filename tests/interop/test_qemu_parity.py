"""What QEMU's own tests of its block device check (tests/qtest/virtio-blk-test.c and
vhost-user-blk-test.c of QEMU), each case by its name, with our driver."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import vioblk
from tests.clauses import clause
from tests.interop.qemu_machines import (
    CAPACITY_BYTES,
    CAPACITY_SECTORS,
    LEGACY_WAYS,
    MODERN_WAYS,
    WAIT_S,
    WAYS,
    Way,
    await_event,
    blank_disk,
    content_of,
    on,
    plug_vhost_user,
    poll,
    settle,
)
from tests.interop.raw_disk import SEGMENT, RawDisk, RawDriver, attached, raw_disk
from tests.interop.storage_daemon import StorageDaemon, raw_export
from vioblk.block.config import read_block_config
from vioblk.block.driver import WANTED
from vioblk.block.features import BLOCK_DEVICE_TYPE, BlockFeature
from vioblk.block.request import RequestStatus, RequestType
from vioblk.features import Feature
from vioblk.pci.header import read_header
from vioblk.pci.identity import Identity, identify
from vioblk.pci.legacy import QUEUE_ADDRESS, QUEUE_NOTIFY, QUEUE_SELECT, QUEUE_SIZE
from vioblk.pci.location import Location
from vioblk.ring.raw import INDIRECT, NO_INTERRUPT
from vioblk.status import Status
from vioblk.transport.base import QueueAddresses
from vioblk.transport.qemu import Machine, start
from vioblk.transport.qemu.controls import DeviceControls

TEST = b"TEST".ljust(512, b"\0")
BEFORE = b"\xa5" * 512

NO_QUEUES = (2, 1023)
"""Of a device that has one queue."""


def every_feature(**options: object) -> RawDriver:
    """A driver that accepts all features of block devices, and by itself none of rings."""
    return RawDriver(features=WANTED, **options)  # type: ignore[arg-type]


def write(disk: RawDisk, sector: int, data: bytes) -> None:
    request = disk.request(RequestType.OUT, sector, out=data)
    disk.queue.run(request)
    assert request.status == RequestStatus.OK


def read(disk: RawDisk, sector: int) -> bytes:
    request = disk.request(RequestType.IN, sector, in_bytes=512)
    disk.queue.run(request)
    assert request.status == RequestStatus.OK
    return request.data


def erase(disk: RawDisk, kind: RequestType, *segments: tuple[int, int, int]) -> int:
    """A discard or write-zeroes request of these (sector, count of sectors, flags); its status."""
    request = disk.request(kind, out=b"".join(SEGMENT.pack(*each) for each in segments))
    disk.queue.run(request)
    return request.status


def check_basic(disk: RawDisk) -> None:
    """The whole of the case "basic", which others begin with."""
    assert disk.capacity_sectors == CAPACITY_SECTORS
    write(disk, 0, TEST)
    assert read(disk, 0) == TEST
    assert erase(disk, RequestType.WRITE_ZEROES, (0, 1, 0)) == RequestStatus.OK
    assert read(disk, 0) == bytes(512)
    assert erase(disk, RequestType.DISCARD, (0, 1, 0)) == RequestStatus.OK
    check_two_descriptors(disk)


def check_two_descriptors(disk: RawDisk) -> None:
    assert disk.device.has(Feature.ANY_LAYOUT) or disk.device.has(Feature.VERSION_1)
    request = disk.request(RequestType.OUT, 1, out=TEST)
    assert [len(part) for part in request.joined_chain()] == [1, 1]
    disk.queue.run(request, request.joined_chain())
    assert request.status == RequestStatus.OK
    request = disk.request(RequestType.IN, 1, in_bytes=512)
    assert request.data != TEST
    disk.queue.run(request, request.joined_chain())
    assert (request.status, request.data) == (RequestStatus.OK, TEST)


@clause("RSVD-LEG-01", "INIT-LEG-01", "SPLIT-LEG-01")
@on(LEGACY_WAYS)
def test_basic_legacy(tmp_path: Path, way: Way) -> None:
    image = blank_disk(tmp_path)
    with raw_disk(f"qemu:{image}?{way.options}", every_feature()) as disk:
        assert disk.device.legacy
        assert disk.device.has(Feature.ANY_LAYOUT)
        assert disk.layout.read_status() == 0x7, "without FEATURES_OK"
        assert disk.queue.ring.size == 256, "the device's own size"
        check_basic(disk)
    assert image.read_bytes()[:1024] == bytes(512) + TEST


@on(MODERN_WAYS)
def test_basic_modern(tmp_path: Path, way: Way) -> None:
    image = blank_disk(tmp_path)
    with raw_disk(f"qemu:{image}?{way.options}", every_feature()) as disk:
        assert disk.device.has(Feature.VERSION_1)
        assert disk.layout.read_status() == 0xF
        check_basic(disk)
    assert image.read_bytes()[:1024] == bytes(512) + TEST


@on(WAYS)
def test_indirect(tmp_path: Path, way: Way) -> None:
    driver = every_feature(ring_features=frozenset({Feature.INDIRECT_DESC}))
    with raw_disk(f"qemu:{blank_disk(tmp_path)}?{way.options}", driver) as disk:
        assert disk.device.has(Feature.INDIRECT_DESC)
        assert disk.capacity_sectors == CAPACITY_SECTORS
        for request in (
            disk.request(RequestType.OUT, 0, out=TEST),
            disk.request(RequestType.IN, 0, in_bytes=512),
        ):
            head = disk.queue.publish(request, request.joined_chain())
            descriptor = disk.queue.raw.read_descriptor(head)
            assert (descriptor.flags, descriptor.length) == (INDIRECT, 32), "a table of two"
            disk.queue.notify()
            disk.queue.reap()
            assert request.status == RequestStatus.OK
        assert request.data == TEST


@on(WAYS)
def test_config(tmp_path: Path, way: Way) -> None:
    driver = every_feature(queue_count=0)
    address = f"qemu:{blank_disk(tmp_path)}?{way.options}"
    with raw_disk(address, driver, interrupts="intx") as disk:
        assert disk.capacity_sectors == CAPACITY_SECTORS
        disk.platform.resize(CAPACITY_BYTES // 2)
        assert driver.config_changes.wait(WAIT_S)
        assert disk.capacity_sectors == CAPACITY_SECTORS // 2


@clause("PCI-CFGINT-01")
@on(WAYS)
def test_resize(tmp_path: Path, way: Way) -> None:
    driver = every_feature()
    address = f"qemu:{blank_disk(tmp_path)}?{way.options}"
    with raw_disk(address, driver, interrupts="intx") as disk:
        queue_interrupt = disk.queue.parts.wires.interrupt_fd
        assert queue_interrupt is not None
        # So that what is signalled comes from the resizing alone.
        disk.queue.raw.available_flags = NO_INTERRUPT
        check_basic(disk)
        settle(disk.platform)
        assert not take_signal(queue_interrupt)
        assert not driver.config_changes.is_set()
        disk.platform.resize(CAPACITY_BYTES // 2)
        assert poll(lambda: take_signal(queue_interrupt)), "the interrupt of the queue"
        assert driver.config_changes.wait(WAIT_S), "and of the configuration, which is the same"
        assert disk.capacity_sectors == CAPACITY_SECTORS // 2


def take_signal(fd: int) -> bool:
    """Whether an eventfd was signalled; forgets it."""
    try:
        return os.eventfd_read(fd) > 0
    except BlockingIOError:
        return False


@clause("MSIX-05")
@on(WAYS)
def test_msix(tmp_path: Path, way: Way) -> None:
    driver = every_feature(vectors=True)
    with raw_disk(f"qemu:{blank_disk(tmp_path)}?{way.options}", driver) as disk:
        assert disk.vectors.table.enabled
        for map_event, vector in (
            (disk.layout.set_config_vector, 0),
            (partial(disk.layout.set_queue_vector, 0), 1),
        ):
            assert not map_event(disk.vectors.table.vector_count), "which is read back"
            assert map_event(vector)
        assert disk.capacity_sectors == CAPACITY_SECTORS, "which is elsewhere on legacy now"
        disk.platform.resize(CAPACITY_BYTES // 2)
        disk.vectors.wait(0)
        assert not disk.vectors.arrived(1)
        assert disk.capacity_sectors == CAPACITY_SECTORS // 2
        write(disk, 0, TEST)
        disk.vectors.wait(1)
        assert read(disk, 0) == TEST
        disk.vectors.wait(1)
        assert not disk.vectors.arrived(0)


@on(WAYS)
def test_idx(tmp_path: Path, way: Way) -> None:
    driver = every_feature(ring_features=frozenset({Feature.EVENT_IDX}), vectors=True)
    with raw_disk(f"qemu:{blank_disk(tmp_path)}?{way.options}", driver) as disk:
        assert disk.device.has(Feature.EVENT_IDX)
        assert disk.capacity_sectors == CAPACITY_SECTORS
        write(disk, 0, TEST)
        disk.vectors.wait(1)
        disk.queue.raw.used_event = 2
        write(disk, 1, TEST)
        settle(disk.platform)
        assert not disk.vectors.arrived(1), "the entry 1 is not the one that was asked for"
        assert read(disk, 1) == TEST
        disk.vectors.wait(1)
        assert disk.queue.raw.used_index == 3


@on(LEGACY_WAYS)
def test_nxvirtq_legacy(tmp_path: Path, way: Way) -> None:
    with raw_disk(f"qemu:{blank_disk(tmp_path)}?{way.options}") as disk:
        registers = disk.platform.registers(0)
        for queue in NO_QUEUES:
            registers.write(QUEUE_SELECT, 2, queue)
            assert registers.read(QUEUE_SIZE, 2) == 0, "there is no such queue"
            registers.write(QUEUE_ADDRESS, 4, 1)
            registers.write(QUEUE_NOTIFY, 2, queue)
        check_still_works(disk)


@on(MODERN_WAYS)
def test_nxvirtq_modern(tmp_path: Path, way: Way) -> None:
    with raw_disk(f"qemu:{blank_disk(tmp_path)}?{way.options}") as disk:
        for queue in NO_QUEUES:
            assert disk.layout.queue_size_max(queue) == 0, "there is no such queue"
            disk.layout.enable_queue(queue, QueueAddresses(64, 0x1000, 0x2000, 0x3000))
        disk.platform.doorbell(2, disk.layout.notify_place(2)).ring()
        check_still_works(disk)


def check_still_works(disk: RawDisk) -> None:
    assert disk.transport.queue_count() == 1
    write(disk, 0, TEST)
    assert read(disk, 0) == TEST
    assert not disk.layout.read_status() & Status.DEVICE_NEEDS_RESET


@on(WAYS)
def test_hotplug(tmp_path: Path, way: Way) -> None:
    """In a slot whose device was taken out before: behind a root port there is no other."""
    with raw_disk(f"qemu:{blank_disk(tmp_path)}?{way.options}") as disk:
        machine = disk.machine
        disk.platform.unplug()
        assert virtio_places(machine) == []
        disk.platform.plug()
        assert virtio_places(machine) == [machine.location]
        with attached(machine) as another:
            assert another.transport.device_type == BLOCK_DEVICE_TYPE
            write(another, 0, TEST)
            assert read(another, 0) == TEST
            another.platform.unplug()
            assert virtio_places(machine) == []
            with pytest.raises(vioblk.DeviceGoneError):
                another.layout.read_status()


@on(tuple(way for way in WAYS if not way.q35))
def test_hotplug_beside_another(tmp_path: Path, way: Way) -> None:
    with raw_disk(f"qemu:{blank_disk(tmp_path)}?{way.options}") as disk:
        machine = disk.machine
        machine.qmp("blockdev-add", driver="null-co", node_name="second", size=CAPACITY_BYTES)
        machine.qmp("device_add", driver="virtio-blk-pci", id="second", drive="second", addr="6")
        place = Location(0, 6)
        assert virtio_places(machine) == [machine.location, place]
        assert machine.place_bars(place)
        write(disk, 0, TEST)
        machine.qmp("device_del", id="second")
        machine.chipset.eject(place.device)
        await_event(machine, "DEVICE_DELETED")
        assert virtio_places(machine) == [machine.location]
        assert read(disk, 0) == TEST, "the first one was not disturbed"


def virtio_places(machine: Machine) -> list[Location]:
    """Where block devices are found."""
    headers = {each.location: read_header(each.config) for each in machine.functions()}
    found = {place: identify(header) for place, header in headers.items() if header is not None}
    return [
        place
        for place, identity in found.items()
        if isinstance(identity, Identity) and identity.device_type == BLOCK_DEVICE_TYPE
    ]


# The cases of vhost-user-blk-pci, by which QEMU passes on the disk of a vhost-user back end. That
# of qemu-storage-daemon serves the modern interface only. QEMU's own device is held to the same.

BEHIND_VHOST_USER = "vhost-user"
OWN = "own"

DISKS = pytest.mark.parametrize(
    ("back_end", "way"),
    [
        pytest.param(back_end, way, id=f"{back_end}-{way.name}")
        for back_end, ways in ((OWN, WAYS), (BEHIND_VHOST_USER, MODERN_WAYS))
        for way in ways
    ],
)


@contextmanager
def disk_of(
    back_end: str, way: Way, directory: Path, driver: RawDriver, queue_count: int = 1
) -> Iterator[RawDisk]:
    """A disk of QEMU's own, or of a qemu-storage-daemon in its place."""
    image = blank_disk(directory)
    if back_end == OWN:
        with raw_disk(f"qemu:{image}?{way.options}", driver, num_queues=queue_count) as disk:
            yield disk
        return
    export = raw_export("disk", image, f"writable=on,num-queues={queue_count}")
    address = f"qemu:null:1M?{way.options}"
    with StorageDaemon(directory, [export]) as daemon:
        with start(address, interrupts="none", num_queues=queue_count) as machine:
            DeviceControls(machine).unplug()
            plug_vhost_user(machine, daemon.socket_path("disk"))
            with attached(machine, driver) as disk:
                yield disk


@DISKS
def test_multiqueue(tmp_path: Path, back_end: str, way: Way) -> None:
    driver = every_feature(queue_count=8)
    with disk_of(back_end, way, tmp_path, driver, queue_count=8) as disk:
        assert BlockFeature.MQ in disk.device.offered
        assert read_block_config(disk.device).num_queues == 8
        assert disk.transport.queue_count() == 8
        for index, handle in enumerate(driver.handles):
            request = disk.request(RequestType.OUT, index, out=content_of(index))
            handle.queue.run(request)
            assert request.status == RequestStatus.OK
        assert [read(disk, index) for index in range(8)] == [
            content_of(index) for index in range(8)
        ]


@DISKS
def test_multiqueue_is_not_offered_with_one_queue(tmp_path: Path, back_end: str, way: Way) -> None:
    with disk_of(back_end, way, tmp_path, every_feature()) as disk:
        assert BlockFeature.MQ not in disk.device.offered
        assert disk.transport.queue_count() == 1
        write(disk, 0, TEST)


@DISKS
def test_invalid_discard(tmp_path: Path, back_end: str, way: Way) -> None:
    with disk_of(back_end, way, tmp_path, every_feature()) as disk:
        check_invalid_erasing(disk, RequestType.DISCARD)


@DISKS
def test_invalid_write_zeroes(tmp_path: Path, back_end: str, way: Way) -> None:
    with disk_of(back_end, way, tmp_path, every_feature()) as disk:
        check_invalid_erasing(disk, RequestType.WRITE_ZEROES)


def check_invalid_erasing(disk: RawDisk, kind: RequestType) -> None:
    write(disk, 0, BEFORE)
    for segments, status in (
        ([(0, 1, 0), (1, 1, 0)], RequestStatus.UNSUPP),
        ([(0, 0xFFFFFFFF, 0)], RequestStatus.IOERR),
        ([(CAPACITY_SECTORS + 1, 1, 0)], RequestStatus.IOERR),
        ([(0, 1, 0xFFFFFFFE)], RequestStatus.UNSUPP),
    ):
        assert erase(disk, kind, *segments) == status, segments
    assert read(disk, 0) == BEFORE
    assert erase(disk, kind, (0, 1, 0)) == RequestStatus.OK
