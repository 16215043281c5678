"""What counts as better: losses of metrics, and the feasible front that is to be improved.

The first objective is modelled as the logarithm of its error where it is a share or an error, else as it is;
costs as their logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.records import Metric, Trial
from search.acquisition import Front
from search.feasibility import nondominated_ranks
from search.history import History

Floats = NDArray[np.float64]

SMALLEST_LOSS = 1e-4
"""Losses on a logarithmic scale are taken to be at least this (an accuracy of 1 has no logarithm)."""

MARGIN = 1.1
"""The worst cost that counts, as a multiple of the worst on the front."""

FIRST = 12
"""Trained trials, from the first, whose median is the worst loss that counts."""

PREDICTED = "predicted"
"""Key in a proposal's note: what was expected of the trial."""


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


def values_of(history: History, metric: Metric) -> Floats:
    """All known values of a metric, in the order of the tells, shape ``(n,)``."""
    return np.array([o.figures[metric] for o in history.outcomes if metric in o.figures], dtype=np.float64)


def known_costs(history: History) -> list[Metric]:
    """Cost objectives of which anything is known."""
    return [metric for metric in history.problem.objectives[1:] if metric in history.known]


def frontier(history: History, pending: Sequence[Trial]) -> Front | None:
    """The feasible front, pending trials as expected by their notes; None if nothing feasible is known."""
    metrics = [history.problem.objectives[0], *known_costs(history)]
    rows = [o.figures for o in history.outcomes if o.feasible and all(m in o.figures for m in metrics)]
    if not rows:
        return None
    scales = [Scale.of(metric, values_of(history, metric)) for metric in metrics]
    points = np.column_stack(
        [s.loss(np.array([f[m] for f in rows])) for m, s in zip(metrics, scales, strict=True)]
    )
    worst_loss = float(np.median(points[:FIRST, 0]))
    expected = [_expected(trial.proposal.note, scales) for trial in pending]
    points = np.vstack([points, *(point for point in expected if point is not None)])
    points = points[nondominated_ranks(points) == 0]
    costs = points[:, 1:]
    reach = np.maximum(np.abs(costs).max(axis=0), 1e-12) * (MARGIN - 1.0)
    return Front(points[:, 0], costs, worst_loss, costs.max(axis=0) + reach)


def _expected(note: Mapping[str, Any], scales: Sequence[Scale]) -> Floats | None:
    """Expected losses of a pending trial, shape ``(1, m)``; None if its note does not tell them."""
    predicted = note.get(PREDICTED)
    if not isinstance(predicted, Mapping) or predicted.get("log") != scales[0].log:
        return None
    costs = predicted.get("costs", [])
    if len(costs) != len(scales) - 1:
        return None
    return np.array([[float(scales[0].unmodelled(np.array(predicted["mean"]))), *costs]])
