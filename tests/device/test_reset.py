"""A reset of the device: awaited, and only then is anything taken back."""

import pytest

from tests.clauses import clause
from tests.conftest import RingName
from tests.device.steps import (
    ACKNOWLEDGE,
    FIELD,
    LIVE_STATUS,
)
from tests.support.drivers import PlainDriver
from tests.support.scripted import Access, Script
from vioblk.device import VirtioDevice
from vioblk.errors import (
    ResetTimeoutError,
    StateError,
)
from vioblk.features import Feature
from vioblk.status import DeviceState


@clause("RESET-01", "PCI-COMMON-05")
def test_a_reset_is_over_only_when_the_status_reads_zero(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    script.resets = False
    script.status = LIVE_STATUS
    reads_left = 5

    def linger() -> None:
        nonlocal reads_left
        reads_left -= 1
        if reads_left == 0:
            script.status = 0

    script.hooks["read_status"] = linger
    device.initialize(driver)
    assert script.log[0] == Access("write_status", 0)
    assert script.log[1:5] == [Access("read_status", LIVE_STATUS)] * 4
    assert script.log[5] == Access("read_status", 0)
    assert script.position("write_status", ACKNOWLEDGE) > 5


def test_a_reset_that_never_ends_is_an_error_within_the_time_given(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    script.resets = False
    with pytest.raises(ResetTimeoutError, match=r"within 0\.05 s: its status still reads 0xf"):
        device.reset(timeout_s=0.05)
    assert device.state is DeviceState.FAILED
    assert not script.accesses("reclaim")
    with pytest.raises(StateError):
        device.read_config(FIELD)


def test_after_a_reset_that_timed_out_another_one_can_succeed(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    head = driver.queue.submit()
    script.resets = False
    with pytest.raises(ResetTimeoutError):
        device.reset(timeout_s=0.01)
    assert driver.lost is None
    script.resets = True
    device.reset()
    assert driver.lost == {0: [head]}


@clause("CLEAN-01", "CLEAN-02")
@pytest.mark.parametrize("call", ["reset", "close"])
def test_a_ring_is_left_alone_until_the_reset_is_confirmed(
    device: VirtioDevice, script: Script, ring: RingName, call: str
) -> None:
    driver = PlainDriver(script.log, ring=ring)
    device.initialize(driver)
    head = driver.queue.submit()
    script.resets = False
    snapshots = []
    parts = driver.queue.parts

    def look() -> None:
        with memoryview(parts.ring) as view:
            snapshots.append(bytes(view))
        if len(snapshots) == 4:
            script.status = 0

    script.hooks["read_status"] = look
    script.log.clear()
    getattr(device, call)()
    assert any(snapshots[0])
    assert snapshots == [snapshots[0]] * 4
    assert script.position("reclaim") > script.position("read_status", 0)
    assert driver.lost == {0: [head]}


def test_a_reset_forgets_what_was_negotiated_and_all_queues(
    device: VirtioDevice, driver: PlainDriver
) -> None:
    device.initialize(driver)
    handle = driver.handles[0]
    assert device.has(Feature.VERSION_1)
    device.reset()
    assert not device.has(Feature.VERSION_1)
    assert len(device.offered) == 0
    assert device.negotiation is None
    with pytest.raises(StateError, match="queue 0 does not exist any more"):
        _ = handle.queue


def test_queues_that_outlive_a_reset_are_aborted(device: VirtioDevice, driver: PlainDriver) -> None:
    device.initialize(driver)
    queue = driver.queue
    device.reset()
    assert queue.aborted == "the device was reset"


def test_memory_outlives_a_reset(device: VirtioDevice, driver: PlainDriver) -> None:
    device.initialize(driver)
    region = device.memory.alloc(4096)
    memoryview(region)[:4] = b"kept"
    device.reset()
    device.initialize(driver)
    assert bytes(memoryview(region)[:4]) == b"kept"
