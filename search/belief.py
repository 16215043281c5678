"""What is believed about untried architectures, given a history: the models behind an acquisition.

Accuracy is learned from trained trials; costs, and what runs at all, from every trial that was measured,
those that were only screened among them, and from the encoding: a runtime may execute what has no effect on
the output.  A cost that was measured is taken as it is.  Pending trials count
as if they had come out as expected (Ginsbourger et al. 2010, "kriging believer"), so that parallel asks
differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from results.records import Architecture, Limit, Metric, Trial
from search.acquisition import NODES, Front, expected_hypervolume_improvement, probability_below
from search.calibration import likeliest_factor
from search.frontier import FIRST, PREDICTED, Scale, frontier, known_costs, values_of
from search.history import History
from search.inputs import InputMemory, Inputs
from search.surrogate import Ensemble, GaussianProcess, Prediction, SuccessModel

Floats = NDArray[np.float64]

BEYOND = 0.25
"""How far beyond the worst loss that counts targets are told apart, in the logarithm of the loss.

What does not learn at all, or is no network at all, would else set the scale of a surrogate.  It has to stay
worse than what counts: else its small cost would make it worth a training.
"""

MEASURED = 200
"""Trials from which costs and failures are learned; many more are measured than trained."""


class AccuracyModel:
    """Model of the first objective.

    Args:
        metric: What is modelled.
        inputs: Where it was observed, ``n`` rows.
        values: Observations, shape ``(n,)``.
        pending: Where trials are under way.
        seed: For the ensemble.
    """

    def __init__(self, metric: Metric, inputs: Inputs, values: Floats, pending: Inputs, seed: int) -> None:
        self.scale = Scale.of(metric, values)
        targets = self.scale.modelled(self.scale.loss(values))
        start = targets[:FIRST]
        spread = float(np.subtract(*np.quantile(start, [0.75, 0.25])))
        self._upper = float(np.median(start)) + (BEYOND if self.scale.log else spread / 2.0)
        targets = np.minimum(targets, self._upper)
        if len(pending):
            expected = GaussianProcess(inputs, targets).predict(pending).mean
            inputs, targets = inputs.joined(pending), np.r_[targets, expected]
        self._ensemble = Ensemble(inputs, targets, seed)

    def predict(self, inputs: Inputs) -> Prediction:
        """Of the modelled loss."""
        return self._ensemble.predict(inputs)

    def target(self, value: float) -> float:
        """What the model should have said where this value came out."""
        modelled = self.scale.modelled(self.scale.loss(np.array([value])))
        return float(min(modelled[0], self._upper))


class CostModel:
    """Model of a measured metric.

    Args:
        metric: What is modelled.
        inputs: Where it was observed, ``n`` rows.
        values: Observations, shape ``(n,)``.
    """

    def __init__(self, metric: Metric, inputs: Inputs, values: Floats) -> None:
        self.scale = Scale.of(metric, values)
        self._process = GaussianProcess(inputs.as_run, self.scale.modelled(self.scale.loss(values)))

    def predict(self, inputs: Inputs) -> Prediction:
        """Of the modelled loss."""
        return self._process.predict(inputs.as_run)

    def probability_within(self, inputs: Inputs, upper: float) -> Floats:
        """Probability that the value is at most ``upper``, shape ``(n,)``."""
        if self.scale.log and not self.scale.share and upper <= 0:
            return np.zeros(len(inputs))
        bound = float(self.scale.modelled(self.scale.loss(np.array([upper])))[0])
        below = probability_below(self.predict(inputs), bound)
        return 1.0 - below if self.scale.maximise else below


@dataclass(frozen=True)
class Forecast:
    """What is expected of some architectures.

    Attributes:
        loss: Modelled loss of the first objective, as calibrated; None as long as nothing was trained.
        costs: Losses of the cost objectives of which anything is known: medians, shape ``(n, c)``.
        spread: Standard deviation of their models; 0 where a cost was measured, shape ``(n, c)``.
        chance: Probability to run and to meet every limit, shape ``(n,)``.
    """

    loss: Prediction | None
    costs: Floats
    spread: Floats
    chance: Floats


class Belief:
    """Models of all metrics of a problem, and the front that is to be improved.

    Args:
        history: What was told; at least one trial.
        pending: Trials asked but not yet told.
        seed: For the models.
        memory: Inputs that were worked out before.
        boldness: Factor of the surrogate's standard deviation beyond what its errors call for.
    """

    def __init__(
        self,
        history: History,
        pending: Sequence[Trial],
        *,
        seed: int,
        memory: InputMemory | None = None,
        boldness: float = 1.0,
    ) -> None:
        self._history, self._pending, self._seed = history, pending, seed
        self._boldness = boldness
        self._problem = history.problem
        self._memory = memory or InputMemory(history.space)
        self._told = self.inputs([o.architecture for o in history.outcomes])
        self._measured = {o.architecture: o for o in history.outcomes if o.state in ("screened", "complete")}

    def inputs(self, architectures: Sequence[Architecture]) -> Inputs:
        """As the models see them."""
        return self._memory.of(architectures)

    @cached_property
    def accuracy(self) -> AccuracyModel | None:
        """Model of the first objective; None as long as nothing was trained."""
        metric = self._problem.objectives[0]
        rows = [i for i, o in enumerate(self._history.outcomes) if metric in o.figures]
        if not rows:
            return None
        training = [t.proposal.architecture for t in self._pending if not t.proposal.screen_only]
        waiting = self.inputs(training) if training else self._told.take([])
        return AccuracyModel(
            metric, self._told.take(rows), values_of(self._history, metric), waiting, self._seed
        )

    @cached_property
    def _costs(self) -> dict[Metric, CostModel]:
        """Models of all metrics but the first objective of which anything is known."""
        models = {}
        for metric in self._history.metrics[1:]:
            rows = _thinned([i for i, o in enumerate(self._history.outcomes) if metric in o.figures])
            if rows:
                values = np.array([self._history.outcomes[i].figures[metric] for i in rows])
                models[metric] = CostModel(metric, self._told.take(rows), values)
        return models

    @cached_property
    def _success(self) -> SuccessModel:
        outcomes = self._history.outcomes
        ran = _thinned([i for i, o in enumerate(outcomes) if o.state != "unmeasured"])
        worked = np.array([outcomes[i].state != "failed" for i in ran], dtype=np.bool_)
        return SuccessModel(self._told.take(ran).as_run, worked, self._seed)

    @cached_property
    def calibration(self) -> float:
        """Factor of the surrogate's standard deviation that fits its latest predictions, made bolder."""
        model, judged = self.accuracy, []
        if model is None:
            return self._boldness
        for outcome in self._history.outcomes:
            predicted = outcome.note.get(PREDICTED)
            figure = outcome.figures.get(self._problem.objectives[0])
            if (
                figure is not None
                and isinstance(predicted, Mapping)
                and predicted.get("log") == model.scale.log
            ):
                error = model.target(figure) - predicted["mean"]
                judged.append((error, predicted["deviation"], predicted.get("noise", 0.0)))
        return self._boldness * likeliest_factor(*np.array(judged).reshape(-1, 3).T)

    @cached_property
    def front(self) -> Front | None:
        """The feasible front, pending trials as expected; None if nothing feasible is known."""
        return frontier(self._history, self._pending)

    def forecast(self, architectures: Sequence[Architecture]) -> Forecast:
        """What is expected of architectures; figures that were measured are taken as they are."""
        inputs = self.inputs(architectures)
        loss = None
        if self.accuracy is not None:
            loss = self.accuracy.predict(inputs).rescaled(self.calibration)
        metrics = known_costs(self._history)
        costs, spread = np.zeros((2, len(architectures), len(metrics)))
        for j, metric in enumerate(metrics):
            model, measured = self._costs[metric], self._figures(architectures, metric)
            unknown = np.isnan(measured)
            costs[~unknown, j] = model.scale.loss(measured[~unknown])
            if unknown.any():
                predicted = model.predict(inputs.take(np.flatnonzero(unknown)))
                costs[unknown, j] = model.scale.unmodelled(predicted.mean)
                spread[unknown, j] = predicted.deviation
        return Forecast(loss, costs, spread, self._chance(architectures, inputs))

    def _figures(self, architectures: Sequence[Architecture], metric: Metric) -> Floats:
        """What was measured, shape ``(n,)``; not a number where nothing was."""
        found = (self._measured.get(a) for a in architectures)
        return np.array([np.nan if o is None else o.figures.get(metric, np.nan) for o in found])

    def chance(self, architectures: Sequence[Architecture]) -> Floats:
        """Probability to run and to meet every limit, shape ``(n,)``."""
        return self._chance(architectures, self.inputs(architectures))

    def _chance(self, architectures: Sequence[Architecture], inputs: Inputs) -> Floats:
        chance = self._success.predict(inputs.as_run)
        for limit in self._problem.limits:
            chance = chance * self._probability_within(inputs, limit)
        for i, architecture in enumerate(architectures):
            if architecture in self._measured:
                chance[i] = float(self._measured[architecture].violation == 0.0)
        return np.where(self._memory.buildable(architectures), chance, 0.0)

    def _probability_within(self, inputs: Inputs, limit: Limit) -> Floats:
        model = self._costs.get(limit.metric)
        return np.ones(len(inputs)) if model is None else model.probability_within(inputs, limit.upper)

    def score(self, forecast: Forecast) -> Floats:
        """Acquisition, shape ``(n,)``: more is better.

        Expected improvement times the probability to run and to meet every limit (Gardner et al. 2014);
        as long as nothing feasible is known, that probability alone.
        """
        if self.front is None or forecast.loss is None or self.accuracy is None:
            return forecast.chance
        return forecast.chance * improvement(forecast, self.front, self.accuracy.scale, self._cost_scales)

    @property
    def _cost_scales(self) -> list[Scale]:
        return [self._costs[metric].scale for metric in known_costs(self._history)]


def improvement(forecast: Forecast, front: Front, accuracy: Scale, scales: Sequence[Scale]) -> Floats:
    """Expected hypervolume improvement, over three points of every cost that is not known, ``(n,)``.

    Of what one training gives: its noise is part of the network that it leaves, and so of the front.
    """
    if forecast.loss is None:
        raise ValueError("an improvement is expected only where the loss is predicted")
    total = np.zeros(len(forecast.costs))
    unsure = forecast.spread.any(axis=1)
    for rows, nodes in ((np.flatnonzero(~unsure), ((0.0, 1.0),)), (np.flatnonzero(unsure), NODES)):
        if not len(rows):
            continue
        costs = np.empty((len(rows), len(scales), len(nodes)))
        for j, scale in enumerate(scales):
            modelled = scale.modelled(forecast.costs[rows, j])[:, None]
            modelled = modelled + np.array([z for z, _ in nodes]) * forecast.spread[rows, j, None]
            # A network dearer than all of the front widens what counts: it keeps the margin.
            costs[:, j] = np.minimum(scale.unmodelled(modelled), front.costs[:, j].max())
        total[rows] = expected_hypervolume_improvement(
            forecast.loss.take(rows), costs, front, lognormal=accuracy.log, weights=[w for _, w in nodes]
        )
    return total


def _thinned(rows: list[int]) -> list[int]:
    """At most :data:`MEASURED` rows: the latest, among which the search decides, and an even spread."""
    if len(rows) <= MEASURED:
        return rows
    half = MEASURED // 2
    return [rows[int(i)] for i in np.linspace(0, len(rows) - half - 1, half)] + rows[-half:]
