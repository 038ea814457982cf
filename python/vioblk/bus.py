"""The bus: which driver takes which device.

Drivers are registered by device type, devices are added as they are found, and whichever comes
last, they meet. The bus makes the transport and the device object, which owns the status and every
resource; a driver gets these and a typed identity. For each device that is not attached the bus
knows why.
"""

import importlib.metadata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from threading import RLock
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from vioblk.device import VirtioDevice
from vioblk.device_types import device_type_name
from vioblk.driver import Attached, BusDriver, DeviceIdentity, Settings
from vioblk.errors import DuplicateDriverError, NoDriverError, StateError
from vioblk.features import register_type_features
from vioblk.transport.base import Transport

ENTRY_POINT_GROUP: Final = "vioblk.drivers"
"""An entry point of this group is a BusDriver of another package."""

CLOSE_TIMEOUT_S: Final = 1.0
"""How long a device may take over its reset if its driver could not attach."""


class Connection(NamedTuple):
    """A device that has been reached, and what the user asked of its driver."""

    transport: Transport
    settings: Settings


class Candidate(Protocol):
    """A device that has been found, and the way to it; nothing has been opened yet."""

    @property
    def identity(self) -> DeviceIdentity:
        """What it is."""

    def connect(self, driver: BusDriver) -> Connection:
        """Reach it, for this driver. Raises AddressError, OSError, TransportError."""


class BusState(Enum):
    """What has become of a device on the bus."""

    WAITING = "waiting"
    """There is no driver for it."""
    ATTACHED = "attached"
    REFUSED = "refused"
    """A driver was there, and could not attach."""
    DETACHED = "detached"
    """It was attached, and has been let go of."""


@dataclass(frozen=True, slots=True)
class BusDevice:
    """What a bus knows of one device."""

    identity: DeviceIdentity
    state: BusState
    reason: str | None
    """Why it is not attached; None if it is."""
    driver: str | None
    """The name of the driver that has it, or that refused it."""
    attached: Attached | None
    """What the driver made of it."""

    @property
    def address(self) -> str:
        """What the device is called."""
        return self.identity.address


@dataclass
class _Slot:
    candidate: Candidate
    state: BusState = BusState.WAITING
    reason: str | None = None
    driver: BusDriver | None = None
    attached: Attached | None = None

    def let_go(self, reason: str) -> None:
        self.state, self.reason, self.attached = BusState.DETACHED, reason, None

    def snapshot(self) -> BusDevice:
        attached = self.attached
        if attached is not None and attached.closed:
            self.let_go("closed by its user")
        return BusDevice(
            self.candidate.identity,
            self.state,
            self.reason,
            self.driver.name if self.driver else None,
            self.attached,
        )


@dataclass
class _Registered:
    driver: BusDriver
    origin: str
    """The distribution or the package that it comes from."""


def attach_candidate(candidate: Candidate, driver: BusDriver) -> Attached:
    """Reach a device and let `driver` attach to it; what the driver made of it.

    Raises what the way to the device and the driver raise; then the device has been let go of.
    """
    transport, settings = candidate.connect(driver)
    device = VirtioDevice(transport)
    try:
        return driver.attach(device, candidate.identity, settings)
    except BaseException as error:
        try:
            device.close(timeout_s=CLOSE_TIMEOUT_S)
        except Exception as second:
            error.add_note(f"closing the device failed as well: {second}")
        raise


class Bus:
    """Drivers by device type, and devices by address. Thread-safe."""

    def __init__(self, *, external: bool = False) -> None:
        """`external`: drivers of other packages are looked up, through entry points of the group
        `vioblk.drivers`, when the first device or driver is asked for."""
        self._lock = RLock()
        self._registered: dict[int, _Registered] = {}
        self._slots: dict[str, _Slot] = {}
        self._conflicts: dict[int, str] = {}
        self._problems: list[str] = []
        self._external_due = external

    # Drivers

    def register(self, driver: BusDriver) -> None:
        """Let `driver` have the devices of its type, those that wait for one included.

        A device that it cannot attach to becomes REFUSED, with the reason. Raises
        DuplicateDriverError if the type has a driver.
        """
        with self._lock:
            other = self._registered.get(driver.device_type)
            if other is not None:
                raise DuplicateDriverError(
                    f"{driver.name} cannot be registered for {_described(driver.device_type)}: "
                    f"{other.driver.name} is, and a type has one driver"
                )
            self._take_on(driver, _package(driver))
            self._attach_waiting()

    @property
    def drivers(self) -> Mapping[int, BusDriver]:
        """By the device type that they drive."""
        with self._lock:
            self._load_external()
            found = {kind: each.driver for kind, each in self._registered.items()}
            return MappingProxyType(found)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with drivers of other packages."""
        with self._lock:
            self._load_external()
            return tuple(self._problems)

    def driver_for(self, device_type: int) -> BusDriver:
        """Raises NoDriverError, or DuplicateDriverError if other packages disagree about who it
        is."""
        with self._lock:
            self._load_external()
            if device_type in self._conflicts:
                raise DuplicateDriverError(self._conflicts[device_type])
            if device_type not in self._registered:
                raise NoDriverError(
                    "; ".join([f"no driver for {_described(device_type)}", *self._problems])
                )
            return self._registered[device_type].driver

    def _take_on(self, driver: BusDriver, origin: str) -> None:
        if driver.features is not None:
            register_type_features(
                driver.device_type, driver.features, legacy_only=driver.legacy_only_features
            )
        self._registered[driver.device_type] = _Registered(driver, origin)

    # Drivers of other packages

    def _load_external(self) -> None:
        """Once, and whatever is wrong with one of them, the others are taken on."""
        if not self._external_due:
            return
        self._external_due = False
        found = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
        for entry_point in sorted(found, key=lambda each: (_distribution(each), each.name)):
            try:
                self._load_one(entry_point)
            except Exception as error:
                self._problems.append(
                    f"the driver {entry_point.name} of {_distribution(entry_point)} cannot be "
                    f"used: {type(error).__name__}: {error}"
                )
        # All at the end: where warnings are errors, the first one would end the loop.
        for problem in self._problems:
            warnings.warn(problem, RuntimeWarning, stacklevel=2)

    def _load_one(self, entry_point: importlib.metadata.EntryPoint) -> None:
        distribution, driver = _distribution(entry_point), entry_point.load()
        if not isinstance(driver, BusDriver):
            raise TypeError(f"{entry_point.value} is no BusDriver but {type(driver).__name__}")
        other = self._registered.get(driver.device_type)
        if other is None:
            self._take_on(driver, distribution)
            return
        message = (
            f"both {other.origin} ({other.driver.name}) and {distribution} ({driver.name}) "
            f"have a driver for {_described(driver.device_type)}; uninstall one of them"
        )
        self._conflicts.setdefault(driver.device_type, message)
        self._problems.append(message)

    # Devices

    def add(self, candidate: Candidate) -> BusDevice:
        """Take a device on, and attach the driver of its type, if there is one.

        If that fails the device becomes REFUSED, with the reason. Raises ValueError if a device
        of this address is on the bus.
        """
        with self._lock:
            self._load_external()
            address = candidate.identity.address
            if address in self._slots:
                raise ValueError(f"{address} is on the bus already")
            slot = self._slots[address] = _Slot(candidate)
            self._try_to_attach(slot)
            return slot.snapshot()

    @property
    def devices(self) -> tuple[BusDevice, ...]:
        """All that were added, in that order."""
        with self._lock:
            return tuple(slot.snapshot() for slot in self._slots.values())

    def attach(self, address: str) -> Attached:
        """Attach the driver to a device that is on the bus and was detached or refused.

        Raises LookupError if no such device is on the bus, StateError if it is attached,
        NoDriverError, DuplicateDriverError, and whatever `attach_candidate` does; then the device
        is REFUSED.
        """
        with self._lock:
            slot = self._slot(address)
            if slot.snapshot().state is BusState.ATTACHED:
                raise StateError(f"{address} is attached; detach it first")
            return self._attach(slot)

    def detach(self, address: str, *, drain: bool = False, timeout_s: float | None = None) -> None:
        """Let go of a device; `attach` takes it again.

        Raises DeviceBusyError if it is in use, and then changes nothing; with `drain` it waits for
        requests in flight, at most `timeout_s`, as closing what the driver made of it does.
        Raises LookupError if no such device is on the bus, StateError if it is not attached.
        """
        with self._lock:
            slot = self._slot(address)
            if slot.snapshot().state is not BusState.ATTACHED or slot.attached is None:
                raise StateError(f"{address} is not attached ({slot.reason})")
            attached = slot.attached
            try:
                attached.close(drain=drain, timeout_s=timeout_s)
            finally:
                if attached.closed:
                    slot.let_go("detached")

    def _slot(self, address: str) -> _Slot:
        if address not in self._slots:
            known = ", ".join(self._slots) or "none"
            raise LookupError(f"no device {address} is on the bus (there is: {known})")
        return self._slots[address]

    def _attach_waiting(self) -> None:
        for slot in self._slots.values():
            if slot.state is BusState.WAITING:
                self._try_to_attach(slot)

    def _try_to_attach(self, slot: _Slot) -> None:
        try:
            self._attach(slot)
        except Exception:
            return  # the slot holds the reason

    def _attach(self, slot: _Slot) -> Attached:
        try:
            slot.driver = None
            slot.driver = self.driver_for(slot.candidate.identity.device_type)
            slot.attached = attach_candidate(slot.candidate, slot.driver)
        except NoDriverError as error:
            slot.state, slot.reason = BusState.WAITING, str(error)
            raise
        except Exception as error:
            slot.state, slot.reason = BusState.REFUSED, f"refused: {error}"
            raise
        slot.state, slot.reason = BusState.ATTACHED, None
        return slot.attached


def _described(device_type: int) -> str:
    return f"type {device_type} ({device_type_name(device_type)})"


def _package(driver: BusDriver) -> str:
    module = getattr(driver.attach, "__module__", None) or "an unknown package"
    return str(module).partition(".")[0]


def _distribution(entry_point: importlib.metadata.EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else "an unknown distribution"
