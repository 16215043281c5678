"""Has a model become slower or faster since last night?  Rules for series of nightly figures.

One figure per night and series: the logarithm of a model's figure, less that of the reference network that
was measured in the same turns where there is one, so that what the night did to both is gone.  All functions
are pure.  They look for what became *worse*; what became better is found by the same rules on the mirrored
history (:meth:`Watch.mirrored`).

* A night is a *candidate* where it lies above the mean of the history by more than a threshold, by a
  one-sided t-test of one new observation, ``t = (z - mean) / (s * sqrt(1 + 1 / H))`` (Snedecor & Cochran
  1989, 4.9).
* A candidate is measured again; it is *confirmed* if the mean of both passes the same test, and
  Benjamini & Hochberg's (1995) over all series of the night.
* Before the history has :data:`LEAST_NIGHTS` nights the series is *learning*.
* A history has segments: a new one begins with an accepted step and with another environment.  Each has its
  own mean; the spread is pooled over all.
* After a change of the environment the mean of its nights so far is tested against the lowest segment before
  (:attr:`Watch.since`): the t-test of two means with the pooled spread.
* A *slow change* is found by optimal partitioning (Jackson et al. 2005) of the present segment: a newest
  level that lies above the first one by more than the threshold although no single night did.

What follows for a series from night to night is told by :mod:`results.series`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
K = TypeVar("K")
State = Literal["learning", "fine", "candidate", "slow change"]

LEAST_NIGHTS = 10
LEAST_FREEDOM = 5
"""Degrees of freedom behind a spread, where many segments share the nights."""

WINDOW = 21
"""Nights of a segment that its mean and spread are taken from, the newest."""

ALARM = 0.01
ALARM_ACROSS = 0.0005
"""Across environments, where a night's luck is not divided out by the reference, for all series alike, and
ten nights are tested."""

LEAST_SPREAD = 0.002
"""A history that by chance hardly varies must not make every night an alarm."""

DISCOVERIES = 0.05
"""Share of false ones among the regressions of a night (Benjamini & Hochberg's q)."""

PENALTY = 20.0
"""Of a change point, in variances: 6 % of unchanged histories of 40 nights get one, 38 % at 10."""

LEAST_SEGMENT = 2
LONGEST_HISTORY = 120
THRESHOLDS = {"energy": 0.05}
THRESHOLD = 0.02


@dataclass(frozen=True)
class History:
    """Figures of a series so far, without nights of a regression.

    Attributes:
        segments: Logarithmic figures, oldest first, one sequence per segment between accepted steps; the
            last one is the present one.
    """

    segments: tuple[tuple[float, ...], ...] = ((),)

    def add(self, z: float) -> History:
        """With another night."""
        return History((*self.segments[:-1], (*self.segments[-1], z)))

    def accept(self) -> History:
        """With a new segment, which begins with the next night."""
        return self if not self.segments[-1] else History((*self.segments, ()))

    def mirrored(self) -> History:
        """The history in which better is worse."""
        return History(tuple(tuple(-z for z in segment) for segment in self.segments))


@dataclass(frozen=True)
class Baseline:
    """What a night is compared with.

    Attributes:
        mean: Of the segment that is compared with: the present one, or the lowest before it.
        spread: Standard deviation of a night, pooled over the segments.
        nights: Behind the mean.
        freedom: Degrees of freedom behind the spread.
    """

    mean: float
    spread: float
    nights: int
    freedom: int


@dataclass(frozen=True)
class Finding:
    """What a night says of a series.

    Attributes:
        state: What it is, see the head of this module.
        shift: How far the figure lies above the baseline, as a share; of a slow change, how far the newest
            level lies above the first.
        p: One-sided probability of a shift this large by chance.
        nights: Nights of history behind it.
    """

    state: State
    shift: float = 0.0
    p: float = 1.0
    nights: int = 0


@dataclass
class Watch:
    """A series with its rule and history, for one night after the other.

    Attributes:
        metric: What is watched; decides the threshold.
        history: Figures so far.
        threshold: Least shift that matters, as a share; None for the metric's own.
        since: None where a night is tested against the present segment.  Else the mean of the present
            segment and the night is tested against the lowest segment before, from this one on.
    """

    metric: str = "latency_p50"
    history: History = field(default_factory=History)
    threshold: float | None = None
    since: int | None = None

    def mirrored(self) -> Watch:
        """The series in which better is worse."""
        return replace(self, history=self.history.mirrored())

    @property
    def least_shift(self) -> float:
        """Least shift that matters, in logarithms."""
        own = THRESHOLDS.get(self.metric, THRESHOLD)
        return math.log1p(own if self.threshold is None else self.threshold)


def baseline(history: History, since: int | None = None) -> Baseline | None:
    """Mean and spread of a history; None while there is too little of it.

    Args:
        history: Of a series.
        since: As :attr:`Watch.since`.
    """
    windows = [np.array(segment[-WINDOW:]) for segment in history.segments]
    compared = windows[-1:] if since is None else windows[since:-1]
    levels = [(float(w.mean()), len(w)) for w in compared if len(w)]
    freedom = sum(len(w) - 1 for w in windows if len(w))
    if since is not None and freedom < LEAST_FREEDOM and len(windows) > 2 and levels:
        # Environments that change every night or two leave no spread: their nights count as one segment.
        windows = [np.concatenate(compared)]
        levels = [(float(windows[0].mean()), len(windows[0]))]
        freedom = len(windows[0]) - 1
    if not levels or sum(map(len, windows)) < LEAST_NIGHTS or freedom < LEAST_FREEDOM:
        return None
    power = sum(float(((w - w.mean()) ** 2).sum()) for w in windows if len(w))
    spread = max(LEAST_SPREAD, math.sqrt(power / freedom))
    mean, nights = min(levels)
    return Baseline(mean, spread, nights, freedom)


def examine(watches: Mapping[K, Watch], tonight: Mapping[K, float]) -> dict[K, Finding]:
    """Findings of one night, before anything is measured again.

    Args:
        watches: Series by name, or by another key, with what was known before tonight.
        tonight: Logarithmic figures of the series that were measured.
    """
    found = {name: _test(watches[name], z) for name, z in tonight.items()}
    for name, finding in found.items():
        if finding.state == "fine" and watches[name].since is None:
            found[name] = slow_change(watches[name], tonight[name]) or finding
    return found


def confirmed(watches: Mapping[K, Watch], tonight: Mapping[K, float], again: Mapping[K, float]) -> set[K]:
    """Which candidates are confirmed, once they were measured again.

    Args:
        watches: As for :func:`examine`.
        tonight: First figures of all series.
        again: Second figures of the candidates.
    """
    means = {name: (z + again[name]) / 2 if name in again else z for name, z in tonight.items()}
    tested = {name: _test(watches[name], z) for name, z in means.items()}
    known = [name for name, finding in tested.items() if finding.state != "learning"]
    discovered = benjamini_hochberg([tested[name].p for name in known], DISCOVERIES)
    rejected = {name for name, is_discovery in zip(known, discovered, strict=True) if is_discovery}
    return {name for name in again if name in rejected and tested[name].state == "candidate"}


def _test(watch: Watch, z: float) -> Finding:
    base = baseline(watch.history, watch.since)
    present = watch.history.segments[-1]
    if base is None:
        return Finding("learning", nights=len(present))
    new = [z] if watch.since is None else [*present, z]
    shift = math.fsum(new) / len(new) - base.mean
    t = shift / (base.spread * math.sqrt(1 / len(new) + 1 / base.nights))
    p = float(special.stdtr(base.freedom, -t))
    alarm = ALARM if watch.since is None else ALARM_ACROSS
    state: State = "candidate" if p < alarm and shift > watch.least_shift else "fine"
    return Finding(state, math.expm1(shift), p, base.nights)


def slow_change(watch: Watch, z: float) -> Finding | None:
    """A level of the present segment, tonight included, that crept above the first one; or None."""
    means = [float(part.mean()) for part in levels(watch, z)]
    if len(means) < 2 or (shift := means[-1] - means[0]) <= watch.least_shift:
        return None
    return Finding("slow change", math.expm1(shift), nights=len(watch.history.segments[-1]) + 1)


def levels(watch: Watch, z: float) -> list[Floats]:
    """The newest :data:`LONGEST_HISTORY` nights of the present segment, tonight last, cut where levels begin.

    Empty where there is too little to tell, and where no two levels can lie further apart than matters.
    """
    nights = np.array([*watch.history.segments[-1], z])[-LONGEST_HISTORY:]
    if len(nights) <= LEAST_NIGHTS:
        return []
    # Every level can be cut into twos and threes, so its mean lies between the least and greatest of theirs.
    twos = (nights[1:] + nights[:-1]) / 2
    threes = (nights[2:] + nights[1:-1] + nights[:-2]) / 3
    means = np.concatenate([twos, threes])
    if means.max() - means.min() <= watch.least_shift:
        return []
    return list(np.split(nights, change_points(nights)))


def change_points(figures: Sequence[float] | Floats, penalty: float = PENALTY) -> list[int]:
    """Where new levels begin (Jackson et al. 2005, section 3; cost: squared deviations).

    Args:
        figures: In order, shape ``(n,)``.
        penalty: Of each change, in variances.  The variance is that of the differences between
            neighbours (median absolute deviation), which a change of level hardly touches.
    """
    z = np.asarray(figures, np.float64)
    n = len(z)
    steps = np.diff(z)
    if n < 2 * LEAST_SEGMENT:
        return []
    deviation = 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2)
    z = (z - z.mean()) / max(deviation, LEAST_SPREAD)
    sums, squares = np.concatenate([[0.0], np.cumsum(z)]), np.concatenate([[0.0], np.cumsum(z**2)])
    best = np.full(n + 1, math.inf)
    best[0] = -penalty
    last = np.zeros(n + 1, np.int64)
    for end in range(LEAST_SEGMENT, n + 1):
        begins = np.arange(0, end - LEAST_SEGMENT + 1)
        costs = squares[end] - squares[begins] - (sums[end] - sums[begins]) ** 2 / (end - begins)
        totals = best[begins] + costs + penalty
        last[end] = int(np.argmin(totals))
        best[end] = totals[last[end]]
    found, end = [], n
    while last[end] > 0:
        end = int(last[end])
        found.append(end)
    return found[::-1]


def benjamini_hochberg(p_values: Sequence[float], rate: float) -> list[bool]:
    """Which hypotheses are rejected at a false discovery rate (Benjamini & Hochberg 1995, equation 1)."""
    p = np.array(p_values)
    if not len(p):
        return []
    order = np.argsort(p)
    below = np.flatnonzero(p[order] <= rate * np.arange(1, len(p) + 1) / len(p))
    rejected = np.zeros(len(p), bool)
    if len(below):
        rejected[order[: below[-1] + 1]] = True
    return [bool(r) for r in rejected]
