"""A device that lies: an exception with the reason, no hang, no stray write, and a reset helps."""

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

import vioblk
from tests.block.conftest import FORMATS, OpenDisk
from tests.block.tap import Tap
from tests.block.test_cache import software
from tests.support.patience import AMPLE_S, hasty
from vioblk._native import Region
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, STATUS_PENDING, RequestType

GUARD = 512
DATA = 4096
PATTERN = b"\xc3"
SHORT_S = 0.05
"""Of waits in vain; the disks are patient otherwise."""

BREAKING = {
    "id_out_of_range": "id",
    "id_not_outstanding": "outstanding",
    "id_twice": "outstanding",
    # A packed ring has no index: descriptors are marked used that are not.
    "index_ahead": "index|outstanding",
}
"""Faults that break the queue, and a word of the reason."""

BREAKING_IN_ORDER = {"id_before": "outstanding"}
"""The same in order. Out of order an id that was given back may soon be in use again."""

BREAKING_BATCHES = {
    "index_behind": "but moved the used index by",
    "id_ahead": "but moved the used index by",
}
"""The same where an index tells how many chains a batch gave back."""

BREAKING_BY_FORMAT = {
    "split": BREAKING,
    "split-in-order": BREAKING | BREAKING_IN_ORDER | BREAKING_BATCHES,
    "packed": BREAKING,
    "packed-in-order": BREAKING | BREAKING_IN_ORDER,
}

LOSING = ("silence", "index_behind", "id_ahead")
"""Faults that lose requests, which no ring tells from requests that take long; but where they
break it."""

BROKEN = [
    pytest.param(form, fault, words, id=f"{form}-{fault}")
    for form, breaking in BREAKING_BY_FORMAT.items()
    for fault, words in breaking.items()
]

LOST = [
    pytest.param(form, fault, id=f"{form}-{fault}")
    for form, breaking in BREAKING_BY_FORMAT.items()
    for fault in LOSING
    if fault not in breaking
]


@pytest.fixture(params=FORMATS)
def ring_format(request: pytest.FixtureRequest) -> str:
    """A device can lie on rings of every format."""
    chosen: str = request.param
    return chosen


@pytest.fixture
def disk(open_disk: OpenDisk) -> BlockDevice:
    disk = open_disk("mem:1M")
    disk.write(0, b"\x5a" * (64 * DATA))
    return disk


class Guarded:
    """A region with bytes around the data that nobody may touch."""

    def __init__(self, disk: BlockDevice) -> None:
        self.region: Region = disk.alloc(GUARD + DATA + GUARD)
        self.bytes = memoryview(self.region)
        self.bytes[:] = PATTERN * len(self.bytes)
        self.data = self.bytes[GUARD : GUARD + DATA]

    def assert_untouched(self) -> None:
        assert self.bytes[:GUARD] == PATTERN * GUARD, "the device wrote before the buffer"
        assert self.bytes[-GUARD:] == PATTERN * GUARD, "the device wrote behind the buffer"

    def records(self, count: int) -> bytes:
        """`count` reads of one sector each, all into the data."""
        return b"".join(
            REQUEST_RECORD.pack(
                RequestType.IN, 0, i, GUARD + i % 8 * 512, 512, self.region.handle, i
            )
            for i in range(count)
        )


@pytest.fixture
def guarded(disk: BlockDevice) -> Guarded:
    return Guarded(disk)


def works_again(disk: BlockDevice) -> None:
    software(disk).clear_faults()
    disk.reset()
    disk.write(DATA, b"again!!!" * 64)
    disk.flush()
    assert disk.read(DATA, 512) == b"again!!!" * 64
    assert disk.device.in_flight == 0


@pytest.mark.parametrize(("ring_format", "fault", "words"), BROKEN)
@pytest.mark.parametrize("after", [0, 5])
def test_a_used_ring_that_lies_breaks_the_queue_with_the_reason(
    disk: BlockDevice, guarded: Guarded, fault: str, words: str, after: int
) -> None:
    software(disk).inject(fault, after=after)
    statuses = bytearray([STATUS_PENDING]) * 32
    with pytest.raises(vioblk.QueueBroken, match=words) as raised:
        disk.execute(guarded.records(32), statuses)
    guarded.assert_untouched()
    with pytest.raises(vioblk.QueueBroken, match=re.escape(str(raised.value)[:20])):
        disk.read(0, 512)
    works_again(disk)
    guarded.assert_untouched()


@pytest.mark.parametrize(("ring_format", "fault"), LOST)
@pytest.mark.parametrize("after", [0, 5])
def test_requests_that_a_used_ring_loses_end_and_are_no_successes(
    disk: BlockDevice, guarded: Guarded, fault: str, after: int
) -> None:
    device = software(disk)
    device.reset_counters()
    device.inject(fault, after=after)
    statuses = bytearray([STATUS_PENDING]) * 32
    with suppress(vioblk.RequestTimeoutError):
        disk.execute(guarded.records(32), statuses, timeout_s=SHORT_S)
    assert statuses.count(0) <= device.counters()["reads"] <= 32
    if statuses.count(0) == 32:
        # One element gave them all back, and the next one stands where nobody looks.
        with hasty(disk, SHORT_S), pytest.raises(vioblk.RequestTimeoutError):
            disk.read(0, 512)
    guarded.assert_untouched()
    works_again(disk)
    guarded.assert_untouched()


@pytest.mark.parametrize(("ring_format", "fault", "words"), BROKEN)
def test_everybody_who_waits_on_a_broken_queue_is_told(
    open_disk: OpenDisk, fault: str, words: str, ring_format: str
) -> None:
    disk = open_disk("mem:1M?threaded=off")
    device = software(disk)
    device.inject(fault)
    raised: list[BaseException] = []

    def read() -> None:
        try:
            disk.read(0, 512)
        except vioblk.VioblkError as error:
            raised.append(error)

    waiters = [threading.Thread(target=read) for _ in range(5)]
    for waiter in waiters:
        waiter.start()
    deadline = time.monotonic() + AMPLE_S
    while disk.device.in_flight < 5:
        assert time.monotonic() < deadline
    device.serve()
    for waiter in waiters:
        waiter.join(AMPLE_S)
    assert {type(error) for error in raised} == {vioblk.QueueBroken}
    assert all(re.search(words, str(error)) for error in raised)
    # One may have been answered before the lie was found out: what is given back twice, or in a
    # packed ring before descriptors that are marked used and are not.
    packed = ring_format.startswith("packed")
    answered = fault in ("id_twice", "id_before") or (fault == "index_ahead" and packed)
    assert len(raised) >= (4 if answered else 5)


def test_a_huge_used_length_is_clamped_and_harmless(disk: BlockDevice, guarded: Guarded) -> None:
    software(disk).inject("huge_length", count=8)
    assert disk.readinto(0, guarded.data) == DATA
    assert guarded.data == b"\x5a" * DATA
    guarded.assert_untouched()


def test_a_strict_queue_breaks_at_a_huge_used_length(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M", strict=True)
    software(disk).inject("huge_length")
    with pytest.raises(vioblk.QueueBroken, match="length"):
        disk.read(0, 512)
    works_again(disk)


def test_a_status_that_is_none_is_an_error(disk: BlockDevice, guarded: Guarded) -> None:
    software(disk).inject("garbage_status", value=0x77)
    with pytest.raises(vioblk.RequestFailedError, match="status 119") as raised:
        disk.readinto(0, guarded.data)
    assert raised.value.status == 0x77
    guarded.assert_untouched()
    assert disk.read(0, 512) == b"\x5a" * 512
    works_again(disk)


def test_a_device_that_never_writes_the_status_is_found_out(disk: BlockDevice) -> None:
    software(disk).inject("garbage_status", value=STATUS_PENDING)
    with pytest.raises(vioblk.RequestFailedError, match="without writing a status"):
        disk.write(0, bytes(512))


@pytest.mark.parametrize(
    "call",
    [
        lambda disk: disk.read(0, 512),
        lambda disk: disk.write(0, bytes(512)),
        lambda disk: disk.flush(),
    ],
    ids=["read", "write", "flush"],
)
def test_a_used_length_that_leaves_out_the_status_is_no_success(
    disk: BlockDevice, call: Callable[[BlockDevice], object]
) -> None:
    software(disk).inject("short_length", value=0)
    with pytest.raises(vioblk.RequestFailedError, match="without writing a status"):
        call(disk)
    works_again(disk)


@pytest.mark.parametrize(("status", "words"), [(1, "I/O error"), (2, "does not support")])
def test_a_failed_request_says_which(disk: BlockDevice, status: int, words: str) -> None:
    software(disk).inject("status", value=status)
    with pytest.raises(
        vioblk.RequestFailedError, match=f"write of 1024 bytes at offset 512.*{words}"
    ):
        disk.write(512, bytes(1024))


def test_silence_ends_with_a_time_out_and_the_buffer_stays_pinned(
    disk: BlockDevice, guarded: Guarded
) -> None:
    software(disk).inject("silence")
    start = time.monotonic()
    with hasty(disk, SHORT_S), pytest.raises(vioblk.RequestTimeoutError):
        disk.readinto(0, guarded.data)
    assert SHORT_S * 0.9 <= time.monotonic() - start < disk.timeout_s
    guarded.data.release()
    guarded.bytes.release()
    with pytest.raises(BufferError):
        guarded.region.close()
    works_again(disk)
    assert guarded.region.in_flight == 0
    guarded.region.close()


def test_a_bounce_buffer_of_a_late_request_is_not_used_for_another(
    tapped: Callable[..., tuple[BlockDevice, Tap]],
) -> None:
    disk, tap = tapped("mem:1M")
    with hasty(disk, SHORT_S), pytest.raises(vioblk.RequestTimeoutError):
        disk.write(0, b"\x11" * 512)
    # The device carries out the late write beside the next one, and must find its own data.
    tap.watch(lambda: disk.write(512, b"\x22" * 512))
    content: list[bytes] = []
    tap.watch(lambda: content.append(disk.read(0, 1024)))
    assert content == [b"\x11" * 512 + b"\x22" * 512]


@pytest.mark.parametrize("ring_format", ["split", "packed"])
def test_requests_go_on_beside_a_lost_one(disk: BlockDevice, guarded: Guarded) -> None:
    software(disk).inject("silence")
    with hasty(disk, SHORT_S), pytest.raises(vioblk.RequestTimeoutError):
        disk.readinto(0, guarded.data)
    for _ in range(300):
        assert disk.read(0, 512) == b"\x5a" * 512
    guarded.assert_untouched()
    works_again(disk)


@pytest.mark.parametrize("ring_format", ["split-in-order", "packed-in-order"])
def test_in_order_nothing_passes_a_lost_request_and_a_reset_helps(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M")
    software(disk).inject("silence")
    for _ in range(3):
        with hasty(disk, SHORT_S), pytest.raises(vioblk.RequestTimeoutError):
            disk.read(0, 512)
    assert disk.device.in_flight == 3
    works_again(disk)


def test_a_lost_interrupt_does_not_hang(disk: BlockDevice) -> None:
    software(disk).inject("no_interrupt", count=3)
    for _ in range(4):
        assert disk.read(0, 512) == b"\x5a" * 512


def test_a_spurious_interrupt_is_no_completion(disk: BlockDevice, guarded: Guarded) -> None:
    device = software(disk)
    device.inject("silence")
    disk.submit_many(guarded.records(1))
    device.inject("spurious_interrupt", value=0)
    assert not disk.wait(SHORT_S)
    assert disk.reap_many(bytearray(16)) == 0
    works_again(disk)


def test_a_device_that_needs_a_reset_says_so_to_whoever_waits(disk: BlockDevice) -> None:
    software(disk).inject("silence")
    raised: list[BaseException] = []

    def read() -> None:
        try:
            disk.read(0, 512)
        except vioblk.VioblkError as error:
            raised.append(error)

    waiter = threading.Thread(target=read)
    waiter.start()
    software(disk).inject("needs_reset")
    waiter.join(AMPLE_S)
    assert not waiter.is_alive()
    assert [type(error) for error in raised] == [vioblk.DeviceGoneError]
    works_again(disk)


def test_a_reset_that_is_never_confirmed_ends_in_an_error(disk: BlockDevice) -> None:
    software(disk).inject("reset_never_ends")
    with pytest.raises(vioblk.ResetTimeoutError):
        disk.reset(timeout_s=SHORT_S)
    with pytest.raises(vioblk.StateError, match="reset or close"):
        disk.read(0, 512)
    works_again(disk)


def test_lost_tokens_come_back_from_the_reset(disk: BlockDevice, guarded: Guarded) -> None:
    software(disk).inject("silence", count=3)
    assert disk.submit_many(guarded.records(3)) == 3
    lost = disk.reset()
    assert {queue: sorted(tokens) for queue, tokens in lost.items()} == {0: [0, 1, 2]}
    assert guarded.region.in_flight == 0
    works_again(disk)


def test_a_silent_device_is_closed_all_the_same(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M")
    software(disk).inject("silence")
    region = disk.alloc(512)
    read = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, 0)
    assert disk.submit_many(read) == 1
    with pytest.raises(vioblk.RequestTimeoutError, match="1 request did not complete"):
        disk.close(timeout_s=SHORT_S)
    with pytest.raises(vioblk.StateError, match="closed"):
        disk.read(0, 512)
    region.close()


def test_leaving_by_an_exception_keeps_that_exception(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M", timeout_s=SHORT_S)
    software(disk).inject("silence", count=2)
    with (
        pytest.raises(vioblk.RequestTimeoutError, match=r"after 0\.05 s: timed out") as raised,
        disk,
    ):
        disk.read(0, 512)
    assert any("closing the disk failed as well" in note for note in raised.value.__notes__)


def test_who_waits_for_a_completion_is_sent_away_when_the_disk_closes(
    open_disk: OpenDisk,
) -> None:
    disk = open_disk("mem:1M")
    software(disk).inject("silence")
    region = disk.alloc(512)
    assert disk.submit_many(REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, 0))
    ended: list[BaseException] = []

    def wait_and_reap() -> None:
        try:
            assert disk.wait(60)
            disk.reap_many(bytearray(16))
        except vioblk.VioblkError as error:
            ended.append(error)

    waiter = threading.Thread(target=wait_and_reap)
    waiter.start()
    with pytest.raises(vioblk.RequestTimeoutError):
        disk.close(timeout_s=SHORT_S)
    waiter.join(AMPLE_S)
    assert not waiter.is_alive()
    assert [type(error) for error in ended] == [vioblk.StateError]


@pytest.mark.parametrize("call", ["close", "reset"])
def test_the_callback_cannot_close_or_reset_the_disk(open_disk: OpenDisk, call: str) -> None:
    ended: list[BaseException] = []
    called = threading.Event()

    def callback(config: object) -> None:
        try:
            getattr(disk, call)()
        except vioblk.StateError as error:
            ended.append(error)
        called.set()

    disk = open_disk("mem:1M", on_config_change=callback)
    software(disk).resize(4096)
    assert called.wait(AMPLE_S)
    assert len(ended) == 1
    assert disk.capacity_bytes == 4096 * 512
