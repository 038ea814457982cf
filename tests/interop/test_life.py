"""Several queues, changes of size, many connections, and depth, with a real daemon."""

import os
import random
import threading
from pathlib import Path

import pytest

import vioblk
from tests.conftest import RingName
from tests.interop.images import blank_image
from tests.interop.storage_daemon import (
    MissingTool,
    StorageDaemon,
    null_export,
    raw_export,
    tool,
)
from tests.transport.scripted_back_end import no_descriptor_leak
from vioblk.block.request import REQUEST_RECORD, STATUS_PENDING, RequestType

DISK_BYTES = 32 << 20
WAIT_S = 30.0

RESIZE_ANNOUNCED_SINCE = (8, 1)
"""QEMU versions before do not tell the client, and go on naming the former capacity."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return blank_image(tmp_path / "disk.raw", DISK_BYTES)


def test_a_resize_is_announced_where_the_daemon_can(
    tmp_path: Path, image: Path, ring: RingName
) -> None:
    changed = threading.Event()
    with StorageDaemon(tmp_path, [raw_export("disk", image)]) as daemon:
        announced = daemon.version >= RESIZE_ANNOUNCED_SINCE
        with vioblk.open(
            daemon.address("disk"), ring=ring, on_config_change=lambda _: changed.set()
        ) as disk:
            daemon.qmp("block_resize", **{"node-name": "disk", "size": 2 * DISK_BYTES})
            if announced:
                assert changed.wait(WAIT_S)
                assert disk.capacity_bytes == 2 * DISK_BYTES
                assert disk.read(2 * DISK_BYTES - 512, 512) == bytes(512)
            else:
                assert disk.read(0, 512) == bytes(512)
                assert disk.capacity_bytes == DISK_BYTES
                assert not changed.is_set()


@pytest.mark.parametrize("queue_count", [1, 4])
def test_every_queue_carries_requests(
    tmp_path: Path, image: Path, ring: RingName, queue_count: int
) -> None:
    options = "writable=on,num-queues=4"
    with (
        StorageDaemon(tmp_path, [raw_export("disk", image, options)]) as daemon,
        vioblk.open(daemon.address("disk"), ring=ring, queue_count=queue_count) as disk,
    ):
        assert len(disk.info.queues) == queue_count
        with disk.alloc(queue_count * 512) as region:
            for queue in range(queue_count):
                record = REQUEST_RECORD.pack(
                    RequestType.IN, 0, 0, queue * 512, 512, region.handle, queue
                )
                assert disk.submit_many(record, queue=queue) == 1
            for queue in range(queue_count):
                out = bytearray(16)
                assert disk.wait(WAIT_S, queue=queue)
                assert disk.reap_many(out, queue=queue) == 1
        with pytest.raises(ValueError, match="no queue"):
            disk.submit_many(b"", queue=queue_count)


def test_memory_grows_while_the_disk_is_in_use(tmp_path: Path, image: Path) -> None:
    with (
        StorageDaemon(tmp_path, [raw_export("disk", image)]) as daemon,
        vioblk.open(daemon.address("disk")) as disk,
    ):
        before = len(disk.device.memory.space.mappings)
        regions = [disk.alloc(8 << 20) for _ in range(4)]
        assert len(disk.device.memory.space.mappings) > before
        for number, region in enumerate(regions, start=1):
            with memoryview(region) as view:
                view[:] = bytes([number]) * len(view)
            disk.write(0, region)
            assert disk.read((8 << 20) - 512, 512) == bytes([number]) * 512
            region.close()


def test_a_thousand_requests_at_depth_64_on_a_null_node(tmp_path: Path, ring: RingName) -> None:
    count, length = 1000, 4096
    with (
        StorageDaemon(tmp_path, [null_export("null")]) as daemon,
        vioblk.open(daemon.address("null"), ring=ring) as disk,
        disk.alloc(64 * length) as region,
    ):
        records = b"".join(
            REQUEST_RECORD.pack(RequestType.IN, 0, 8 * i, i % 64 * length, length, region.handle, i)
            for i in range(count)
        )
        statuses = bytearray([STATUS_PENDING]) * count
        disk.execute(records, statuses)
        assert statuses == bytes(count)


def test_many_connections_one_after_the_other_leak_nothing(tmp_path: Path, image: Path) -> None:
    with StorageDaemon(tmp_path, [raw_export("disk", image)]) as daemon:
        threads = threading.active_count()
        with no_descriptor_leak():
            for _ in range(100):
                with vioblk.open(daemon.address("disk")) as disk:
                    assert disk.read(0, 512) == bytes(512)
        assert threading.active_count() == threads


def test_a_disk_is_reset_again_and_again(tmp_path: Path, image: Path, ring: RingName) -> None:
    with (
        StorageDaemon(tmp_path, [raw_export("disk", image)]) as daemon,
        vioblk.open(daemon.address("disk"), ring=ring) as disk,
    ):
        for number in range(20):
            disk.write(0, bytes([number]) * 512)
            disk.reset()
            assert disk.read(0, 512) == bytes([number]) * 512


@pytest.mark.parametrize("ring_size", [4, 1024])
def test_rings_of_any_size_are_served(
    tmp_path: Path, image: Path, ring: RingName, ring_size: int
) -> None:
    data = random.Random(ring_size).randbytes(3 << 20)
    with (
        StorageDaemon(tmp_path, [raw_export("disk", image)]) as daemon,
        vioblk.open(daemon.address("disk"), ring=ring, ring_size=ring_size) as disk,
    ):
        disk.write(512, data)
        assert disk.read(512, len(data)) == data


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_the_disk_to_its_parent(tmp_path: Path, image: Path) -> None:
    with (
        StorageDaemon(tmp_path, [raw_export("disk", image)]) as daemon,
        vioblk.open(daemon.address("disk")) as disk,
    ):
        transport = disk.device.transport
        child = os.fork()
        if child == 0:
            code = 1
            try:
                disk.read(0, 512)
            except vioblk.ForkedError:
                transport.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert disk.read(0, 512) == bytes(512)


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingTool, match="apt-get install qemu-utils"):
        tool("qemu-img")
