"""A disk that is driven through the legacy interface."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeAlias

import pytest

from tests.block.conftest import OpenRecorded
from tests.block.legacy import LegacyTransport
from tests.block.recording import RecordingTransport
from tests.block.tap import Tap
from tests.clauses import clause, vacuous
from vioblk import InvalidRequestError, ReadOnlyError, RequestFailedError
from vioblk.block.disk import BlockDevice
from vioblk.block.features import BlockFeature
from vioblk.block.request import REQUEST_RECORD, RequestType
from vioblk.features import Feature, Verdict

DATA = bytes(range(256)) * 2

OpenLegacy: TypeAlias = Callable[..., tuple[BlockDevice, RecordingTransport]]
OpenTapped: TypeAlias = Callable[..., tuple[BlockDevice, Tap]]


@pytest.fixture
def open_legacy(open_recorded: OpenRecorded) -> OpenLegacy:
    def opener(address: str = "mem:1M", **options: Any) -> tuple[BlockDevice, RecordingTransport]:
        return open_recorded(address, transport_class=LegacyTransport, **options)

    return opener


@pytest.fixture
def tapped_legacy(open_legacy: OpenLegacy) -> Iterator[OpenTapped]:
    """As `tapped`: the device serves only through the tap that comes with the disk."""
    with ExitStack() as stack:

        def opener(address: str = "mem:1M", **options: Any) -> tuple[BlockDevice, Tap]:
            separator = "&" if "?" in address else "?"
            disk, transport = open_legacy(f"{address}{separator}threaded=off", **options)
            tap = Tap(transport)
            stack.callback(tap.close)
            return disk, tap

        yield opener


@clause("FEAT-LEG-02", "FEAT-LEG-03", "CONF-LEG-03", "CONF-LEG-04")
@pytest.mark.parametrize("transport_class", [RecordingTransport, LegacyTransport])
def test_one_driver_drives_both_interfaces(
    open_recorded: OpenRecorded, transport_class: type[RecordingTransport]
) -> None:
    disk, transport = open_recorded("mem:1M?serial=both", transport_class=transport_class)
    legacy = transport_class is LegacyTransport
    assert disk.device.legacy is legacy
    assert disk.device.has(Feature.VERSION_1) is not legacy
    assert bool(transport.accepted >> 32) is not legacy
    disk.write(512, DATA)
    disk.flush()
    assert disk.read(0, 2048) == bytes(512) + DATA + bytes(1024)
    disk.write_zeroes(0, 1024)
    disk.discard(0, 4096)
    assert disk.serial == "both"
    disk.reset()
    assert disk.device.legacy is legacy
    disk.write(512, DATA)
    assert disk.read(512, 512) == DATA


@clause("SPLIT-LEG-01")
@pytest.mark.parametrize("queue_size", [64, 256, 1024])
def test_the_ring_has_as_many_descriptors_as_the_device_says(
    open_legacy: OpenLegacy, queue_size: int
) -> None:
    disk, transport = open_legacy(f"mem:4M?queue_size={queue_size}&queues=2", queue_count=2)
    assert [queue.size for queue in disk.info.queues] == [queue_size] * 2
    assert [transport.queues[index].size for index in (0, 1)] == [queue_size] * 2
    data = DATA * 4096
    disk.write(0, data)
    assert disk.read(0, len(data)) == data


@clause("SPLIT-LEG-01")
def test_another_ring_size_cannot_be_asked_for(open_legacy: OpenLegacy) -> None:
    with pytest.raises(
        ValueError, match=r"ring_size is 64, but queue 0 has 256 descriptors.*leave ring_size away"
    ):
        open_legacy(ring_size=64)
    disk, _ = open_legacy(ring_size=256)
    assert disk.info.queues[0].size == 256


@clause("BLK-LEG-01")
def test_the_configuration_is_in_the_byte_order_of_the_processor(open_legacy: OpenLegacy) -> None:
    disk, transport = open_legacy("mem:132K?seg_max=3")
    words = [transport.read_config(0, 4), transport.read_config(4, 4)]
    assert int.from_bytes(b"".join(words), sys.byteorder) == disk.config.capacity_sectors == 264
    assert int.from_bytes(transport.read_config(12, 4), sys.byteorder) == disk.config.seg_max == 3


@clause("CFG-LEG-01")
def test_the_capacity_is_read_until_two_rounds_agree(open_legacy: OpenLegacy) -> None:
    disk, transport = open_legacy("mem:1M")
    transport.config_reads.clear()
    transport.device.inject("config_flicker", value=8)
    disk._driver.refresh(disk.device)
    rounds = [read for read in transport.config_reads if read.offset == 0]
    assert len(rounds) == 3
    assert disk.capacity_bytes == (1 << 20) - 8 * 512


@clause("BLK-LEG-02")
def test_the_cache_is_chosen_before_the_device_is_live(open_legacy: OpenLegacy) -> None:
    disk, transport = open_legacy("mem:1M?cache=volatile", writeback=False)
    [store] = transport.config_writes
    assert (store.offset, store.data) == (0x20, b"\0")
    assert not store.status & 4
    assert disk.writeback is False


@clause("BLK-LEG-03")
def test_the_header_is_in_the_byte_order_of_the_processor(tapped_legacy: OpenTapped) -> None:
    assert sys.byteorder == "little", "the tap reads little-endian headers"
    disk, tap = tapped_legacy("mem:1M")
    [request] = tap.watch(lambda: disk.write(0x123 * 512, DATA))
    assert (request.type, request.reserved, request.sector) == (RequestType.OUT, 0, 0x123)


@clause("BLK-LEG-04")
@pytest.mark.parametrize("length", [0, 1, 7])
def test_used_lengths_that_are_too_short_are_disregarded(
    open_legacy: OpenLegacy, open_recorded: OpenRecorded, length: int
) -> None:
    disk, transport = open_legacy()
    transport.device.inject("short_length", count=3, value=length)
    disk.write(0, DATA)
    assert disk.read(0, 512) == DATA
    disk.flush()
    # Not so on the modern interface, where a length that leaves the status out is a failure.
    disk, transport = open_recorded("mem:1M")
    transport.device.inject("short_length", count=1, value=length)
    with pytest.raises(RequestFailedError):
        disk.read(0, 512)


@vacuous("BLK-LEG-05")
def test_the_other_name_of_a_flush_is_never_used(tapped_legacy: OpenTapped) -> None:
    """The clause is about who receives requests: this driver sends flushes as type 4 only."""
    disk, tap = tapped_legacy()
    assert [each.type for each in tap.watch(disk.flush)] == [RequestType.FLUSH]
    flush_out = 5
    with pytest.raises(InvalidRequestError):
        disk.submit_many(REQUEST_RECORD.pack(flush_out, 0, 0, 0, 0, 0, 0))
    assert tap.take() == []


@clause("BLK-LEG-06")
def test_without_flush_the_cache_is_set_to_writethrough(open_legacy: OpenLegacy) -> None:
    disk, transport = open_legacy("mem:1M?cache=volatile", force_off={BlockFeature.FLUSH})
    assert BlockFeature.FLUSH in disk.device.offered
    assert [(each.offset, each.data) for each in transport.config_writes] == [(0x20, b"\0")]
    disk.write(0, DATA)
    transport.device.power_loss()
    assert disk.read(0, 512) == DATA


@vacuous("BLK-LEG-07")
def test_no_flush_is_sent_that_was_not_asked_for(tapped_legacy: OpenTapped) -> None:
    """A flush after every write is allowed, and not done."""
    disk, tap = tapped_legacy("mem:1M?cache=volatile", force_off={BlockFeature.FLUSH})
    assert [each.type for each in tap.watch(lambda: disk.write(0, DATA))] == [RequestType.OUT]
    with pytest.raises(InvalidRequestError):
        disk.submit_many(REQUEST_RECORD.pack(RequestType.FLUSH, 0, 0, 0, 0, 0, 0))


@vacuous("BLK-LEG-08", "BLK-LEG-09", "BLK-LEG-11", "BLK-LEG-12")
def test_scsi_is_never_accepted_and_never_sent(tapped_legacy: OpenTapped) -> None:
    disk, tap = tapped_legacy("mem:1M?offer=scsi,barrier")
    assert {BlockFeature.SCSI, BlockFeature.BARRIER} <= disk.device.offered
    for decision in disk.device.negotiation.decisions if disk.device.negotiation else ():
        if decision.bit in (BlockFeature.SCSI, BlockFeature.BARRIER):
            assert decision.verdict is Verdict.DECLINED
            assert decision.reason.startswith("this driver")
    region = disk.alloc(512)
    barrier = 1 << 31
    for kind in (2, 3, RequestType.OUT | barrier):
        with pytest.raises((InvalidRequestError, OverflowError)):
            disk.submit_many(REQUEST_RECORD.pack(kind, 0, 0, 0, 512, region.handle, 0))
    assert tap.take() == []


@clause("BLK-LEG-10")
@pytest.mark.parametrize("address", ["mem:1M", "mem:1M?size_max=512&seg_max=4"])
@pytest.mark.parametrize("offer", [0, Feature.ANY_LAYOUT])
def test_header_data_and_status_have_descriptors_of_their_own(
    tapped_legacy: OpenTapped, address: str, offer: int
) -> None:
    if offer:
        address += ("&" if "?" in address else "?") + f"offer={int(offer)}"
    disk, tap = tapped_legacy(address)
    assert disk.device.has(Feature.ANY_LAYOUT) is bool(offer)
    segments = [512] * 4 if "size_max" in address else [2048]

    tap.watch(lambda: disk.write(0, DATA * 4))
    tap.watch(lambda: disk.read(0, 2048))
    tap.watch(disk.flush)
    header, status = (16, False), (1, True)
    assert tap.chains == [
        [header, *((length, False) for length in segments), status],
        [header, *((length, True) for length in segments), status],
        [header, status],
    ]


def test_a_read_only_disk_refuses_writes(open_legacy: OpenLegacy) -> None:
    disk, _ = open_legacy("mem:1M?read_only=on")
    assert disk.read_only
    assert disk.read(0, 512) == bytes(512)
    with pytest.raises(ReadOnlyError):
        disk.write(0, DATA)


def test_a_change_of_the_capacity_is_seen(open_legacy: OpenLegacy) -> None:
    disk, transport = open_legacy("mem:1M")
    transport.device.resize(4096)
    disk._driver.refresh(disk.device)
    assert disk.capacity_bytes == 2 << 20
    disk.write((2 << 20) - 512, DATA)
