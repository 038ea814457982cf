"""One queue of QEMU's disk is reset while the others go on."""

from pathlib import Path

import pytest

import vioblk
from tests.clauses import clause
from tests.interop.qemu_machines import (
    MODERN_WAYS,
    WAIT_S,
    Way,
    content_of,
    numbered_disk,
    on,
    settle,
)
from tests.interop.raw_disk import RawDriver, raw_disk
from vioblk.block.request import RequestStatus, RequestType

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
