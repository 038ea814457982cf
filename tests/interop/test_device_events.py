"""What happens to QEMU's disk while it is used: it is resized, broken, unplugged, or kept out of
memory."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import vioblk
from tests.clauses import clause
from tests.conftest import RingName
from tests.support.patience import hasty
from tests.support.qemu import qemu_of
from tests.support.rings import rings_in_turn
from vioblk.block.config import BlockConfig
from vioblk.block.disk import BlockDevice
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, RequestType
from vioblk.status import DeviceState

MIB = 1 << 20
PROMPT_S = 25.0
"""Less than the 30 s for which these disks are patient."""

SHORT_S = 0.1

MODERN = [f"interface=modern&interrupts={how}" for how in ("msix", "shared", "config", "intx")]
LEGACY = [f"interface=legacy&interrupts={how}" for how in ("msix", "intx")]
BOTH = [*MODERN, *LEGACY]

OpenDisk = Callable[..., BlockDevice]


@pytest.fixture
def open_disk(ring: RingName, tmp_path: Path) -> Iterator[OpenDisk]:
    """Opens a disk of 8 MiB in a QEMU of its own."""
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(8 * MIB))
    with ExitStack() as stack:

        def opener(options: str, **keywords: Any) -> BlockDevice:
            address = f"qemu:{image}?{options}"
            return stack.enter_context(vioblk.open(address, ring=ring, **keywords))

        yield opener


def works(disk: BlockDevice) -> None:
    data = bytes(range(256)) * 4
    disk.write(512, data)
    assert disk.read(512, 1024) == data


def wait_in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[Exception]]:
    raised: list[Exception] = []

    def run() -> None:
        try:
            call()
        except vioblk.VioblkError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


# The configuration changes


@clause("BLK-CAP-01", "BLK-CAP-02")
@pytest.mark.parametrize("options", BOTH)
def test_a_resize_is_seen_while_the_disk_is_used(open_disk: OpenDisk, options: str) -> None:
    seen: list[BlockConfig] = []
    changed, stop = threading.Event(), threading.Event()

    def on_change(config: BlockConfig) -> None:
        seen.append(config)
        changed.set()

    disk = open_disk(options, on_config_change=on_change)

    def keep_reading() -> None:
        while not stop.is_set():
            disk.read(0, 65536)

    thread, raised = wait_in_thread(keep_reading)
    for size_bytes in (16 * MIB, 4 * MIB):
        changed.clear()
        qemu_of(disk.device).resize(size_bytes)
        assert changed.wait(PROMPT_S)
        assert disk.capacity_bytes == seen[-1].capacity_sectors * 512 == size_bytes
        assert len(disk.read(size_bytes - 512, 512)) == 512
        with pytest.raises(vioblk.BeyondEndError):
            disk.read(size_bytes, 512)
    stop.set()
    thread.join(PROMPT_S)
    assert not thread.is_alive()
    assert raised == []


# A device that has met an error


def break_the_device(disk: BlockDevice) -> None:
    """Tell it of more chains than a queue can hold, which it cannot make sense of."""
    handle = disk._driver._handles[0]
    parts = handle._parts
    assert parts is not None
    index_offset = parts.layout.driver_offset + 2
    with memoryview(parts.ring) as ring, ring[index_offset : index_offset + 2].cast("H") as index:
        index[0] = (index[0] + 2 * parts.size) & 0xFFFF
    assert parts.wires.doorbell is not None
    parts.wires.doorbell.ring()
    wait_until(lambda: qemu_of(disk.device).device_status()["broken"])


@pytest.mark.parametrize("options", MODERN)
def test_a_device_that_needs_a_reset_says_so_and_works_after_it(
    open_disk: OpenDisk, options: str
) -> None:
    disk = open_disk(options)
    works(disk)
    qemu_of(disk.device).hold_requests("read")
    thread, raised = wait_in_thread(lambda: disk.read(0, 512))
    wait_until(lambda: disk.device.in_flight > 0)
    break_the_device(disk)
    wait_until(lambda: disk.device.state is DeviceState.NEEDS_RESET)
    thread.join(PROMPT_S)
    assert not thread.is_alive()
    assert [type(each) for each in raised] == [vioblk.DeviceGoneError]
    assert "needs a reset" in str(raised[0])
    qemu_of(disk.device).release_requests("read")
    disk.reset()
    works(disk)


def test_a_device_that_cannot_tell_is_found_to_need_a_reset(open_disk: OpenDisk) -> None:
    disk = open_disk("interface=modern&interrupts=none")
    break_the_device(disk)
    with (
        hasty(disk, SHORT_S),
        pytest.raises(vioblk.DeviceGoneError, match=r"needs a reset; seen after 0\.1 s"),
    ):
        disk.read(0, 512)
    disk.reset()
    works(disk)


@rings_in_turn("options", LEGACY)
def test_a_legacy_device_shows_no_error_and_works_after_a_reset(
    open_disk: OpenDisk, options: str
) -> None:
    disk = open_disk(options)
    works(disk)
    break_the_device(disk)
    with (
        hasty(disk, SHORT_S),
        pytest.raises(vioblk.RequestTimeoutError, match=r"its status, 0x7, shows no error"),
    ):
        disk.read(0, 512)
    disk.reset()
    works(disk)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PROMPT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.001)


# Unplugged


@rings_in_turn(
    "options", [*BOTH, "interface=modern&interrupts=none", "machine=q35&interrupts=msix"]
)
def test_who_waits_for_a_disk_that_is_unplugged_is_told_at_once(
    open_disk: OpenDisk, options: str
) -> None:
    disk = open_disk(options)
    works(disk)
    qemu = qemu_of(disk.device)
    qemu.set_bus_master(False)  # so that requests are in flight, and stay so
    region = disk.alloc(8 * 512)
    records = b"".join(
        REQUEST_RECORD.pack(RequestType.IN, 0, 0, i * 512, 512, region.handle, i) for i in range(8)
    )
    thread, raised = wait_in_thread(lambda: disk.read(0, 512))
    wait_until(lambda: disk.device.in_flight > 0)
    assert disk.submit_many(records) == 8
    qemu.unplug()
    thread.join(PROMPT_S)
    assert not thread.is_alive()
    assert [type(each) for each in raised] == [vioblk.DeviceGoneError]
    with pytest.raises(vioblk.DeviceGoneError):
        disk.reap_many(bytearray(COMPLETION_RECORD.size))
    with pytest.raises(vioblk.DeviceGoneError):
        disk.write(0, bytes(512))
    with pytest.raises(vioblk.DeviceGoneError, match="close the disk and open it again"):
        disk.reset()
    start = time.monotonic()
    disk.close()
    assert time.monotonic() - start < PROMPT_S
    assert region.in_flight == 0
    region.close()


# Bus master off


@rings_in_turn("options", [*BOTH, "interface=modern&interrupts=none"])
def test_without_bus_mastering_requests_time_out_and_complete_when_it_is_back(
    open_disk: OpenDisk, options: str
) -> None:
    disk = open_disk(options)
    works(disk)
    qemu = qemu_of(disk.device)
    qemu.set_bus_master(False)
    with (
        hasty(disk, SHORT_S),
        pytest.raises(vioblk.RequestTimeoutError, match=r"lacks DRIVER_OK: .* bus mastering"),
    ):
        disk.read(0, 512)
    assert disk.device.in_flight == 1
    qemu.set_bus_master(True)
    works(disk)
    wait_until(lambda: disk.reap_many(bytearray(16)) == 0 and disk.device.in_flight == 0)
