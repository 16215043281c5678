"""Whether a better candidate was lost among the networks whose training did not come to its end.

Each of them might have ended anywhere; where, is drawn many times.  One is on the front of a draw if nothing
that costs no more got as far, neither a full training nor another network of the same draw: ten that would
have taken one place on the front have lost one place, not ten.  A *better candidate* is one on the front of
which no full training can be taken for the same: none whose 95 % intervals reach its score at its costs.
Others are near ties: on the front by a hair, beside something that is as good.

Of networks that were left at a lower rung, gains up to a full training are drawn from those of the networks
that were promoted, normal on the scale of log odds; the uncertainty of their mean and spread is common to all
of one rung (posterior predictive with the usual flat prior: Gelman et al. 2013, "Bayesian data analysis",
section 3.2), so one network alone has the distribution of :func:`results.promise.chance`.  Of trainings that
were ended early, ends are drawn from the stored forecast.

How well that holds (``tests/test_risk.py``, 68 real trainings whose early epochs are the rung): better
candidates are rather over-estimated, up to twofold where networks are promoted by lot and by less than one
where the best are promoted.  Near ties are under-estimated, up to threefold: networks that are promoted for
being good were lucky in part, and gain less than others.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from results.fidelity import is_full, levels
from results.promise import LEAST_GAINS, costs, gain_spread, log_odds
from results.records import Architecture, Evaluation, Fidelity, Interval, Metric, Problem, Score
from results.statistics import value, violation

Floats = NDArray[np.float64]

DRAWS = 2000
"""A probability of a half is told with a standard error of 1.1 %."""

_Z90 = 1.6448536269514722


@dataclass(frozen=True)
class Risk:
    """What some trainings that were not completed may have cost.

    Attributes:
        expected: Mean number of better candidates that were lost.
        any: Probability that at least one was.
        near_ties: Mean number of further networks that would have been on the front by a hair.
    """

    expected: float
    any: float
    near_ties: float


@dataclass(frozen=True)
class Unfinished:
    """A network whose training did not come to its end.

    Attributes:
        evaluation: As far as it came: with its costs.
        group: What its risk is counted for.
        gains: What others gained from there to a full training, on the scale of log odds, at least two;
            networks with equal ones share what is not known of these.
        ends: Or where it would have ended, with its 90 % interval.
    """

    evaluation: Evaluation
    group: str
    gains: tuple[float, ...] = ()
    ends: Interval | None = None

    @property
    def is_foreseen(self) -> bool:
        """Whether enough is known of where it would have ended; the risk cannot be told otherwise."""
        return self.ends is not None or len(self.gains) >= LEAST_GAINS


def unfinished(
    trainings: Sequence[Evaluation], ends: Mapping[int, Interval], full: Fidelity
) -> list[Unfinished]:
    """Networks whose training was ended early (``learning_curves``) or that were left at a lower rung.

    What the latter (``lower_fidelity``) would have gained is told by those that went on from the same rung to
    a full training.

    Args:
        trainings: Complete trials with a score, in the order of their numbers.
        ends: Where those that were ended early would have ended, by number.
        full: The full training.
    """
    reached = levels(e.trial for e in trainings)
    whole = {e.trial.number for e in trainings if not e.stopped and is_full(reached[e.trial.number], full)}
    networks: dict[Architecture, list[Evaluation]] = {}
    for evaluation in trainings:
        networks.setdefault(evaluation.trial.proposal.architecture, []).append(evaluation)
    left = [
        group[-1]
        for group in networks.values()
        if not any(e.stopped or e.trial.number in whole for e in group)
    ]
    gains: dict[Fidelity, list[float]] = {reached[e.trial.number]: [] for e in left}
    for *lower, last in networks.values():
        for begun in lower if last.trial.number in whole else ():
            if (level := reached[begun.trial.number]) in gains:
                gains[level].append(log_odds(last.accuracy["fp32"]) - log_odds(begun.accuracy["fp32"]))
    ended = [e for e in trainings if e.trial.number in ends]
    return [
        *(Unfinished(e, "learning_curves", ends=ends[e.trial.number]) for e in ended),
        *(Unfinished(e, "lower_fidelity", gains=tuple(gains[reached[e.trial.number]])) for e in left),
    ]


def risks(
    candidates: Sequence[Unfinished], whole: Sequence[Evaluation], problem: Problem
) -> dict[str, Risk] | None:
    """The risk of each group; the same arguments give the same figures.

    Networks that break a limit, by the values, or had a full training as well are never lost; full trainings
    that break a limit are no rivals.

    Args:
        candidates: All unfinished ones: they are rivals of each other.
        whole: Full trainings.
        problem: The task's metric first, then costs.

    Returns:
        None where the costs of a network are not known.
    """
    done = {e.trial.proposal.architecture for e in whole}
    allowed = [
        u
        for u in candidates
        if violation(u.evaluation, problem.limits) <= 0
        and u.evaluation.trial.proposal.architecture not in done
    ]
    rivals = [e for e in whole if violation(e, problem.limits) <= 0]
    known = [costs(u.evaluation, problem) for u in allowed]
    if None in known:
        return None
    dimensions = len(problem.objectives) - 1
    paid = np.array(known, dtype=np.float64).reshape(len(allowed), dimensions)
    ends = _draws(allowed, problem.maximise, np.random.default_rng(0))
    rows = [[value(e, metric) for metric in problem.objectives] for e in rivals]
    figures = [complete for row in rows if len(complete := [f for f in row if f is not None]) == len(row)]
    front = _front(ends, paid, _ends(figures, problem, generous=False))
    better = front & _front(ends, paid, _ends(figures, problem, generous=True))
    groups = np.array([u.group for u in allowed])
    found = {}
    for group in dict.fromkeys(u.group for u in candidates):
        lost = better[:, groups == group].sum(axis=1)
        on_front = front[:, groups == group].sum(axis=1)
        expected = float(lost.mean())
        found[group] = Risk(expected, float((lost > 0).mean()), float(on_front.mean()) - expected)
    return found


def _draws(candidates: Sequence[Unfinished], maximise: bool, rng: np.random.Generator) -> Floats:
    """Scores after a full training, ``(draws, n)``, more being better."""
    shared: dict[tuple[float, ...], tuple[Floats, Floats]] = {}
    columns = []
    for one in candidates:
        score = one.evaluation.accuracy["fp32"]
        noise = rng.standard_normal(DRAWS)
        if one.ends is not None:
            low, middle, high = (
                log_odds(Score(y, score.examples, score.proportion))
                for y in (one.ends.low, one.ends.value, one.ends.high)
            )
            reached = middle + (high - low) / (2 * _Z90) * noise
        else:
            if one.gains not in shared:
                shared[one.gains] = _mean_and_spread(one.gains, rng, proportion=score.proportion)
            mean, spread = shared[one.gains]
            reached = log_odds(score) + mean + spread * noise
        shown = 1 / (1 + np.exp(-reached)) if score.proportion else reached
        columns.append(shown if maximise else -shown)
    return np.column_stack(columns) if columns else np.zeros((DRAWS, 0))


def _mean_and_spread(
    gains: Sequence[float], rng: np.random.Generator, *, proportion: bool
) -> tuple[Floats, Floats]:
    """Draws of the mean and the standard deviation that gains come from, each ``(draws,)``."""
    n = len(gains)
    spread = gain_spread(gains, proportion=proportion) * np.sqrt((n - 1) / rng.chisquare(n - 1, DRAWS))
    mean = statistics.fmean(gains) + spread / math.sqrt(n) * rng.standard_normal(DRAWS)
    return mean, spread


def _ends(rivals: Sequence[Sequence[Interval]], problem: Problem, *, generous: bool) -> tuple[Floats, Floats]:
    """Scores ``(m,)``, more being better, and costs ``(m, k)``, less being better, of full trainings.

    ``generous`` for the better ends of their intervals instead of the values.
    """
    rows = [
        [
            _end(figure, metric, generous=generous)
            for figure, metric in zip(rival, problem.objectives, strict=True)
        ]
        for rival in rivals
    ]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(problem.objectives))
    return table[:, 0], -table[:, 1:]


def _end(figure: Interval, metric: Metric, *, generous: bool) -> float:
    """A figure, or the better end of its interval, turned so that more is better."""
    if metric.maximise:
        return figure.high if generous else figure.value
    return -(figure.low if generous else figure.value)


def _front(ends: Floats, paid: Floats, rivals: tuple[Floats, Floats]) -> NDArray[np.bool_]:
    """Which networks nothing that costs no more equals, ``(draws, n)``."""
    scores, costs_of = rivals
    found = np.ones(ends.shape, dtype=np.bool_)
    for i, own in enumerate(paid):
        cheaper = (costs_of <= own).all(axis=1)
        if cheaper.any():
            found[:, i] &= ends[:, i] > scores[cheaper].max()
        others = (paid <= own).all(axis=1)
        others[i] = False
        if others.any():
            found[:, i] &= ends[:, i] > ends[:, others].max(axis=1)
    return found
