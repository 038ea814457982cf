"""The device status bits, the states of a device object, and which call is allowed in which."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum, IntFlag, auto
from functools import wraps
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from vioblk.errors import ForkedError, StateError


class Status(IntFlag):
    """The device status field (VIRTIO 1.4, 2.1 Device Status Field)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    SUSPEND = 16
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class DeviceState(Enum):
    """How far a device has come."""

    CREATED = auto()
    """Nothing is known of the device yet."""
    RESET = auto()
    """It has confirmed a reset."""
    ACKNOWLEDGED = auto()
    DRIVER = auto()
    """A driver has been chosen; features are being negotiated."""
    FEATURES_OK = auto()
    """The features are settled (on the legacy interface without that bit of the status); the
    driver sets itself up."""
    LIVE = auto()
    NEEDS_RESET = auto()
    """It has met an error that only a reset mends."""
    FAILED = auto()
    """Initialization failed, or the device did not confirm a reset."""
    CLOSED = auto()


ADVICE: Final = {
    DeviceState.CREATED: "initialize the device first",
    DeviceState.RESET: "initialize the device first",
    DeviceState.ACKNOWLEDGED: "wait until its initialization has ended",
    DeviceState.DRIVER: "wait until its initialization has ended",
    DeviceState.FEATURES_OK: "wait until its initialization has ended",
    DeviceState.LIVE: "reset or close it first",
    DeviceState.NEEDS_RESET: "reset it",
    DeviceState.FAILED: "reset or close it",
    DeviceState.CLOSED: "open it again",
}
"""What to do about a call that is refused in a state."""


class Stateful(Protocol):
    """What `allowed_in` needs of the object whose methods it guards."""

    @property
    def state(self) -> DeviceState:
        """Where the object stands now."""

    @property
    def owner_pid(self) -> int:
        """The process that made the object; a child of it must not use it."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """A re-entrant lock, held for the length of the call."""


S = TypeVar("S", bound=Stateful)
P = ParamSpec("P")
R = TypeVar("R")

ANY_STATE: Final = frozenset(DeviceState)


def allowed_in(
    *states: DeviceState,
) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Let a method run only in `states`, one call at a time.

    Elsewhere it raises StateError, and ForkedError in a child process. The states can be read
    from the method: `allowed_states(VirtioDevice.reset)`.
    """
    allowed = frozenset(states)

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @wraps(method)
        def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            refuse_after_fork(self, method.__name__)
            with self.lock:
                if self.state not in allowed:
                    raise StateError(_refusal(method.__name__, self.state, allowed))
                return method(self, *args, **kwargs)

        guarded.__dict__["allowed_states"] = allowed
        return guarded

    return decorate


def allowed_states(method: Callable[..., object]) -> frozenset[DeviceState]:
    """The states in which a method may be called; all of them if it does not say."""
    states: frozenset[DeviceState] = getattr(method, "allowed_states", ANY_STATE)
    return states


def refuse_after_fork(subject: Stateful, call: str) -> None:
    """Raise ForkedError in any process but the one that made `subject`."""
    if subject.owner_pid != os.getpid():
        raise ForkedError(
            f"{call}() was called in process {os.getpid()}, but the device belongs to process "
            f"{subject.owner_pid}; open it again after the fork"
        )


def _refusal(call: str, state: DeviceState, allowed: frozenset[DeviceState]) -> str:
    names = ", ".join(sorted(each.name for each in allowed))
    return (
        f"{call}() is not allowed while the device is {state.name} (allowed in: {names}); "
        f"{ADVICE[state]}"
    )
