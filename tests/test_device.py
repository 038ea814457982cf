"""The life of a device, as its registers see it: a scripted device logs every access in order."""

import os
import threading
from collections.abc import Callable

import pytest

from tests.clauses import clause
from tests.conftest import RingName
from tests.support.drivers import PlainDriver
from tests.support.scripted import Access, Script
from vioblk import device as device_module
from vioblk.block.features import BlockFeature
from vioblk.device import ConfigField, VirtioDevice
from vioblk.errors import (
    DeviceBusyError,
    DeviceGoneError,
    ForkedError,
    NegotiationError,
    ProtocolError,
    RequestTimeoutError,
    ResetTimeoutError,
    StateError,
    TransportError,
)
from vioblk.features import RING, Feature, Wish
from vioblk.status import DeviceState, Status, allowed_states

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
NEEDS_RESET, FAILED = 64, 128
LIVE_STATUS = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
MODERN = frozenset({int(Feature.VERSION_1)})
FIELD = ConfigField("capacity", 0, 4, writable=True)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def driver(script: Script) -> PlainDriver:
    return PlainDriver(script.log)


@pytest.fixture
def device(script: Script) -> VirtioDevice:
    return VirtioDevice(script)


def fail(error: Exception) -> Callable[..., None]:
    def step(*_: object) -> None:
        raise error

    return step


def steps_of(script: Script) -> list[Access]:
    """The log without the reads that only look."""
    return [each for each in script.log if each.what not in ("read_status", "map_memory")]


# Initialization


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


# The status


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


# Reset


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


# Closing


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


# Queues


@pytest.mark.parametrize(
    ("index", "size", "message"),
    [
        (2, 8, "there is no queue 2: the device has 2"),
        (-1, 8, "there is no queue -1"),
        (0, 0, "a power of two from 1 to 256"),
        (0, 3, "cannot have 3 descriptors"),
        (0, 512, "a power of two from 1 to 256"),
        (1, 8, "queue 1 has been set up already"),
    ],
)
def test_a_queue_that_cannot_be_is_refused_before_the_device_hears_of_it(
    device: VirtioDevice,
    driver: PlainDriver,
    script: Script,
    index: int,
    size: int,
    message: str,
) -> None:
    def ask(device: VirtioDevice) -> None:
        device.add_queue(1, 8, driver._build)
        script.log.clear()
        device.add_queue(index, size, driver._build)

    driver.steps["start"] = ask
    with pytest.raises(ValueError, match=message):
        device.initialize(driver)
    assert not script.accesses("enable_queue", "map_memory")


def test_what_the_device_says_of_its_queues_is_asked_for_once_in_each_life(
    device: VirtioDevice, driver: PlainDriver, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, sizes = iter((2, 7)), iter((64, 16))
    monkeypatch.setattr(script, "queue_count", lambda: next(counts))
    monkeypatch.setattr(script, "queue_size_max", lambda index: next(sizes))

    def look_and_ask(device: VirtioDevice) -> None:
        count, size = device.queue_count(), device.queue_size_max(0)
        assert (count, size) == expected
        with pytest.raises(ValueError, match=f"there is no queue {count}: the device has {count}"):
            device.add_queue(count, 8, driver._build)
        with pytest.raises(ValueError, match=f"a power of two from 1 to {size}"):
            device.add_queue(0, 2 * size, driver._build)

    driver.steps["start"] = look_and_ask
    expected = (2, 64)
    device.initialize(driver)
    assert (device.queue_count(), device.queue_size_max(0)) == expected
    device.reset()
    expected = (7, 16)
    device.initialize(driver)


def test_the_device_is_told_where_the_parts_of_a_ring_lie(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver)
    parts = driver.queue.parts
    assert parts.layout.length <= parts.ring.length
    assert script.enabled[0] == (
        8,
        parts.ring.device_address + parts.layout.descriptors_offset,
        parts.ring.device_address + parts.layout.driver_offset,
        parts.ring.device_address + parts.layout.device_offset,
    )


def test_a_ring_that_the_device_may_know_in_part_is_not_given_out_before_a_reset(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    places = []

    def free_the_place_of_the_ring(device: VirtioDevice) -> None:
        places.append(device.memory.alloc(4096).device_address)

    def hang_up() -> None:
        raise TransportError("half told")

    driver.steps["start"] = free_the_place_of_the_ring
    script.hooks["enable_queue"] = hang_up
    with pytest.raises(TransportError):
        device.initialize(driver)
    assert device.memory.alloc(4096).device_address not in places
    device.reset()
    assert device.memory.alloc(4096).device_address in places


# States, forks and threads


ALLOWED_BY_CALL = {
    "initialize": {DeviceState.CREATED, DeviceState.RESET, DeviceState.FAILED},
    "add_queue": {DeviceState.FEATURES_OK},
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
    assert calls - {"has", "refuse_in_callback"} == set(ALLOWED_BY_CALL)


ARGUMENTS = {
    "initialize": (PlainDriver([]),),
    "add_queue": (0, 8, None),
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


@pytest.mark.parametrize("call", ["reset", "close", "refresh_state", "look_for_cause"])
def test_a_forked_child_is_refused(
    device: VirtioDevice, driver: PlainDriver, script: Script, call: str
) -> None:
    device.initialize(driver)
    script.log.clear()
    device.owner_pid = os.getpid() + 1
    with pytest.raises(ForkedError, match="open it again after the fork"):
        getattr(device, call)()
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
