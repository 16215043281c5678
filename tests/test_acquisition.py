"""Expected improvements against numerical integration and exact hypervolumes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from results.pareto import hypervolume
from search.acquisition import (
    NODES,
    Front,
    expected_hypervolume_improvement,
    lognormal_improvement,
    normal_improvement,
    probability_below,
)
from search.surrogate import Prediction

Floats = NDArray[np.float64]

QUANTILES = (np.arange(20_000) + 0.5) / 20_000
"""Midpoints in probability: expectations by them are exact to about 1e-6 of the spread here."""


def front(costs: int) -> Front:
    rng = np.random.default_rng(costs)
    points = rng.uniform(0.05, 0.9, size=(8, costs + 1))
    return Front(points[:, 0], points[:, 1:], 0.95, np.full(costs, 0.97))


def exact_gain(known: Front, loss: float, costs: Floats) -> float:
    """Gain in hypervolume of one certain point, by moocore."""
    reference = np.array([known.worst_loss, *known.worst_costs])
    points = np.column_stack([known.losses, known.costs])
    minimise = [False] * len(reference)
    with_it = np.vstack([points, [loss, *costs]])
    return hypervolume(with_it, reference, minimise) - hypervolume(points, reference, minimise)


def test_improvements_equal_integrals() -> None:
    prediction = Prediction(np.array([-1.0, -0.3]), np.array([0.2, 0.7]))
    thresholds = np.array([0.25, 0.4, 1.1])
    for improvement, unmodelled in (
        (normal_improvement, lambda x: x),
        (lognormal_improvement, np.exp),
    ):
        x = prediction.mean[:, None] + prediction.deviation[:, None] * norm.ppf(QUANTILES)
        expected = np.maximum(thresholds[None, :, None] - unmodelled(x)[:, None, :], 0).mean(axis=2)
        assert improvement(thresholds, prediction) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_nodes_integrate_polynomials_of_the_fifth_degree() -> None:
    moments = [sum(weight * node**k for node, weight in NODES) for k in range(6)]
    assert moments == pytest.approx([1, 0, 1, 0, 3, 0])


def test_probability_below() -> None:
    prediction = Prediction(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    assert probability_below(prediction, 1.0) == pytest.approx([0.8413447, 0.5])


@pytest.mark.parametrize("costs", [0, 1, 2])
def test_a_certain_candidate_gains_the_difference_of_hypervolumes(costs: int) -> None:
    known = front(costs)
    rng = np.random.default_rng(7)
    points = rng.uniform(0.02, 1.0, size=(40, costs + 1))  # some of them beyond what counts
    sure = Prediction(points[:, 0], np.full(40, 1e-9))
    gained = expected_hypervolume_improvement(sure, points[:, 1:, None], known, lognormal=False)
    assert gained == pytest.approx([exact_gain(known, p[0], p[1:]) for p in points], abs=1e-8)


@pytest.mark.parametrize("costs", [0, 1, 2])
def test_an_uncertain_candidate_gains_the_mean_of_the_differences(costs: int) -> None:
    known = front(costs)
    where = np.random.default_rng(8).uniform(0.1, 0.6, size=(3, costs))
    prediction = Prediction(np.log([0.1, 0.3, 0.6]), np.array([0.3, 0.1, 0.5]))
    gained = expected_hypervolume_improvement(prediction, where[:, :, None], known, lognormal=True)
    coarse = (np.arange(4000) + 0.5) / 4000
    for i in range(3):
        losses = np.exp(prediction.mean[i] + prediction.deviation[i] * norm.ppf(coarse))
        expected = np.mean([exact_gain(known, loss, where[i]) for loss in losses])
        assert gained[i] == pytest.approx(expected, rel=2e-3, abs=1e-6)


def test_many_costs_are_thinned_but_stay_near() -> None:
    rng = np.random.default_rng(3)
    costs = rng.uniform(0.0, 0.9, size=(90, 2))
    known = Front(1.0 - costs.sum(axis=1) / 2, costs, 1.0, np.ones(2))
    sure = Prediction(np.array([0.2]), np.array([1e-9]))
    gained = expected_hypervolume_improvement(sure, np.array([[[0.3], [0.4]]]), known, lognormal=False)
    assert gained[0] == pytest.approx(exact_gain(known, 0.2, np.array([0.3, 0.4])), rel=0.1)
