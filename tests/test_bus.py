"""The bus: drivers and devices meet, whichever comes first, and each device that has no driver says
why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import pytest

from tests.support.drivers import PlainDriver
from tests.support.scripted import Script
from vioblk.bus import Bus, BusState, Connection
from vioblk.device import VirtioDevice
from vioblk.driver import BusDriver, DeviceIdentity, Settings
from vioblk.errors import (
    DeviceBusyError,
    DuplicateDriverError,
    NegotiationError,
    NoDriverError,
    StateError,
    TransportError,
)
from vioblk.features import Feature
from vioblk.status import DeviceState

CONSOLE, BALLOON = 3, 5


class Gadget:
    """What the drivers of these tests make of a device."""

    def __init__(self, device: VirtioDevice, identity: DeviceIdentity, settings: Settings) -> None:
        self.device, self.identity, self.settings = device, identity, settings
        self.driver = PlainDriver([])
        self.driver.device_type = identity.device_type
        device.initialize(self.driver, force_on=settings.force_on)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return self.device.state is DeviceState.CLOSED

    def close(self, *, drain: bool = True, timeout_s: float | None = None) -> None:
        self.device.close(drain=drain, timeout_s=5.0 if timeout_s is None else timeout_s)


def gadget_driver(device_type: int = CONSOLE, name: str = "gadgets") -> BusDriver:
    return BusDriver(name, device_type, Gadget)


@dataclass
class Found:
    """A candidate behind which a scripted device is."""

    address: str = "slot 5"
    device_type: int = CONSOLE
    settings: Settings = field(default_factory=Settings)
    unreachable: str | None = None
    offered: int = 1 << Feature.VERSION_1
    scripts: list[Script] = field(default_factory=list)

    @property
    def identity(self) -> DeviceIdentity:
        return DeviceIdentity(self.address, self.device_type, "a type", "scripted")

    @property
    def script(self) -> Script:
        return self.scripts[-1]

    def connect(self, driver: BusDriver) -> Connection:
        if self.unreachable is not None:
            raise TransportError(self.unreachable)
        script = Script(self.offered)
        script.device_type = self.device_type
        self.scripts.append(script)
        return Connection(script, self.settings)


def state_of(bus: Bus, address: str = "slot 5") -> BusState:
    return next(each.state for each in bus.devices if each.address == address)


def gadget_at(bus: Bus, address: str = "slot 5") -> Gadget:
    attached = next(each.attached for each in bus.devices if each.address == address)
    assert isinstance(attached, Gadget)
    return attached


def register_then_add(bus: Bus, found: Found) -> None:
    bus.register(gadget_driver())
    bus.add(found)


def add_then_register(bus: Bus, found: Found) -> None:
    bus.add(found)
    bus.register(gadget_driver())


# Meeting


@pytest.mark.parametrize("meet", [register_then_add, add_then_register])
def test_driver_and_device_meet_in_either_order(meet: Callable[[Bus, Found], None]) -> None:
    bus, found = Bus(), Found()
    meet(bus, found)
    [device] = bus.devices
    assert (device.state, device.reason, device.driver) == (BusState.ATTACHED, None, "gadgets")
    assert gadget_at(bus).device.state is DeviceState.LIVE
    assert found.script.status == 15


def test_a_driver_is_told_what_the_device_is_and_gets_a_device_object() -> None:
    bus, found = Bus(), Found(settings=Settings({"colour": "red"}))
    register_then_add(bus, found)
    gadget = gadget_at(bus)
    assert gadget.identity == DeviceIdentity("slot 5", CONSOLE, "a type", "scripted")
    assert gadget.settings.options == {"colour": "red"}
    assert isinstance(gadget.device, VirtioDevice)


def test_each_device_goes_to_the_driver_of_its_type() -> None:
    bus = Bus()
    bus.add(Found("slot 1", CONSOLE))
    bus.register(gadget_driver(BALLOON, "balloons"))
    bus.add(Found("slot 2", BALLOON))
    bus.register(gadget_driver(CONSOLE, "consoles"))
    bus.add(Found("slot 3", CONSOLE))
    found = {each.address: (each.state, each.driver) for each in bus.devices}
    assert found == {
        "slot 1": (BusState.ATTACHED, "consoles"),
        "slot 2": (BusState.ATTACHED, "balloons"),
        "slot 3": (BusState.ATTACHED, "consoles"),
    }
    assert {kind: driver.name for kind, driver in bus.drivers.items()} == {
        CONSOLE: "consoles",
        BALLOON: "balloons",
    }


def test_a_device_without_a_driver_says_so() -> None:
    bus = Bus()
    added = bus.add(Found(device_type=4))
    assert added.state is BusState.WAITING
    assert added.reason == "no driver for type 4 (entropy source)"
    with pytest.raises(NoDriverError, match=r"no driver for type 4 \(entropy source\)"):
        bus.attach("slot 5")


def test_a_second_driver_for_a_type_is_an_error_that_names_both() -> None:
    bus, found = Bus(), Found()
    register_then_add(bus, found)
    with pytest.raises(DuplicateDriverError, match=r"others cannot .* type 3 .*: gadgets is"):
        bus.register(gadget_driver(name="others"))
    with pytest.raises(DuplicateDriverError, match=r"gadgets cannot .* type 3 .*: gadgets is"):
        bus.register(gadget_driver())
    assert bus.drivers[CONSOLE].name == "gadgets"
    assert state_of(bus) is BusState.ATTACHED
    assert len(found.scripts) == 1


def test_a_device_is_on_the_bus_once() -> None:
    bus, found = Bus(), Found()
    register_then_add(bus, found)
    with pytest.raises(ValueError, match="slot 5 is on the bus already"):
        bus.add(Found())
    assert len(bus.devices) == 1


# Refusals


def test_a_device_that_is_refused_says_why_and_is_let_go_of() -> None:
    bus, found = Bus(), Found(offered=0)
    bus.register(gadget_driver())
    added = bus.add(found)
    assert added.state is BusState.REFUSED
    assert added.reason is not None
    assert added.reason.startswith("refused: feature version_1 is required but is not offered")
    assert found.script.closed
    with pytest.raises(NegotiationError, match="version_1"):
        bus.attach("slot 5")


def test_a_refused_device_does_not_stop_others() -> None:
    bus = Bus()
    bus.add(Found("slot 1", unreachable="nobody is there"))
    bus.add(Found("slot 2"))
    bus.register(gadget_driver())
    assert [(each.address, each.state, each.reason) for each in bus.devices] == [
        ("slot 1", BusState.REFUSED, "refused: nobody is there"),
        ("slot 2", BusState.ATTACHED, None),
    ]


def test_a_driver_that_fails_in_any_way_is_a_reason_too() -> None:
    def attach(*_: object) -> Gadget:
        raise ZeroDivisionError("by zero")

    bus, found = Bus(), Found()
    bus.register(BusDriver("broken", CONSOLE, attach))
    assert bus.add(found).reason == "refused: by zero"
    assert found.script.closed


def test_a_refused_device_can_be_tried_again() -> None:
    bus, found = Bus(), Found(unreachable="not yet")
    register_then_add(bus, found)
    assert state_of(bus) is BusState.REFUSED
    bus.register(gadget_driver(BALLOON))
    assert state_of(bus) is BusState.REFUSED
    found.unreachable = None
    assert bus.attach("slot 5") is gadget_at(bus)
    assert state_of(bus) is BusState.ATTACHED


# Detaching


def test_a_detached_device_can_be_attached_again() -> None:
    bus, found = Bus(), Found()
    register_then_add(bus, found)
    first = gadget_at(bus)
    bus.detach("slot 5")
    [device] = bus.devices
    assert (device.state, device.reason) == (BusState.DETACHED, "detached")
    assert first.closed
    assert found.script.status == 0
    assert found.script.closed
    second = bus.attach("slot 5")
    assert second is gadget_at(bus)
    assert second is not first
    assert found.script.status == 15


def test_a_device_in_use_refuses_to_detach() -> None:
    bus, found = Bus(), Found()
    register_then_add(bus, found)
    gadget = gadget_at(bus)
    gadget.driver.queue.submit()
    with pytest.raises(DeviceBusyError, match="1 request in flight"):
        bus.detach("slot 5")
    assert state_of(bus) is BusState.ATTACHED
    assert gadget.device.state is DeviceState.LIVE
    bus.detach("slot 5", drain=True)
    assert state_of(bus) is BusState.DETACHED


def test_a_device_that_its_user_closed_is_detached() -> None:
    bus, found = Bus(), Found()
    register_then_add(bus, found)
    gadget_at(bus).close()
    [device] = bus.devices
    assert (device.state, device.reason) == (BusState.DETACHED, "closed by its user")
    with pytest.raises(StateError, match=r"slot 5 is not attached \(closed by its user\)"):
        bus.detach("slot 5")
    bus.attach("slot 5")
    assert state_of(bus) is BusState.ATTACHED


def test_what_is_attached_is_not_attached_twice() -> None:
    bus, found = Bus(), Found()
    register_then_add(bus, found)
    with pytest.raises(StateError, match="slot 5 is attached; detach it first"):
        bus.attach("slot 5")
    assert len(found.scripts) == 1


@pytest.mark.parametrize("call", ["attach", "detach"])
def test_a_device_that_is_not_there_is_named(call: str) -> None:
    bus = Bus()
    with pytest.raises(LookupError, match=r"no device slot 6 is on the bus \(there is: none\)"):
        getattr(bus, call)("slot 6")
    bus.add(Found())
    with pytest.raises(LookupError, match=r"no device slot 6 is on the bus \(there is: slot 5\)"):
        getattr(bus, call)("slot 6")


def test_a_reset_that_never_ends_detaches_all_the_same() -> None:
    bus, found = Bus(), Found()
    register_then_add(bus, found)
    found.script.resets = False
    with pytest.raises(TimeoutError):
        bus.detach("slot 5", timeout_s=0.01)
    assert state_of(bus) is BusState.DETACHED
