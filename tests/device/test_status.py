"""The device status: each step adds to it, and what it shows is heeded."""

import threading

import pytest

from tests.clauses import clause
from tests.device.steps import (
    DRIVER_OK,
    FAILED,
    FIELD,
    LIVE_STATUS,
    NEEDS_RESET,
    fail,
)
from tests.support.drivers import PlainDriver
from tests.support.scripted import Access, Script
from vioblk.device import VirtioDevice
from vioblk.errors import (
    DeviceGoneError,
    ProtocolError,
    StateError,
    TransportError,
)
from vioblk.features import Feature
from vioblk.status import DeviceState, Status


@clause("STATUS-01", "STATUS-02")
def test_each_step_adds_its_bit_and_keeps_those_before(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    assert script.statuses_written() == [0, 1, 3, 11, 15]


@clause("STATUS-02")
@pytest.mark.parametrize("step", ["check", "start", "live"])
def test_failing_turns_no_bit_off(
    device: VirtioDevice, driver: PlainDriver, script: Script, step: str
) -> None:
    driver.steps[step] = fail(MemoryError(step))
    with pytest.raises(MemoryError):
        device.initialize(driver)
    before, failed = script.statuses_written()[-2:]
    assert failed == int(str(before)) | FAILED


@clause("STATUS-02")
def test_a_bit_that_the_device_has_set_is_not_turned_off(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    def go_wrong(device: VirtioDevice) -> None:
        script.status |= NEEDS_RESET
        raise MemoryError

    driver.steps["start"] = go_wrong
    with pytest.raises(MemoryError):
        device.initialize(driver)
    assert script.status == 11 | NEEDS_RESET | FAILED


def test_a_device_that_needs_a_reset_at_once_is_not_brought_to_life(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    driver.steps["start"] = lambda device: setattr(script, "status", script.status | NEEDS_RESET)
    with pytest.raises(ProtocolError, match=r"asked for a reset .*before DRIVER_OK"):
        device.initialize(driver)
    assert not any(int(str(status)) & DRIVER_OK for status in script.statuses_written())


@clause("SUSPEND-01", "SUSPEND-02")
def test_suspend_is_never_set(device: VirtioDevice, driver: PlainDriver, script: Script) -> None:
    script.offered |= 1 << Feature.SUSPEND
    device.initialize(driver)
    device.reset()
    driver.steps["check"] = fail(MemoryError())
    with pytest.raises(MemoryError):
        device.initialize(driver)
    device.close()
    assert not any(int(str(status)) & Status.SUSPEND for status in script.statuses_written())


@clause("STATUS-03")
def test_a_failed_device_is_reset_before_it_is_initialized_again(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    driver.steps["check"] = fail(MemoryError())
    with pytest.raises(MemoryError):
        device.initialize(driver)
    assert script.status & FAILED
    script.log.clear()
    del driver.steps["check"]
    device.initialize(driver)
    assert script.log[:2] == [Access("write_status", 0), Access("read_status", 0)]
    assert script.status == LIVE_STATUS


@clause("STATUS-04")
def test_requests_of_a_device_that_needs_a_reset_are_neither_awaited_nor_believed(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    head = driver.queue.submit()
    queue = driver.queue
    script.status |= NEEDS_RESET
    assert device.refresh_state() is DeviceState.NEEDS_RESET
    assert queue.aborted == "the device has met an error and needs a reset"
    device.close()
    assert not script.accesses("drain")
    assert driver.lost == {0: [head]}


def test_a_device_that_needs_a_reset_lives_again_after_one(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    script.status |= NEEDS_RESET
    device.refresh_state()
    with pytest.raises(StateError, match=r"NEEDS_RESET .*; reset it"):
        device.read_config(FIELD)
    device.reset()
    assert device.state is DeviceState.RESET
    device.initialize(driver)
    assert device.read_config(FIELD) == 0
    assert script.status == LIVE_STATUS


# A look at the status after something took too long


def test_a_look_at_a_device_that_is_well_says_so(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    assert device.look_for_cause() == "its status, 0xf, shows no error"
    assert device.state is DeviceState.LIVE
    assert driver.queue.aborted is None


@clause("STATUS-04")
@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (LIVE_STATUS | NEEDS_RESET, "the device has met an error and needs a reset"),
        (0, "somebody else has reset the device: its status reads 0"),
    ],
)
def test_a_look_finds_out_that_only_a_reset_helps(
    device: VirtioDevice, driver: PlainDriver, script: Script, status: int, cause: str
) -> None:
    device.initialize(driver)
    script.status = status
    with pytest.raises(DeviceGoneError, match=cause):
        device.look_for_cause()
    assert device.state is DeviceState.NEEDS_RESET
    assert driver.queue.aborted == cause
    assert device.look_for_cause() is None
    device.reset()
    device.initialize(driver)
    assert device.look_for_cause() is not None


def test_a_look_at_a_device_that_has_gone_sends_everybody_away(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    script.hooks["read_status"] = fail(DeviceGoneError("unplugged"))
    with pytest.raises(DeviceGoneError, match="unplugged"):
        device.look_for_cause()
    assert driver.queue.aborted == "unplugged"
    script.log.clear()
    script.hooks["write_status"] = fail(DeviceGoneError("unplugged"))
    device.close()
    assert not script.accesses("drain")


def test_a_status_that_cannot_be_read_is_no_more_than_a_remark(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    script.hooks["read_status"] = fail(TransportError("no answer"))
    assert device.look_for_cause() == "its status cannot be read: no answer"
    assert device.state is DeviceState.LIVE


def test_a_device_that_is_kept_from_working_may_go_on(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    script.status &= ~DRIVER_OK
    assert "0xb, lacks DRIVER_OK" in (device.look_for_cause() or "")
    assert device.state is DeviceState.LIVE


def test_a_status_that_somebody_has_to_be_asked_for_is_not_looked_at(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    script.status_at_hand = False
    script.log.clear()
    assert device.look_for_cause() is None
    assert script.log == []


def test_a_look_does_not_wait_for_who_closes_the_device(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    """Closing waits for requests, and one of these may be looking for the cause of its delay."""
    device.initialize(driver)
    looks: list[object] = []

    def look(_: VirtioDevice) -> None:
        thread = threading.Thread(target=lambda: looks.append(device.look_for_cause()))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()

    driver.steps["config_changed"] = look
    script.notify()
    assert looks == [None]
