"""What the disk puts on the wire, read as a device reads it."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pytest

from tests.block.tap import Tap, WireRequest
from tests.clauses import clause, vacuous
from vioblk import InvalidRequestError
from vioblk.block.disk import BlockDevice
from vioblk.block.features import BlockFeature
from vioblk.block.request import REQUEST_RECORD, SECTOR_BYTES, RequestType
from vioblk.block.transfer import MAX_BATCH_REQUESTS

OpenTapped: TypeAlias = Callable[..., tuple[BlockDevice, Tap]]

STATUS_LENGTH = 1


def test_a_read_is_header_data_status(tapped: OpenTapped) -> None:
    disk, tap = tapped("mem:1M")
    assert tap.watch(lambda: disk.read(1024, 1536)) == [
        WireRequest(RequestType.IN, 0, 2, b"", (1536, STATUS_LENGTH))
    ]


def test_a_write_carries_its_data(tapped: OpenTapped) -> None:
    disk, tap = tapped("mem:1M")
    data = bytes(range(256)) * 4
    assert tap.watch(lambda: disk.write(512, data)) == [
        WireRequest(RequestType.OUT, 0, 1, data, (STATUS_LENGTH,))
    ]


@clause("BLK-FLUSH-01", "BLK-FLUSH-02", "BLK-INIT-01")
def test_a_flush_has_sector_zero_and_no_data(tapped: OpenTapped) -> None:
    disk, tap = tapped("mem:1M")
    assert disk.device.has(BlockFeature.FLUSH)

    def write_then_flush() -> None:
        disk.write(8192, bytes(512))
        disk.flush()

    requests = tap.watch(write_then_flush)
    assert requests[-1] == WireRequest(RequestType.FLUSH, 0, 0, b"", (STATUS_LENGTH,))
    assert len(requests) == 2


@clause("BLK-REQ-03")
def test_the_serial_is_asked_for_with_exactly_20_bytes(tapped: OpenTapped) -> None:
    disk, tap = tapped("mem:1M?serial=abc")
    names: list[str] = []
    requests = tap.watch(lambda: names.append(disk.serial))
    assert requests == [WireRequest(RequestType.GET_ID, 0, 0, b"", (20, STATUS_LENGTH))]
    assert names == ["abc"]


@clause("BLK-REQ-03")
@pytest.mark.parametrize("length", [0, 19, 21, 24, 512])
def test_a_serial_record_of_another_length_is_refused(tapped: OpenTapped, length: int) -> None:
    disk, tap = tapped("mem:1M", timeout_s=1.0)
    region = disk.alloc(512)
    record = REQUEST_RECORD.pack(RequestType.GET_ID, 0, 0, 0, length, region.handle, 0)
    with pytest.raises(InvalidRequestError):
        disk.submit_many(record)
    assert tap.take() == []


@clause("BLK-REQ-01")
@pytest.mark.parametrize("size_max", ["512", "1000", "4096"])
def test_every_part_of_a_transfer_is_whole_sectors(tapped: OpenTapped, size_max: str) -> None:
    disk, tap = tapped(f"mem:1M?size_max={size_max}&seg_max=3")
    data = bytes(i % 251 for i in range(64 * SECTOR_BYTES))

    def write_and_read() -> None:
        disk.write(0, data)
        assert disk.read(0, len(data)) == data

    requests = tap.watch(write_and_read)
    for request in requests:
        moved = len(request.data) + sum(request.writable_lengths[:-1])
        assert moved > 0
        assert moved % SECTOR_BYTES == 0
        assert all(length <= int(size_max) for length in request.writable_lengths)
        assert len(request.writable_lengths) <= 3 + 1
    written = b"".join(each.data for each in requests if each.type == RequestType.OUT)
    assert written == data


@clause("BLK-REQ-01")
@pytest.mark.parametrize("kind", [RequestType.IN, RequestType.OUT])
@pytest.mark.parametrize("length", [0, 1, 511, 513])
def test_a_record_that_is_not_whole_sectors_is_refused(
    tapped: OpenTapped, kind: RequestType, length: int
) -> None:
    disk, tap = tapped("mem:1M")
    region = disk.alloc(4096)
    with pytest.raises(InvalidRequestError):
        disk.submit_many(REQUEST_RECORD.pack(kind, 0, 0, 0, length, region.handle, 0))
    assert tap.take() == []


@clause("BLK-DISCARD-01", "BLK-DISCARD-02", "BLK-REQ-02")
def test_a_long_discard_is_requests_of_one_segment_without_flags(tapped: OpenTapped) -> None:
    disk, tap = tapped("mem:1M?max_discard_sectors=100")
    requests = tap.watch(lambda: disk.discard(512, 250 * SECTOR_BYTES))
    assert disk.config.discard is not None
    assert disk.config.discard.max_seg >= 1
    assert [each.ranges for each in requests] == [[(1, 100, 0)], [(101, 100, 0)], [(201, 50, 0)]]
    assert {(each.type, each.sector) for each in requests} == {(RequestType.DISCARD, 0)}
    assert all(len(each.data) % 16 == 0 for each in requests)


@clause("BLK-WZ-01", "BLK-REQ-02")
@pytest.mark.parametrize("unmap", [False, True])
def test_a_long_write_zeroes_is_requests_of_one_segment(tapped: OpenTapped, unmap: bool) -> None:
    disk, tap = tapped("mem:1M?max_write_zeroes_sectors=64")
    requests = tap.watch(lambda: disk.write_zeroes(0, 100 * SECTOR_BYTES, unmap=unmap))
    assert [each.ranges for each in requests] == [[(0, 64, int(unmap))], [(64, 36, int(unmap))]]
    assert {(each.type, each.sector) for each in requests} == {(RequestType.WRITE_ZEROES, 0)}


@clause("BLK-DISCARD-04")
def test_no_request_has_several_segments_whose_fate_could_be_guessed(tapped: OpenTapped) -> None:
    disk, tap = tapped("mem:1M?max_discard_sectors=8&max_write_zeroes_sectors=8")

    def erase() -> None:
        disk.discard(0, 64 * SECTOR_BYTES)
        disk.write_zeroes(0, 64 * SECTOR_BYTES)

    requests = tap.watch(erase)
    assert len(requests) == 16
    assert all(len(each.ranges) == 1 for each in requests)


@vacuous("BLK-ERASE-01")
def test_secure_erase_is_never_accepted_and_never_sent(tapped: OpenTapped) -> None:
    disk, tap = tapped("mem:1M?offer=secure_erase")
    assert BlockFeature.SECURE_ERASE in disk.device.offered
    assert not disk.device.has(BlockFeature.SECURE_ERASE)
    secure_erase = 14
    with pytest.raises(InvalidRequestError):
        disk.submit_many(REQUEST_RECORD.pack(secure_erase, 0, 0, 0, 512, 0, 0))
    assert tap.take() == []


@clause("BLK-WCE-01")
def test_the_cache_is_chosen_by_a_store_to_writeback(tapped: OpenTapped) -> None:
    disk, tap = tapped("mem:1M")
    for choice in (False, True, False):
        disk.writeback = choice
        assert disk.writeback is choice
        assert disk.device.transport.read_config(0x20, 1) == bytes([choice])
    assert tap.take() == []


@clause("BLK-WCE-02")
@pytest.mark.parametrize("writeback", [False, True])
def test_a_flush_is_sent_whatever_writeback_reads(tapped: OpenTapped, writeback: bool) -> None:
    disk, tap = tapped("mem:1M?cache=volatile")
    disk.writeback = writeback
    assert [each.type for each in tap.watch(disk.flush)] == [RequestType.FLUSH]


def test_a_batch_has_no_more_requests_than_its_bound(tapped: OpenTapped) -> None:
    """Also where cuts at the device's alignment make more of them than their lengths would."""
    disk, tap = tapped("mem:1M?max_discard_sectors=3")
    batches: list[int] = []
    run = disk._transfers.run

    def counted(batch: bytearray) -> None:
        batches.append(len(batch) // REQUEST_RECORD.size)
        run(batch)

    disk._transfers.run = counted  # type: ignore[method-assign]
    disk._driver.limits = replace(disk.limits, discard_alignment_bytes=2 * SECTOR_BYTES)
    requests = tap.watch(lambda: disk.discard(SECTOR_BYTES, 1000 * SECTOR_BYTES))
    assert sum(count for each in requests for _, count, _ in each.ranges) == 1000
    assert max(batches) <= MAX_BATCH_REQUESTS < sum(batches) == len(requests)
