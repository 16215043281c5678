"""Intervals of scores, from what was stored of them.

A share of independent examples has a Wilson interval.  Any other metric has a BCa bootstrap interval over the
examples (Efron 1987, "Better Bootstrap Confidence Intervals", eq. 2.3), whose samples were drawn when it was
scored (:mod:`search.bootstrap`): a percentile interval, corrected for the bias of the samples and for a
spread that grows with the value.  With B samples t*, of which a share p lies below the value (half of those
equal to it with them), and the jackknife values t_i with their mean t.::

    z0 = ndtri(p)        a = sum((t. - t_i)^3) / (6 sum((t. - t_i)^2)^1.5)
    ends = quantiles of t* at ndtr(z0 + (z0 + z) / (1 - a (z0 + z))),  z = ndtri((1 -+ confidence) / 2)

A score with neither has no interval: its ends are infinite, so that nothing is certain by it.  So it is where
all samples are equal, as for an error of 0 on every example: they tell nothing then, and a zero width would
say that the figure is known for certain.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

from results.records import Interval, Score

CONFIDENCE = 0.95


def interval(score: Score, confidence: float = CONFIDENCE) -> Interval:
    """A score with its interval over the examples, infinite where it has none."""
    if score.proportion and score.examples > 0 and 0 <= score.value <= 1:
        return wilson(score, confidence)
    return _bca(score, confidence)


def wilson(score: Score, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a share of independent examples (Wilson 1927, no continuity correction)."""
    p, n = score.value, score.examples
    z2 = float(special.ndtri(0.5 + confidence / 2)) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2) / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Interval(max(0.0, min(p, centre - half)), p, min(1.0, max(p, centre + half)))


def why_no_interval(score: Score) -> str:
    """Why a score has no interval; empty where it has one."""
    if interval(score).is_known:
        return ""
    if score.resampled:
        return "every sample of the examples gives the same value"
    return score.no_interval or "nothing was stored to derive one from"


@lru_cache(maxsize=4096)
def _bca(score: Score, confidence: float) -> Interval:
    value, samples = score.value, np.sort(np.array(score.resampled))
    if len(samples) == 0 or samples[0] == samples[-1]:
        return Interval(-math.inf, value, math.inf)
    below = float((samples < value).mean() + (samples == value).mean() / 2)
    least = 0.5 / len(samples)
    z0 = float(special.ndtri(min(max(below, least), 1 - least)))
    a = _acceleration(score.left_out)
    z = z0 + special.ndtri(np.array([1 - confidence, 1 + confidence]) / 2)
    low, high = np.quantile(samples, special.ndtr(z0 + z / np.maximum(1e-6, 1 - a * z)), method="weibull")
    return Interval(min(float(low), value), value, max(float(high), value))


def _acceleration(left_out: tuple[float, ...]) -> float:
    deviations = np.mean(left_out) - np.array(left_out) if left_out else np.zeros(1)
    squares = float((deviations**2).sum())
    return float((deviations**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
