"""One queue of a disk is reset, with requests in flight, while the other goes on."""

import select
import signal
import threading
import time
from collections.abc import Callable

import pytest

import vioblk
from tests.block.conftest import OpenDisk, OpenRecorded
from tests.block.legacy import LegacyTransport
from tests.clauses import clause
from tests.support.interruptions import interrupter
from vioblk._native import SoftwareDevice
from vioblk.block.disk import BlockDevice
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, RequestType
from vioblk.transport.software import SoftwareTransport
from vioblk.transport.software_pci import SoftwarePciTransport

PROMPT_S = 30.0

WAYS = {
    "software": "mem:1M?queues=2",
    "packed in order": "mem:1M?queues=2&packed=on&in_order=on",
    "msix": "mem:1M?queues=2&bus=pci&interrupts=msix",
    "shared vector": "mem:1M?queues=2&bus=pci&interrupts=shared",
    "intx": "mem:1M?queues=2&bus=pci&interrupts=intx",
    "polled": "mem:1M?queues=2&bus=pci&interrupts=none",
    "window": "mem:1M?queues=2&bus=pci&access=window",
}

Open = Callable[..., BlockDevice]


@pytest.fixture(params=WAYS)
def open_two(request: pytest.FixtureRequest, open_disk: OpenDisk) -> Open:
    """Opens a disk with two queues, either of which can be reset."""
    address = WAYS[request.param]

    def opener(options: str = "&offer=ring_reset", **keywords: object) -> BlockDevice:
        return open_disk(f"{address}{options}", queue_count=2, **keywords)

    return opener


@pytest.fixture
def disk(open_two: Open) -> BlockDevice:
    return open_two()


def software(disk: BlockDevice) -> SoftwareDevice:
    transport = disk.device.transport
    assert isinstance(transport, SoftwareTransport | SoftwarePciTransport)
    return transport.device


def records(region: vioblk.Region, kind: RequestType, count: int = 1) -> bytes:
    return b"".join(
        REQUEST_RECORD.pack(kind, 0, index, 512 * index, 512, region.handle, index)
        for index in range(count)
    )


def use(disk: BlockDevice, queue: int, value: int, turns: int = 5) -> None:
    """Write and read back, 16 requests a turn."""
    with disk.alloc(512 * 8) as region:
        for turn in range(turns):
            with memoryview(region) as view:
                view[:] = bytes([(value + turn) % 256]) * len(view)
            done = bytearray(8)
            disk.execute(records(region, RequestType.OUT, 8), done, PROMPT_S, queue=queue)
            assert done == bytes(8)
            with memoryview(region) as view:
                view[:] = bytes(len(view))
            disk.execute(records(region, RequestType.IN, 8), done, PROMPT_S, queue=queue)
            assert done == bytes(8)
            with memoryview(region) as view:
                assert view == bytes([(value + turn) % 256]) * len(view)


def await_chains(disk: BlockDevice, count: int) -> None:
    """Wait until the device has taken so many requests."""
    deadline = time.monotonic() + PROMPT_S
    while software(disk).counters()["chains"] < count:
        assert time.monotonic() < deadline, "the device has not seen them"
        time.sleep(0)


def hold(disk: BlockDevice, region: vioblk.Region, count: int = 3) -> None:
    """Requests on queue 1 that the device takes and never completes."""
    software(disk).inject("silence", count=count)
    before = software(disk).counters()["chains"]
    assert disk.submit_many(records(region, RequestType.IN, count), queue=1) == count
    await_chains(disk, before + count)


@clause("VQRESET-01", "VQRESET-03")
def test_requests_in_flight_are_lost_and_told_and_the_queue_is_used_again(
    disk: BlockDevice,
) -> None:
    with disk.alloc(4096) as region:
        hold(disk, region)
        with pytest.raises(BufferError):
            region.close()
        assert sorted(disk.reset_queue(1, 16)) == [0, 1, 2]
        assert [each.size for each in disk.info.queues] == [256, 16]
        for queue in (1, 0, 1):
            use(disk, queue, 7 * queue + 1)
        assert disk.reset_queue(1) == []
    assert disk.info.queues[1].size == 16


def test_who_waits_is_told_and_who_uses_the_other_queue_is_not(disk: BlockDevice) -> None:
    software(disk).inject("silence")
    before = software(disk).counters()["chains"]
    told: list[Exception] = []

    region = disk.alloc(512)

    def wait_in_vain() -> None:
        try:
            disk.execute(records(region, RequestType.IN), bytearray(1), 60, queue=1)
        except vioblk.DeviceGoneError as error:
            told.append(error)

    waiter = threading.Thread(target=wait_in_vain)
    waiter.start()
    await_chains(disk, before + 1)
    other_goes_on, stop = threading.Event(), threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            use(disk, 0, 1, turns=1)
            other_goes_on.set()

    other = threading.Thread(target=go_on)
    other.start()
    assert other_goes_on.wait(PROMPT_S)
    disk.reset_queue(1)
    waiter.join(PROMPT_S)
    assert not waiter.is_alive()
    assert "queue 1 was reset" in str(told[0])
    region.close()
    other_goes_on.clear()
    assert other_goes_on.wait(PROMPT_S)
    stop.set()
    other.join(PROMPT_S)
    assert not other.is_alive()
    use(disk, 1, 5)


def test_completions_that_nobody_has_taken_are_told_as_well(disk: BlockDevice) -> None:
    with disk.alloc(4096) as region:
        assert disk.submit_many(records(region, RequestType.IN, 4), queue=1) == 4
        assert disk.wait(PROMPT_S, queue=1)
        taken = bytearray(COMPLETION_RECORD.size)
        assert disk.reap_many(taken, queue=1) == 1
        token, *_ = COMPLETION_RECORD.unpack(taken)
        assert sorted([token, *disk.reset_queue(1)]) == [0, 1, 2, 3]
        assert disk.reap_many(bytearray(64), queue=1) == 0


@clause("VQRESET-01")
def test_a_queue_whose_reset_is_not_confirmed_is_not_used_and_the_others_are(
    disk: BlockDevice,
) -> None:
    region = disk.alloc(4096)
    hold(disk, region)
    software(disk).inject("queue_reset_never_ends")
    with pytest.raises(vioblk.ResetTimeoutError, match="queue 1 did not confirm its reset"):
        disk.reset_queue(1, timeout_s=0.02)
    for _ in range(4):
        assert disk.read(0, 512) == bytes(512), "on the queue that is left"
    with pytest.raises(vioblk.DeviceGoneError, match=r"reset_queue\(\) did not succeed"):
        disk.execute(records(region, RequestType.IN), bytearray(1), queue=1)
    assert "queue 1 was reset" in str(disk.info.queues[1].broken)
    with pytest.raises(BufferError):
        region.close()
    software(disk).clear_faults()
    assert sorted(disk.reset_queue(1)) == [0, 1, 2]
    region.close()
    use(disk, 1, 3)
    assert disk.info.queues[1].broken is None


def test_a_disk_with_a_queue_that_would_not_be_reset_can_be_reset_and_closed(
    open_two: Open,
) -> None:
    disk = open_two()
    region = disk.alloc(4096)
    hold(disk, region)
    software(disk).inject("queue_reset_never_ends")
    with pytest.raises(vioblk.ResetTimeoutError):
        disk.reset_queue(1, timeout_s=0.02)
    software(disk).clear_faults()
    assert sorted(disk.reset()[1]) == [0, 1, 2]
    use(disk, 1, 4)
    hold(disk, region)
    software(disk).inject("queue_reset_never_ends")
    with pytest.raises(vioblk.ResetTimeoutError):
        disk.reset_queue(1, timeout_s=0.02)
    disk.close(timeout_s=PROMPT_S)
    assert disk.closed
    region.close()


def test_a_queue_that_the_device_broke_is_mended(disk: BlockDevice) -> None:
    with disk.alloc(512) as region:
        software(disk).inject("id_out_of_range")
        with pytest.raises(vioblk.QueueBroken):
            disk.execute(records(region, RequestType.IN), bytearray(1), PROMPT_S, queue=1)
        assert disk.info.queues[1].broken
        disk.reset_queue(1)
    use(disk, 1, 9)


@pytest.mark.parametrize("size", [0, 2, 12, 512, 1 << 20, -8])
def test_a_size_that_cannot_be_is_refused_and_nothing_changes(
    open_disk: OpenDisk, size: int
) -> None:
    disk = open_disk("mem:1M?queues=2&offer=ring_reset", queue_count=2)
    with disk.alloc(4096) as region:
        hold(disk, region)
        with pytest.raises(ValueError, match=f"queue 1 cannot have {size} descriptors"):
            disk.reset_queue(1, size)
        assert disk.info.queues[1].in_flight == 3
        assert disk.info.queues[1].broken is None
        disk.reset_queue(1)
    use(disk, 1, 2)


def test_a_size_too_small_for_the_longest_request_is_refused(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?offer=ring_reset&size_max=512&seg_max=20")
    with pytest.raises(ValueError, match=r"may take 22 .*open the disk with a smaller ring_size"):
        disk.reset_queue(0, 16)
    disk.reset_queue(0, 32)
    data = bytes(range(256)) * 64
    disk.write(0, data)
    assert disk.read(0, len(data)) == data


@pytest.mark.parametrize("queue", [-1, 2])
def test_a_queue_that_there_is_not_is_refused(open_disk: OpenDisk, queue: int) -> None:
    disk = open_disk("mem:1M?queues=2&offer=ring_reset", queue_count=2)
    with pytest.raises(ValueError, match=f"there is no queue {queue}: this disk uses 2"):
        disk.reset_queue(queue)


def test_a_device_without_the_feature_says_what_to_do(open_two: Open) -> None:
    disk = open_two("&withhold=ring_reset")
    with pytest.raises(vioblk.UnsupportedError, match="reset the whole device"):
        disk.reset_queue(1)
    use(disk, 1, 1)


def test_a_disk_whose_device_needs_a_reset_is_reset_whole(disk: BlockDevice) -> None:
    software(disk).inject("needs_reset")
    disk.device.refresh_state()
    with pytest.raises(vioblk.StateError, match="NEEDS_RESET"):
        disk.reset_queue(1)
    disk.reset()
    disk.reset_queue(1)
    use(disk, 1, 1)


def test_the_only_queue_of_a_disk_can_be_reset(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?offer=ring_reset", queue_count=1)
    disk.write(0, b"x" * 512)
    software(disk).inject("queue_reset_never_ends")
    with pytest.raises(vioblk.ResetTimeoutError):
        disk.reset_queue(0, timeout_s=0.02)
    with pytest.raises(vioblk.DeviceGoneError, match=r"reset_queue\(\) did not succeed"):
        disk.read(0, 512)
    software(disk).clear_faults()
    disk.reset_queue(0)
    assert disk.read(0, 512) == b"x" * 512


def test_a_queue_is_told_of_a_disk_that_changes(disk: BlockDevice) -> None:
    disk.reset_queue(1)
    software(disk).resize(4096)
    deadline = time.monotonic() + PROMPT_S
    while disk.capacity_bytes != 4096 * 512:
        assert time.monotonic() < deadline
        if disk.info.transport_details.get("interrupts", "").startswith("none"):
            disk._driver.refresh(disk.device)
    with disk.alloc(512) as region:
        last = REQUEST_RECORD.pack(RequestType.IN, 0, 4095, 0, 512, region.handle, 0)
        disk.execute(last, bytearray(1), PROMPT_S, queue=1)


def test_a_closed_disk_resets_no_queue(disk: BlockDevice) -> None:
    disk.close()
    with pytest.raises(vioblk.StateError, match="closed"):
        disk.reset_queue(0)


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan")])
def test_a_bound_that_is_none_is_refused(open_disk: OpenDisk, timeout_s: float) -> None:
    disk = open_disk("mem:1M?offer=ring_reset")
    with pytest.raises(ValueError, match="timeout_s"):
        disk.reset_queue(0, timeout_s=timeout_s)
    disk.read(0, 512)


def test_interrupts_reach_the_queue_that_was_made_anew(open_two: Open) -> None:
    disk = open_two()
    if disk.info.queues[1].polling:
        return  # it has none, before or after
    for _ in range(2):
        disk.reset_queue(1)
    queue = disk._driver.queues[1]
    with disk.alloc(512) as region, select.epoll() as loop:
        loop.register(queue.fileno(), select.EPOLLIN)
        software(disk).inject("delay")
        before = software(disk).counters()["chains"]
        assert disk.submit_many(records(region, RequestType.IN), queue=1) == 1
        await_chains(disk, before + 1)
        while loop.poll(0):
            assert not queue.arm()
        assert not queue.arm()
        software(disk).clear_faults()
        assert loop.poll(PROMPT_S), "the device's interrupt reaches nobody"
        assert disk.reap_many(bytearray(16), queue=1) == 1


def test_no_doorbell_is_rung_for_a_queue_that_is_no_more(open_two: Open) -> None:
    """Not even by who reaps it afterwards, and finds room for what was waiting."""
    disk = open_two()
    old = disk._driver.queues[1]
    waiting = bytearray(300)
    region = disk.alloc(512 * 300)
    software(disk).inject("silence")
    before = software(disk).counters()["chains"]
    raised: list[Exception] = []

    def fill() -> None:
        try:
            disk.execute(records(region, RequestType.IN, 300), waiting, 60, queue=1)
        except vioblk.DeviceGoneError as error:
            raised.append(error)

    filler = threading.Thread(target=fill)
    filler.start()
    await_chains(disk, before + 1)
    disk.reset_queue(1)
    filler.join(PROMPT_S)
    assert not filler.is_alive()
    assert len(raised) == 1
    kicks, chains = old.kick_count, software(disk).counters()["chains"]
    with pytest.raises(vioblk.DeviceGoneError):
        old.reap_many(bytearray(16))
    with pytest.raises(vioblk.DeviceGoneError):
        old.submit_many(records(region, RequestType.IN))
    assert old.kick_count == kicks
    assert software(disk).counters()["chains"] == chains
    region.close()
    use(disk, 1, 6)


def test_a_reset_that_is_interrupted_leaves_the_queue_unused_until_the_next(
    open_disk: OpenDisk,
) -> None:
    disk = open_disk("mem:1M?queues=2&offer=ring_reset", queue_count=2)
    region = disk.alloc(4096)
    hold(disk, region)
    software(disk).inject("queue_reset_never_ends")

    def interrupt() -> None:
        deadline = time.monotonic() + PROMPT_S
        while not software(disk).is_queue_resetting(1) and time.monotonic() < deadline:
            time.sleep(0)
        signal.raise_signal(signal.SIGINT)

    # Whoever runs the tests in the background of a script has SIGINT ignored.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            disk.reset_queue(1, timeout_s=60)
        interrupter.join(PROMPT_S)
    finally:
        signal.signal(signal.SIGINT, previous)
    with pytest.raises(vioblk.DeviceGoneError, match="call it again"):
        disk.execute(records(region, RequestType.IN), bytearray(1), queue=1)
    use(disk, 0, 3)
    software(disk).clear_faults()
    assert sorted(disk.reset_queue(1)) == [0, 1, 2]
    region.close()
    use(disk, 1, 4)


@pytest.mark.parametrize("way", ["software", "packed in order", "msix"])
def test_a_reset_may_be_interrupted_at_any_moment(way: str) -> None:
    """With the native ring: the finalizers of the other one would swallow some interruptions."""
    with (
        vioblk.open(f"{WAYS[way]}&offer=ring_reset", queue_count=2) as disk,
        disk.alloc(512) as region,
    ):
        software(disk).inject("silence")
        told = tokens_of_interrupted_resets(disk, region)
        assert len(told) == len(set(told)), "nothing is told twice"
        software(disk).clear_faults()
        for queue in (0, 1):
            use(disk, queue, 5)


def tokens_of_interrupted_resets(disk: BlockDevice, region: vioblk.Region) -> list[int]:
    """Of queue 1, each of them followed by one that is not interrupted."""
    told: list[int] = []
    with interrupter() as interruptions:
        for token in range(200):
            record = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, token)
            assert disk.submit_many(record, queue=1) == 1
            interruptions.interrupt(lambda: told.extend(disk.reset_queue(1)))
            told.extend(disk.reset_queue(1))
    return told


def test_the_legacy_interface_resets_no_single_queue(open_recorded: OpenRecorded) -> None:
    disk, _ = open_recorded(
        "mem:1M?queues=2&offer=ring_reset", queue_count=2, transport_class=LegacyTransport
    )
    with pytest.raises(vioblk.UnsupportedError, match="reset the whole device"):
        disk.reset_queue(1)
    use(disk, 1, 4)
