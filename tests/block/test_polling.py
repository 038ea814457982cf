"""A queue polls or waits for interrupts, each as it is told, and the device sees which."""

import select
import threading
import time

import pytest

import vioblk
from tests.block.conftest import OpenDisk
from vioblk._native import SoftwareDevice
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, RequestType
from vioblk.transport.software import SoftwareTransport
from vioblk.transport.software_pci import SoftwarePciTransport

PROMPT_S = 30.0
TURNS = 200

INTERRUPTING = [
    "mem:1M?queues=2",
    "mem:1M?queues=2&event_idx=off",
    "mem:1M?queues=2&packed=on",
    "mem:1M?queues=2&packed=on&event_idx=off&in_order=on",
    "mem:1M?queues=2&bus=pci&interrupts=msix",
]


@pytest.fixture(params=INTERRUPTING)
def disk(request: pytest.FixtureRequest, open_disk: OpenDisk) -> BlockDevice:
    """With two queues, for which the device interrupts."""
    return open_disk(request.param, queue_count=2)


def software(disk: BlockDevice) -> SoftwareDevice:
    transport = disk.device.transport
    assert isinstance(transport, SoftwareTransport | SoftwarePciTransport)
    return transport.device


def read(disk: BlockDevice, region: vioblk.Region, queue: int) -> None:
    record = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, 0)
    status = bytearray(1)
    disk.execute(record, status, PROMPT_S, queue=queue)
    assert status == b"\0"


def waits_on(disk: BlockDevice, queue: int) -> threading.Thread:
    """A thread that waits on a queue for a request which the device holds back."""
    software(disk).inject("delay")
    before = software(disk).counters()["chains"]

    def wait() -> None:
        with disk.alloc(512) as region:
            read(disk, region, queue)

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + PROMPT_S
    while software(disk).counters()["chains"] == before:
        assert time.monotonic() < deadline
        time.sleep(0)
    return thread


def goes_on(disk: BlockDevice, thread: threading.Thread) -> None:
    software(disk).clear_faults()
    thread.join(PROMPT_S)
    assert not thread.is_alive()


def asks_for_interrupts(disk: BlockDevice, queue: int) -> bool:
    """Whether the words of the ring ask for one at the next completion."""
    parts = disk._driver._handles[queue]._parts
    assert parts is not None
    layout, words = parts.layout, memoryview(parts.ring).cast("H")
    if parts.packed:
        return words[layout.driver_offset // 2 + 1] != 1
    if not parts.event_idx:
        return not words[layout.driver_offset // 2] & 1
    used_event = words[layout.driver_offset // 2 + 2 + parts.size]
    return used_event == words[layout.device_offset // 2 + 1]


def test_a_queue_that_polls_never_asks_for_an_interrupt(disk: BlockDevice) -> None:
    disk.set_polling(1, True)
    with disk.alloc(512) as region:
        read(disk, region, 1)
        software(disk).reset_counters()
        for _ in range(TURNS):
            assert not asks_for_interrupts(disk, 1)
            read(disk, region, 1)
        waiter = waits_on(disk, 1)
        assert not asks_for_interrupts(disk, 1)
        goes_on(disk, waiter)
        assert software(disk).counters()["interrupts"] == 0
        assert software(disk).counters()["completions"] == TURNS + 1


def test_the_other_queue_is_as_before(disk: BlockDevice) -> None:
    disk.set_polling(1, True)
    software(disk).reset_counters()
    waiter = waits_on(disk, 0)
    deadline = time.monotonic() + PROMPT_S
    while not asks_for_interrupts(disk, 0):  # once it has waited in vain for a moment
        assert time.monotonic() < deadline
        time.sleep(0)
    goes_on(disk, waiter)
    assert software(disk).counters()["interrupts"] == 1


def test_who_waits_goes_on_in_the_other_way(disk: BlockDevice) -> None:
    """It sits in epoll, and for interrupts that are asked for no more it would sit there."""
    waiter = waits_on(disk, 1)
    deadline = time.monotonic() + PROMPT_S
    while not asks_for_interrupts(disk, 1):
        assert time.monotonic() < deadline
        time.sleep(0)
    disk.set_polling(1, True)
    assert not asks_for_interrupts(disk, 1)
    goes_on(disk, waiter)
    waiter = waits_on(disk, 1)
    disk.set_polling(1, False)
    deadline = time.monotonic() + PROMPT_S
    while not asks_for_interrupts(disk, 1):
        assert time.monotonic() < deadline
        time.sleep(0)
    goes_on(disk, waiter)


def test_an_event_loop_is_woken_to_look_by_itself(disk: BlockDevice) -> None:
    queue = disk._driver.queues[1]
    with select.epoll() as loop:
        loop.register(queue.fileno(), select.EPOLLIN)
        assert not queue.arm()
        while loop.poll(0):
            assert not queue.arm()
        disk.set_polling(1, True)
        assert loop.poll(PROMPT_S)
        assert not queue.arm()
        assert not asks_for_interrupts(disk, 1)


def test_the_disk_says_which_queues_poll_and_resets_change_nothing(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?queues=3&offer=ring_reset", queue_count=3)
    disk.set_polling(2, True)

    def polling() -> list[bool]:
        return [each.polling for each in disk.info.queues]

    assert polling() == [False, False, True]
    disk.reset()
    assert polling() == [False, False, True]
    disk.reset_queue(2)
    assert polling() == [False, False, True]
    disk.set_polling(2, False)
    disk.reset_queue(2)
    assert polling() == [False, False, False]


def test_without_interrupts_there_is_no_choice(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?bus=pci&interrupts=none")
    disk.set_polling(0, True)
    assert disk.info.queues[0].polling
    with pytest.raises(vioblk.UnsupportedError, match="polled in any case"):
        disk.set_polling(0, False)
    assert disk.info.queues[0].polling
    disk.read(0, 512)


@pytest.mark.parametrize("queue", [-1, 2])
def test_a_queue_that_there_is_not_is_refused(disk: BlockDevice, queue: int) -> None:
    with pytest.raises(ValueError, match=f"there is no queue {queue}"):
        disk.set_polling(queue, True)
