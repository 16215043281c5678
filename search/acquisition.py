"""How much a candidate is expected to improve what is known.

One formula for any number of objectives.  The first objective's loss is uncertain, lognormal or normal; the
others (costs) are taken as points.  The front cuts the space of costs into cells; in each cell the best
loss known so far is ``t``, and a candidate that reaches the cell improves it by ``(t - loss)+``::

    EHVI = sum over cells of volume(cell beyond the candidate's costs) * E[(t_cell - loss)+]

This is the expected hypervolume improvement (Emmerich et al. 2006) of a candidate with known costs.  Without
costs there is one cell, and it is the expected improvement (Mockus 1978; Jones et al. 1998).  A cost that was
not measured is integrated over by three-point Gauss-Hermite quadrature; the models of the costs are
independent, so the expected volume of a cell is the product of its expected widths.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from search.surrogate import Prediction

Floats = NDArray[np.float64]

NODES = ((-np.sqrt(3.0), 1 / 6), (0.0, 2 / 3), (np.sqrt(3.0), 1 / 6))
"""Gauss-Hermite nodes of a standard normal, exact for polynomials up to the fifth degree, and weights."""

CELLS = 4096
"""Largest number of cells; the front's costs are thinned where there would be more."""


@dataclass(frozen=True)
class Front:
    """What is known: losses and costs of feasible trials, and the worst that counts.

    Attributes:
        losses: Losses (first objective), shape ``(f,)``.
        costs: Costs, shape ``(f, c)``.
        worst_loss: Loss from which on a trial is worth something.
        worst_costs: ... and costs, shape ``(c,)``.
    """

    losses: Floats
    costs: Floats
    worst_loss: float
    worst_costs: Floats


def normal_improvement(thresholds: Floats, prediction: Prediction) -> Floats:
    """``E[(t - x)+]`` of normal losses ``(n,)`` below thresholds ``(t,)``, shape ``(n, t)``."""
    mean, deviation = prediction.mean[:, None], prediction.deviation[:, None]
    z = (thresholds[None, :] - mean) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    improvement = (thresholds[None, :] - mean) * ndtr(z) + deviation * density
    return np.asarray(np.maximum(improvement, 0.0))


def lognormal_improvement(thresholds: Floats, prediction: Prediction) -> Floats:
    """``E[(t - exp(x))+]`` of losses whose logarithm is predicted, below thresholds > 0, ``(n, t)``.

    The Black-Scholes put (1973, eq. 13 without interest): ``t * Phi(d) - E[exp x] * Phi(d - s)``.
    """
    mean, deviation = prediction.mean[:, None], prediction.deviation[:, None]
    d = (np.log(thresholds)[None, :] - mean) / deviation
    improvement = thresholds[None, :] * ndtr(d) - np.exp(mean + deviation**2 / 2) * ndtr(d - deviation)
    return np.asarray(np.maximum(improvement, 0.0))


def probability_below(prediction: Prediction, upper: float) -> Floats:
    """``P(x <= upper)`` of normal predictions, shape ``(n,)``."""
    return np.asarray(ndtr((upper - prediction.mean) / prediction.deviation))


def expected_hypervolume_improvement(
    prediction: Prediction, costs: Floats, front: Front, *, lognormal: bool, weights: Sequence[float] = (1.0,)
) -> Floats:
    """Expected improvement of the front's hypervolume by candidates, shape ``(n,)``.

    Args:
        prediction: Of the loss, or of its logarithm, ``n`` candidates.
        costs: Costs of the candidates, at every node of a quadrature, shape ``(n, c, nodes)``; ``c = 0``
            gives the expected improvement.
        front: What is known.
        lognormal: Whether the prediction is that of the logarithm of the loss.
        weights: Of the nodes; one node for costs that are known.
    """
    count = costs.shape[1]
    edges = [_edges(front.costs[:, j], upper, count) for j, upper in enumerate(front.worst_costs)]
    thresholds, index = np.unique(_thresholds(front, edges), return_inverse=True)
    improvement = (lognormal_improvement if lognormal else normal_improvement)(thresholds, prediction)
    *outer, last = [_widths(edge, costs[:, j], weights) for j, edge in enumerate(edges)] or [
        np.ones((len(costs), 1))
    ]
    volumes = np.ones((len(costs), 1))
    for widths in outer:
        volumes = (volumes[:, :, None] * widths[:, None, :]).reshape(len(costs), -1)
    total = np.zeros(len(costs))
    for column, cells in enumerate(index.reshape(prod(w.shape[1] for w in outer), -1)):
        total += volumes[:, column] * np.einsum("nk,nk->n", improvement[:, cells], last)
    return total


def _widths(edge: Floats, costs: Floats, weights: Sequence[float]) -> Floats:
    """Expected widths of the intervals between edges beyond costs ``(n, nodes)``, ``(n, intervals)``."""
    beyond = np.maximum(edge[1:, None] - np.maximum(edge[:-1, None], costs[:, None, :]), 0.0)
    return np.asarray(beyond @ np.asarray(weights))


def _edges(costs: Floats, upper: float, dimensions: int) -> Floats:
    """Edges of the cells along one cost: from below everything to the worst that counts."""
    inner = np.unique(costs[costs < upper])
    most = int(CELLS ** (1 / dimensions)) - 1
    if len(inner) > most:
        inner = inner[np.linspace(0, len(inner) - 1, most).astype(np.int64)]
    return np.concatenate([[-np.inf], inner, [upper]])


def _thresholds(front: Front, edges: list[Floats]) -> Floats:
    """Best loss known at the lower corner of every cell, shape ``(cells,)`` in C order."""
    lows = list(itertools.product(*(edge[:-1] for edge in edges)))
    corners = np.array(lows, dtype=np.float64).reshape(len(lows), len(edges))
    reached = (front.costs[None, :, :] <= corners[:, None, :]).all(axis=2)  # (cells, f)
    known = np.where(reached, front.losses[None, :], front.worst_loss)
    return np.asarray(known.min(axis=1, initial=front.worst_loss))
