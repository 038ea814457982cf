"""What QEMU's disk does with a driver that breaks the rules, and what its driver learns of that.

On the modern interface the device says so; on the legacy one there is no sign at all, so that only
time-outs help.
"""

from collections.abc import Callable

from tests.interop.qemu_machines import (
    LEGACY_WAYS,
    MODERN_WAYS,
    WAIT_S,
    Way,
    alternating,
    poll,
    settle,
)
from tests.interop.raw_disk import RawDisk, RawDriver, RawQueue, Request, raw_disk
from vioblk.block.request import RequestStatus, RequestType
from vioblk.features import Feature
from vioblk.pci.layout import ISR_CONFIG, ISR_QUEUE
from vioblk.ring import Chain
from vioblk.ring.raw import INDIRECT, NEXT, WRITE
from vioblk.status import DeviceState, Status

BROKEN = 0x4F
"""The status of a live device that needs a reset."""


def bad_head(disk: RawDisk, queue: RawQueue) -> None:
    queue.raw.write_available(queue.raw.available_index % queue.ring.size, queue.ring.size + 5)
    queue.raw.available_index += 1


def index_runs_ahead(disk: RawDisk, queue: RawQueue) -> None:
    queue.raw.available_index += queue.ring.size + 10


def publish_with(
    change: Callable[[RawQueue, int], None], shape: Callable[[Request], Chain] | None = None
) -> Callable[[RawDisk, RawQueue], None]:
    """Make a read available whose chain `change` has spoilt (it gets the head)."""

    def publish(disk: RawDisk, queue: RawQueue) -> None:
        request = disk.request(RequestType.IN, 7, in_bytes=512)
        chain = request.joined_chain() if queue.parts.indirect_table_size else request.chain()
        if shape is not None:
            chain = shape(request)
        head = queue.ring.push(chain)
        change(queue, head)
        queue.ring.publish()

    return publish


def unchanged(queue: RawQueue, head: int) -> None:
    pass


def spoil_next(queue: RawQueue, head: int) -> None:
    address, length, flags, _ = queue.raw.read_descriptor(head)
    queue.raw.write_descriptor(head, address, length, flags, 60000)


def close_a_loop(queue: RawQueue, head: int) -> None:
    address, length, flags, _ = queue.raw.read_descriptor(head)
    queue.raw.write_descriptor(head, address, length, flags, head)


def empty_the_second(queue: RawQueue, head: int) -> None:
    second = queue.raw.read_descriptor(head).next
    address, _, flags, next_index = queue.raw.read_descriptor(second)
    queue.raw.write_descriptor(second, address, 0, flags, next_index)


def turn_around(queue: RawQueue, head: int) -> None:
    """What the device writes comes first."""
    address, length, flags, second = queue.raw.read_descriptor(head)
    queue.raw.write_descriptor(head, address, length, flags | WRITE, second)
    address, length, flags, next_index = queue.raw.read_descriptor(second)
    queue.raw.write_descriptor(second, address, length, flags & ~WRITE, next_index)


def spoil_table_length(queue: RawQueue, head: int) -> None:
    address, length, flags, next_index = queue.raw.read_descriptor(head)
    assert flags == INDIRECT
    queue.raw.write_descriptor(head, address, length + 8, flags, next_index)


def spoil_table_next(queue: RawQueue, head: int) -> None:
    address, length, flags, _ = queue.raw.read_table_entry(head, 0)
    assert flags == NEXT
    queue.raw.write_table_entry(head, 0, address, length, flags, 9)


BREACHES = {
    "bad-head": bad_head,
    "index-ahead": index_runs_ahead,
    "next-out-of-range": publish_with(spoil_next),
    "loop": publish_with(close_a_loop),
    "zero-length": publish_with(empty_the_second),
    "writable-first": publish_with(turn_around),
    "no-header": publish_with(unchanged, lambda request: Chain([], [request.part(0, 1)])),
    "short-header": publish_with(
        unchanged, lambda request: Chain([request.part(0, 8)], request.chain().writable)
    ),
    "no-status": publish_with(unchanged, lambda request: Chain([request.part(0, 16)], [])),
    "table-length": publish_with(spoil_table_length),
    "table-next": publish_with(spoil_table_next),
}


def breaching_driver(breach: str) -> RawDriver:
    ring_features = {Feature.INDIRECT_DESC} if breach.startswith("table") else set()
    return RawDriver(vectors=True, ring_features=frozenset(ring_features))


def commit(breach: str, disk: RawDisk) -> None:
    """Do one good request, then break the rules."""
    disk.queue.run(disk.request(RequestType.FLUSH))
    disk.vectors.wait(1)
    assert disk.layout.read_isr() == ISR_QUEUE
    BREACHES[breach](disk, disk.queue)
    disk.notify()


def check_that_a_reset_mends(disk: RawDisk) -> None:
    disk.restart()
    assert not disk.layout.read_status() & Status.DEVICE_NEEDS_RESET
    request = disk.request(RequestType.IN, in_bytes=512)
    disk.queue.run(request)
    assert request.status == RequestStatus.OK


@alternating("breach", BREACHES, MODERN_WAYS)
def test_a_modern_device_says_that_it_needs_a_reset(way: Way, breach: str) -> None:
    with raw_disk(f"qemu:null:1M?{way.options}", breaching_driver(breach)) as disk:
        commit(breach, disk)
        disk.vectors.wait(0)
        assert disk.layout.read_status() == BROKEN
        assert disk.layout.read_isr() == ISR_QUEUE | ISR_CONFIG
        assert disk.queue.raw.used_index == 1, "nothing is served any more"
        assert not disk.vectors.arrived(1)
        check_that_a_reset_mends(disk)


@alternating("breach", BREACHES, LEGACY_WAYS)
def test_a_legacy_device_says_nothing_and_does_nothing_any_more(way: Way, breach: str) -> None:
    with raw_disk(f"qemu:null:1M?{way.options}", breaching_driver(breach)) as disk:
        commit(breach, disk)
        # Its complaint on stderr comes once it has seen what is wrong.
        assert poll(disk.machine.process.output)
        settle(disk.platform)
        assert disk.layout.read_status() == 0x7
        assert not disk.layout.read_isr() & ISR_CONFIG
        assert not disk.vectors.arrived(0)
        assert not disk.vectors.arrived(1)
        assert disk.queue.raw.used_index == 1, "nothing is served any more"
        check_that_a_reset_mends(disk)


@alternating("interrupts", ["msix", "shared", "config", "intx"], MODERN_WAYS)
def test_a_driver_is_told_that_its_device_is_broken(way: Way, interrupts: str) -> None:
    with raw_disk(f"qemu:null:1M?{way.options}", interrupts=interrupts) as disk:
        queue = disk.queue
        bad_head(disk, queue)
        disk.notify()
        assert queue.was_aborted.wait(WAIT_S)
        assert queue.broken is not None
        assert "needs a reset" in queue.broken
        assert disk.device.state is DeviceState.NEEDS_RESET
        check_that_a_reset_mends(disk)
