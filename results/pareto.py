"""Pareto fronts of uncertain figures, and hypervolume.

With intervals, dominance is a partial order of its own, so there are two fronts instead of one.  Turn every
objective so that less is better; then point a

* *certainly dominates* b if even a's worst ends are at least as good as b's best ends in all objectives,
  and better in one (so equal points of zero width do not dominate each other);
* *possibly dominates* b if a's best ends are at least as good as b's worst ends in all objectives, and
  better in one.

The possible front holds what nobody certainly dominates, the certain front what nobody even possibly
dominates, the nominal front what nobody dominates by the values alone.  Certain dominance implies nominal
dominance, and that implies possible dominance, hence certain ⊆ nominal ⊆ possible.  This is interval
dominance as in Limbourg & Salazar Aponte 2005 (IEEE CEC), with its two one-sided readings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from results.records import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fronts:
    """Indices of the points of each front, ascending; ``certain`` ⊆ ``nominal`` ⊆ ``possible``."""

    certain: tuple[int, ...]
    possible: tuple[int, ...]
    nominal: tuple[int, ...]


def fronts(
    points: Sequence[Sequence[Interval]],
    maximise: Sequence[bool],
    *,
    feasible: Sequence[bool] | None = None,
) -> Fronts:
    """The three fronts of ``n`` points with ``m`` objectives each.

    Args:
        points: Intervals, shape ``(n, m)``.
        maximise: Whether more is better, shape ``(m,)``.
        feasible: Whether each point certainly keeps all limits, shape ``(n,)``; None if all do.  A point
            of which that is unclear cannot be on the certain front, and cannot certainly dominate; nor can
            one that has no interval in some objective.
    """
    best, worst, nominal = _turned(points, maximise)
    certain = np.array([all(figure.is_known for figure in row) for row in points], dtype=bool)
    if feasible is not None:
        certain &= np.asarray(feasible, dtype=bool)
    return Fronts(
        certain=tuple(i for i in _undominated(best, worst) if certain[i]),
        possible=_undominated(np.where(certain[:, None], worst, np.inf), best),
        nominal=_undominated(nominal, nominal),
    )


def _turned(points: Sequence[Sequence[Interval]], maximise: Sequence[bool]) -> tuple[Floats, Floats, Floats]:
    """Best ends, worst ends and values, each ``(n, m)`` with less being better."""
    ends = np.array([[(p.low, p.high, p.value) for p in row] for row in points], dtype=np.float64)
    ends = ends.reshape(len(points), len(maximise), 3)
    up = np.asarray(maximise, dtype=bool)
    best = np.where(up, -ends[:, :, 1], ends[:, :, 0])
    worst = np.where(up, -ends[:, :, 0], ends[:, :, 1])
    return best, worst, np.where(up, -ends[:, :, 2], ends[:, :, 2])


def _undominated(attackers: Floats, defenders: Floats) -> tuple[int, ...]:
    """Indices that no other row of ``attackers`` dominates when they stand as in ``defenders``."""
    kept = []
    for i, row in enumerate(defenders):
        dominating = (attackers <= row).all(axis=1) & (attackers < row).any(axis=1)
        dominating[i] = False  # a wide point would possibly dominate itself
        if not dominating.any():
            kept.append(i)
    return tuple(kept)


def hypervolume(values: ArrayLike, reference: ArrayLike, maximise: Sequence[bool]) -> float:
    """Volume dominated by points up to a reference point; more is better.

    Exact (moocore: Fonseca, Paquete & López-Ibáñez 2006).  Points that do not reach the reference add
    nothing; no points at all give 0.

    Args:
        values: Points, shape ``(n, m)``.
        reference: Worst corner, shape ``(m,)``.
        maximise: Whether more is better, shape ``(m,)``.
    """
    points = np.asarray(values, dtype=np.float64).reshape(-1, len(maximise))
    if not len(points):
        return 0.0
    return float(
        moocore.hypervolume(points, ref=np.asarray(reference, dtype=np.float64), maximise=list(maximise))
    )
