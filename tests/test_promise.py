"""The chance that a network whose training was not completed would have been on the front."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from results.promise import LEAST_GAINS, bar, chance, costs, log_odds
from results.records import Architecture, Evaluation, Fidelity, Limit, Metric, Problem, Proposal, Score, Trial

PROBLEM = Problem((Metric("accuracy", maximise=True), Metric("macs")), (Limit(Metric("parameters"), 100.0),))


def evaluated(accuracy: float, macs: float | None, parameters: float = 10.0) -> Evaluation:
    network = {"parameters": parameters} | ({} if macs is None else {"macs": macs})
    trial = Trial(0, Proposal(Architecture("s", (0,)), Fidelity(1)))
    return Evaluation(trial, "complete", accuracy={"fp32": Score(accuracy, 1000)}, network=network)


def test_the_bar_is_the_best_that_costs_no_more_and_keeps_the_limits() -> None:
    whole = [
        evaluated(0.7, 10.0),
        evaluated(0.8, 20.0),
        evaluated(0.99, 20.0, parameters=101.0),
        evaluated(0.9, 30.0),
    ]
    assert bar(evaluated(0.1, 25.0), whole, PROBLEM) == Score(0.8, 1000)
    assert bar(evaluated(0.1, 20.0), whole, PROBLEM) == Score(0.8, 1000)
    assert bar(evaluated(0.1, 5.0), whole, PROBLEM) is None
    assert bar(evaluated(0.1, None), whole, PROBLEM) is None
    assert bar(evaluated(0.1, 25.0), [evaluated(0.9, None)], PROBLEM) is None


def test_a_metric_of_which_less_is_better() -> None:
    loss = replace(PROBLEM, objectives=(Metric("accuracy"), Metric("macs")))
    whole = [evaluated(0.7, 10.0), evaluated(0.6, 20.0)]
    assert bar(evaluated(0.9, 25.0), whole, loss) == Score(0.6, 1000)


def test_costs_of_which_more_is_better_are_turned_round() -> None:
    problem = replace(PROBLEM, objectives=(PROBLEM.objectives[0], Metric("macs", maximise=True)))
    assert costs(evaluated(0.5, 7.0), problem) == (-7.0,)


def test_the_chance_is_students_t() -> None:
    gains = [0.5, 1.0, 1.5]
    score, to_beat = Score(0.5, 10**9), Score(1 / (1 + math.exp(-1.0)), 10**9)
    assert chance(score, to_beat, gains) == pytest.approx(0.5)
    higher = Score(1 / (1 + math.exp(-2.0)), 10**9)
    assert chance(score, higher, gains) == pytest.approx(stats.t.sf(1.0 / (0.5 * math.sqrt(4 / 3)), 2))
    assert chance(score, higher, gains, maximise=False) == pytest.approx(1 - chance(score, higher, gains))


def test_the_chance_holds_for_gains_that_are_normal() -> None:
    rng = np.random.default_rng(5)
    share, told = 0.2, []
    for _ in range(2000):
        *gains, own = rng.normal(1.0, 0.3, LEAST_GAINS + 1)
        spread = float(np.std(gains, ddof=1)) * math.sqrt(1 + 1 / LEAST_GAINS)
        bar_at = float(np.mean(gains) + spread * stats.t.isf(share, LEAST_GAINS - 1))
        to_beat = Score(bar_at, 1, proportion=False)
        assert chance(Score(0.0, 1, proportion=False), to_beat, gains) == pytest.approx(share)
        told.append(own > bar_at)
    assert np.mean(told) == pytest.approx(share, abs=0.035)  # four standard errors: false alarm 6e-5


def test_log_odds_are_finite_at_the_ends() -> None:
    assert log_odds(Score(1.0, 100)) == pytest.approx(-log_odds(Score(0.0, 100)))
    assert math.isfinite(log_odds(Score(1.0, 100)))
    assert log_odds(Score(-3.5, 100, proportion=False)) == -3.5
