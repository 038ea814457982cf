"""What is refused, clearly and before anything reaches the device."""

import threading
import time
from collections.abc import Callable

import pytest

import vioblk
from tests.block.conftest import OpenDisk
from tests.block.test_cache import software
from tests.clauses import clause
from tests.support.patience import AMPLE_S
from tests.support.scripted import Script
from vioblk.block import disk as disk_module
from vioblk.block.disk import BlockDevice
from vioblk.block.features import BlockFeature
from vioblk.block.request import REQUEST_RECORD, RequestType
from vioblk.features import Feature

CAPACITY = 1 << 20

CALLS: dict[str, Callable[[BlockDevice, int, int], object]] = {
    "read": lambda disk, offset, length: disk.read(offset, length),
    "readinto": lambda disk, offset, length: disk.readinto(offset, bytearray(length)),
    "write": lambda disk, offset, length: disk.write(offset, bytes(length)),
    "discard": lambda disk, offset, length: disk.discard(offset, length),
    "write_zeroes": lambda disk, offset, length: disk.write_zeroes(offset, length),
}
WRITING = ("write", "discard", "write_zeroes")


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Callable[[BlockDevice, int, int], object]:
    return CALLS[request.param]


@pytest.mark.parametrize(
    ("offset", "length", "error", "words"),
    [
        (0, 0, vioblk.ZeroLengthError, "0 bytes"),
        (1, 512, vioblk.UnalignedError, "offset must be .* next higher one is 512"),
        (512, 100, vioblk.UnalignedError, "length must be .* next higher one is 512"),
        (1025, 512, vioblk.UnalignedError, "offset must be .* next lower one is 1024"),
        (-512, 512, vioblk.InvalidRequestError, "negative"),
        (CAPACITY, 512, vioblk.BeyondEndError, "at or behind the end"),
        (CAPACITY - 512, 1024, vioblk.BeyondEndError, "at most 512 bytes"),
        (1 << 62, 512, vioblk.BeyondEndError, "has 1048576 bytes"),
    ],
)
def test_a_bad_range_is_refused_and_never_sent(
    disk: BlockDevice,
    call: Callable[[BlockDevice, int, int], object],
    offset: int,
    length: int,
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        call(disk, offset, length)
    assert software(disk).counters()["chains"] == 0


@clause("BLK-CAP-02")
def test_nothing_reaches_past_the_capacity_even_as_a_record(disk: BlockDevice) -> None:
    region = disk.alloc(1024)
    last = CAPACITY // 512 - 1
    for kind in (RequestType.IN, RequestType.OUT, RequestType.DISCARD, RequestType.WRITE_ZEROES):
        own = region.handle if kind in (RequestType.IN, RequestType.OUT) else 0
        for sector, length in [(last, 1024), (last + 1, 512), (2**64 - 1, 512)]:
            record = REQUEST_RECORD.pack(kind, 0, sector, 0, length, own, 0)
            with pytest.raises(vioblk.BeyondEndError):
                disk.execute(record, bytearray(1))
    assert software(disk).counters()["chains"] == 0


@clause("BLK-CAP-01", "BLK-CAP-02")
def test_a_disk_that_shrank_refuses_what_is_gone(open_disk: OpenDisk) -> None:
    changed = threading.Event()
    disk = open_disk("mem:1M", on_config_change=lambda config: changed.set())
    region = disk.alloc(512)
    software(disk).resize(1024)
    assert changed.wait(AMPLE_S)
    assert disk.capacity_bytes == 1024 * 512
    with pytest.raises(vioblk.BeyondEndError):
        disk.read(1024 * 512, 512)
    with pytest.raises(vioblk.BeyondEndError):
        disk.execute(
            REQUEST_RECORD.pack(RequestType.IN, 0, 1024, 0, 512, region.handle, 0), bytearray(1)
        )
    assert software(disk).counters()["chains"] == 0
    disk.read(1023 * 512, 512)


@clause("BLK-RO-01")
def test_ro_is_accepted_where_it_is_offered(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?read_only=on")
    assert disk.device.has(BlockFeature.RO)
    assert disk.read_only
    assert disk.read(0, 512) == bytes(512)


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("accept", ["auto", "off"])
def test_a_read_only_disk_refuses_whatever_changes_it(
    open_disk: OpenDisk, name: str, accept: str
) -> None:
    disk = open_disk("mem:1M?read_only=on", ro=accept)
    with pytest.raises(vioblk.ReadOnlyError, match="read-only"):
        CALLS[name](disk, 0, 512)
    assert software(disk).counters()["chains"] == 0


def test_refused_writes_leave_every_slot_free(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?read_only=on", ring_size=8)
    region = disk.alloc(512)
    write = REQUEST_RECORD.pack(RequestType.OUT, 0, 0, 0, 512, region.handle, 0)
    for _ in range(50):
        with pytest.raises(vioblk.ReadOnlyError):
            disk.write(0, bytes(512))
        with pytest.raises(vioblk.ReadOnlyError):
            disk.submit_many(write)
    assert disk.device.in_flight == 0
    reads = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, 0) * 64
    statuses = bytearray(b"\xff" * 64)
    disk.execute(reads, statuses)
    assert statuses == bytes(64)
    region.close()


def test_a_bad_record_anywhere_keeps_the_whole_batch_back(disk: BlockDevice) -> None:
    region = disk.alloc(512)
    good = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, 0)
    bad = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 100, region.handle, 0)
    with pytest.raises(vioblk.UnalignedError, match="3"):
        disk.submit_many(good * 3 + bad + good)
    assert disk.device.in_flight == 0
    assert software(disk).counters()["chains"] == 0


def test_what_was_not_negotiated_is_unsupported(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M", discard=False, write_zeroes=False)
    for name in ("discard", "write_zeroes"):
        with pytest.raises(vioblk.UnsupportedError, match=name):
            CALLS[name](disk, 0, 512)
    assert software(disk).counters()["chains"] == 0


def test_a_read_only_buffer_cannot_be_read_into(disk: BlockDevice) -> None:
    with pytest.raises(TypeError, match="writable"):
        disk.readinto(0, bytes(512))


def test_a_buffer_with_gaps_is_refused(disk: BlockDevice) -> None:
    with pytest.raises(TypeError):
        disk.readinto(0, memoryview(bytearray(2048))[::2])


def test_offsets_are_whole_numbers(disk: BlockDevice) -> None:
    with pytest.raises(TypeError):
        disk.read(0.0, 512)  # type: ignore[arg-type]


def test_a_record_cannot_name_memory_that_is_not_a_regions(disk: BlockDevice) -> None:
    region = disk.alloc(1024)
    for offset, length, handle in [(512, 1024, region.handle), (2**63, 512, region.handle)]:
        with pytest.raises(vioblk.InvalidRequestError):
            disk.submit_many(REQUEST_RECORD.pack(RequestType.IN, 0, 0, offset, length, handle, 0))
    region.close()
    with pytest.raises((vioblk.InvalidRequestError, BufferError)):
        disk.submit_many(REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, 0))
    assert software(disk).counters()["chains"] == 0


def test_one_record_longer_than_the_device_takes_is_refused(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?size_max=512&seg_max=2&max_discard_sectors=8")
    region = disk.alloc(4096)
    with pytest.raises(vioblk.RequestTooLongError):
        disk.submit_many(REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 1536, region.handle, 0))
    with pytest.raises(vioblk.RequestTooLongError):
        disk.submit_many(REQUEST_RECORD.pack(RequestType.DISCARD, 0, 0, 0, 9 * 512, 0, 0))


@pytest.mark.parametrize("legacy_align", [None, 4096])
@pytest.mark.parametrize(
    ("count", "why"), [(0, "it has no queue"), (1, r"queue 0 does not exist \(its size is 0\)")]
)
def test_a_device_without_queues_is_refused(
    count: int, why: str, legacy_align: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(0 if legacy_align else 1 << Feature.VERSION_1, queues=0)
    script.legacy_align = legacy_align
    monkeypatch.setattr(script, "queue_count", lambda: count)
    with pytest.raises(vioblk.ProtocolError, match=why):
        BlockDevice(script)
    assert script.closed


def test_a_first_reset_that_never_ends_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "INITIALIZE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(disk_module, "HASTY_DRAIN_TIMEOUT_S", 0.01)
    script = Script()
    script.resets, script.status = False, 15
    # A second wait of that kind would be a long one.
    script.hooks["read_status"] = lambda: monkeypatch.setattr(
        disk_module, "INITIALIZE_TIMEOUT_S", 2 * AMPLE_S
    )
    start = time.monotonic()
    with pytest.raises(vioblk.ResetTimeoutError, match=r"within 0\.05 s"):
        BlockDevice(script)
    assert time.monotonic() - start < AMPLE_S
    assert script.closed
