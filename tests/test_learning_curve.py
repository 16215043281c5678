"""Extrapolated learning curves: known answers, calibrated on real curves, hopeless trainings ended."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.speedups_cache import fulls
from results.errors import ConfigError
from results.records import Evaluation, Fidelity, Metric, Problem, Proposal, Score, Trial
from search.learning_curve import LEAST_CURVES, CurvePredictor, Mixture, extrapolate
from search.learning_curve_stopping import StopsEarly
from search.strategies import random_search
from tests.test_fidelity import SPACE

EPOCHS = 20
PROBLEM = Problem((Metric("accuracy", maximise=True), Metric("macs")))


def power_law(end: float, epochs: int = EPOCHS) -> tuple[float, ...]:
    """Log odds that come near ``end`` as 1 / t, with noise that depends on ``end`` alone."""
    rng = np.random.default_rng(round(1000 * end))
    t = np.arange(1, epochs + 1)
    odds = math.log(end / (1 - end)) - 2.0 * (1 / t - 1 / epochs) + rng.normal(0, 0.03, epochs)
    return tuple(1 / (1 + np.exp(-odds)))


def test_the_ensemble_finds_the_end_of_a_power_law() -> None:
    for end in (0.6, 0.8, 0.95):
        mixture = extrapolate(power_law(end)[:8], EPOCHS)
        assert mixture is not None
        interval = mixture.interval(0.9)
        assert interval.low < end < interval.high
        assert interval.value == pytest.approx(end, abs=0.05)
        assert mixture.probability_above(interval.low) == pytest.approx(0.95, abs=1e-3)
        assert mixture.probability_above(interval.high) == pytest.approx(0.05, abs=1e-3)


def test_more_epochs_tell_more() -> None:
    curve = power_law(0.9)
    widths = []
    for epochs in (4, 8, 16):
        mixture = extrapolate(curve[:epochs], EPOCHS)
        assert mixture is not None
        widths.append(mixture.interval().high - mixture.interval().low)
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("curve", [(), (0.5, 0.6), (0.1, math.nan, 0.3, 0.4), (0.1, 0.2, math.inf)])
def test_curves_that_cannot_be_extrapolated(curve: tuple[float, ...]) -> None:
    assert extrapolate(curve, EPOCHS) is None
    finished = [power_law(0.5 + 0.02 * i) for i in range(12)]
    assert CurvePredictor(finished).predict(curve) is None


def test_finished_curves_that_are_no_numbers_are_left_out() -> None:
    finished = [power_law(0.5 + 0.02 * i) for i in range(LEAST_CURVES)]
    predictor = CurvePredictor([*finished, (0.1, math.nan, 0.3), (0.1, 0.2, 0.3, 0.4)])
    assert (predictor.curves, predictor.epochs) == (LEAST_CURVES, EPOCHS)
    assert predictor.predict(power_law(0.7)[:5]) is not None
    assert CurvePredictor(finished[:-1]).predict(power_law(0.7)[:5]) is None
    assert predictor.predict(power_law(0.7)) is None  # it has ended
    assert CurvePredictor([]).epochs == 0


def test_a_metric_that_is_no_share() -> None:
    curves = [tuple(100 * (1 + y) for y in power_law(0.5 + 0.02 * i)) for i in range(12)]
    mixture = CurvePredictor(curves, proportion=False).predict(curves[5][:10])
    assert mixture is not None
    assert mixture.interval().value == pytest.approx(curves[5][-1], abs=3)


def test_a_mixture_of_two() -> None:
    mixture = Mixture((0.5, 0.5), (-1.0, 1.0), (0.01, 0.01), 100, proportion=False)
    assert mixture.probability_above(0.0) == pytest.approx(0.5)
    assert mixture.interval(0.9).low == pytest.approx(-1.0, abs=0.05)
    assert mixture.interval(0.9).high == pytest.approx(1.0, abs=0.05)


def test_intervals_cover_the_ends_of_real_curves() -> None:
    """Each of the full trainings kept for the benchmark, predicted from all others at four epochs."""
    curves = [full.curve for full in fulls().values()]
    assert len(curves) >= 20
    covered = []
    for i, curve in enumerate(curves):
        predictor = CurvePredictor([other for j, other in enumerate(curves) if j != i])
        for epoch in (4, 8, 16, 32):
            mixture = predictor.predict(curve[:epoch])
            assert mixture is not None
            interval = mixture.interval(0.9)
            covered.append(interval.low <= curve[-1] <= interval.high)
    assert np.mean(covered) >= 0.85


# --------------------------------------------------------------------------- ended trainings


def told(number: int, end: float, *, seen: int = 0, epochs: int = EPOCHS, macs: float = 100.0) -> Evaluation:
    architecture = SPACE.sample(np.random.default_rng(number))
    trial = Trial(number, Proposal(architecture, Fidelity(EPOCHS), note={"told_before": seen}))
    curve = power_law(end)[:epochs]
    score = Score(curve[-1], 1000)
    return Evaluation(
        trial,
        "complete",
        accuracy={"fp32": score},
        network={"macs": macs},
        learning_curve=curve,
        training_s=9.0,
    )


def stops_early(level: float = 0.05) -> StopsEarly:
    within = random_search.Strategy(SPACE, PROBLEM, fidelity=Fidelity(EPOCHS), seed=0)
    return StopsEarly(within, level=level)


@pytest.fixture
def experienced() -> StopsEarly:
    strategy = stops_early()
    for number in range(12):
        strategy.tell(told(number, 0.6 + 0.02 * number))
    return strategy


def test_a_training_that_will_not_beat_what_is_cheaper_is_ended(experienced: StopsEarly) -> None:
    hopeless = told(20, 0.62, seen=12, macs=200.0)
    forecast = experienced.hopeless(hopeless, hopeless.learning_curve[:8])
    assert forecast is not None
    assert forecast.bar == max(power_law(0.6 + 0.02 * n)[-1] for n in range(12))
    assert forecast.probability < 0.05
    assert forecast.ends.low < 0.66 < forecast.bar


def test_one_that_is_cheaper_than_all_others_goes_on(experienced: StopsEarly) -> None:
    cheap = told(20, 0.62, seen=12, macs=50.0)
    assert experienced.hopeless(cheap, cheap.learning_curve[:8]) is None


def test_one_that_may_be_better_goes_on(experienced: StopsEarly) -> None:
    good = told(20, 0.9, seen=12, macs=200.0)
    assert experienced.hopeless(good, good.learning_curve[:8]) is None


def test_a_curve_with_what_is_no_number_is_not_judged(experienced: StopsEarly) -> None:
    hopeless = told(20, 0.62, seen=12, macs=200.0)
    curve = (*hopeless.learning_curve[:7], math.nan)
    assert experienced.hopeless(hopeless, hopeless.learning_curve[:8]) is not None
    assert experienced.hopeless(hopeless, curve) is None


def test_only_what_was_told_before_it_was_asked_for_counts(experienced: StopsEarly) -> None:
    early = told(20, 0.62, seen=LEAST_CURVES - 1, macs=200.0)
    assert experienced.hopeless(early, early.learning_curve[:8]) is None
    proposal = experienced.ask(30, [])
    assert proposal is not None
    assert proposal.note["told_before"] == 12


def test_a_lower_rung_is_not_ended(experienced: StopsEarly) -> None:
    low = told(20, 0.62, seen=12, macs=200.0)
    proposal = replace(low.trial.proposal, fidelity=Fidelity(EPOCHS, subset=0.5))
    lower = replace(low, trial=replace(low.trial, proposal=proposal))
    assert experienced.hopeless(lower, low.learning_curve[:8]) is None


def test_the_strategy_within_is_told_the_modelled_end(experienced: StopsEarly) -> None:
    ended = replace(told(20, 0.62, seen=12, epochs=8, macs=200.0), stopped=True)
    experienced.tell(ended)
    outcome = experienced._within.history.outcomes[-1]  # type: ignore[attr-defined]
    at_stop, modelled = ended.accuracy["fp32"].value, outcome.figures[PROBLEM.objectives[0]]
    assert at_stop < modelled
    assert modelled == pytest.approx(power_law(0.62)[-1], abs=0.03)


def test_a_level_that_is_no_small_probability() -> None:
    with pytest.raises(ConfigError, match=r"between 0 and 0\.5"):
        stops_early(0.6)
