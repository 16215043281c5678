"""Bootstrap samples of a metric over the examples of a split: what its interval is derived from.

Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapters 6 and 14; :mod:`results.scores` makes
the interval.  The images of one example are drawn together (Davison & Hinkley 1997, "Bootstrap Methods and
their Application", 3.8), because they are not independent.  The draws depend on nothing but the number of
examples, so the same outputs give the same interval to the bit (or none, if a slow metric runs out of time),
and candidates are compared on the same samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from results.records import Score

if TYPE_CHECKING:
    from search.tasks import Measure, Split

SAMPLES = 1000
"""The least for the ends of a 95 % interval (Efron & Tibshirani 1993, 14.3)."""

PARTS = 100
"""Parts of the examples of which each is left out once; single examples where there are no more."""

LEAST_EXAMPLES = 20
"""Below them intervals are too narrow: at 20, those of a mean of normal values cover 92 %."""

UNDEFINED = 0.05
"""Share of the samples on which a metric may raise or give no finite number; they are left out."""

LIMIT_S = 20.0
"""Most CPU time that the samples of one score may take; ten times as much by the clock on the wall."""

_DIGITS = 9


class _NoInterval(Exception):
    """Carries the reason."""


def with_samples(score: Score, measure: Measure, outputs: NDArray[np.float32], split: Split) -> Score:
    """A score with what its interval follows from, or with the reason why it has no interval.

    Args:
        score: Value of the metric on all examples.
        measure: The metric.
        outputs: Of the network, ``(variants * n, outputs)``.
        split: Targets of the same rows.
    """
    if score.examples < LEAST_EXAMPLES:
        return replace(score, no_interval=f"it has less than {LEAST_EXAMPLES} examples")
    rng = np.random.default_rng((score.examples, 1))
    metric = _Bounded(measure, outputs, split)
    try:
        drawn = (rng.integers(score.examples, size=score.examples) for _ in range(SAMPLES))
        return replace(score, resampled=metric.values(drawn, SAMPLES), left_out=metric.left_out(rng))
    except _NoInterval as reason:
        return replace(score, no_interval=str(reason))


class _Bounded:
    """A metric on chosen examples, until it has taken too long or was undefined too often."""

    def __init__(self, measure: Measure, outputs: NDArray[np.float32], split: Split) -> None:
        self._measure, self._outputs, self._labels = measure, outputs, split.labels
        self._first_rows = split.examples * np.arange(split.variants)[:, None]
        self._examples = split.examples
        self._began_s = time.thread_time(), time.monotonic()

    def values(self, draws: Iterator[NDArray[Any]], count: int) -> tuple[float, ...]:
        """Value on each of ``count`` draws of examples, without those on which it is undefined."""
        found: list[float] = []
        for number, examples in enumerate(draws, start=1):
            value = self._value(examples)
            if math.isfinite(value):
                found.append(float(f"{value:.{_DIGITS}g}"))
            elif number - len(found) > UNDEFINED * count:
                raise _NoInterval(f"it is undefined on more than {UNDEFINED:.0%} of the samples of examples")
            self._check_time()
        return tuple(found)

    def left_out(self, rng: np.random.Generator) -> tuple[float, ...]:
        """Value without each part of the examples."""
        parts = np.array_split(rng.permutation(self._examples), min(PARTS, self._examples))
        everything = np.arange(self._examples)
        return self.values((np.delete(everything, part) for part in parts), len(parts))

    def _value(self, examples: NDArray[Any]) -> float:
        rows = (self._first_rows + examples).ravel()
        try:
            return float(self._measure(self._outputs[rows], self._labels[rows]))
        except Exception:  # noqa: BLE001  the user's own code may raise anything where classes are missing
            return math.nan

    def _check_time(self) -> None:
        cpu_s, wall_s = time.thread_time() - self._began_s[0], time.monotonic() - self._began_s[1]
        if cpu_s > LIMIT_S or wall_s > 10 * LIMIT_S:
            raise _NoInterval(f"{SAMPLES:,} samples of examples take it more than {LIMIT_S:.0f} s")
