"""How well one way of scoring candidates ranks them as another does: Kendall's tau with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats

from results.records import Interval

LEAST = 5
"""Pairs of scores below which no interval can be stated."""

_Z95 = 1.959963984540054


def kendall(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    """Kendall's tau-b of two scores of the same candidates, with its 95 % interval.

    The interval is normal on Fisher's scale, atanh(tau), with variance 0.437 / (n - 4) (Fieller, Hartley,
    Pearson 1957, "Tests for rank correlation coefficients", eq. 12).  At the ends of the scale, where that
    interval would have no width, tau counts as half a step (one pair of n (n - 1) / 2 turned) short of it.

    Args:
        first: Scores ``(n,)``.
        second: Scores ``(n,)`` of the same candidates in the same order.

    Returns:
        None for fewer than :data:`LEAST` candidates, or where one of the two scores is the same for all.
    """
    n = len(first)
    if n < LEAST:
        return None
    tau = float(stats.kendalltau(first, second).statistic)
    if not math.isfinite(tau):
        return None
    most = 1 - 2 / (n * (n - 1))
    middle = math.atanh(min(most, max(-most, tau)))
    half = _Z95 * math.sqrt(0.437 / (n - 4))
    return Interval(min(tau, math.tanh(middle - half)), tau, max(tau, math.tanh(middle + half)))
