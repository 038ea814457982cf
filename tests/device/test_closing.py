"""Closing a device: drained, reset, and let go of, whatever it does."""

import pytest

from tests.device.steps import (
    fail,
)
from tests.support.drivers import PlainDriver
from tests.support.scripted import Script
from vioblk import device as device_module
from vioblk.device import VirtioDevice
from vioblk.errors import (
    DeviceBusyError,
    RequestTimeoutError,
    ResetTimeoutError,
    StateError,
    TransportError,
)
from vioblk.status import DeviceState


def test_closing_drains_then_resets_then_reclaims_then_lets_go(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    script.log.clear()
    device.close()
    assert [each.what for each in script.log] == [
        "drain",
        "write_status",
        "read_status",
        "abort",
        "close",
        "abort",
        "reclaim",
        "stopped",
    ]
    assert device.state is DeviceState.CLOSED


def test_closing_twice_does_nothing(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    device.close()
    script.log.clear()
    device.close()
    assert script.log == []


def test_closing_a_device_that_never_lived_touches_no_register(
    device: VirtioDevice, script: Script
) -> None:
    device.close()
    assert [each.what for each in script.log] == ["close"]


def test_closing_without_draining_is_refused_while_requests_are_in_flight(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    driver.queue.submit()
    script.log.clear()
    with pytest.raises(DeviceBusyError, match="1 request in flight"):
        device.close(drain=False)
    assert script.log == []
    assert device.state is DeviceState.LIVE


def test_closing_says_what_it_had_to_give_up(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    head = driver.queue.submit()
    driver.drained = False
    with pytest.raises(RequestTimeoutError, match=r"1 request did not complete within 0\.5 s"):
        device.close(timeout_s=0.5)
    assert device.state is DeviceState.CLOSED
    assert script.closed
    assert driver.lost == {0: [head]}


def test_closing_a_device_that_never_confirms_its_reset_lets_go_and_says_so(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    script.resets = False
    with pytest.raises(ResetTimeoutError):
        device.close(timeout_s=0.01)
    assert device.state is DeviceState.CLOSED
    assert script.closed


def test_memory_that_a_device_might_still_reach_is_never_reused(
    device: VirtioDevice,
    driver: PlainDriver,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[object] = []
    monkeypatch.setattr(device_module, "_abandoned", kept)
    device.initialize(driver)
    driver.queue.submit()
    script.resets = False
    script.memory_safe_after_close = False
    with pytest.raises(ResetTimeoutError):
        device.close(timeout_s=0.01)
    assert len(kept) == 1
    assert script.space in kept[0]  # type: ignore[operator]
    assert not script.accesses("reclaim")
    assert driver.lost == {}


def test_closing_a_device_that_has_gone_is_quiet(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    head = driver.queue.submit()
    script.hooks["write_status"] = fail(TransportError("gone"))
    device.close()
    assert device.state is DeviceState.CLOSED
    assert driver.lost == {0: [head]}


def test_a_closed_device_hands_out_nothing(device: VirtioDevice) -> None:
    device.close()
    with pytest.raises(StateError, match="open it again"):
        _ = device.transport
    with pytest.raises(StateError, match="open it again"):
        device.memory.alloc(512)
