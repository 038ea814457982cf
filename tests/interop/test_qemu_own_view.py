"""What QEMU's device knows of its driver (QMP x-query-virtio-status and its kin) is what the driver
believes."""

from typing import Any

import vioblk
from tests.conftest import RingName
from tests.interop.qemu_machines import MODERN_WAYS, WAIT_S, WAYS, Way, on, poll
from tests.interop.raw_disk import RawDriver, raw_disk
from tests.support.qemu import features_of, plain_names, qemu_of
from vioblk.block.request import RequestType
from vioblk.status import Status
from vioblk.transport.qemu import QemuPlatform


def status_of(platform: QemuPlatform) -> set[str]:
    listed = platform.device_status()["status"]["statuses"]
    return plain_names(listed, "VIRTIO_CONFIG_S_")


def queue_views(platform: QemuPlatform, info: vioblk.DiskInfo) -> list[dict[str, Any]]:
    return [platform.queue_status(queue.index) for queue in info.queues]


@on(WAYS)
def test_features_status_and_queues(ring: RingName, way: Way) -> None:
    address = f"qemu:null:1M?{way.options}&num_queues=2"
    with vioblk.open(address, ring=ring, timeout_s=WAIT_S) as disk:
        platform = qemu_of(disk.device)
        info = disk.info
        assert features_of(platform, "guest") == set(info.accepted.names)
        bits = Status(disk.device.transport.read_status())
        assert status_of(platform) == {each.name.lower() for each in bits if each.name}
        assert bits & Status.DRIVER_OK
        before = sum(view["used-idx"] for view in queue_views(platform, info))
        for _ in range(10):
            disk.read(0, 512)
        views = queue_views(platform, info)
        assert sum(view["used-idx"] for view in views) - before == 10
        assert [view["vring-num"] for view in views] == [queue.size for queue in info.queues]
        for view in views:
            assert view["last-avail-idx"] == view["used-idx"]
            assert view["inuse"] == 0
        assert not platform.device_status()["broken"]
        disk.reset()
        assert features_of(platform, "guest") == set(disk.info.accepted.names)


@on(WAYS)
def test_places_and_indices(way: Way) -> None:
    with raw_disk(f"qemu:null:1M?{way.options}", RawDriver(queue_count=1)) as disk:
        queue = disk.queue
        start, layout = queue.parts.ring.device_address, queue.ring.layout
        for count in range(1, 4):
            queue.run(disk.request(RequestType.IN, in_bytes=512))
            view = disk.platform.queue_status(0)
            assert view["vring-num"] == queue.ring.size
            assert view["vring-desc"] == start + layout.descriptors_offset
            assert view["vring-avail"] == start + layout.available_offset
            assert view["vring-used"] == start + layout.used_offset
            assert view["used-idx"] == queue.raw.used_index == count
            assert view["last-avail-idx"] == queue.raw.available_index == count
        disk.platform.set_bus_master(False)
        queue.publish(disk.request(RequestType.IN, in_bytes=512))
        disk.notify()
        assert disk.platform.queue_status(0)["last-avail-idx"] == 3, "it looks at nothing"


@on(MODERN_WAYS)
def test_a_breach(way: Way) -> None:
    with raw_disk(f"qemu:null:1M?{way.options}") as disk:
        assert not disk.platform.device_status()["broken"]
        disk.queue.raw.available_index = disk.queue.ring.size + 1
        disk.notify()
        assert poll(lambda: disk.platform.device_status()["broken"])
        assert "needs_reset" in status_of(disk.platform)
        disk.restart()
        assert not disk.platform.device_status()["broken"]
        assert features_of(disk.platform, "guest") == {"version_1", "ring_reset"}
