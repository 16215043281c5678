"""Whether files that were measured before the training took the time of the trained ones.

Candidates are screened with untrained files and confirmed with trained ones, so every confirmed candidate
says how the two differ on its target: the ratio of the medians, with the variances of both logarithms added.
Over three and more candidates the mean logarithm has a t-interval of its own.

What was confirmed was chosen by its screen, and the best of noisy figures look faster than they are: a ratio
somewhat above 1 may be that alone.  ``python -m benchmarks.untrained`` measures both in turns instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from results.evaluations import History
from results.records import Interval, Measurement, Target
from results.statistics import CONFIDENCE, judge, latency

MARGIN = 0.03
"""Difference up to which two times count as the same."""

LEAST_CANDIDATES = 3
SHOWN = 6

Equivalence = Literal["equivalent", "different", "unclear"]


@dataclass(frozen=True)
class Effect:
    """What training did to the time of a candidate's file.

    Attributes:
        trial: Number of the trial.
        ratio: Median time of the trained file over that of the untrained one.
    """

    trial: int
    ratio: Interval


def equivalence(ratio: Interval) -> Equivalence:
    """Equivalent if the interval lies inside 1 +- :data:`MARGIN`, different if it lies outside."""
    if ratio.low >= 1 - MARGIN and ratio.high <= 1 + MARGIN:
        return "equivalent"
    return "different" if ratio.low > 1 + MARGIN or ratio.high < 1 - MARGIN else "unclear"


def effects(known: History, target: Target) -> list[Effect]:
    """Of every candidate that was validly measured before and after its training under one environment."""
    found = []
    for trial in known.trials:
        before, after = (
            _valid(figures.get(target.name)) for figures in (trial.measurements, trial.confirmed)
        )
        if before is None or after is None or before.environment != after.environment:
            continue
        untrained, trained = (latency(measurement, 0.5) for measurement in (before, after))
        if untrained is not None and trained is not None:
            found.append(Effect(trial.trial.number, _ratio(trained, untrained)))
    return found


def _valid(measurement: Measurement | None) -> Measurement | None:
    return None if measurement is None or judge(measurement).state == "invalid" else measurement


def mean_effect(found: Sequence[Effect]) -> Interval | None:
    """Geometric mean of the ratios with its t-interval over the candidates; None for fewer than three."""
    if len(found) < LEAST_CANDIDATES:
        return None
    logs = np.log([effect.ratio.value for effect in found])
    mean, error = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs))
    half = float(special.stdtrit(len(logs) - 1, 0.5 + CONFIDENCE / 2)) * error
    return Interval(math.exp(mean - half), math.exp(mean), math.exp(mean + half))


def note(known: History, target: Target) -> str:
    """What a report says of it; empty where nothing was measured both ways."""
    found = effects(known, target)
    if not found:
        return ""
    mean = mean_effect(found)
    text = "trained files against untrained ones (p50): "
    if mean is None:
        singles = ", ".join(f"trial {e.trial} {_percent(e.ratio)}" for e in found)
        return text + singles + _conclusion([equivalence(e.ratio) for e in found])
    text += f"{_percent(mean)} in the mean over {len(found)} candidates" + _conclusion([equivalence(mean)])
    odd = [f"trial {e.trial} {_percent(e.ratio)}" for e in found if equivalence(e.ratio) == "different"]
    return text + (f"; certainly not within it: {', '.join(odd[:SHOWN])}" if odd else "")


def _conclusion(judged: Sequence[Equivalence]) -> str:
    margin = f"{100 * MARGIN:.0f} %"
    if "different" in judged:
        return (
            f", **beyond {margin}: figures here that are not confirmed are off by about that** (the best of "
            "many noisy screens look faster than they are, too)"
        )
    if "unclear" in judged:
        return f"; whether that is within {margin} cannot be told"
    return f", within {margin}: the same"


def _ratio(after: Interval, before: Interval) -> Interval:
    mean = math.log(after.value / before.value)
    half = math.hypot(*(math.log(each.high / each.value) for each in (after, before)))
    return Interval(math.exp(mean - half), math.exp(mean), math.exp(mean + half))


def _percent(ratio: Interval) -> str:
    value, low, high = (100 * (x - 1) for x in (ratio.value, ratio.low, ratio.high))
    return f"{value:+.1f} % [{low:+.1f}, {high:+.1f}]"
