"""Disks on packed rings (VIRTIO 1.4, 2.8 Packed Virtqueues), from negotiation to data."""

import os
import random

import pytest

import vioblk
from tests.block.conftest import OpenDisk
from tests.block.test_cache import software
from tests.clauses import clause
from vioblk.features import Feature
from vioblk.transport.software_pci import SoftwarePciTransport

SECTOR = 512


@clause("RSVD-06")
def test_a_packed_ring_is_used_where_it_is_offered(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?offer=ring_packed")
    assert Feature.RING_PACKED in disk.info.accepted


def test_the_split_ring_is_used_where_the_packed_one_is_switched_off(open_disk: OpenDisk) -> None:
    for address in ("mem:1M", "mem:1M?offer=ring_packed&packed=off"):
        disk = open_disk(address)
        assert Feature.RING_PACKED not in disk.info.accepted
        disk.write(0, b"x" * SECTOR)
        disk.close()


def test_a_packed_ring_that_is_not_offered_cannot_be_forced(open_disk: OpenDisk) -> None:
    with pytest.raises(vioblk.NegotiationError, match="ring_packed is forced on"):
        open_disk("mem:1M?packed=on&withhold=ring_packed")


@pytest.mark.parametrize("size", [3, 5, 7, 100, 256])
@pytest.mark.parametrize("indirect", ["on", "off"])
@pytest.mark.parametrize("bus", ["none", "pci"])
def test_any_queue_size_keeps_data_right_over_many_laps(
    open_disk: OpenDisk, size: int, indirect: str, bus: str
) -> None:
    disk = open_disk(f"mem:1M?packed=on&queue_size={size}&indirect={indirect}&bus={bus}")
    assert disk.info.queues[0].size == size
    chance = random.Random(size)
    content = bytearray(disk.capacity_bytes)
    for _ in range(max(60, 3 * size)):
        offset = chance.randrange(0, 2000) * SECTOR
        data = chance.randbytes(chance.randint(1, 8) * SECTOR)
        content[offset : offset + len(data)] = data
        disk.write(offset, data)
    disk.flush()
    assert disk.read(0, disk.capacity_bytes) == content
    assert software(disk).counters()["interrupts"] > 0


def test_with_indirect_descriptors_a_request_takes_one_descriptor_of_the_ring(
    open_disk: OpenDisk,
) -> None:
    assert open_disk("mem:1M?packed=on&queue_size=50").info.queues[0].depth == 50
    assert open_disk("mem:1M?packed=on&queue_size=50&indirect=off").info.queues[0].depth == 16


@clause("PACKED-SG-01", "PACKED-INDIR-03")
@pytest.mark.parametrize("indirect", ["on", "off"])
def test_no_list_is_longer_than_the_device_allows(open_disk: OpenDisk, indirect: str) -> None:
    disk = open_disk(f"mem:1M?packed=on&size_max=512&seg_max=3&indirect={indirect}")
    disk.write(0, bytes(range(256)) * 64)
    assert disk.read(0, 64 * 256) == bytes(range(256)) * 64
    assert software(disk).counters()["largest_chain"] == 3 + 2


@pytest.mark.parametrize(("asked", "words"), [(100, "power of two"), (300, "256")])
def test_only_a_packed_ring_has_any_size(open_disk: OpenDisk, asked: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_disk(f"mem:1M?ring_size={asked}")
    assert open_disk("mem:1M?packed=on&ring_size=100").info.queues[0].size == 100


@clause("PACKED-NOTIFY-01")
@pytest.mark.parametrize("size", [3, 8, 31])
def test_a_device_that_judges_notifications_with_data_finds_them_right(
    open_disk: OpenDisk, size: int
) -> None:
    disk = open_disk(
        f"mem:1M?packed=on&bus=pci&notification_data=on&event_idx=off&queue_size={size}"
    )
    for sector in range(3 * size):
        disk.write(sector * SECTOR, bytes([sector]) * SECTOR)
    transport = disk.device.transport
    assert isinstance(transport, SoftwarePciTransport)
    assert transport.face.violations == []


@clause("PACKED-NOTIFY-02")
def test_a_notification_with_nothing_behind_it_does_no_harm(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?packed=on")
    device = software(disk)
    for _ in range(5):
        os.eventfd_write(device.kick_fd(0), 1)
    disk.write(0, b"y" * SECTOR)
    assert disk.read(0, SECTOR) == b"y" * SECTOR


def test_a_reset_disk_starts_its_ring_anew(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?packed=on&queue_size=7")
    for lap in range(5):
        disk.write(lap * SECTOR, bytes([lap]) * SECTOR)
        disk.reset()
        assert disk.read(lap * SECTOR, SECTOR) == bytes([lap]) * SECTOR
