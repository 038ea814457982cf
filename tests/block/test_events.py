"""What happens to a device while it is used: it changes, asks for a reset, is unplugged, or may not
reach memory. On every way there is to the software device, also those where nobody is told."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

import vioblk
from tests.block.conftest import OpenDisk, OpenRecorded
from tests.block.recording import RecordingTransport
from tests.support.patience import hasty
from tests.support.rings import rings_in_turn
from vioblk._native import BlockLimits, SoftwareDevice
from vioblk.block.config import BlockConfig
from vioblk.block.disk import BlockDevice
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, RequestType
from vioblk.status import DeviceState, Status
from vioblk.transport.software import SoftwareTransport
from vioblk.transport.software_pci import SoftwarePciPlatform, SoftwarePciTransport

PROMPT_S = 20.0
"""Below the 30 s for which these disks are patient."""


SHORT_S = 0.1

TELLING = ["mem:1M", *(f"mem:1M?bus=pci&interrupts={how}" for how in ("msix", "shared", "config"))]
TELLING += ["mem:1M?bus=pci&interrupts=intx"]
SILENT = "mem:1M?bus=pci&interrupts=none"
EVERY_WAY = [*TELLING, SILENT]
PCI = EVERY_WAY[1:]

FLUSH = REQUEST_RECORD.pack(RequestType.FLUSH, 0, 0, 0, 0, 0, 0)


def software(disk: BlockDevice) -> SoftwareDevice:
    transport = disk.device.transport
    assert isinstance(transport, SoftwareTransport | SoftwarePciTransport)
    return transport.device


def function(disk: BlockDevice) -> SoftwarePciTransport:
    transport = disk.device.transport
    assert isinstance(transport, SoftwarePciTransport)
    return transport


def unplug(disk: BlockDevice, *, quietly: bool) -> None:
    platform = function(disk).platform
    assert isinstance(platform, SoftwarePciPlatform)
    platform.unplug(quietly=quietly)


class Waiter(NamedTuple):
    """A thread that waits for one request."""

    thread: threading.Thread
    raised: list[Exception]

    def error(self) -> Exception | None:
        self.thread.join(PROMPT_S)
        assert not self.thread.is_alive(), "it is still waiting"
        return self.raised[0] if self.raised else None


def waiter(disk: BlockDevice, call: Callable[[], object]) -> Waiter:
    """Make a request of which the device does not give an answer, and wait for it elsewhere."""
    before = software(disk).counters()["chains"]
    raised: list[Exception] = []

    def run() -> None:
        try:
            call()
        except vioblk.VioblkError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + PROMPT_S
    while software(disk).counters()["chains"] == before:
        assert time.monotonic() < deadline, "the device has not seen the request"
        time.sleep(0.001)
    return Waiter(thread, raised)


def works_again(disk: BlockDevice) -> None:
    software(disk).clear_faults()
    disk.reset()
    works(disk)


def works(disk: BlockDevice) -> None:
    data = bytes(range(256)) * 2
    disk.write(512, data)
    assert disk.read(512, 512) == data


# The configuration changes


@pytest.mark.parametrize("address", TELLING)
@pytest.mark.parametrize("sectors", [4096, 1024], ids=["grows", "shrinks"])
def test_another_capacity_is_seen_while_requests_are_in_flight(
    open_disk: OpenDisk, address: str, sectors: int
) -> None:
    changed = threading.Event()
    seen: list[BlockConfig] = []

    def on_change(config: BlockConfig) -> None:
        seen.append(config)
        changed.set()

    disk = open_disk(address, on_config_change=on_change)
    software(disk).inject("delay")
    reader = waiter(disk, lambda: disk.read(disk.capacity_bytes - 512, 512))
    software(disk).resize(sectors)
    assert changed.wait(PROMPT_S)
    assert disk.capacity_bytes == seen[-1].capacity_sectors * 512 == sectors * 512
    software(disk).clear_faults()
    # It was within the disk when it was sent; what the device makes of it now is its affair.
    assert isinstance(reader.error(), vioblk.RequestFailedError | None)
    assert len(disk.read(sectors * 512 - 512, 512)) == 512
    with pytest.raises(vioblk.BeyondEndError):
        disk.read(sectors * 512, 512)


class Witness:
    """Stands among a disk's queues, and notes what capacity all can see when it is told of another
    one."""

    def __init__(self, disk: BlockDevice) -> None:
        self._disk = disk
        self.seen: list[tuple[int, int]] = []

    @property
    def limits(self) -> BlockLimits:
        """What it is held to."""
        raise NotImplementedError

    @limits.setter
    def limits(self, limits: BlockLimits) -> None:
        self.seen.append((self._disk.capacity_bytes, limits.capacity_sectors * 512))


def test_queues_are_held_to_another_capacity_before_anybody_can_see_it(
    open_disk: OpenDisk,
) -> None:
    disk = open_disk(SILENT)
    witness, driver = Witness(disk), disk._driver
    driver.queues = (*driver.queues, witness)  # type: ignore[arg-type]
    software(disk).resize(4096)
    assert driver.refresh(disk.device).capacity_sectors == 4096
    driver.queues = driver.queues[:-1]
    assert witness.seen == [(1 << 20, 4096 * 512)]
    assert disk.capacity_bytes == 4096 * 512


class Growing(RecordingTransport):
    """Its device changes as it comes to life, when it need not announce changes yet."""

    def on_config_change(self, callback: Callable[[], None] | None) -> None:
        """Nobody is told."""

    def write_status(self, value: int) -> None:
        if value & Status.DRIVER_OK:
            self.device.resize(4096)
        super().write_status(value)


def test_a_change_while_the_device_comes_to_life_is_seen(open_recorded: OpenRecorded) -> None:
    disk, _ = open_recorded("mem:1M", transport_class=Growing)
    assert disk.capacity_bytes == 4096 * 512
    disk.write(4095 * 512, b"x" * 512)
    assert disk.read(4095 * 512, 512) == b"x" * 512


def test_a_change_that_nobody_tells_is_seen_after_a_reset(open_disk: OpenDisk) -> None:
    disk = open_disk(SILENT)
    software(disk).resize(4096)
    assert disk.capacity_bytes == 1 << 20
    disk.reset()
    assert disk.capacity_bytes == 4096 * 512


# DEVICE_NEEDS_RESET


@pytest.mark.parametrize("address", TELLING)
def test_who_waits_for_a_device_that_needs_a_reset_is_told(
    open_disk: OpenDisk, address: str
) -> None:
    disk = open_disk(address)
    software(disk).inject("silence", count=2)
    reader = waiter(disk, lambda: disk.read(0, 512))
    assert disk.submit_many(FLUSH) == 1
    software(disk).inject("needs_reset")
    error = reader.error()
    assert isinstance(error, vioblk.DeviceGoneError)
    assert "needs a reset" in str(error)
    with pytest.raises(vioblk.DeviceGoneError, match="needs a reset"):
        disk.reap_many(bytearray(COMPLETION_RECORD.size))
    with pytest.raises(vioblk.DeviceGoneError, match="needs a reset"):
        disk.write(0, bytes(512))
    assert disk.device.state is DeviceState.NEEDS_RESET
    assert [len(tokens) for tokens in disk.reset().values()] == [1]
    works_again(disk)


def test_where_nobody_is_told_a_time_out_finds_out(open_disk: OpenDisk) -> None:
    disk = open_disk(SILENT)
    software(disk).inject("needs_reset")
    with (
        hasty(disk, SHORT_S),
        pytest.raises(vioblk.DeviceGoneError, match=r"needs a reset; seen after 0\.1 s: timed out"),
    ):
        disk.read(0, 512)
    with pytest.raises(vioblk.DeviceGoneError, match="needs a reset"):
        disk.read(0, 512)
    works_again(disk)


def test_where_nobody_is_told_a_wait_in_vain_finds_out(open_disk: OpenDisk) -> None:
    disk = open_disk(SILENT)
    software(disk).inject("silence")
    assert disk.submit_many(FLUSH) == 1
    with hasty(disk, SHORT_S):
        assert disk.wait() is False
        software(disk).inject("needs_reset")
        assert disk.wait() is True
    with pytest.raises(vioblk.DeviceGoneError, match="needs a reset"):
        disk.reap_many(bytearray(COMPLETION_RECORD.size))
    disk.reset()
    works(disk)


@rings_in_turn("address", EVERY_WAY)
def test_a_time_out_says_that_the_device_shows_no_error(open_disk: OpenDisk, address: str) -> None:
    disk = open_disk(address)
    software(disk).inject("silence")
    with (
        hasty(disk, SHORT_S),
        pytest.raises(
            vioblk.RequestTimeoutError, match=r"after 0\.1 s: .*; its status, 0xf, shows no error"
        ),
    ):
        disk.read(0, 512)
    assert disk.device.state is DeviceState.LIVE
    works(disk)
    works_again(disk)


@rings_in_turn("address", EVERY_WAY)
def test_a_device_that_somebody_else_has_reset_is_found_out(
    open_disk: OpenDisk, address: str
) -> None:
    disk = open_disk(address)
    disk.device.transport.write_status(0)
    words = r"somebody else has reset .* reads 0; seen"
    with hasty(disk, SHORT_S), pytest.raises(vioblk.DeviceGoneError, match=words):
        disk.read(0, 512)
    disk.reset()
    works(disk)


# Unplugged


@pytest.mark.parametrize("address", PCI)
def test_who_waits_for_a_device_that_is_unplugged_is_told_at_once(
    open_disk: OpenDisk, address: str
) -> None:
    disk = open_disk(address)
    software(disk).inject("silence", count=2)
    reader = waiter(disk, lambda: disk.read(0, 512))
    assert disk.submit_many(FLUSH) == 1
    unplug(disk, quietly=False)
    assert isinstance(reader.error(), vioblk.DeviceGoneError)
    with pytest.raises(vioblk.DeviceGoneError):
        disk.reap_many(bytearray(COMPLETION_RECORD.size))
    for call in (lambda: disk.read(0, 512), disk.flush):
        with pytest.raises(vioblk.DeviceGoneError):
            call()


@rings_in_turn("address", PCI)
@pytest.mark.parametrize("quietly", [False, True], ids=["told", "quietly"])
def test_a_device_that_has_gone_is_not_touched_any_more(
    open_disk: OpenDisk, address: str, quietly: bool
) -> None:
    disk = open_disk(address, timeout_s=SHORT_S)
    face = function(disk).face
    unplug(disk, quietly=quietly)
    with pytest.raises(vioblk.DeviceGoneError):
        disk.read(0, 512)
    count = face.access_count
    for call in (disk.reset, disk.flush, lambda: disk.writeback, lambda: disk.read(0, 512)):
        with pytest.raises((vioblk.DeviceGoneError, vioblk.StateError)):
            call()
    start = time.monotonic()
    disk.close()
    assert time.monotonic() - start < PROMPT_S
    assert disk.closed
    assert face.access_count == count


@pytest.mark.parametrize("address", PCI)
def test_the_reset_of_a_device_that_has_gone_says_so(open_disk: OpenDisk, address: str) -> None:
    disk = open_disk(address)
    unplug(disk, quietly=True)
    with pytest.raises(vioblk.DeviceGoneError, match="close the disk and open it again"):
        disk.reset()
    with pytest.raises(vioblk.DeviceGoneError, match="close the disk and open it again"):
        disk.read(0, 512)
    disk.close()


@rings_in_turn("address", PCI)
def test_memory_of_a_device_that_has_gone_can_be_let_go_of(
    open_disk: OpenDisk, address: str
) -> None:
    disk = open_disk(address, timeout_s=SHORT_S)
    software(disk).inject("silence")
    region = disk.alloc(4096)
    with memoryview(region) as view, pytest.raises(vioblk.VioblkError):
        disk.readinto(0, view)
    unplug(disk, quietly=False)
    disk.close()
    assert region.in_flight == 0
    region.close()


# Bus master off


@rings_in_turn("address", PCI)
def test_without_bus_mastering_requests_time_out_and_complete_when_it_is_back(
    open_disk: OpenDisk, address: str
) -> None:
    disk = open_disk(address)
    disk.write(0, b"x" * 512)
    platform = function(disk).platform
    platform.set_bus_master(False)
    region = disk.alloc(512)
    record = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, 7)
    assert disk.submit_many(record) == 1
    with hasty(disk, SHORT_S):
        with pytest.raises(vioblk.RequestTimeoutError, match="shows no error"):
            disk.flush()
    assert disk.device.in_flight == 2
    platform.set_bus_master(True)
    disk.flush()
    completions = bytearray(COMPLETION_RECORD.size)
    assert disk.wait(PROMPT_S)
    assert disk.reap_many(completions) == 1
    assert COMPLETION_RECORD.unpack(completions) == (7, 512, 0)
    assert bytes(memoryview(region)) == b"x" * 512
    works(disk)
