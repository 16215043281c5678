"""One number per trial for a controller: accuracy times measured costs (Tan et al. 2019, MnasNet, CVPR).

Equation 2 there: ``ACC(m) * (LAT(m) / T) ** w`` with ``w = alpha`` where ``LAT <= T`` and ``beta`` elsewhere.
The soft form has ``alpha = beta = -0.07``, the hard form ``alpha = 0, beta = -1`` (section 3).  Here a factor
stands for every cost that is an objective or has a limit, as measured on the board.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from results.errors import ConfigError
from results.records import Metric, Problem
from search.history import Outcome

FORMS = {"soft": (-0.07, -0.07), "hard": (0.0, -1.0)}
"""(alpha, beta) of the paper by name of the form."""


class Reward:
    """Reads rewards.

    T is the limit of a cost; for an objective without a limit, the median of what was measured so far.

    Args:
        problem: The first objective is the accuracy, to be maximised.
        form: ``"soft"`` or ``"hard"``.

    Raises:
        ConfigError: For another form, or if the first objective is to be minimised.
    """

    def __init__(self, problem: Problem, form: str) -> None:
        if form not in FORMS:
            raise ConfigError(f"form is {form!r}; known: {', '.join(FORMS)}")
        self._accuracy = problem.objectives[0]
        if not self._accuracy.maximise:
            raise ConfigError(f"the first objective of a reward is maximised, {self._accuracy.name} is not")
        self._alpha, self._beta = FORMS[form]
        self._limits = {limit.metric: limit.upper for limit in problem.limits}
        self._costs = tuple(dict.fromkeys((*problem.objectives[1:], *self._limits)))

    def __call__(self, outcome: Outcome, earlier: Sequence[Outcome]) -> float | None:
        """Reward of an outcome given the ones before it; None if too little is known of it to judge.

        An infeasible trial was not trained: its accuracy counts as the lowest seen (0 before any), divided
        by 1 + its violation, so less overshoot is better and any feasible trial is as good or better.  A
        failed one gets 0.
        """
        if outcome.state == "failed":
            return 0.0
        if outcome.state == "infeasible" or outcome.violation > 0.0:
            lowest = min((a for a in map(self._accuracy_of, earlier) if a is not None), default=0.0)
            return lowest / (1.0 + outcome.violation)
        accuracy = self._accuracy_of(outcome)
        if outcome.state != "complete" or accuracy is None:
            return None
        return accuracy * math.prod(self._factor(metric, outcome, earlier) for metric in self._costs)

    def _accuracy_of(self, outcome: Outcome) -> float | None:
        return outcome.figures.get(self._accuracy)

    def _factor(self, metric: Metric, outcome: Outcome, earlier: Iterable[Outcome]) -> float:
        """``(cost / T) ** w``; 1 where the cost is not known."""
        cost = outcome.figures.get(metric)
        if cost is None or cost <= 0.0:
            return 1.0
        known = [o.figures[metric] for o in earlier if metric in o.figures]
        target = self._limits.get(metric) or float(np.median([*known, cost]))
        ratio = target / cost if metric.maximise else cost / target
        return ratio ** (self._alpha if ratio <= 1.0 else self._beta) if ratio > 0.0 else 1.0
