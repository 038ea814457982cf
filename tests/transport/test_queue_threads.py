"""Four queues, four threads: each thread has a queue of its own, and none waits for another."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import vioblk
from tests.conftest import RingName
from tests.interop.images import blank_image
from tests.interop.storage_daemon import StorageDaemon, raw_export
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, RequestType
from vioblk.transport.software import SoftwareTransport
from vioblk.transport.software_pci import SoftwarePciTransport

QUEUES = 4
PROMPT_S = 60.0
SIZE_BYTES = 4 << 20
BATCH = 32
REQUEST_BYTES = 512


def in_memory(options: str) -> Callable[[Path], AbstractContextManager[str]]:
    @contextmanager
    def serve(directory: Path) -> Iterator[str]:
        yield f"mem:4M?queues={QUEUES}{options}"

    return serve


def on_qemu(options: str) -> Callable[[Path], AbstractContextManager[str]]:
    @contextmanager
    def serve(directory: Path) -> Iterator[str]:
        image = blank_image(directory / "disk.raw", SIZE_BYTES)
        yield f"qemu:{image}?num_queues={QUEUES}{options}"

    return serve


@contextmanager
def by_vhost_user(directory: Path) -> Iterator[str]:
    image = blank_image(directory / "disk.raw", SIZE_BYTES)
    exports = [raw_export("disk", image, f"writable=on,num-queues={QUEUES}")]
    with StorageDaemon(directory, exports) as daemon:
        yield daemon.address("disk")


SOFTWARE = {
    "memory": in_memory(""),
    "memory-packed": in_memory("&packed=on"),
    "memory-in-order": in_memory("&in_order=on"),
    "memory-pci-msix": in_memory("&bus=pci&interrupts=msix"),
    "memory-pci-intx": in_memory("&bus=pci&interrupts=intx"),
}
EVERY_WAY = {
    **SOFTWARE,
    "qemu-msix": on_qemu("&interrupts=msix"),
    "qemu-packed": on_qemu("&packed=on"),
    "vhost-user": by_vhost_user,
}


@contextmanager
def opened(
    serve: Callable[[Path], AbstractContextManager[str]], directory: Path, ring: RingName
) -> Iterator[BlockDevice]:
    with (
        serve(directory) as address,
        vioblk.open(address, ring=ring, queue_count=QUEUES) as disk,
    ):
        assert len(disk.info.queues) == QUEUES
        yield disk


def batch(region: vioblk.Region, kind: RequestType, first_sector: int) -> bytes:
    return b"".join(
        REQUEST_RECORD.pack(
            kind, 0, first_sector + index, index * REQUEST_BYTES, REQUEST_BYTES, region.handle, 0
        )
        for index in range(BATCH)
    )


def use(disk: BlockDevice, queue: int, turns: int) -> None:
    """Write what no other thread writes, by one queue, and read it back."""
    first_sector = queue * turns * BATCH
    with disk.alloc(BATCH * REQUEST_BYTES) as region:
        for turn in range(turns):
            data = bytes((queue * 67 + turn * 13 + place) % 251 for place in range(region.length))
            with memoryview(region) as view:
                view[:] = data
            for kind in (RequestType.OUT, RequestType.IN):
                statuses = bytearray(BATCH)
                records = batch(region, kind, first_sector + turn * BATCH)
                disk.execute(records, statuses, PROMPT_S, queue=queue)
                assert statuses == bytes(BATCH)
                with memoryview(region) as view:
                    assert view == data
                    view[:] = bytes(len(view)) if kind == RequestType.OUT else data


class Users:
    """A thread for each of some queues."""

    def __init__(self, disk: BlockDevice, queues: range, turns: int) -> None:
        self.errors: list[BaseException] = []
        self._start = threading.Barrier(len(queues))
        self._threads = [
            threading.Thread(target=self._run, args=(disk, queue, turns)) for queue in queues
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, disk: BlockDevice, queue: int, turns: int) -> None:
        try:
            self._start.wait(PROMPT_S)
            use(disk, queue, turns)
        except BaseException as error:
            self.errors.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PROMPT_S)
            assert not thread.is_alive(), "it is held up"
        assert self.errors == []


@pytest.mark.parametrize("way", EVERY_WAY)
def test_four_threads_use_a_queue_each_at_once(way: str, tmp_path: Path, ring: RingName) -> None:
    turns = 8
    with opened(EVERY_WAY[way], tmp_path, ring) as disk:
        before = [queue.kick_count for queue in disk.info.queues]
        Users(disk, range(QUEUES), turns).join()
        after = [queue.kick_count for queue in disk.info.queues]
        assert all(more > less for less, more in zip(before, after, strict=True))
        for queue in range(QUEUES):
            data = disk.read(queue * turns * BATCH * REQUEST_BYTES, REQUEST_BYTES)
            assert data == bytes((queue * 67 + place) % 251 for place in range(REQUEST_BYTES))


@pytest.mark.parametrize("way", SOFTWARE)
def test_a_thread_whose_queue_is_stuck_holds_up_nobody_else(
    way: str, tmp_path: Path, ring: RingName
) -> None:
    with opened(SOFTWARE[way], tmp_path, ring) as disk:
        transport = disk.device.transport
        assert isinstance(transport, SoftwareTransport | SoftwarePciTransport)
        device = transport.device
        device.inject("silence")
        before = device.counters()["chains"]
        raised: list[Exception] = []

        region = disk.alloc(512)

        def wait_in_vain() -> None:
            record = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, 0)
            try:
                disk.execute(record, bytearray(1), 300, queue=0)
            except vioblk.DeviceGoneError as error:
                raised.append(error)

        stuck = threading.Thread(target=wait_in_vain)
        stuck.start()
        deadline = time.monotonic() + PROMPT_S
        while device.counters()["chains"] == before:
            assert time.monotonic() < deadline, "the device has not taken the request"
            time.sleep(0)
        Users(disk, range(1, QUEUES), 8).join()
        assert stuck.is_alive()
        assert raised == []
        disk.reset()
        stuck.join(PROMPT_S)
        assert not stuck.is_alive()
        assert len(raised) == 1
        region.close()


@pytest.mark.parametrize("queue", [-1, QUEUES])
def test_a_queue_that_there_is_not_is_refused(queue: int) -> None:
    with (
        vioblk.open(f"mem:1M?queues={QUEUES}", queue_count=QUEUES) as disk,
        disk.alloc(512) as region,
        pytest.raises(ValueError, match=f"there is no queue {queue}: this disk uses {QUEUES}"),
    ):
        disk.execute(batch(region, RequestType.IN, 0), bytearray(BATCH), queue=queue)
