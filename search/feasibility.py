"""Which of two trials is better when there are limits and several objectives.

Feasible before infeasible before failed (Deb 2000, "An efficient constraint handling method for genetic
algorithms", section 3): among feasible trials the non-dominated rank decides, then the crowding distance
(Deb et al. 2002, NSGA-II, sections III.A-B); among infeasible ones the smaller violation, so nothing has
to be trained to be compared.  A candidate that failed is worse than any that ran.  Trials of which too
little is known (the board's fault) have no standing: they are neither rewarded nor punished.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from results.records import Metric
from search.history import Outcome

Floats = NDArray[np.float64]


class Standing(NamedTuple):
    """Sorts from best to worst; equal standings are as good as each other.

    Attributes:
        tier: 0 feasible, 1 infeasible, 2 failed.
        rank: Non-dominated rank from 0 (tier 0), or violation (tier 1).
        crowding: Negated crowding distance within the rank (tier 0).
    """

    tier: int
    rank: float = 0.0
    crowding: float = 0.0


LAST = Standing(3)
"""Behind every standing."""


def standings(outcomes: Sequence[Outcome], objectives: Sequence[Metric]) -> list[Standing | None]:
    """Standing of every outcome among all of them, shape ``(n,)``; None where too little is known."""
    result: list[Standing | None] = [_alone(outcome) for outcome in outcomes]
    losses = {i: o.losses(objectives) for i, o in enumerate(outcomes) if o.feasible}
    known = {i: loss for i, loss in losses.items() if loss is not None}
    if not known:
        return result
    points = np.array(list(known.values()), dtype=np.float64)
    ranks = nondominated_ranks(points)
    for rank in range(int(ranks.max()) + 1):
        members = np.flatnonzero(ranks == rank)
        distances = crowding_distances(points[members])
        for member, distance in zip(members, distances, strict=True):
            result[list(known)[member]] = Standing(0, float(rank), -float(distance))
    return result


def _alone(outcome: Outcome) -> Standing | None:
    if outcome.state == "failed":
        return Standing(2)
    if outcome.state in ("infeasible", "complete") and outcome.violation > 0.0:
        return Standing(1, outcome.violation)
    return None


def nondominated_ranks(points: Floats) -> NDArray[np.int64]:
    """Rank of every point ``(n, m)``, less being better: 0 for the front, 1 for the front without it ..."""
    below = (points[:, None, :] <= points[None, :, :]).all(axis=2)
    strictly = (points[:, None, :] < points[None, :, :]).any(axis=2)
    dominates = below & strictly
    ranks = np.full(len(points), -1, dtype=np.int64)
    rank = 0
    while (ranks < 0).any():
        left = ranks < 0
        ranks[left & ~dominates[left].any(axis=0)] = rank
        rank += 1
    return ranks


def crowding_distances(points: Floats) -> Floats:
    """Crowding distance of every point ``(n, m)`` of one front (Deb et al. 2002, section III.B), ``(n,)``.

    The sum over objectives of the gap between the two neighbours, as a share of the front's extent; the
    ends are infinitely far from the crowd.
    """
    distances = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        extent = column[order[-1]] - column[order[0]]
        distances[order[[0, -1]]] = np.inf
        if extent > 0 and len(points) > 2:
            distances[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / extent
    return distances
