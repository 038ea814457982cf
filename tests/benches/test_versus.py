"""The arithmetic of the figures that set rings beside each other."""

import json
from dataclasses import replace

import pytest

from benches import versus

CASE = versus.Case(
    threads=2, descriptors=3, indirect=False, batch=64, event_idx=False, queue_size=256
)


def row(subject: str, ns: list[float], threads: int = 2) -> str:
    return json.dumps({"subject": subject, **CASE._replace(threads=threads)._asdict(), "ns": ns})


CLAIM = versus.Claim("one_vs_other", "one", "other", (2,), 1.5)


def test_a_ratio_is_that_of_each_round_and_not_of_the_medians() -> None:
    """A machine that is slow for a round is slow for both sides of it."""
    cases = versus.parse([row("one", [1.0, 10.0, 3.0]), row("other", [2.0, 20.0, 6.0])])
    [(case, spread)] = versus.ratios(CLAIM, cases).items()
    assert case == CASE
    assert (spread.median, spread.q1, spread.q3) == (2.0, 2.0, 2.0)


def test_a_claim_about_two_threads_leaves_one_thread_out() -> None:
    cases = versus.parse([row(name, [1.0, 1.0], threads=1) for name in ("one", "other")])
    assert versus.ratios(CLAIM, cases) == {}


def test_a_subject_that_was_not_measured_gives_no_ratio() -> None:
    assert versus.ratios(CLAIM, versus.parse([row("one", [1.0, 2.0])])) == {}


def test_rounds_that_are_missing_on_one_side_are_noticed() -> None:
    with pytest.raises(ValueError, match="longer"):
        versus.ratio([1.0, 2.0], [1.0, 2.0, 3.0])


def test_results_name_the_case_and_the_target() -> None:
    lines = [row("split-in-order", [1.0, 1.0]), row("split", [2.0, 2.0])]
    [result] = versus.results(versus.parse(lines))["results"]
    assert result["name"] == "inorder_vs_split_2threads"
    assert result["case"] == CASE._asdict()
    assert result["headline"]
    assert (result["ratio"]["median"], result["target"]) == (2.0, 1.2)


def test_a_claim_without_a_shape_is_about_the_one_that_does_worst() -> None:
    other = CASE._replace(batch=1)
    found = {
        CASE: versus.ratio([1.0, 1.0], [2.0, 2.0]),
        other: versus.ratio([1.0, 1.0], [0.9, 0.9]),
    }
    assert CLAIM.headline(found) == other
    about_batches = replace(CLAIM, shape=CASE.shape)
    assert about_batches.headline(found) == CASE
