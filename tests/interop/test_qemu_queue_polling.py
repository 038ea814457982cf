"""A queue of QEMU's disk is polled, or interrupts: the ring says so while somebody waits."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import vioblk
from tests.conftest import RingName
from tests.interop.qemu_machines import WAIT_S, content_of, numbered_disk, poll
from tests.interop.ring_view import EVENT_DISABLE, EVENT_ENABLE, RingView
from tests.support.qemu import qemu_of
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, RequestType
from vioblk.ring.raw import NO_INTERRUPT
from vioblk.transport.qemu import QemuPlatform


def wants_interrupt(platform: QemuPlatform, queue: int, packed: bool) -> bool:
    view = RingView.of(platform, queue)
    if packed:
        flags = view.driver_event.flags
        assert flags in (EVENT_ENABLE, EVENT_DISABLE)
        return flags == EVENT_ENABLE
    assert view.available_flags in (0, NO_INTERRUPT)
    return view.available_flags == 0


def asked_while_waiting(disk: BlockDevice, queue: int, packed: bool) -> bool:
    """Whether an interrupt was asked for while a slow request was waited for, on that queue."""
    platform = qemu_of(disk.device)
    with disk.alloc(512) as region, ThreadPoolExecutor(1) as pool:
        platform.hold_requests("read")
        batch = REQUEST_RECORD.pack(RequestType.IN, 0, 7, 0, 512, region.handle, 0)
        statuses = bytearray(1)
        waiting = pool.submit(disk.execute, batch, statuses, queue=queue)
        assert poll(lambda: platform.queue_status(queue)["inuse"])
        polled = disk.info.queues[queue].polling
        # It may still be on its way to the wait.
        asked = poll(lambda: wants_interrupt(platform, queue, packed) is not polled)
        assert asked, "the ring says what the queue does"
        wanted = wants_interrupt(platform, queue, packed)
        platform.release_requests("read")
        waiting.result(WAIT_S)
        assert bytes(region) == content_of(7)
        return wanted


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_one_queue_is_polled_and_the_other_interrupts(tmp_path: Path, packed: bool) -> None:
    switches = f"&packed={'on' if packed else 'off'}&event_idx=off"
    address = f"qemu:{numbered_disk(tmp_path)}?interface=modern&num_queues=2{switches}"
    with vioblk.open(address, queue_count=2, timeout_s=WAIT_S) as disk:
        assert [asked_while_waiting(disk, queue, packed) for queue in (0, 1)] == [True, True]
        disk.set_polling(1, True)
        assert [queue.polling for queue in disk.info.queues] == [False, True]
        assert [asked_while_waiting(disk, queue, packed) for queue in (0, 1)] == [True, False]
        disk.reset_queue(1)
        assert not asked_while_waiting(disk, 1, packed), "as it was before the reset"
        disk.set_polling(1, False)
        assert asked_while_waiting(disk, 1, packed)


def test_without_interrupts_every_queue_is_polled(ring: RingName) -> None:
    address = "qemu:null:1M?interface=modern&interrupts=none&num_queues=2"
    with vioblk.open(address, ring=ring, queue_count=2) as disk:
        assert all(queue.polling for queue in disk.info.queues)
        assert disk.read(0, 4096) == bytes(4096)
        with pytest.raises(vioblk.UnsupportedError):
            disk.set_polling(0, False)
