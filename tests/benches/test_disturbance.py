"""What tells other load from what is measured, on readings that are made up; and once on real
ones."""

import pytest

from benches.disturbance import (
    TICKS_PER_S,
    Bounds,
    Process,
    Reading,
    Snapshot,
    delayed_s,
    foreign_s,
    parse_process,
    stolen_s,
)

QUIET = Reading(wall_s=1.0, stolen_s=0.0, foreign_s=0.01, delayed_s=0.001)


def test_an_idle_machine_is_no_disturbance() -> None:
    assert Bounds().excess(QUIET, alone=True) < 1


@pytest.mark.parametrize(
    "reading",
    [
        Reading(1.0, 0.05, 0.0, 0.0),
        Reading(1.0, 0.0, 0.2, 0.0),
        Reading(0.5, 0.0, 0.1, 0.0),
    ],
    ids=["stolen by the host", "a fifth of a processor", "the same in half the time"],
)
def test_other_load_is_a_disturbance(reading: Reading) -> None:
    assert Bounds().excess(reading, alone=False) > 1


def test_a_delay_disturbs_what_one_thread_does_alone() -> None:
    """Where several threads share processors, they delay each other."""
    reading = Reading(1.0, 0.0, 0.0, 0.2)
    assert Bounds().excess(reading, alone=True) > 1
    assert Bounds().excess(reading, alone=False) == 0


def test_the_counters_of_processes_are_read_whatever_their_names() -> None:
    line = "77 (a (bad) name) S 5 77 77 0 -1 4194304 100 0 0 0 30 12 5 3 20 0 1 0 100 0 0"
    assert parse_process(line) == Process(5, (30 + 12 + 5 + 3) / TICKS_PER_S)


def test_descendants_are_part_of_what_is_measured() -> None:
    processes = {
        1: Process(0, 100.0),
        10: Process(1, 7.0),
        20: Process(10, 5.0),
        21: Process(20, 3.0),
        30: Process(1, 0.5),
    }
    assert foreign_s(processes, 10) == 100.5
    assert foreign_s(processes, 20) == 107.5


def test_stolen_time_and_delays_are_read_from_what_the_system_prints() -> None:
    stat = "cpu  1 2 3 4 5 6 7 800 9 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert stolen_s(stat) == 800 / TICKS_PER_S
    assert delayed_s("5000 2500000000 17\n") == 2.5
    assert delayed_s("") == 0.0  # a system that does not count it


def test_a_reading_is_the_difference_of_two_snapshots() -> None:
    before, after = Snapshot(10.0, 1.0, 5.0, 2.0), Snapshot(12.0, 1.5, 4.9, 2.0)
    reading = before.until(after)
    assert (reading.wall_s, reading.stolen_s, reading.delayed_s) == (2.0, 0.5, 0.0)
    assert reading.foreign_s == 0.0  # a process has ended, and nobody waited for it


def test_the_counters_of_this_machine_can_be_read() -> None:
    before = Snapshot.take()
    sum(range(100_000))
    reading = before.until(Snapshot.take())
    assert reading.wall_s > 0
    assert min(before.foreign_s, before.delayed_s) >= 0
