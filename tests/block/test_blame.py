"""Which queue is to blame, what the user can do, and what `info` says meanwhile."""

import json
import threading
import time

import pytest

import vioblk
from tests.block.conftest import OpenDisk
from vioblk._native import SoftwareDevice
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, RequestType
from vioblk.transport.software import SoftwareTransport

PROMPT_S = 30.0
FLUSH = REQUEST_RECORD.pack(RequestType.FLUSH, 0, 0, 0, 0, 0, 0)
TWO = "mem:1M?queues=2&serial=two"
RESETTABLE = f"{TWO}&offer=ring_reset"


def software(disk: BlockDevice) -> SoftwareDevice:
    transport = disk.device.transport
    assert isinstance(transport, SoftwareTransport)
    return transport.device


def break_queue(disk: BlockDevice, queue: int) -> vioblk.QueueBroken:
    software(disk).inject("id_out_of_range")
    with pytest.raises(vioblk.QueueBroken) as raised:
        disk.execute(FLUSH, bytearray(1), PROMPT_S, queue=queue)
    return raised.value


def kick_counts(disk: BlockDevice) -> list[int]:
    return [queue.kick_count for queue in disk.info.queues]


def await_chain(disk: BlockDevice, before: int) -> None:
    deadline = time.monotonic() + PROMPT_S
    while software(disk).counters()["chains"] == before:
        assert time.monotonic() < deadline, "the device has not seen it"
        time.sleep(0)


@pytest.mark.parametrize(
    ("address", "helps"),
    [(RESETTABLE, r"reset_queue\(1\) or reset\(\)"), (TWO, r"ring: [^;]*; reset\(\)")],
)
def test_a_broken_queue_is_named_with_what_brings_it_back(
    open_disk: OpenDisk, address: str, helps: str
) -> None:
    disk = open_disk(address, queue_count=2)
    words = rf"^queue 1: the device broke the rules .*{helps} brings it back"
    assert break_queue(disk, 1)
    for call in (
        lambda: disk.execute(FLUSH, bytearray(1), queue=1),
        lambda: disk.submit_many(FLUSH, 1),
        lambda: disk.reap_many(bytearray(64), 1),
    ):
        with pytest.raises(vioblk.QueueBroken, match=words):
            call()


def test_the_only_queue_is_named_to_those_who_chose_none(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M")
    break_queue(disk, 0)
    with pytest.raises(vioblk.QueueBroken, match=r"^queue 0: .*; reset\(\) brings it back"):
        disk.read(0, 512)


def test_calls_that_choose_no_queue_pass_over_a_broken_one(open_disk: OpenDisk) -> None:
    disk = open_disk(TWO, queue_count=2)
    break_queue(disk, 1)
    for _ in range(8):
        disk.write(0, bytes(512))
        assert disk.read(0, 512) == bytes(512)
    break_queue(disk, 0)
    with pytest.raises(vioblk.QueueBroken):
        disk.read(0, 512)


def test_info_can_be_had_of_a_broken_disk(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?serial=name")
    break_queue(disk, 0)
    info = disk.info
    assert info.serial is None
    assert "broke the rules of the ring" in (info.queues[0].broken or "")
    json.dumps(info.as_dict())
    disk.reset()
    assert disk.info.serial == "name"
    break_queue(disk, 0)
    assert (disk.info.serial, disk.serial) == ("name", "name")


def test_info_returns_soon_though_the_device_is_silent_and_asks_once(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?serial=name", timeout_s=60)
    software(disk).inject("silence", count=100)
    start = time.monotonic()
    assert disk.info.serial is None
    assert time.monotonic() - start < PROMPT_S
    assert disk.info.queues[0].in_flight == 1
    assert kick_counts(disk) == kick_counts(disk)
    assert disk.info.queues[0].in_flight == 1, "it was asked once"
    software(disk).clear_faults()
    disk.reset()
    assert disk.serial == "name"


def test_info_sends_nothing_once_the_serial_is_known(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?serial=name")
    before = kick_counts(disk)
    assert disk.info.serial == disk.serial == "name"
    assert kick_counts(disk) == before


def test_info_does_not_wait_for_the_end_of_a_reset_of_a_queue(open_disk: OpenDisk) -> None:
    disk = open_disk(RESETTABLE, queue_count=2)
    assert disk.serial == "two"
    with disk.device.lock:  # as reset_queue holds it
        found: list[vioblk.DiskInfo] = []
        thread = threading.Thread(target=lambda: found.append(disk.info))
        thread.start()
        thread.join(PROMPT_S)
        assert found, "info waits"
    assert found[0].serial == "two"


@pytest.mark.parametrize("value", [False, True])
def test_info_tells_how_the_cache_was_set_without_asking(open_disk: OpenDisk, value: bool) -> None:
    disk = open_disk("mem:1M")
    disk.writeback = value
    assert disk.info.writeback == disk.writeback == value
    assert disk.config.writeback == value


def test_who_loses_a_request_to_the_reset_of_a_queue_can_tell(open_disk: OpenDisk) -> None:
    """It is not sent a second time: the device has seen it."""
    disk = open_disk(RESETTABLE, queue_count=2)
    told: list[Exception] = []

    def use(chosen: int | None) -> None:
        try:
            disk.execute(FLUSH, bytearray(1), PROMPT_S, chosen) if chosen else disk.flush()
        except vioblk.DeviceGoneError as error:
            told.append(error)

    for chosen in (1, None):
        before = software(disk).counters()["chains"]
        software(disk).inject("silence")
        thread = threading.Thread(target=use, args=(chosen,))
        thread.start()
        await_chain(disk, before)
        (busy,) = (queue.index for queue in disk.info.queues if queue.in_flight)
        chains = software(disk).counters()["chains"]
        disk.reset_queue(busy)
        thread.join(PROMPT_S)
        assert not thread.is_alive()
        assert software(disk).counters()["chains"] == chains
        (error,) = told
        assert type(error) is vioblk.QueueResetError
        assert f"queue {busy} was reset" in str(error)
        told.clear()
        disk.flush()


def test_a_reset_of_the_disk_is_no_reset_of_a_queue(open_disk: OpenDisk) -> None:
    disk = open_disk(RESETTABLE, queue_count=2)
    queue = disk._driver.queues[1]
    disk.reset()
    with pytest.raises(vioblk.DeviceGoneError) as raised:
        queue.submit_many(FLUSH)
    assert not isinstance(disk._driver.blame(queue, raised.value), vioblk.QueueResetError)


def test_too_large_lengths_are_counted_for_each_queue(open_disk: OpenDisk) -> None:
    disk = open_disk(TWO, queue_count=2)
    software(disk).inject("huge_length", count=1)
    with disk.alloc(512) as region:
        record = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, 0)
        disk.execute(record, bytearray(1), PROMPT_S, queue=1)
    assert [queue.clamped_count for queue in disk.info.queues] == [0, 1]
    plain = json.loads(json.dumps(disk.info.as_dict()))
    assert [queue["clamped_count"] for queue in plain["queues"]] == [0, 1]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("", r"does not offer it; open it with ring_reset=on"),
        ("?offer=ring_reset&ring_reset=off", r"switched off by an option"),
    ],
)
def test_a_queue_that_cannot_be_reset_says_why_whatever_the_size(
    open_disk: OpenDisk, options: str, why: str
) -> None:
    disk = open_disk(f"mem:1M{options}")
    for size in (None, 0, 512):
        with pytest.raises(vioblk.UnsupportedError, match=why):
            disk.reset_queue(0, size)


@pytest.mark.parametrize(
    ("options", "size", "words"),
    [
        ("", 0, "ask for 1 or more"),
        ("", -1, "ask for 1 or more"),
        ("", 1, r"smallest size for this disk is \d+, as a request may take \d+ .*power of two"),
        ("", 2, "smallest size for this disk is"),
        ("", 96, r"power of two from 1 to 256 .*packed=on"),
        ("", 512, "queue_size=512"),
        ("&packed=on", 2, "smallest size for this disk is"),
        ("&packed=on", 512, "a number from 1 to 256 .*queue_size=512"),
    ],
)
def test_a_size_that_cannot_be_says_which_could(
    open_disk: OpenDisk, options: str, size: int, words: str
) -> None:
    disk = open_disk(f"{RESETTABLE}{options}", queue_count=2)
    with pytest.raises(ValueError, match=words):
        disk.reset_queue(0, size)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("ring_size=2", "takes three descriptors .*ask for 4 or more"),
        ("ring_size=1&packed=on", "takes three descriptors .*ask for 3 or more"),
        ("ring_size=96", "a power of two up to 256; a packed ring"),
        ("ring_size=512", "a power of two up to 256; .*queue_size=512"),
        ("ring_size=300", "a power of two up to 256; .*queue_size=512"),
    ],
)
def test_a_ring_size_that_cannot_be_says_which_could(
    open_disk: OpenDisk, options: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        open_disk(f"mem:1M?{options}")


def test_a_queue_that_the_device_has_and_the_disk_does_not_use_is_said_to_be_there(
    open_disk: OpenDisk,
) -> None:
    disk = open_disk("mem:1M?queues=4", queue_count=2)
    words = "this disk uses 2 of the device's 4; open it with queue_count=4"
    with pytest.raises(ValueError, match=words):
        disk.submit_many(FLUSH, 2)


@pytest.mark.parametrize("queue", ["1", 1.0, [1]])
def test_a_queue_is_a_whole_number(open_disk: OpenDisk, queue: object) -> None:
    disk = open_disk(RESETTABLE, queue_count=2)
    for call in (
        lambda: disk.execute(FLUSH, bytearray(1), queue=queue),  # type: ignore[arg-type]
        lambda: disk.submit_many(FLUSH, queue),  # type: ignore[arg-type]
        lambda: disk.reap_many(bytearray(64), queue),  # type: ignore[arg-type]
        lambda: disk.wait(0, queue),  # type: ignore[arg-type]
        lambda: disk.set_polling(queue, True),  # type: ignore[arg-type]
        lambda: disk.reset_queue(queue),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match="queue must be a whole number"):
            call()


@pytest.mark.parametrize("on", ["off", 1, None])
def test_polling_is_switched_by_a_bool_only(open_disk: OpenDisk, on: object) -> None:
    disk = open_disk("mem:1M")
    with pytest.raises(TypeError, match="on must be True or False"):
        disk.set_polling(0, on)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        disk._driver.queues[0].polling = on  # type: ignore[assignment]
    assert not disk.info.queues[0].polling


def test_features_of_the_ring_that_are_not_offered_are_listed(open_disk: OpenDisk) -> None:
    info = open_disk("mem:1M?withhold=indirect_desc").info
    assert {"indirect_desc", "ring_reset", "ring_packed"} <= set(info.not_offered)
    assert not set(info.not_offered) & set(info.offered.names)
    assert info.as_dict()["not_offered"] == list(info.not_offered)
