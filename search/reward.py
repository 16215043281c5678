"""How much a controller learns from a trial: its rank among the trials before it.

Three forms say which of two trained trials is better:

* ``"front"``: the one of the better non-dominated rank, then the one in the less crowded place, as in NSGA-II
  (:mod:`search.feasibility`).  All of a front is equally good, so a controller is drawn to the whole of it.
* ``"soft"`` and ``"hard"``: the one of the greater reward of MnasNet (Tan et al. 2019, CVPR, equation 2),
  ``ACC(m) * (LAT(m) / T) ** w`` with ``w = alpha`` where ``LAT <= T`` and ``beta`` elsewhere; soft has
  ``alpha = beta = -0.07``, hard ``alpha = 0, beta = -1`` (section 3).  A factor stands for every cost that is
  an objective.  One trade-off is fixed, so a controller is drawn to one place of the front.

  Of an error, of which less is better, ``1 / error`` stands for ACC; of a metric with values of 0 or less,
  ``exp(z)`` of the standardised value.

A metric that is a limit and no objective pays nothing in any form once the limit is met: it is a constraint.

Ranks take the place of rewards as in the fitness shaping of natural evolution strategies (Wierstra et al.
2014, JMLR 15, section 3.1): rewards of good networks differ by thousandths, those of poor ones by tenths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from results.errors import ConfigError
from results.records import Metric, Problem
from search.feasibility import Standing, standings
from search.history import Outcome

FRONT = "front"
EXPONENTS = {"soft": (-0.07, -0.07), "hard": (0.0, -1.0)}
"""(alpha, beta) of the paper by name of the form."""

FORMS = (FRONT, *EXPONENTS)

RECENT = 1000
"""Told trials among which another is ranked: the latest."""


class Advantage:
    """Reads advantages.

    Args:
        problem: Objectives and limits; the first objective is the task's metric.
        form: ``"front"``, ``"soft"`` or ``"hard"``.

    Raises:
        ConfigError: For another form.
    """

    def __init__(self, problem: Problem, form: str) -> None:
        if form not in FORMS:
            raise ConfigError(f"form is {form!r}; known: {', '.join(FORMS)}")
        self._accuracy = problem.objectives[0]
        self._objectives = problem.objectives
        self._exponents = EXPONENTS.get(form)
        self._limits = {limit.metric: limit.upper for limit in problem.limits}

    def __call__(self, outcome: Outcome, earlier: Sequence[Outcome]) -> float | None:
        """Advantage of an outcome given the ones before it; None if too little is known of it to judge.

        The share of those before it that are worse (half of those that are equal) less 1/2, so in
        [-1/2, 1/2].  Only trials of one kind are ranked together: trained ones within the limits, and, until
        there is one of those, infeasible ones by their violation.  After that an infeasible or failed trial
        has no advantage: it cost no training, and where most draws are such, each of the others would teach
        as if it were good, and the edge of what is allowed, where the best is, would be shunned.
        """
        *before, own = self._standings([*earlier[-RECENT:], outcome])
        if own is None:
            return None
        known = [other for other in before if other is not None]
        if any(other.tier < own.tier for other in known):
            return None
        equals = [other for other in known if other.tier == own.tier]
        worse = [(other > own) + 0.5 * (other == own) for other in equals]
        return float(np.mean(worse)) - 0.5 if worse else 0.0

    def _standings(self, outcomes: Sequence[Outcome]) -> list[Standing | None]:
        if self._exponents is None:
            return standings(outcomes, self._objectives)
        targets = {metric: self._target(metric, outcomes) for metric in self._objectives[1:]}
        worth = self._worth(outcomes)
        return [
            Standing(0, -self._reward(outcome, targets, worth))
            if standing and standing.tier == 0
            else standing
            for outcome, standing in zip(outcomes, standings(outcomes, [self._accuracy]), strict=True)
        ]

    def _target(self, metric: Metric, outcomes: Sequence[Outcome]) -> float | None:
        """T: the limit of a cost; of one without a limit, the median of what was measured so far."""
        known = [outcome.figures[metric] for outcome in outcomes if metric in outcome.figures]
        return self._limits.get(metric) or (float(np.median(known)) if known else None)

    def _worth(self, outcomes: Sequence[Outcome]) -> Callable[[float], float]:
        """What stands for ACC, 0 or more, of a value of the metric, given all that are known."""
        metric = self._accuracy
        values = np.array([o.figures[metric] for o in outcomes if metric in o.figures], dtype=np.float64)
        if metric.maximise and (values >= 0).all():
            return lambda figure: figure
        if not metric.maximise and (values > 0).all():
            return lambda figure: 1 / figure
        mean, spread = float(values.mean()), float(values.std()) or 1.0
        sign = 1 if metric.maximise else -1
        return lambda figure: math.exp(sign * (figure - mean) / spread)

    def _reward(
        self, outcome: Outcome, targets: dict[Metric, float | None], worth: Callable[[float], float]
    ) -> float:
        factors = (self._factor(metric, outcome, target) for metric, target in targets.items())
        return worth(outcome.figures[self._accuracy]) * math.prod(factors)

    def _factor(self, metric: Metric, outcome: Outcome, target: float | None) -> float:
        """``(cost / T) ** w``; 1 where the cost is not known."""
        cost = outcome.figures.get(metric)
        if cost is None or target is None or cost <= 0.0 or target <= 0.0 or self._exponents is None:
            return 1.0
        alpha, beta = self._exponents
        ratio = target / cost if metric.maximise else cost / target
        return float(ratio ** (alpha if ratio <= 1.0 else beta))
