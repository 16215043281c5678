"""Whether a network whose training did not come to its end would have been on the front.

Its costs are known before it is trained, so the score that it has to beat is, too: that of the best full
training that costs no more.  Where it would have ended is told by the networks that were trained both as far
as it was and fully: what they gained, taken as normal on the scale of log odds (of a metric that is no share,
on its own).  That holds as far as it is
like them.  Those were chosen because they were good, some of them by luck, and lucky ones gain less, so the
chance of one that was not chosen is rather more than this says.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Sequence

from scipy import stats

from results.records import Evaluation, Problem, Score
from results.statistics import value, violation

LEAST_GAINS = 3
"""Networks trained at both levels from which on the gain between them is known."""


def costs(evaluation: Evaluation, problem: Problem) -> tuple[float, ...] | None:
    """Objectives but the first, less being better; None where one is not known."""
    figures = [(value(evaluation, metric), metric.maximise) for metric in problem.objectives[1:]]
    known = [-figure.value if up else figure.value for figure, up in figures if figure is not None]
    return tuple(known) if len(known) == len(figures) else None


def bar(evaluation: Evaluation, whole: Iterable[Evaluation], problem: Problem) -> Score | None:
    """The best score among full trainings that keep the limits and cost no more in any objective.

    None where there is none, or costs are not known: whatever it reaches would be on the front then.
    """
    own = costs(evaluation, problem)
    if own is None:
        return None
    cheaper = [other.accuracy["fp32"] for other in whole if _rivals(other, own, problem)]
    better = max if problem.maximise else min
    return better(cheaper, key=lambda score: score.value) if cheaper else None


def _rivals(other: Evaluation, own: tuple[float, ...], problem: Problem) -> bool:
    theirs = costs(other, problem)
    if theirs is None or violation(other, problem.limits) > 0:
        return False
    return all(a <= b for a, b in zip(theirs, own, strict=True))


def chance(score: Score, to_beat: Score, gains: Sequence[float], *, maximise: bool = True) -> float:
    """Probability that a score would have become better than another.

    Student's t with the mean and spread of the gains: a new observation from the same normal distribution.

    Args:
        score: Of the training as far as it went.
        to_beat: What it has to be better than.
        gains: What others gained from there to a full training, on the scale of :func:`log_odds`; at least
            :data:`LEAST_GAINS`.
        maximise: Whether more is better.
    """
    expected = log_odds(score) + statistics.fmean(gains)
    spread = gain_spread(gains, proportion=score.proportion) * math.sqrt(1 + 1 / len(gains))
    above = float(stats.t.sf((log_odds(to_beat) - expected) / spread, len(gains) - 1))
    return above if maximise else 1.0 - above


def gain_spread(gains: Sequence[float], *, proportion: bool) -> float:
    """Standard deviation of gains, above 0: at least a thousandth, of log odds or of the greatest gain.

    Args:
        gains: At least two, on the scale of :func:`log_odds`.
        proportion: Whether the metric is a share; others may be of any size.
    """
    least = 1e-3 * (1.0 if proportion else max(map(abs, gains)))
    return max(statistics.stdev(gains), least, sys.float_info.min)


def log_odds(score: Score) -> float:
    """Log odds of a share, finite at 0 and 1; another metric as it is."""
    if not score.proportion:
        return score.value
    share = (score.value * score.examples + 0.5) / (score.examples + 1)
    return math.log(share / (1 - share))
