"""The life of a device from its reset to DRIVER_OK, as its registers see it."""

import pytest

from tests.clauses import clause
from tests.device.steps import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    FIELD,
    LIVE_STATUS,
    MODERN,
    fail,
    steps_of,
)
from tests.support.drivers import PlainDriver
from tests.support.scripted import Access, Script
from vioblk.block.features import BlockFeature
from vioblk.device import VirtioDevice
from vioblk.errors import (
    NegotiationError,
    StateError,
    TransportError,
)
from vioblk.features import RING, Feature, Wish
from vioblk.status import DeviceState


@clause("INIT-01", "INIT-02", "INIT-03", "INIT-11")
def test_initialization_takes_its_steps_in_order(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    assert steps_of(script) == [
        Access("write_status", 0),
        Access("write_status", ACKNOWLEDGE),
        Access("write_status", ACKNOWLEDGE | DRIVER),
        Access("read_features"),
        Access("check"),
        Access("write_features", 1 << Feature.VERSION_1),
        Access("write_status", ACKNOWLEDGE | DRIVER | FEATURES_OK),
        Access("start"),
        Access("enable_queue", 0),
        Access("write_status", LIVE_STATUS),
        Access("build", 0),
        Access("live"),
    ]
    assert device.state is DeviceState.LIVE


@clause("INIT-04", "FEAT-01")
def test_what_is_written_back_is_offered_and_understood() -> None:
    script = Script(MODERN | RING | {BlockFeature.FLUSH, BlockFeature.ZONED, 50})
    wish = Wish(wanted=frozenset({BlockFeature.FLUSH, BlockFeature.DISCARD}))
    driver = PlainDriver(script.log, wish=wish)
    VirtioDevice(script).initialize(driver)
    assert script.accepted == sum(1 << bit for bit in MODERN | RING | {BlockFeature.FLUSH})
    assert script.position("write_status", 3) < script.position("read_features")
    assert script.position("read_features") < script.position("write_features")


@clause("FEAT-04")
def test_the_driver_is_not_shown_what_counts_as_not_offered() -> None:
    script = Script(MODERN | {3, BlockFeature.FLUSH, 30, Feature.ADMIN_VQ, 50})
    driver = PlainDriver(script.log)
    VirtioDevice(script).initialize(driver)
    assert driver.shown == MODERN | {BlockFeature.FLUSH}


@clause("INIT-05")
def test_a_driver_may_read_configuration_to_judge_the_device(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    script.config[0:4] = b"\x07\0\0\0"
    read = []
    driver.steps["check"] = lambda device: read.append(device.read_config(FIELD))
    device.initialize(driver)
    assert read == [7]
    assert script.position("read_config") < script.position("write_features")


@clause("INIT-06")
def test_configuration_cannot_be_written_during_negotiation(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    driver.steps["check"] = lambda device: device.write_config(FIELD, 1)
    with pytest.raises(StateError, match=r"write_config.* not allowed while the device is DRIVER"):
        device.initialize(driver)
    assert not script.accesses("write_config")


def test_configuration_can_be_written_once_features_are_settled(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    driver.steps["start"] = lambda device: device.write_config(FIELD, 0x01020304)
    device.initialize(driver)
    assert script.accesses("write_config") == [
        Access("write_config", (0, bytes([4, 3, 2, 1]))),
    ]
    assert script.position("write_config") > script.position("write_status", 11)


@clause("INIT-07")
def test_features_ok_is_set_after_the_features_were_written(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    assert script.position("write_features") < script.position("write_status", 11)
    assert all(
        not value & FEATURES_OK
        for what, value in script.log[: script.position("write_features")]
        if what == "write_status" and isinstance(value, int)
    )


@clause("INIT-08")
def test_features_are_written_once_and_not_after_features_ok(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    device.close()
    assert len(script.accesses("write_features")) == 1


@clause("INIT-09", "INIT-13")
def test_a_device_that_clears_features_ok_is_not_used(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    script.refuses_features = True
    with pytest.raises(NegotiationError, match=r"cleared FEATURES_OK"):
        device.initialize(driver)
    assert not script.accesses("start", "enable_queue", "build", "live")
    assert not any(
        isinstance(status, int) and status & DRIVER_OK for status in script.statuses_written()
    )
    assert script.statuses_written() == [0, 1, 3, 11, 3 | FAILED]


@clause("INIT-09")
def test_features_ok_is_read_back_before_anything_else(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    position = script.position("write_status", 11)
    assert script.log[position + 1] == Access("read_status", 11)


@clause("INIT-10")
def test_queues_are_set_up_between_features_ok_and_driver_ok(
    device: VirtioDevice, script: Script
) -> None:
    driver = PlainDriver(script.log, queues=2)
    driver.steps["start"] = lambda device: device.read_config(FIELD)
    device.initialize(driver)
    live = script.position("write_status", LIVE_STATUS)
    for step in ("read_config", "enable_queue"):
        positions = script.positions(step)
        assert positions
        assert script.position("write_status", 11) < min(positions)
        assert max(positions) < live
    assert set(script.enabled) == {0, 1}


@clause("INIT-14")
def test_nothing_can_notify_before_driver_ok(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    """The device layer hands out kick descriptors and rings only to `build`, and calls that
    only when DRIVER_OK has been written."""
    seen = []

    def before_driver_ok() -> None:
        if driver.handles:
            with pytest.raises(StateError, match="wait for DRIVER_OK"):
                _ = driver.queue
            seen.append(script.status)

    script.hooks["write_status"] = before_driver_ok
    device.initialize(driver)
    assert seen == [11]
    assert script.position("write_status", LIVE_STATUS) < script.position("build")
    assert driver.queue.ring.size == 8


@clause("INIT-12", "INIT-13")
@pytest.mark.parametrize("step", ["check", "start", "live"])
def test_a_driver_that_fails_leaves_the_device_failed(
    device: VirtioDevice, driver: PlainDriver, script: Script, step: str
) -> None:
    driver.steps[step] = fail(MemoryError(step))
    with pytest.raises(MemoryError, match=step):
        device.initialize(driver)
    assert device.state is DeviceState.FAILED
    failed = script.log[script.position(step) + 1 :]
    assert [each.what for each in failed if each.what != "abort"] == ["read_status", "write_status"]
    assert script.status & FAILED


@clause("INIT-12", "INIT-13")
@pytest.mark.parametrize(
    "step", ["write_status", "read_features", "write_features", "enable_queue", "map_memory"]
)
def test_an_access_that_fails_leaves_the_device_failed(
    device: VirtioDevice, driver: PlainDriver, script: Script, step: str
) -> None:
    def once() -> None:
        del script.hooks[step]
        raise TransportError(step)

    script.hooks[step] = once
    with pytest.raises(TransportError, match=step):
        device.initialize(driver)
    assert device.state is DeviceState.FAILED
    assert script.statuses_written()[-1] == script.status
    assert script.status & FAILED
    assert not script.status & DRIVER_OK


def test_a_device_that_is_out_of_reach_fails_with_the_first_error(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    script.hooks["read_features"] = fail(TransportError("first"))
    script.hooks["write_status"] = lambda: (
        fail(TransportError("second"))() if script.accesses("read_status")[3:] else None
    )
    with pytest.raises(TransportError, match="first") as failure:
        device.initialize(driver)
    assert device.state is DeviceState.FAILED
    assert "FAILED could not be set either: second" in failure.value.__notes__


@clause("FEAT-03", "FEAT-10")
def test_a_device_without_a_required_feature_is_failed(script: Script) -> None:
    wish = Wish(required=frozenset({BlockFeature.FLUSH}))
    with pytest.raises(NegotiationError, match="flush is required"):
        VirtioDevice(script).initialize(PlainDriver(script.log, wish=wish))
    assert not script.accesses("write_features", "check", "start", "enable_queue")
    assert script.statuses_written() == [0, 1, 3, 3 | FAILED]


@clause("RSVD-02", "INIT-12")
def test_a_legacy_device_is_refused_and_failed() -> None:
    script = Script(1 << BlockFeature.FLUSH)
    with pytest.raises(NegotiationError, match="legacy"):
        VirtioDevice(script).initialize(PlainDriver(script.log))
    assert script.status == 3 | FAILED
    assert not script.accesses("write_features")


def test_forcing_on_what_is_not_offered_fails_the_device(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    with pytest.raises(NegotiationError, match="event_idx is forced on but is not offered"):
        device.initialize(driver, force_on=frozenset({Feature.EVENT_IDX}))
    assert script.status & FAILED


def test_forcing_off_reaches_the_device() -> None:
    script = Script(MODERN | RING)
    VirtioDevice(script).initialize(PlainDriver(script.log), force_off=RING)
    assert script.accepted == 1 << Feature.VERSION_1


@clause("FEAT-09")
@pytest.mark.parametrize("offered", [MODERN, MODERN | RING])
def test_queues_do_without_ring_features_that_are_missing(offered: frozenset[int]) -> None:
    script = Script(offered)
    driver = PlainDriver(script.log)
    VirtioDevice(script).initialize(driver)
    parts = driver.queue.parts
    assert parts.event_idx is (Feature.EVENT_IDX in offered)
    assert (parts.indirect_table_size > 0) is (Feature.INDIRECT_DESC in offered)


def test_a_driver_for_another_type_of_device_does_not_touch_it(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    driver.device_type = 4
    with pytest.raises(NegotiationError, match="type 4, and scripted:device is of type 2"):
        device.initialize(driver)
    assert script.log == []
    assert device.state is DeviceState.CREATED
