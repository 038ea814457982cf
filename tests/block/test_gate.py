import math
import threading

import pytest

from vioblk import StateError
from vioblk._native import Gate


@pytest.fixture
def gate() -> Gate:
    gate = Gate()
    gate.open()
    return gate


def test_a_new_gate_is_shut() -> None:
    with pytest.raises(StateError, match="not been opened"), Gate():
        pass


def test_it_counts_who_is_inside(gate: Gate) -> None:
    with gate, gate:
        assert gate.inside == 2
    assert gate.inside == 0


def test_a_shut_gate_says_why_and_lets_those_inside_leave(gate: Gate) -> None:
    with gate:
        gate.shut("closed for repairs")
        with pytest.raises(StateError, match="closed for repairs"), gate:
            pass
        assert gate.inside == 1
    assert gate.wait_empty(0)


def test_it_is_not_shut_while_somebody_is_inside_or_has_been_since(gate: Gate) -> None:
    before = gate.entries
    with gate:
        assert not gate.shut_if_unused_since(gate.entries, "busy")
    assert not gate.shut_if_unused_since(before, "busy")
    assert gate.refusal is None
    assert gate.shut_if_unused_since(gate.entries, "busy")
    assert gate.refusal == "busy"


def test_waiting_for_it_to_empty_is_bounded(gate: Gate) -> None:
    with gate:
        assert not gate.wait_empty(0.01)


def test_the_last_to_leave_wakes_those_who_wait(gate: Gate) -> None:
    leave = threading.Event()
    entered = threading.Event()

    def stay() -> None:
        with gate:
            entered.set()
            leave.wait(30)

    guest = threading.Thread(target=stay)
    guest.start()
    assert entered.wait(30)
    leave.set()
    assert gate.wait_empty(10)
    guest.join()


def test_no_number_of_seconds_is_refused(gate: Gate) -> None:
    with gate, pytest.raises(ValueError, match="seconds"):
        gate.wait_empty(math.nan)
    assert gate.wait_empty(math.inf)
