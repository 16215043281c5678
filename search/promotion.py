"""Which network to train further: the one of which most is expected for the front.

A rung tells a score, the boards told the costs; how far a full training raises the score is told by
the networks that had one.  What a promotion is expected to add is the mean gain in hypervolume over where it
may end (Emmerich, Giannakoglou, Naujoks 2006, "Single- and multiobjective evolutionary optimization assisted
by Gaussian random field metamodels", section IV.B: expected improvement of the hypervolume), here over
quantiles of a Student distribution on the scale of log odds (:mod:`results.promise`).  Promotions under way
count as if they ended in the middle (Ginsbourger, Le Riche, Carraro 2010, "Kriging is well-suited to
parallelize optimization", section 4: kriging believer).

As long as too few gains are known, rungs are compared as they are: what is promoted first covers most of the
volume that the rung's own accuracies span.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from results.pareto import hypervolume
from results.promise import LEAST_GAINS, costs, gain_spread, log_odds
from results.records import Evaluation, Problem, Score

Floats = NDArray[np.float64]

_QUANTILES = (np.arange(16) + 0.5) / 16
_MARGIN = 0.1
"""Share of the extent by which the worst corner lies behind what is known, so that the ends count, too."""


class Outlook:
    """What promotions out of one rung are expected to add.

    Args:
        problem: The task's metric first, then costs.
        rung: Evaluations of the rung, promoted or not.
        gains: What promoted ones gained up to a full training, on the scale of log odds.
        whole: Full trainings.
        promoted: Evaluations of the rung whose promotions have not been told.
    """

    def __init__(
        self,
        problem: Problem,
        rung: Sequence[Evaluation],
        gains: Sequence[float],
        whole: Sequence[Evaluation],
        promoted: Sequence[Evaluation],
    ) -> None:
        self._problem = problem
        self._up = [metric.maximise for metric in problem.objectives]
        self._shifts = _shifts(gains, proportion=all(e.accuracy["fp32"].proportion for e in rung))
        middle = float(np.median(self._shifts))
        there = whole if len(gains) >= LEAST_GAINS else []
        ends = [*(self._point(e, 0.0) for e in there), *(self._point(e, middle) for e in promoted)]
        self._front = np.array([p for p in ends if p is not None]).reshape(-1, len(self._up))
        span = [p for e in rung if (p := self._point(e, middle)) is not None]
        known = np.vstack([self._front, np.array(span).reshape(-1, len(self._up))])
        sign = np.where(self._up, -1.0, 1.0)
        losses = known * sign
        self._reference = (losses.max(axis=0) + _MARGIN * np.ptp(losses, axis=0)) * sign
        self._volume = hypervolume(self._front, self._reference, self._up)

    def of(self, evaluation: Evaluation) -> float:
        """Expected gain in volume; infinite where costs are not known, so that they do not hold it back."""
        gained = []
        for shift in self._shifts:
            point = self._point(evaluation, float(shift))
            if point is None:
                return math.inf
            volume = hypervolume(np.vstack([self._front, point]), self._reference, self._up)
            gained.append(volume - self._volume)
        return statistics.fmean(gained)

    def _point(self, evaluation: Evaluation, shift: float) -> Floats | None:
        """Objectives of a network whose score rises by ``shift``; costs on a logarithm where they can."""
        known = costs(evaluation, self._problem)
        if known is None:
            return None
        turned = [-c if up else c for c, up in zip(known, self._up[1:], strict=True)]
        score = moved(evaluation.accuracy["fp32"], shift).value
        return np.array([score, *(math.log(c) if c > 0 else c for c in turned)])


def _shifts(gains: Sequence[float], *, proportion: bool) -> Floats:
    """Quantiles of the next gain; 0 alone where too few are known."""
    if len(gains) < LEAST_GAINS:
        return np.zeros(1)
    spread = gain_spread(gains, proportion=proportion) * math.sqrt(1 + 1 / len(gains))
    return np.asarray(statistics.fmean(gains) + spread * stats.t.ppf(_QUANTILES, len(gains) - 1))


def moved(score: Score, gain: float) -> Score:
    """A score that is ``gain`` higher on the scale of :func:`results.promise.log_odds`."""
    if gain == 0.0:
        return score
    raised = log_odds(score) + gain
    return score.of_value(1 / (1 + math.exp(-raised)) if score.proportion else raised)
