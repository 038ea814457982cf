"""The life of a device that is driven through the legacy interface."""

import pytest

from tests.clauses import clause
from tests.conftest import RingName
from tests.support.drivers import PlainDriver
from tests.support.scripted import Access, Script
from vioblk._native import split_layout
from vioblk.block.features import BlockFeature
from vioblk.config_space import ConfigField
from vioblk.device import VirtioDevice
from vioblk.errors import NegotiationError, ProtocolError
from vioblk.features import RING, Feature, Wish
from vioblk.status import DeviceState

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
LEGACY_ALIGN = 4096
CAPACITY = ConfigField("capacity", 0, 8)


class LegacyScript(Script):
    """Behind the legacy interface: no generation, and the size of a queue is what it is."""

    legacy_align = LEGACY_ALIGN
    queue_size = 256

    def queue_size_max(self, index: int) -> int:
        return self.queue_size if index < self.queues else 0


@pytest.fixture
def script() -> LegacyScript:
    return LegacyScript(RING)


@pytest.fixture
def driver(script: LegacyScript, ring: RingName) -> PlainDriver:
    return PlainDriver(script.log, ring=ring, wish=Wish(ring_features=frozenset()))


@clause("INIT-LEG-01", "FEAT-LEG-02")
def test_initialization_takes_the_same_steps_without_features_ok(
    script: LegacyScript, driver: PlainDriver
) -> None:
    device = VirtioDevice(script)
    device.initialize(driver)
    steps = [each for each in script.log if each.what not in ("read_status", "map_memory")]
    assert steps == [
        Access("write_status", 0),
        Access("write_status", ACKNOWLEDGE),
        Access("write_status", ACKNOWLEDGE | DRIVER),
        Access("read_features"),
        Access("check"),
        Access("write_features", 0),
        Access("start"),
        Access("enable_queue", 0),
        Access("write_status", ACKNOWLEDGE | DRIVER | DRIVER_OK),
        Access("build", 0),
        Access("live"),
    ]
    assert device.state is DeviceState.LIVE
    assert device.legacy


@clause("INIT-LEG-01")
def test_nobody_waits_for_a_bit_that_the_device_does_not_have(
    script: LegacyScript, driver: PlainDriver
) -> None:
    script.refuses_features = True
    device = VirtioDevice(script)
    device.initialize(driver)
    assert script.status == ACKNOWLEDGE | DRIVER | DRIVER_OK
    device.reset()
    assert script.status == 0
    device.initialize(driver)
    assert device.state is DeviceState.LIVE


@clause("RSVD-LEG-01", "RSVD-LEG-02")
def test_any_layout_is_written_back_and_the_probe_bit_is_not(
    script: LegacyScript, driver: PlainDriver
) -> None:
    script.offered = 1 << Feature.ANY_LAYOUT | 1 << 30 | 1 << Feature.NOTIFY_ON_EMPTY
    VirtioDevice(script).initialize(driver)
    assert script.accepted == 1 << Feature.ANY_LAYOUT
    assert driver.shown == {Feature.ANY_LAYOUT, Feature.NOTIFY_ON_EMPTY}


def test_features_above_the_32_of_the_interface_are_neither_shown_nor_accepted(
    script: LegacyScript, driver: PlainDriver
) -> None:
    script.offered = 1 << BlockFeature.FLUSH | 1 << Feature.VERSION_1 | 1 << Feature.ACCESS_PLATFORM
    VirtioDevice(script).initialize(driver)
    assert driver.shown == {BlockFeature.FLUSH}
    assert script.accepted == 0


@clause("SPLIT-LEG-01")
@pytest.mark.parametrize("size", [8, 128, 512])
def test_a_queue_of_another_size_than_the_devices_is_refused(
    script: LegacyScript, driver: PlainDriver, size: int
) -> None:
    refused: list[str] = []

    def ask(device: VirtioDevice) -> None:
        with pytest.raises(ValueError, match=rf"queue 0 has 256 descriptors, and not {size}: on"):
            device.add_queue(0, size, lambda parts: driver._build(parts))
        refused.append("refused")

    driver.steps["start"] = ask
    VirtioDevice(script).initialize(driver)
    assert refused == ["refused"]
    assert script.enabled[0].size == driver.queue.ring.size == 256


@pytest.mark.parametrize("size", [24, 40000, 65535])
def test_a_size_that_no_split_ring_can_have_is_the_devices_fault(
    script: LegacyScript, driver: PlainDriver, size: int
) -> None:
    script.queue_size = size
    with pytest.raises(ProtocolError, match=f"queue 0 has {size} descriptors, .*power of two"):
        VirtioDevice(script).initialize(driver)


@clause("SPLIT-LEG-02", "SPLIT-LEG-03")
@pytest.mark.parametrize("size", [64, 128, 256, 1024])
def test_a_queue_lies_in_one_piece_from_a_page_on(
    script: LegacyScript, driver: PlainDriver, size: int
) -> None:
    script.queue_size = size
    VirtioDevice(script).initialize(driver)
    addresses = script.enabled[0]
    start = addresses.descriptors_address
    assert start % LEGACY_ALIGN == 0
    assert addresses.driver_address == start + 16 * size
    used = start + 16 * size + 6 + 2 * size
    assert addresses.device_address == -(-used // LEGACY_ALIGN) * LEGACY_ALIGN
    used_end = addresses.device_address + 6 + 8 * size
    rounded_up = -(-used_end // LEGACY_ALIGN) * LEGACY_ALIGN - start
    assert driver.queue.parts.ring.length >= rounded_up
    assert split_layout(size, legacy_align=LEGACY_ALIGN).length == rounded_up


@clause("CFG-LEG-01")
def test_a_driver_reads_configuration_until_two_rounds_agree(
    script: LegacyScript, driver: PlainDriver
) -> None:
    script.config[0:8] = (0xFFFF_FFFF).to_bytes(8, "little")
    seen: list[int] = []

    def grow_between_the_halves() -> None:
        if len(script.accesses("read_config")) == 1:
            script.config[0:8] = (0x1_0000_0000).to_bytes(8, "little")

    script.hooks["read_config"] = grow_between_the_halves
    driver.steps["start"] = lambda device: seen.append(device.read_config(CAPACITY))
    VirtioDevice(script).initialize(driver)
    assert seen == [0x1_0000_0000]


def test_a_device_that_is_refused_is_told_so(script: LegacyScript, driver: PlainDriver) -> None:
    with pytest.raises(NegotiationError, match="flush is forced on but is not offered"):
        VirtioDevice(script).initialize(driver, force_on=frozenset({BlockFeature.FLUSH}))
    assert script.statuses_written()[-1] == ACKNOWLEDGE | DRIVER | 128
