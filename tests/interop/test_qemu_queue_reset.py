"""One queue of QEMU's disk is reset while the others go on."""

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import vioblk
from tests.clauses import clause
from tests.conftest import RingName
from tests.interop.qemu_machines import (
    MODERN_WAYS,
    WAIT_S,
    Way,
    content_of,
    numbered_disk,
    on,
    poll,
    settle,
)
from tests.interop.raw_disk import RawDriver, raw_disk
from tests.support.qemu import qemu_of
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, RequestStatus, RequestType

HASTY_S = 0.05


@on(MODERN_WAYS)
def test_a_queue_is_reset_only_when_qemu_has_let_go_of_its_requests(
    tmp_path: Path, way: Way
) -> None:
    """QEMU confirms earlier than that (test_qemu_behaviour)."""
    address = f"qemu:{numbered_disk(tmp_path)}?{way.options}&num_queues=2"
    with raw_disk(address, RawDriver(queue_count=2)) as disk:
        disk.platform.hold_requests("read")
        held = disk.request(RequestType.IN, 7, in_bytes=512)
        head = disk.queue.publish(held)
        disk.notify()
        with pytest.raises(
            vioblk.ResetTimeoutError, match=r"queue 0 was not reset: QEMU still works on 1 request"
        ):
            disk.device.reset_queue(0, timeout_s=HASTY_S)
        assert disk.queue.in_flight == 1
        other = disk.driver.handles[1].queue
        other.run(disk.request(RequestType.IN, 9, in_bytes=512))
        assert disk.queue.broken is not None, "it is of no use until it has been reset"
        disk.platform.release_requests("read")
        assert disk.device.reset_queue(0, timeout_s=WAIT_S) == [head]
        assert (held.status, held.data) == (RequestStatus.OK, content_of(7))
        assert disk.queue.in_flight == 0
        again = disk.request(RequestType.IN, 3, in_bytes=512)
        disk.queue.run(again)
        assert again.data == content_of(3)
        other.run(disk.request(RequestType.IN, 9, in_bytes=512))


def test_a_queue_is_not_reset_while_a_notification_is_on_its_way(tmp_path: Path) -> None:
    """QEMU could begin on requests between the look at what it has and the reset."""
    signal_fd, leave = os.eventfd(1, os.EFD_NONBLOCK), threading.Event()
    with raw_disk(f"qemu:{numbered_disk(tmp_path)}?interface=modern") as disk:
        pump = disk.platform.machine.pump
        pump.add(signal_fd, lambda: assert_set(leave), counter=True)
        with pytest.raises(vioblk.ResetTimeoutError, match="has not taken a notification"):
            disk.device.reset_queue(0, timeout_s=HASTY_S)
        assert disk.platform.queue_status(0)["vring-num"] == 64, "nobody has reset it"
        leave.set()
        assert disk.device.reset_queue(0, 16, timeout_s=math.inf) == []
        assert disk.platform.queue_status(0)["vring-num"] == 16
        pump.remove(signal_fd)
        os.close(signal_fd)


def assert_set(event: threading.Event) -> None:
    assert event.wait(WAIT_S)


@clause("VQRESET-03", "PCI-VQRESET-02", "PCI-VQRESET-03")
@pytest.mark.parametrize("size", [4, 16, 64, 256])
@on(MODERN_WAYS)
def test_what_was_never_taken_is_lost_and_the_queue_lives_on_at_any_size(
    tmp_path: Path, way: Way, size: int
) -> None:
    address = f"qemu:{numbered_disk(tmp_path)}?{way.options}"
    with raw_disk(address) as disk:
        # When it comes to life, QEMU looks at the ring without being notified.
        disk.queue.run(disk.request(RequestType.IN, 5, in_bytes=512))
        settle(disk.platform)
        waiting = disk.request(RequestType.IN, 7, in_bytes=512)
        head = disk.queue.publish(waiting)
        before = disk.platform.queue_status(0)
        assert (before["vring-num"], before["inuse"]) == (64, 0)
        assert disk.device.reset_queue(0, size, timeout_s=WAIT_S) == [head]
        assert disk.queue.in_flight == 0
        after = disk.platform.queue_status(0)
        assert after["vring-num"] == size
        for part in ("vring-desc", "vring-avail", "vring-used"):
            assert after[part] not in (0, before[part])
        for number in range(2 * size):
            request = disk.request(RequestType.IN, number % 64, in_bytes=512)
            disk.queue.run(request)
            assert request.data == content_of(number % 64)
        assert disk.platform.queue_status(0)["used-idx"] == 2 * size


FORMATS = ("", "&packed=on", "&in_order=on", "&packed=on&in_order=on")
SIZES = {False: 32, True: 48}
"""By whether the ring is packed, and can have any number of descriptors."""


@contextmanager
def opened(tmp_path: Path, ring: RingName, options: str) -> Iterator[BlockDevice]:
    address = f"qemu:{numbered_disk(tmp_path)}?interface=modern&num_queues=2{options}"
    with vioblk.open(address, ring=ring, queue_count=2, timeout_s=WAIT_S) as disk:
        yield disk


def record(disk: BlockDevice, region: vioblk.Region, sector: int, token: int) -> bytes:
    return REQUEST_RECORD.pack(RequestType.IN, 0, sector, 0, 512, region.handle, token)


def read_through(disk: BlockDevice, queue: int, sector: int) -> bytes:
    with disk.alloc(512) as region:
        status = bytearray(1)
        disk.execute(record(disk, region, sector, 0), status, queue=queue)
        assert status == b"\0"
        return bytes(region)


@pytest.mark.parametrize("options", FORMATS)
def test_the_other_queue_goes_on_while_a_reset_waits_for_a_slow_request(
    tmp_path: Path, known_properties: frozenset[str], ring: RingName, options: str
) -> None:
    if "in_order" in options and "in_order" not in known_properties:
        with pytest.raises(vioblk.TransportError, match="in_order is known from QEMU 10 on"):
            vioblk.open(f"qemu:null:1M?interface=modern{options}")
        return
    with opened(tmp_path, ring, options) as disk, ThreadPoolExecutor(1) as pool:
        platform = qemu_of(disk.device)
        platform.hold_requests("read")
        held = disk.alloc(512)
        assert disk.submit_many(record(disk, held, 7, 1234), queue=1) == 1
        assert poll(lambda: platform.queue_status(1)["inuse"])
        size = SIZES["packed" in options]
        resetting = pool.submit(disk.reset_queue, 1, size, WAIT_S)
        for sector in range(10):
            assert read_through(disk, 0, sector) == content_of(sector)
        assert not resetting.done()
        with pytest.raises(BufferError):
            held.close()
        platform.release_requests("read")
        assert list(resetting.result(WAIT_S)) == [1234]
        assert bytes(held) == content_of(7)
        held.close()
        assert [queue.size for queue in disk.info.queues] == [256, size]
        assert [platform.queue_status(index)["vring-num"] for index in range(2)] == [256, size]
        for sector in range(2 * size):
            assert read_through(disk, 1, sector % 64) == content_of(sector % 64)
        assert read_through(disk, 0, 5) == content_of(5)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_who_waits_for_a_request_that_is_lost_is_told(
    tmp_path: Path, ring: RingName, packed: bool
) -> None:
    """QEMU does not take it, as no notification reaches it at that time."""
    with opened(tmp_path, ring, "&packed=on" if packed else "") as disk:
        platform = qemu_of(disk.device)
        settle(platform)
        platform.let_notify(False)
        with disk.alloc(512) as region, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(disk.execute, record(disk, region, 7, 0), bytearray(1), queue=1)
            assert poll(lambda: disk.device.in_flight == 1)
            settle(platform)
            assert list(disk.reset_queue(1, SIZES[packed])) == []
            with pytest.raises(vioblk.DeviceGoneError, match="queue 1 was reset"):
                waiting.result(WAIT_S)
        platform.let_notify(True)
        for queue in (0, 1):
            assert read_through(disk, queue, 7) == content_of(7)
