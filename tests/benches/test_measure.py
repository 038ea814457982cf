"""Pairs of measurements, on a clock that the test moves: turns, ratios, and what is done about
other load."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from benches import measure
from benches.disturbance import Snapshot
from benches.measure import Plan, Side, Spread


@dataclass
class Machine:
    """A clock, and what other load took; work moves both."""

    now_s: float = 0.0
    foreign_s: float = 0.0
    delayed_s: float = 0.0
    calls: list[tuple[str, int]] = field(default_factory=list)

    def snapshot(self) -> Snapshot:
        return Snapshot(self.now_s, 0.0, self.foreign_s, self.delayed_s)

    def work(
        self,
        name: str,
        s_per_request: float,
        disturb: Callable[[int], float] = lambda number: 0.0,
    ) -> measure.Work:
        """`disturb`: what share of a processor others take in each call, by its number."""

        def run(count: int) -> float:
            share = disturb(sum(called == name for called, _ in self.calls))
            self.calls.append((name, count))
            seconds = s_per_request * count
            self.now_s += seconds
            self.foreign_s += share * seconds
            return seconds

        return run

    def side(
        self,
        name: str,
        s_per_request: float,
        disturb: Callable[[int], float] = lambda number: 0.0,
    ) -> Side:
        return Side(name, self.work(name, s_per_request, disturb))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(measure, "perf_counter", lambda: machine.now_s)
    monkeypatch.setattr(measure, "Snapshot", SimpleNamespace(take=machine.snapshot))
    return machine


def calibrations(machine: Machine, name: str, s_per_request: float, plan: Plan) -> int:
    """How many calls calibrating takes."""
    other = Machine()
    work = other.work(name, s_per_request)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "perf_counter", lambda: other.now_s)
        measure.calibrate(Side(name, work), plan.side_s)
    return len(other.calls)


def test_the_sides_take_turns_and_the_ratio_is_that_of_each_pair(machine: Machine) -> None:
    plan = Plan(pairs=4, side_s=1.0)
    found = measure.compare(
        "fast_vs_slow", machine.side("fast", 0.01), machine.side("slow", 0.06), plan=plan
    )
    order = [name for name, _ in machine.calls][-8:]
    assert order == ["fast", "slow", "slow", "fast", "fast", "slow", "slow", "fast"]
    assert found.ratios == pytest.approx([6.0] * 4)
    assert f"{found.ratio:.1f}" == "6.0 (quartiles 6.0 to 6.0)"
    assert found.disturbed_pairs == 0


@pytest.mark.parametrize("s_per_request", [1e-7, 0.003, 2.0])
@pytest.mark.parametrize("granule", [1, 64])
def test_each_side_of_a_pair_has_work_for_the_time_that_is_planned(
    machine: Machine, s_per_request: float, granule: int
) -> None:
    side = Side("one", machine.work("one", s_per_request), granule)
    rounds = measure.measure([side], Plan(pairs=3, side_s=1.0))
    assert all(turn.reading.wall_s >= 1.0 for turn in rounds.turns("one"))
    assert all(count % granule == 0 for _, count in machine.calls)
    most = max(1.2, granule * s_per_request)
    assert all(turn.reading.wall_s <= most for turn in rounds.turns("one"))


def test_a_side_that_was_calibrated_while_it_was_slow_is_given_more_to_do(
    machine: Machine,
) -> None:
    def work(count: int) -> float:
        machine.calls.append(("one", count))
        seconds = count * (0.02 if len(machine.calls) < 5 else 0.01)
        machine.now_s += seconds
        return seconds

    rounds = measure.measure([Side("one", work)], Plan(pairs=3, side_s=1.0))
    assert all(turn.reading.wall_s >= 1.0 for turn in rounds.turns("one"))


def test_only_the_seconds_that_count_make_the_ratio(machine: Machine) -> None:
    """The driver's share is less than the time that passes."""
    whole = machine.work("half", 0.01)
    half = Side("half", lambda count: whole(count) / 2)
    found = measure.compare("x", half, machine.side("all", 0.01), plan=Plan(pairs=3, side_s=1.0))
    assert found.ratio.median == pytest.approx(2.0)
    assert all(turn.reading.wall_s >= 1.0 for turn in found.subject_turns)


def test_a_disturbed_round_is_measured_again(machine: Machine) -> None:
    plan = Plan(pairs=3, side_s=1.0)
    calibrating = calibrations(machine, "one", 0.01, plan)
    one = machine.side("one", 0.01, lambda number: 0.5 * (number == calibrating + 1))
    found = measure.compare("x", one, machine.side("other", 0.02), plan=plan)
    assert found.of.repeated == 1
    assert len(found.ratios) == 3
    assert found.disturbed_pairs == 0


def test_what_stays_disturbed_is_counted_and_said(machine: Machine) -> None:
    """The repetitions are bounded, in a row and in all."""
    plan = Plan(pairs=5, side_s=1.0, repeats=6, repeats_in_a_row=2)
    one = machine.side("one", 0.01, lambda number: 0.5)
    found = measure.compare("x", one, machine.side("other", 0.02), target=1.5, plan=plan)
    assert found.of.repeated == 6
    assert found.disturbed_pairs == 5
    assert "DISTURBED: 5 of 5 pairs" in str(found)
    assert found.as_json()["disturbed_pairs"] == 5


def test_the_least_disturbed_attempt_is_kept(machine: Machine) -> None:
    plan = Plan(pairs=2, side_s=1.0, repeats=2, repeats_in_a_row=2)
    calibrating = calibrations(machine, "one", 0.01, plan)
    shares = {calibrating: 0.9, calibrating + 1: 0.2, calibrating + 2: 0.6}
    one = machine.side("one", 0.01, lambda number: shares.get(number, 0.0))
    found = measure.compare("x", one, machine.side("other", 0.02), plan=plan)
    assert [turn.excess for turn in found.subject_turns] == pytest.approx([2.0, 0.0])
    assert found.disturbed_pairs == 1


def test_any_two_sides_of_one_run_can_be_set_beside_each_other(machine: Machine) -> None:
    sides = [machine.side("a", 0.01), machine.side("b", 0.02), machine.side("c", 0.05)]
    rounds = measure.measure(sides, Plan(pairs=3, side_s=1.0))
    assert rounds.compare("b_vs_c", "b", "c").ratio.median == pytest.approx(2.5)
    assert [name for name, _ in machine.calls][-6:] == ["c", "b", "a", "a", "b", "c"]


def test_a_full_run_has_eleven_pairs_of_a_second_and_a_quick_look_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(measure.QUICK_VARIABLE, raising=False)
    full = Plan.from_environment()
    assert (full.pairs, full.side_s, full.quick) == (11, 1.0, False)
    monkeypatch.setenv(measure.QUICK_VARIABLE, "1")
    quick = Plan.from_environment()
    assert quick.quick
    assert quick.pairs * quick.side_s < 1


def test_a_quick_look_is_marked_where_it_is_printed_and_written(machine: Machine) -> None:
    plan = Plan(pairs=3, side_s=0.1, quick=True)
    found = measure.compare("x", machine.side("a", 0.01), machine.side("b", 0.01), plan=plan)
    assert "quick look" in str(found)
    assert found.as_json()["quick"]


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3.0, 1.5, 4.5)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)
