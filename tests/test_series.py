"""From night to night: what is told of series whose true levels are known.

Night-to-night noise of 0.3 % by a seeded generator, thresholds of 2 %: a night of an unchanged series is told
as a step with a probability below 1e-5 (t-test with 19 degrees of freedom, 6 standard deviations off).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.series import BAD, Point, Series, Verdict, judge

NOISE = 0.003
CALM = [1.0] * 20


def play(
    levels: Sequence[float | None],
    environments: str = "",
    *,
    reference: Sequence[float] = (),
    time_for_second_looks: bool = True,
) -> tuple[Series, list[Verdict]]:
    """Verdicts of nights with these true levels; None where nothing was measured."""
    rng = np.random.default_rng(1)
    series, verdicts = Series(), []
    for number, level in enumerate(levels):
        if level is None:
            continue
        environment = environments[number] if environments else "A"
        beside = math.log(reference[number]) if reference else 0.0
        figure = math.log(level) + rng.normal(0, NOISE, 2)
        looks = [Point(f"n{number}", environment, float(z), float(z) - beside) for z in figure]
        series.enter(environment)
        wants_again = judge({"s": copy.deepcopy(series)}, {"s": looks[0]}, {})["s"].wants_again
        again = {"s": looks[1]} if wants_again and time_for_second_looks else {}
        verdicts.append(judge({"s": series}, {"s": looks[0]}, again)["s"])
    return series, verdicts


def outcomes(levels: Sequence[float | None], environments: str = "") -> list[str]:
    return [verdict.outcome for verdict in play(levels, environments)[1]][20:]


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ([0.9] * 10 + [1.0] * 4, ["improvement"] + ["fine"] * 9 + ["regression"] * 4),
        ([0.9, 1.0, 1.0], ["improvement", "regression", "regression"]),
        ([0.97, 0.97, 0.97, 1.0], ["improvement", "improvement", "fine", "regression"]),
        ([0.97, 1.0, 1.0], ["improvement", "unconfirmed", "fine"]),  # one night that did not last
        ([0.9] * 10 + [0.95] * 2 + [0.9], ["improvement"] + ["fine"] * 9 + ["regression"] * 2 + ["mended"]),
        ([1.1] * 30, ["regression"] * 30),
        ([1.1] * 3 + [1.0] * 2, ["regression"] * 3 + ["mended", "fine"]),
        ([1.1] * 2 + [1.05] * 2 + [1.0], ["regression"] * 4 + ["mended"]),
        ([1.1, 1.0] * 2, ["regression", "mended"] * 2),
        ([0.9, 1.0] * 2, ["improvement", "regression", "mended", "regression"]),
        ([1.1, None, None, 1.1, 1.0], ["regression", "regression", "mended"]),
        ([0.9] * 3 + [0.8] * 3 + [0.9], ["improvement", *["fine"] * 2] * 2 + ["regression"]),
    ],
)
def test_steps_are_told_until_they_are_mended_and_improvements_move_the_baseline(
    then: list[float | None], expected: list[str]
) -> None:
    assert outcomes(CALM + then) == expected


def test_a_regression_is_told_against_the_level_before_it_however_long_it_lasts() -> None:
    verdicts = play(CALM + [1.1] * 60)[1][20:]
    assert all(verdict.outcome == "regression" for verdict in verdicts)
    assert [verdict.finding.shift for verdict in verdicts] == pytest.approx([0.1] * 60, abs=0.015)
    assert {verdict.since for verdict in verdicts} == {"n20"}


def test_one_lucky_night_does_not_mend_a_small_regression() -> None:
    """Nights scatter by 0.6 %: one of 1.8 % is nearer to 0 than to 4 %, and within 4 standard deviations."""
    series, told = Series(), []
    for number, z in enumerate([0.006, -0.006] * 10 + [0.04, 0.018, 0.04, 0.018, 0.018, 0.0, 0.04, -0.001]):
        series.enter("A")
        point = Point(f"n{number}", "A", z, z)
        told.append(judge({"s": series}, {"s": point}, {"s": point})["s"].outcome)
    assert told[20:] == ["regression"] * 4 + ["mended", "fine", "regression", "mended"]


def test_environments_that_change_every_night_learn_and_tell_steps() -> None:
    environments = "".join(chr(ord("A") + number) for number in range(23))
    verdicts = play([1.0] * 20 + [1.1] * 3, environments)[1]
    told = [verdict.outcome for verdict in verdicts]
    assert told == ["learning"] * 10 + ["fine"] * 10 + ["regression"] * 3


def test_an_accepted_regression_is_the_baseline_from_then_on() -> None:
    series, _ = play(CALM + [1.1] * 3)
    series.accept()
    point = Point("next", "A", math.log(1.1), math.log(1.1))
    assert judge({"s": series}, {"s": point}, {})["s"].outcome == "fine"
    worse = Point("later", "A", math.log(1.2), math.log(1.2))
    assert judge({"s": series}, {"s": worse}, {"s": worse})["s"].outcome == "regression"


@pytest.mark.parametrize(
    ("level", "told"), [(1.1, "slow change"), (0.9, "improvement")], ids=["slower", "faster"]
)
def test_a_step_while_learning_is_told_with_the_eleventh_night(level: float, told: str) -> None:
    verdicts = play([1.0] * 5 + [level] * 8 + [1.0])[1]
    assert [verdict.outcome for verdict in verdicts[:11]] == ["learning"] * 10 + [told]
    assert verdicts[-1].outcome == ("mended" if level > 1 else "regression")


def test_a_level_that_crept_down_moves_the_baseline() -> None:
    down = list(np.linspace(1.0, 0.95, 40))
    verdicts = play(CALM + down + [0.95] * 12 + [0.98])[1]
    assert "improvement" in {verdict.outcome for verdict in verdicts[20:60]}
    assert verdicts[-1].outcome == "regression"


def test_a_level_that_crept_up_stands_until_it_is_mended() -> None:
    up = list(np.linspace(1.0, 1.05, 40))
    told = outcomes(CALM + up + [1.05] * 10 + [1.0])
    first = told.index("slow change")
    assert set(told[first:-1]) == {"slow change"}
    assert told[-1] == "mended"


def test_a_candidate_that_was_not_measured_again_is_confirmed_by_the_next_night() -> None:
    told = play(CALM + [1.1] * 3 + [0.9] * 3, time_for_second_looks=False)[1][20:]
    assert [verdict.outcome for verdict in told] == [
        *("unconfirmed", "regression", "regression"),
        *("mended", "improvement", "fine"),
    ]
    assert told[1].since == "n20"


# --------------------------------------------------------------------------- across environments


@pytest.mark.parametrize(
    ("then", "environments", "expected"),
    [
        ([1.3] * 14, "B" * 14, ["regression"] * 14),
        ([1.3] * 3 + [1.0] * 2, "BBBAA", ["regression"] * 3 + ["mended", "fine"]),
        ([1.3] * 3 + [1.0] * 2, "BBBBB", ["regression"] * 3 + ["mended", "fine"]),
        ([0.7] * 3 + [1.0], "BBBB", ["improvement", "fine", "fine", "regression"]),
        ([1.005] * 5, "B" * 5, ["fine"] * 5),
        ([1.0, 1.0, 1.1], "BBB", ["fine", "fine", "regression"]),  # no ten blind nights
        ([1.015] * 12 + [1.03] * 3, "B" * 12 + "C" * 3, ["fine"] * 12 + ["regression"] * 3),  # bit by bit
    ],
)
def test_a_step_with_a_changed_environment_is_told(
    then: list[float], environments: str, expected: list[str]
) -> None:
    assert outcomes(CALM + then, "A" * 20 + environments) == expected


def test_an_upgrade_that_slows_the_reference_as_well_is_told() -> None:
    """The ratio stays what it was; the figure does not."""
    verdicts = play([1.0] * 20 + [1.3] * 4, "A" * 20 + "B" * 4, reference=[1.0] * 20 + [1.3] * 4)[1]
    assert [v.outcome for v in verdicts[20:]] == ["regression"] * 4
    assert verdicts[-1].finding.shift == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("share", [0.7, 1.3])
def test_an_upgrade_that_changes_the_reference_alone_tells_nothing_of_the_model(share: float) -> None:
    levels, reference = [1.0] * 34, [1.0] * 20 + [share] * 14
    verdicts = play(levels, "A" * 20 + "B" * 14, reference=reference)[1]
    assert {v.outcome for v in verdicts[20:]} == {"fine"}


def test_an_upgrade_while_learning_is_told_once_there_are_ten_nights() -> None:
    verdicts = play([1.0] * 5 + [1.3] * 8, "A" * 5 + "B" * 8)[1]
    assert [v.outcome for v in verdicts] == ["learning"] * 10 + ["regression"] * 3


def test_two_environments_in_turns_learn_as_well() -> None:
    assert set(outcomes([1.0] * 40, "AB" * 20)) == {"fine"}


@settings(max_examples=60, deadline=None)
@given(
    nights=st.lists(
        st.tuples(st.sampled_from([0.7, 0.97, 1.0, 1.03, 1.4]), st.sampled_from("AB")),
        max_size=40,
    )
)
def test_whatever_came_before_a_night_far_above_all_of_it_is_bad(
    nights: list[tuple[float, str]],
) -> None:
    """No sequence makes a series blind; a regression stands as long as it is told."""
    levels = CALM + [level for level, _ in nights]
    series, verdicts = play(levels, "A" * 20 + "".join(environment for _, environment in nights))
    assert len(verdicts) == len(levels)
    assert (series.standing is not None) == (verdicts[-1].outcome in BAD)
    far = Point("last", series.environment, 5.0, 5.0)
    assert judge({"s": series}, {"s": far}, {"s": far})["s"].outcome in BAD
