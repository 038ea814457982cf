"""Which call is allowed in which state."""

import os
import threading

import pytest

from vioblk.errors import ForkedError, StateError
from vioblk.status import (
    ADVICE,
    ANY_STATE,
    DeviceState,
    Status,
    allowed_in,
    allowed_states,
)


class Thing:
    """Something with a state, and calls that depend on it."""

    def __init__(self, state: DeviceState) -> None:
        self.state = state
        self.owner_pid = os.getpid()
        self.lock = threading.RLock()

    @allowed_in(DeviceState.LIVE, DeviceState.RESET)
    def add(self, left: int, *, right: int) -> int:
        """Add two numbers."""
        assert not other_thread_gets(self.lock)
        return left + right

    def free(self) -> None: ...


def other_thread_gets(lock: "threading.RLock") -> bool:
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(lock.acquire(blocking=False)))
    thread.start()
    thread.join()
    return got[0]


@pytest.mark.parametrize("state", [DeviceState.LIVE, DeviceState.RESET])
def test_a_call_runs_in_its_states_with_the_lock_held(state: DeviceState) -> None:
    thing = Thing(state)
    assert thing.add(1, right=2) == 3
    assert other_thread_gets(thing.lock)


@pytest.mark.parametrize(
    "state", sorted(ANY_STATE - {DeviceState.LIVE, DeviceState.RESET}, key=str)
)
def test_elsewhere_the_refusal_says_call_state_and_way_out(state: DeviceState) -> None:
    with pytest.raises(StateError) as refusal:
        Thing(state).add(1, right=2)
    assert str(refusal.value) == (
        f"add() is not allowed while the device is {state.name} (allowed in: LIVE, RESET); "
        f"{ADVICE[state]}"
    )


def test_in_another_process_every_call_is_refused() -> None:
    thing = Thing(DeviceState.LIVE)
    thing.owner_pid += 1
    with pytest.raises(ForkedError, match=rf"add\(\) was called in process {os.getpid()}"):
        thing.add(1, right=2)


def test_the_states_can_be_read_from_the_call() -> None:
    assert allowed_states(Thing.add) == {DeviceState.LIVE, DeviceState.RESET}
    assert allowed_states(Thing.free) == ANY_STATE
    assert Thing.add.__doc__ == "Add two numbers."


def test_every_state_has_advice() -> None:
    assert set(ADVICE) == set(DeviceState)


def test_the_status_bits_are_those_of_the_specification() -> None:
    assert {bit.name: int(bit) for bit in Status} == {
        "ACKNOWLEDGE": 1,
        "DRIVER": 2,
        "DRIVER_OK": 4,
        "FEATURES_OK": 8,
        "SUSPEND": 16,
        "DEVICE_NEEDS_RESET": 64,
        "FAILED": 128,
    }
