"""Which promotion is expected to add most to the front."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from results.promise import log_odds
from results.records import Architecture, Evaluation, Fidelity, Metric, Problem, Proposal, Score, Trial
from search.promotion import Outlook, moved

PROBLEM = Problem((Metric("accuracy", maximise=True), Metric("macs")))
GAINS = [0.9, 1.0, 1.1]


def evaluated(accuracy: float, macs: float | None) -> Evaluation:
    trial = Trial(0, Proposal(Architecture("s", (0,)), Fidelity(1)))
    network = {} if macs is None else {"macs": macs}
    return Evaluation(trial, "complete", accuracy={"fp32": Score(accuracy, 10**6)}, network=network)


def test_the_gain_is_that_of_the_volume_over_where_it_may_end() -> None:
    rung = [evaluated(0.5, 10.0), evaluated(0.6, 1000.0)]
    whole = [evaluated(0.8, 1000.0)]
    outlook = Outlook(PROBLEM, rung, GAINS, whole, [])
    spread = float(np.std(GAINS, ddof=1)) * math.sqrt(4 / 3)
    shifts = 1.0 + spread * stats.t.ppf((np.arange(16) + 0.5) / 16, 2)
    middle = moved(Score(0.5, 10**6), 1.0).value
    worst = middle - 0.1 * (moved(Score(0.6, 10**6), 1.0).value - middle)
    ends = [moved(Score(0.5, 10**6), float(shift)).value for shift in shifts]
    width, beyond = math.log(100.0), 0.1 * math.log(100.0)
    expected = [
        # Left of the full training up to its accuracy, and beyond it above that.
        max(0.0, end - worst) * width + max(0.0, end - 0.8) * beyond
        for end in ends
    ]
    assert outlook.of(rung[0]) == pytest.approx(np.mean(expected))


def test_what_is_dominated_adds_little_and_what_is_cheaper_than_all_adds_much() -> None:
    rung = [evaluated(0.5, 10.0), evaluated(0.5, 20.0), evaluated(0.5, 5.0), evaluated(0.2, 40.0)]
    whole = [evaluated(0.75, 10.0)]
    outlook = Outlook(PROBLEM, rung, GAINS, whole, [])
    values = [outlook.of(e) for e in rung]
    assert values[2] > values[0] > values[1] > values[3] >= 0.0


def test_promotions_under_way_count() -> None:
    rung = [evaluated(0.5, 10.0), evaluated(0.5, 11.0), evaluated(0.4, 5.0)]
    before = Outlook(PROBLEM, rung, GAINS, [evaluated(0.6, 40.0)], [])
    after = Outlook(PROBLEM, rung, GAINS, [evaluated(0.6, 40.0)], [rung[0]])
    assert before.of(rung[1]) > before.of(rung[2])
    assert after.of(rung[1]) < after.of(rung[2])


def test_while_gains_are_not_known_the_rung_speaks_for_itself() -> None:
    rung = [evaluated(0.5, 10.0), evaluated(0.9, 20.0)]
    outlook = Outlook(PROBLEM, rung, [], [evaluated(0.99, 1.0)], [rung[0]])
    assert outlook.of(rung[0]) == 0.0
    assert outlook.of(rung[1]) > 0.0


def test_costs_that_are_not_known_do_not_hold_a_network_back() -> None:
    outlook = Outlook(PROBLEM, [evaluated(0.5, 10.0)], GAINS, [], [])
    assert outlook.of(evaluated(0.1, None)) == math.inf


def test_accuracies_are_moved_on_the_scale_of_log_odds() -> None:
    score = Score(0.7, 10**6)
    assert moved(score, 0.0) is score
    assert log_odds(moved(score, 1.5)) == pytest.approx(log_odds(score) + 1.5, abs=1e-4)
    assert moved(Score(-2.0, 10, proportion=False), 0.5).value == -1.5
