"""`vioblk.attach`, and how `vioblk.open` and it find what is at an address."""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

import vioblk
import vioblk.transport
from tests.support.patience import hasty
from tests.support.scripted import Script
from vioblk.address import Address, integer
from vioblk.block.features import BlockFeature
from vioblk.block.request import REQUEST_RECORD, RequestType
from vioblk.candidate import AddressCandidate
from vioblk.driver import BusDriver
from vioblk.drivers import OWN_DRIVERS, default_bus
from vioblk.features import Feature
from vioblk.transport import software


@pytest.fixture
def toaster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A scheme toaster: behind which is a device of type 30, which nobody drives."""
    module: Any = ModuleType("toaster")
    module.OPTIONS = {"slots": integer(1, 4, "slots")}
    module.reached = []

    def connect(address: Address, options: Mapping[str, object]) -> Script:
        module.reached.append(dict(options))
        script = Script()
        script.device_type = 30
        return script

    module.connect = connect
    module.device_type = lambda address, options: 30
    monkeypatch.setitem(vioblk.transport.SCHEMES, "toaster", "toaster")
    monkeypatch.setitem(sys.modules, "toaster", module)
    return module


def test_attach_makes_a_disk_of_a_block_device() -> None:
    with vioblk.attach("mem:1M?serial=abc", queue_count=1, flush=False) as disk:
        assert isinstance(disk, vioblk.BlockDevice)
        assert disk.serial == "abc"
        assert not disk.device.has(BlockFeature.FLUSH)


def test_attach_takes_the_options_of_disks_and_no_others() -> None:
    with pytest.raises(vioblk.AddressError, match=r"no option 'queue_cuont'.*mean queue_count"):
        vioblk.attach("mem:1M", queue_cuont=1)


def test_open_says_what_is_there_if_it_is_no_disk(toaster: Any) -> None:
    with pytest.raises(
        vioblk.AddressError,
        match=r"red\?slots=2 is a device of type 30 \(video encoder\), and no disk; vioblk.attach",
    ):
        vioblk.open("toaster:red?slots=2")
    assert toaster.reached == []


def test_attach_says_that_there_is_no_driver(toaster: Any) -> None:
    with pytest.raises(vioblk.NoDriverError, match=r"no driver for type 30 \(video encoder\)"):
        vioblk.attach("toaster:red?slots=2")
    assert toaster.reached == []


def test_what_is_invalid_is_said_before_anything_is_reached(toaster: Any) -> None:
    driver = BusDriver("toasters", 30, lambda *_: pytest.fail("attached"))
    candidate = AddressCandidate("toaster:red?slots=9")
    with pytest.raises(vioblk.AddressError, match="slots=9 is not valid; a number from 1 to 4"):
        candidate.connect(driver)
    assert toaster.reached == []


def test_what_is_insisted_on_is_offered_by_a_device_of_our_own_making() -> None:
    with vioblk.open("mem:1M?access_platform=on&offer=lifetime") as disk:
        offered = disk.device.offered
        assert {Feature.ACCESS_PLATFORM, BlockFeature.LIFETIME} <= offered
        assert disk.device.has(Feature.ACCESS_PLATFORM)
    with vioblk.open("mem:1M") as disk:
        assert Feature.ACCESS_PLATFORM not in disk.device.offered
    assert "offer" in software.OPTIONS


@pytest.mark.parametrize("option", ["withhold=flush", "cache=none"])
def test_what_is_withheld_is_not_offered_even_if_it_is_insisted_on(option: str) -> None:
    with pytest.raises(vioblk.NegotiationError, match="flush is forced on but is not offered"):
        vioblk.open(f"mem:1M?{option}&flush=on")


def test_a_transport_that_does_not_make_its_device_is_not_told_to_offer(
    toaster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = BusDriver("toasters", 30, lambda *_: pytest.fail("attached"))
    connection = AddressCandidate("toaster:red", {"event_idx": True}).connect(driver)
    assert connection.settings.force_on == {Feature.EVENT_IDX}
    assert toaster.reached == [{}]
    connection.transport.close()


def test_the_drivers_of_this_package_are_known_by_type() -> None:
    names = {kind: driver.name for kind, driver in default_bus().drivers.items()}
    assert names[2] == "virtio-blk"
    assert names[4] == "virtio-rng"


def test_a_disk_in_use_refuses_to_leave_the_bus() -> None:
    bus = vioblk.Bus()
    for driver in OWN_DRIVERS:
        bus.register(driver)
    disk = bus.add(AddressCandidate("mem:1M")).attached
    assert isinstance(disk, vioblk.BlockDevice)
    disk.device.transport.device.inject("silence")  # type: ignore[attr-defined]
    assert disk.submit_many(REQUEST_RECORD.pack(RequestType.FLUSH, 0, 0, 0, 0, 0, 0)) == 1
    with pytest.raises(vioblk.DeviceBusyError, match="1 request in flight"):
        bus.detach("mem:1M")
    disk.write(0, bytes(512))
    with (
        hasty(disk, 0.1),
        pytest.raises(vioblk.RequestTimeoutError, match="1 request did not complete"),
    ):
        bus.detach("mem:1M", drain=True)
    assert bus.devices[0].state is vioblk.BusState.DETACHED
    assert disk.closed
    again = bus.attach("mem:1M")
    assert isinstance(again, vioblk.BlockDevice)
    again.write(0, bytes(512))
    bus.detach("mem:1M")
