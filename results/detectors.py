"""What the runs of a session say against it: a drift, two regimes, a warm-up that has not ended.

All three look at the runs of one session in the order in which they were timed.

* **Drift**: Kendall's rank test for a trend (Mann 1945) on the medians of up to 40 blocks, with the variance
  enlarged for positive autocorrelation of the blocks (Hamed & Rao 1998, with the first lag only), and the
  slope of Theil and Sen; a drift is significant and larger than :data:`LEAST_DRIFT` from first to last run.
  Blocks instead of runs, because runs follow each other (an AR(1) of 0.9 is common) and spikes are frequent.
* **Two regimes**: the logarithms split in two, by Otsu (1979) and, since that favours equal halves, by the
  least error of Kittler & Illingworth (1986); the parts must both be common, lie apart, and have a valley
  between them.
* **Warm-up**: MSER-5 (White 1997), which cuts the start where that makes the standard error of the rest
  smallest; on medians of 5 runs rather than means, so that a spike is no warm-up.  Where it would cut more
  than half, the session has not come to rest.

``python -m benchmarks.trust`` measures what each finds and how often it is wrong; the rates are in
``docs/measurement-figures.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from results.conditions import Remark
from results.records import Session

Floats = NDArray[np.float64]

MOST_BLOCKS, RUNS_PER_BLOCK, LEAST_BLOCKS = 40, 4, 10
ROUNDING = 1e-12
LEAST_DRIFT = 0.01
"""Half of the width that the plans aim at."""

DRIFT_ALARMS = 0.005
"""False alarms that each of the two tests for drift (single sessions, all together) may give on
independent runs."""

LEAST_RATIO = 1.03
LEAST_WEIGHT = 0.05
LEAST_GAP = 3.0
"""Distance of the centres of the regimes in their pooled spread (median absolute deviation x 1.4826)."""

VALLEY = 0.5
"""Greatest density between two regimes, as a share of the lower of their peaks."""

VALLEY_CERTAINTY = 2.0
"""Standard errors of the counts by which the valley must be lower."""

PLACES = np.array([0.0, *np.linspace(0.25, 0.75, 9), 1.0])
"""Where the density is counted, from one centre to the other."""

REGIME_SHARE = 0.2
"""Share of a measurement's sessions that must show two regimes."""

WARMUP_BATCH = 5
LEAST_RUNS = 50
"""Ten batches of a warm-up; fewer runs tell nothing of it, nor of regimes."""

WARMUP_EXCESS = 0.01
"""Runs at the start that are slower by less than this are no warm-up that would matter."""

WARMUP_CERTAINTY = 4.0
"""Standard errors by which the start must be slower than the rest."""


@dataclass(frozen=True)
class Drift:
    """A trend over a session.

    Attributes:
        statistic: Kendall's S of the block medians.
        variance: Of ``statistic`` where there is no trend.
        total: Change of the log of the time from the first run to the last.
    """

    statistic: float
    variance: float
    total: float

    @property
    def p(self) -> float:
        """Two-sided probability of a trend this clear where there is none."""
        return trend_p(self.statistic, self.variance)


@dataclass(frozen=True)
class Regimes:
    """Two ways in which the same file ran.

    Attributes:
        fast_s: Median of the faster one.
        slow_s: Median of the slower one.
        slow_share: Share of runs in the slower one.
    """

    fast_s: float
    slow_s: float
    slow_share: float


def remarks(sessions: Sequence[Session]) -> list[Remark]:
    """What the runs of a measurement's sessions say against it."""
    runs = [session.durations_s for session in sessions]
    return [*_drift_remarks(runs), *_regime_remarks(runs), *_warmup_remarks(runs)]


def _drift_remarks(runs: Sequence[tuple[float, ...]]) -> Iterator[Remark]:
    """Single sessions at a level divided by their number (Bonferroni), and all together (Hirsch 1982)."""
    found = [d for d in map(drift, runs) if d is not None]
    if not found:
        return
    single = [d for d in found if d.p < DRIFT_ALARMS / len(found) and abs(d.total) > LEAST_DRIFT]
    if single:
        worst = max(single, key=lambda d: abs(d.total))
        yield Remark("noisy", f"drift of up to {worst.total:+.1%} ({len(single)} of {len(runs)} sessions)")
        return
    total = float(np.median([d.total for d in found]))
    p = trend_p(sum(d.statistic for d in found), sum(d.variance for d in found))
    if p < DRIFT_ALARMS and abs(total) > LEAST_DRIFT:
        yield Remark("noisy", f"drift of {total:+.1%} in the sessions")


def _regime_remarks(runs: Sequence[tuple[float, ...]]) -> Iterator[Remark]:
    """One session in five, and two where there are two, so that a chance finding is not enough; and both
    regimes must have their least weight in all sessions together."""
    found = [r for r in map(regimes, runs) if r is not None]
    if found and len(found) >= max(min(2, len(runs)), REGIME_SHARE * len(runs)):
        fast_s, slow_s = np.median([(r.fast_s, r.slow_s) for r in found], axis=0)
        share = float(np.mean([np.mean(np.array(each) > math.sqrt(fast_s * slow_s)) for each in runs]))
        if not LEAST_WEIGHT <= share <= 1 - LEAST_WEIGHT:
            return
        yield Remark(
            "noisy",
            f"two regimes, {1e3 * fast_s:.4g} ms and for {share:.0%} of the runs {1e3 * slow_s:.4g} ms"
            f" ({len(found)} of {len(runs)} sessions)",
        )


def _warmup_remarks(runs: Sequence[tuple[float, ...]]) -> Iterator[Remark]:
    found = sum(not has_settled(durations_s) for durations_s in runs)
    if found > len(runs) / 2:
        yield Remark("invalid", f"warm-up had not ended ({found} of {len(runs)} sessions)")


def has_settled(durations_s: tuple[float, ...]) -> bool:
    """Whether the warm-up ended in the first half of a session's runs."""
    return warmup_cut(durations_s) <= len(durations_s) / 2


def settled(runs: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """The runs of each session after its warm-up; all of them where that did not end.

    Nothing is cut off unless more than half of the sessions have a warm-up.  A fresh process warms up every
    time; a slow start that only some have is what runs that resemble their predecessors look like (an AR(1)
    of 0.9 in one session of 100 runs out of eight), and cutting those off would favour the fast runs.
    """
    cuts = [warmup_cut(durations_s) for durations_s in runs]
    if sum(cut > 0 for cut in cuts) <= len(runs) / 2:
        return list(runs)
    return [each[cut:] if cut <= len(each) / 2 else each for each, cut in zip(runs, cuts, strict=True)]


def trend_p(statistic: float, variance: float) -> float:
    """Two-sided p of Kendall's S by its normal approximation, with continuity correction."""
    if variance <= 0:
        return 1.0
    z = max(0.0, abs(statistic) - 1) / math.sqrt(variance)
    return 2 * float(special.ndtr(-z))


@lru_cache(maxsize=4096)
def drift(durations_s: tuple[float, ...]) -> Drift | None:
    """The trend of a session's runs; None where there are too few."""
    blocks = min(MOST_BLOCKS, len(durations_s) // RUNS_PER_BLOCK)
    if blocks < LEAST_BLOCKS:
        return None
    medians = _block_medians(_logs(durations_s), blocks)
    later, earlier = _pairs(blocks)
    differences = medians[later] - medians[earlier]
    slope = _middle(np.sort(differences / (later - earlier)))
    rest = medians - slope * np.arange(blocks)
    lag1 = _lag1(rest - rest.mean())
    variance = blocks * (blocks - 1) * (2 * blocks + 5) / 18 * (1 + lag1) / (1 - lag1)
    return Drift(float(np.sign(differences).sum()), variance, slope * (blocks - 1))


@lru_cache(maxsize=MOST_BLOCKS)
def _pairs(blocks: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All pairs of blocks, the later one first."""
    return np.tril_indices(blocks, -1)


def _lag1(centred: Floats) -> float:
    """Autocorrelation at lag one, between 0 and 0.95."""
    power = float(centred @ centred)
    if power <= ROUNDING**2 * len(centred):
        return 0.0
    return min(0.95, max(0.0, float(centred[1:] @ centred[:-1]) / power))


# Every session of a measurement passes through here: numpy's own median takes five times as long.


@lru_cache(maxsize=64)
def _logs(durations_s: tuple[float, ...]) -> Floats:
    logs: Floats = np.log(np.array(durations_s))
    return logs


def _block_medians(logs: Floats, blocks: int) -> Floats:
    """Medians of ``blocks`` blocks of equal length; runs that are left over belong to none."""
    length = len(logs) // blocks
    ordered = np.sort(logs[: length * blocks].reshape(blocks, length), axis=1)
    medians: Floats = (ordered[:, (length - 1) // 2] + ordered[:, length // 2]) / 2
    return medians


def _middle(ordered: Floats) -> float:
    """The median of sorted values."""
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


@lru_cache(maxsize=4096)
def regimes(durations_s: tuple[float, ...]) -> Regimes | None:
    """The two regimes that a session's runs fall into, or None."""
    if len(durations_s) < LEAST_RUNS:
        return None
    logs = np.sort(_logs(durations_s))
    for split in _splits(logs):
        found = _two(logs, split)
        if found is not None:
            return found
    return None


def _splits(logs: Floats) -> tuple[int, int]:
    """Sizes of the lower part of sorted ``logs``: by Otsu, and by Kittler & Illingworth (their eq. 15)."""
    n = len(logs)
    least = max(2, math.ceil(LEAST_WEIGHT * n))
    k = np.arange(least, n - least + 1)
    centred = logs - logs.mean()
    sums, squares = np.cumsum(centred)[k - 1], np.cumsum(centred**2)
    low, high = sums / k, -sums / (n - k)
    otsu = k * (n - k) * (high - low) ** 2
    floor = 1e-12 + 1e-6 * float(squares[-1]) / n
    low_variance = np.maximum(floor, squares[k - 1] / k - low**2)
    high_variance = np.maximum(floor, (squares[-1] - squares[k - 1]) / (n - k) - high**2)
    p = k / n
    error = p * np.log(low_variance / p**2) + (1 - p) * np.log(high_variance / (1 - p) ** 2)
    return int(k[np.argmax(otsu)]), int(k[np.argmin(error)])


def _two(logs: Floats, split: int) -> Regimes | None:
    centres = _middle(logs[:split]), _middle(logs[split:])
    gap = centres[1] - centres[0]
    if gap < math.log(LEAST_RATIO):
        return None
    valley = _valley(logs, centres)
    if valley is None:
        return None
    split = int(np.searchsorted(logs, valley))  # where the density says that they part
    if min(split, len(logs) - split) < LEAST_WEIGHT * len(logs):
        return None
    low, high = logs[:split], logs[split:]
    centres = _middle(low), _middle(high)
    deviations = np.sort(np.concatenate([np.abs(low - centres[0]), np.abs(high - centres[1])]))
    gap = centres[1] - centres[0]
    if gap < math.log(LEAST_RATIO) or gap < LEAST_GAP * 1.4826 * _middle(deviations):
        return None
    return Regimes(math.exp(centres[0]), math.exp(centres[1]), (len(logs) - split) / len(logs))


def _valley(ordered: Floats, centres: tuple[float, float]) -> float | None:
    """Where the density between two centres is lowest, if it is low there; counted in windows of a quarter
    of their distance."""
    gap = centres[1] - centres[0]
    places = centres[0] + gap * PLACES
    counts = np.searchsorted(ordered, places + gap / 8) - np.searchsorted(ordered, places - gap / 8)
    lowest = 1 + int(np.argmin(counts[1:-1]))
    peak = min(counts[0], counts[-1])
    certain = peak - counts[lowest] >= VALLEY_CERTAINTY * math.sqrt(peak + counts[lowest])
    return float(places[lowest]) if counts[lowest] < VALLEY * peak and certain else None


@lru_cache(maxsize=4096)
def warmup_cut(durations_s: tuple[float, ...]) -> int:
    """How many runs at the start still belong to the warm-up; more than half: it has not ended.

    Zero where there are too few runs to tell, or where the start is not clearly slower than the rest.
    """
    n = len(durations_s)
    if n < LEAST_RUNS:
        return 0
    logs = _logs(durations_s)
    batches = n // WARMUP_BATCH
    first = n - batches * WARMUP_BATCH  # runs that fill no batch are left out at the start
    medians = _block_medians(logs[first:], batches)
    left = np.arange(batches, 0, -1)
    sums, squares = np.cumsum(medians[::-1])[::-1], np.cumsum(medians[::-1] ** 2)[::-1]
    errors = (squares - sums**2 / left) / left**2
    # The last few always look calm: five batches must remain (White 1997).
    cut = int(np.argmin(errors[: batches - WARMUP_BATCH]))
    if cut == 0:
        return 0
    start, rest = medians[:cut], medians[cut:]
    excess = _middle(np.sort(start)) - _middle(np.sort(rest))
    error = float(rest.std(ddof=1)) * math.sqrt(1 / cut + 1 / len(rest))
    return first + cut * WARMUP_BATCH if excess > max(WARMUP_EXCESS, WARMUP_CERTAINTY * error) else 0
