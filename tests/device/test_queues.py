"""The queues of a device, and what it is told of them."""

import pytest

from tests.support.drivers import PlainDriver
from tests.support.scripted import Script
from vioblk.device import VirtioDevice
from vioblk.errors import (
    TransportError,
)


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
