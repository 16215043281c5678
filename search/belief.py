"""What is believed about untried architectures, given a history: the models behind an acquisition.

The first objective (accuracy) is modelled as the logarithm of its error, costs as their logarithm; costs are
learned from every trial that was measured, the infeasible ones among them.  Pending trials count as if they
had come out as expected (Ginsbourger et al. 2010, "kriging believer"), so that parallel asks differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.records import Architecture, Limit, Metric
from search.acquisition import NODES, Front, expected_hypervolume_improvement, probability_below
from search.feasibility import nondominated_ranks
from search.history import History
from search.surrogate import Ensemble, GaussianProcess, Inputs, Prediction, SuccessModel

Floats = NDArray[np.float64]

SMALLEST_LOSS = 1e-4
"""Losses on a logarithmic scale are taken to be at least this (an accuracy of 1 has no logarithm)."""

MARGIN = 1.1
"""The worst cost that counts, as a multiple of the worst on the front."""

FIRST = 12
"""Trained trials, from the first, whose median is the worst loss that counts."""

RECENT = 30
FEWEST = 5
"""Predictions by which the spread is judged: the most recent ones, and the fewest that say anything."""

CALIBRATION = (0.6, 1.6)
"""Least and greatest factor of the standard deviation."""


@dataclass(frozen=True)
class Scale:
    """How a metric is modelled: as the logarithm of its loss where it has one, else as the loss itself.

    The loss is the value (less is better), 1 - value for a share of which more is better, or -value.

    Attributes:
        share: Whether it is a share of which more is better.
        maximise: Whether more is better.
        log: Whether the logarithm is modelled.
    """

    share: bool
    maximise: bool
    log: bool

    @classmethod
    def of(cls, metric: Metric, values: Floats) -> Scale:
        """The scale that fits all values observed."""
        share = metric.maximise and bool(((values >= 0) & (values <= 1)).all())
        return cls(share, metric.maximise, share or (not metric.maximise and bool((values > 0).all())))

    def loss(self, values: Floats) -> Floats:
        """Losses; less is better."""
        if self.share:
            return np.maximum(1.0 - values, SMALLEST_LOSS)
        return -values if self.maximise else values

    def modelled(self, losses: Floats) -> Floats:
        """What a model is fitted to."""
        return np.log(losses) if self.log else losses

    def unmodelled(self, modelled: Floats) -> Floats:
        """Losses again."""
        return np.exp(modelled) if self.log else modelled


WHISKERS = (3.0, 1.5)
"""Interquartile ranges below and above the median within which targets are believed.

What does not learn at all, or is no network at all, would else set the scale of a surrogate.
"""


class MetricModel:
    """Model of one metric.

    Args:
        metric: What is modelled.
        inputs: Where it was observed, ``n`` rows.
        values: Observations, shape ``(n,)``.
        pending: Where trials are under way.
        seed: For the ensemble.
    """

    def __init__(self, metric: Metric, inputs: Inputs, values: Floats, pending: Inputs, seed: int) -> None:
        self.scale = Scale.of(metric, values)
        self.losses = self.scale.loss(values)
        targets = self.scale.modelled(self.losses)
        low, median, high = np.quantile(targets, [0.25, 0.5, 0.75])
        below, above = WHISKERS
        self._whiskers = (median - below * (high - low), median + above * (high - low))
        targets = np.clip(targets, *self._whiskers)
        self.expected_losses = np.empty(0)
        if len(pending):
            expected = GaussianProcess(inputs, targets).predict(pending).mean
            self.expected_losses = self.scale.unmodelled(expected)
            inputs, targets = inputs.joined(pending), np.r_[targets, expected]
        self._ensemble = Ensemble(inputs, targets, seed)

    def predict(self, inputs: Inputs) -> Prediction:
        """Of the modelled loss."""
        return self._ensemble.predict(inputs)

    def target(self, value: float) -> float:
        """What the model should have said where this value came out."""
        modelled = self.scale.modelled(self.scale.loss(np.array([value])))
        return float(np.clip(modelled[0], *self._whiskers))

    def probability_within(self, inputs: Inputs, upper: float) -> Floats:
        """Probability that the value is at most ``upper``, shape ``(n,)``."""
        if self.scale.log and not self.scale.share and upper <= 0:
            return np.zeros(len(inputs))
        bound = float(self.scale.modelled(self.scale.loss(np.array([upper])))[0])
        below = probability_below(self.predict(inputs), bound)
        return 1.0 - below if self.scale.maximise else below


class Belief:
    """Models of all metrics of a problem, and the front that is to be improved.

    Args:
        history: What was told; at least one trial.
        pending: Architectures asked but not yet told.
        seed: For the models.
    """

    def __init__(self, history: History, pending: Sequence[Architecture], *, seed: int) -> None:
        self._space, self._problem = history.space, history.problem
        self._outcomes = history.outcomes
        told = Inputs.of(self._space, [o.architecture for o in history.outcomes])
        waiting = Inputs.of(self._space, pending) if pending else told.take([])
        self._models: dict[Metric, MetricModel] = {}
        for metric in history.metrics:
            rows = [i for i, o in enumerate(history.outcomes) if metric in o.figures]
            if rows:
                values = np.array([history.outcomes[i].figures[metric] for i in rows], dtype=np.float64)
                self._models[metric] = MetricModel(metric, told.take(rows), values, waiting, seed)
        ran = [i for i, o in enumerate(history.outcomes) if o.state != "unmeasured"]
        worked = np.array([history.outcomes[i].state != "failed" for i in ran], dtype=np.bool_)
        self._success = SuccessModel(told.take(ran), worked, seed)

    @property
    def accuracy(self) -> MetricModel | None:
        """Model of the first objective; None as long as nothing was trained."""
        return self._models.get(self._problem.objectives[0])

    def note(self, architecture: Architecture) -> dict[str, Any]:
        """What is predicted of the first objective, for :attr:`calibration` once the trial is told."""
        if self.accuracy is None:
            return {}
        predicted = self.accuracy.predict(Inputs.of(self._space, [architecture]))
        mean, deviation = float(predicted.mean[0]), float(predicted.deviation[0])
        return {"predicted": {"mean": mean, "deviation": deviation, "log": self.accuracy.scale.log}}

    @cached_property
    def calibration(self) -> float:
        """Root mean square error of the latest predictions in their standard deviations, within bounds."""
        model, errors = self.accuracy, []
        if model is None:
            return 1.0
        for outcome in self._outcomes:
            predicted = outcome.note.get("predicted")
            figure = outcome.figures.get(self._problem.objectives[0])
            if (
                figure is not None
                and isinstance(predicted, Mapping)
                and predicted.get("log") == model.scale.log
            ):
                errors.append((model.target(figure) - predicted["mean"]) / predicted["deviation"])
        if len(errors) < FEWEST:
            return 1.0
        return float(np.clip(np.sqrt(np.mean(np.square(errors[-RECENT:]))), *CALIBRATION))

    def score(self, architectures: Sequence[Architecture]) -> Floats:
        """Acquisition, shape ``(n,)``: more is better.

        Expected improvement times the probability to run and to meet every limit (Gardner et al. 2014);
        as long as nothing feasible is known, that probability alone.
        """
        inputs = Inputs.of(self._space, architectures)
        chance = self._chance(inputs)
        return chance if self.front is None else chance * self._improvement(inputs, self.front)

    def chance(self, architectures: Sequence[Architecture]) -> Floats:
        """Probability to run and to meet every limit, shape ``(n,)``."""
        return self._chance(Inputs.of(self._space, architectures))

    def _chance(self, inputs: Inputs) -> Floats:
        chance = self._success.predict(inputs)
        for limit in self._problem.limits:
            chance = chance * self._probability_within(inputs, limit)
        return chance

    def _probability_within(self, inputs: Inputs, limit: Limit) -> Floats:
        model = self._models.get(limit.metric)
        return np.ones(len(inputs)) if model is None else model.probability_within(inputs, limit.upper)

    @property
    def _costs(self) -> list[Metric]:
        """Cost objectives of which anything is known."""
        return [metric for metric in self._problem.objectives[1:] if metric in self._models]

    @cached_property
    def front(self) -> Front | None:
        """The feasible front, pending trials as expected; None if nothing feasible is known."""
        accuracy = self.accuracy
        rows = [o.figures for o in self._outcomes if o.feasible]
        metrics = [self._problem.objectives[0], *self._costs]
        rows = [figures for figures in rows if all(metric in figures for metric in metrics)]
        if accuracy is None or not rows:
            return None
        models = [self._models[metric] for metric in metrics]
        points = np.column_stack(
            [m.scale.loss(np.array([f[k] for f in rows])) for k, m in zip(metrics, models, strict=True)]
        )
        points = np.vstack([points, np.column_stack([m.expected_losses for m in models])])
        points = points[nondominated_ranks(points) == 0]
        costs = points[:, 1:]
        reach = np.maximum(np.abs(costs).max(axis=0), 1e-12) * (MARGIN - 1.0)
        worst_loss = float(np.median(accuracy.losses[:FIRST]))
        return Front(points[:, 0], costs, worst_loss, costs.max(axis=0) + reach)

    def _improvement(self, inputs: Inputs, front: Front) -> Floats:
        accuracy = self.accuracy
        if accuracy is None:
            raise RuntimeError("a front is known only where the accuracy is")
        raw = accuracy.predict(inputs)
        prediction = Prediction(raw.mean, raw.deviation * self.calibration)
        models = [self._models[metric] for metric in self._costs]
        predicted = [model.predict(inputs) for model in models]
        total = np.zeros(len(inputs))
        for nodes in itertools.product(NODES, repeat=len(models)):
            costs = np.empty((len(inputs), len(models)))
            for j, (model, p, (z, _)) in enumerate(zip(models, predicted, nodes, strict=True)):
                # A network dearer than all of the front widens what counts: it keeps the margin.
                costs[:, j] = np.minimum(
                    model.scale.unmodelled(p.mean + z * p.deviation), front.costs[:, j].max()
                )
            weight = float(np.prod([w for _, w in nodes]))
            total += weight * expected_hypervolume_improvement(
                prediction, costs, front, lognormal=accuracy.scale.log
            )
        return total
