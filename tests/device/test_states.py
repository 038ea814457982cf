"""In which states a device can be asked for what, and what happens of itself."""

import os
import threading

import pytest

from tests.device.steps import (
    FIELD,
    NEEDS_RESET,
    fail,
)
from tests.support.drivers import PlainDriver
from tests.support.scripted import Script
from vioblk import device as device_module
from vioblk.device import VirtioDevice
from vioblk.errors import (
    ForkedError,
    StateError,
    TransportError,
)
from vioblk.status import DeviceState, allowed_states

ALLOWED_BY_CALL = {
    "initialize": {DeviceState.CREATED, DeviceState.RESET, DeviceState.FAILED},
    "add_queue": {DeviceState.FEATURES_OK},
    "reset_queue": {DeviceState.LIVE},
    "queue_count": {DeviceState.FEATURES_OK, DeviceState.LIVE},
    "queue_size_max": {DeviceState.FEATURES_OK, DeviceState.LIVE},
    "read_config": {DeviceState.DRIVER, DeviceState.FEATURES_OK, DeviceState.LIVE},
    "read_config_fields": {DeviceState.DRIVER, DeviceState.FEATURES_OK, DeviceState.LIVE},
    "write_config": {DeviceState.FEATURES_OK, DeviceState.LIVE},
    "reset": set(DeviceState) - {DeviceState.CLOSED},
    "refresh_state": set(DeviceState),
    "look_for_cause": set(DeviceState),
    "close": set(DeviceState),
}


@pytest.mark.parametrize("call", ALLOWED_BY_CALL)
def test_every_call_says_in_which_states_it_is_allowed(call: str) -> None:
    assert allowed_states(getattr(VirtioDevice, call)) == ALLOWED_BY_CALL[call]


def test_no_call_is_missing_from_the_table_of_states() -> None:
    calls = {
        name
        for name, value in vars(VirtioDevice).items()
        if callable(value) and not name.startswith("_")
    }
    assert calls - {"has", "refuse_in_callback", "require_queue_reset"} == set(ALLOWED_BY_CALL)


ARGUMENTS = {
    "initialize": (PlainDriver([]),),
    "add_queue": (0, 8, None),
    "reset_queue": (0,),
    "queue_size_max": (0,),
    "read_config": (FIELD,),
    "read_config_fields": ([FIELD],),
    "write_config": (FIELD, 0),
}


@pytest.mark.parametrize(
    ("call", "state"),
    [
        (call, state)
        for call, allowed in ALLOWED_BY_CALL.items()
        for state in sorted(set(DeviceState) - allowed, key=lambda state: state.name)
    ],
)
def test_a_call_in_any_other_state_is_refused_and_nothing_happens(
    device: VirtioDevice, script: Script, call: str, state: DeviceState
) -> None:
    device._state = state
    with pytest.raises(StateError, match=rf"{call}\(\) is not allowed while .* {state.name} "):
        getattr(device, call)(*ARGUMENTS.get(call, ()))
    assert script.log == []


@pytest.mark.parametrize(
    "call", ["reset", "reset_queue", "close", "refresh_state", "look_for_cause"]
)
def test_a_forked_child_is_refused(
    device: VirtioDevice, driver: PlainDriver, script: Script, call: str
) -> None:
    device.initialize(driver)
    script.log.clear()
    device.owner_pid = os.getpid() + 1
    with pytest.raises(ForkedError, match="open it again after the fork"):
        getattr(device, call)(*ARGUMENTS.get(call, ()))
    assert script.log == []


def test_a_config_change_reaches_the_driver(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    script.notify()
    assert script.accesses("config_changed")


def test_a_config_change_that_is_a_call_for_help_is_noticed(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    script.status |= NEEDS_RESET
    script.notify()
    assert device.state is DeviceState.NEEDS_RESET
    assert not script.accesses("config_changed")
    assert driver.queue.aborted is not None


def test_a_config_change_that_cannot_be_read_stops_the_queues(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    driver.steps["config_changed"] = fail(TransportError("cut off"))
    script.notify()
    assert device.state is DeviceState.NEEDS_RESET
    assert "cut off" in (driver.queue.aborted or "")


def test_closing_does_not_wait_for_a_notification_that_waits_for_it(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    """The transport joins its thread as it closes, and that thread delivers a change."""
    device.initialize(driver)
    deliver = script.config_changed
    assert deliver is not None
    thread = threading.Thread(target=deliver)

    def join() -> None:
        thread.start()
        thread.join(10)
        assert not thread.is_alive()

    script.hooks["close"] = join
    device.close()
    assert not script.accesses("config_changed")


@pytest.mark.parametrize("call", ["close", "reset"])
def test_a_callback_cannot_end_the_life_that_it_is_part_of(
    device: VirtioDevice, driver: PlainDriver, script: Script, call: str
) -> None:
    """Whoever closes the device waits for the callback, so that must not wait for the former."""
    device.initialize(driver)
    refusals = []

    def announce() -> None:
        with pytest.raises(StateError) as refusal:
            getattr(device, call)()
        refusals.append(str(refusal.value))

    driver.announce = announce
    script.log.clear()
    script.notify()
    assert len(refusals) == 1
    assert f"{call}() cannot be called from a callback" in refusals[0]
    assert not script.accesses("write_status", "drain")


def test_a_callback_holds_no_lock(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    values = []

    def announce() -> None:
        reader = threading.Thread(target=lambda: values.append(device.read_config(FIELD)))
        reader.start()
        reader.join(10)

    driver.announce = announce
    script.notify()
    assert values == [0]


def test_a_callback_that_fails_is_reported_and_the_device_lives_on(
    device: VirtioDevice,
    driver: PlainDriver,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(device_module, "excepthook", reported.append)
    device.initialize(driver)
    driver.announce = fail(KeyError("in the callback"))
    script.notify()
    assert [report.exc_type for report in reported] == [KeyError]
    assert device.read_config(FIELD) == 0


def test_a_reset_does_not_wait_for_a_notification_that_waits_for_it(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    """A change arrives while the device is reset and initialized again; the transport's thread
    waits for the device's lock, so the device must not wait for that thread."""
    device.initialize(driver)
    thread = threading.Thread(target=script.notify)
    script.hooks["read_features"] = thread.start
    joins: list[object] = []
    script.on_config_change = joins.append  # type: ignore[method-assign, assignment]
    device.reset()
    device.initialize(driver)
    thread.join(10)
    assert not thread.is_alive()
    assert joins == []
