"""Where a learning curve will end, with how uncertain that is.

Two ways.  :func:`extrapolate` knows nothing but the curve: an ensemble of saturating curves, weighed by how
well they explain it.  :class:`CurvePredictor` knows the curves that the study has finished, and learns from
them how such beginnings end; it takes the ensemble's answer as one of its inputs.

The ensemble is that of Domhan, Springenberg, Hutter 2015 ("Speeding up automatic hyperparameter optimization
of deep neural networks by extrapolation of learning curves"), with the three families that do most of the
work, ``c - a t**-k`` (power law), ``c - a exp(-k t)`` and ``c - a / log(e + k t)``.  They sample the
posterior by MCMC.  Here every family is linear in c and a once its rate k is given, so that part is
integrated exactly (Bayesian linear regression with a normal-inverse-gamma prior; Bishop 2006, section 3.3)
and only k is summed over a grid: the same posterior without a sampler, repeatable, in a millisecond.

Shares are handled as log odds, where differences near 1 count; other metrics, of any size and sign, in thirds
of what the curve has covered: as many as the log odds of an accuracy cover.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from results.records import Interval

Floats = NDArray[np.float64]

RATES = 24
"""Rates k per family, evenly spaced on a logarithmic scale."""

LEAST_EPOCHS = 3
"""Epochs from which on a curve is extrapolated."""

LEAST_CURVES = 8
"""Finished curves from which on a predictor learns from them."""

_CLOSEST = 1e-3
"""Accuracies are kept this far from 0 and 1, where log odds have no end."""

_FAMILIES: tuple[Callable[[Floats, float], Floats], ...] = (
    lambda t, k: t**-k,
    lambda t, k: np.exp(-k * t),
    lambda t, k: 1 / np.log(math.e + k * t),
)
_SPANS = ((0.1, 3.0), (0.01, 2.0), (0.1, 30.0))


@dataclass(frozen=True)
class Mixture:
    """A mixture of Student distributions of where a curve ends; modelled, never measured.

    Attributes:
        weights: Of the parts, ``(m,)``, summing to 1.
        means: ``(m,)``, on the scale of log odds where ``proportion``.
        scales: ``(m,)``.
        freedom: Degrees of freedom of all parts.
        proportion: Whether the metric is a share.
    """

    weights: tuple[float, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    freedom: float
    proportion: bool = True

    def probability_above(self, bar: float) -> float:
        """Probability that the curve ends above ``bar``."""
        z = (_forward(np.array([bar]), self.proportion)[0] - np.array(self.means)) / np.array(self.scales)
        return float(np.array(self.weights) @ stats.t.sf(z, self.freedom))

    def interval(self, confidence: float = 0.9) -> Interval:
        """Median and central interval, on the scale of the metric."""
        low, middle, high = (self._quantile(q) for q in (0.5 - confidence / 2, 0.5, 0.5 + confidence / 2))
        ends = [float(_backward(np.array([x]), self.proportion)[0]) for x in (low, middle, high)]
        return Interval(*ends)

    def _quantile(self, share: float) -> float:
        """By bisection; the parts' own quantiles enclose that of the mixture."""
        means, scales, weights = (np.array(v) for v in (self.means, self.scales, self.weights))
        each = means + scales * stats.t.ppf(share, self.freedom)
        low, high = float(each.min()), float(each.max())
        for _ in range(50):
            middle = (low + high) / 2
            below = float(weights @ stats.t.cdf((middle - means) / scales, self.freedom))
            low, high = (middle, high) if below < share else (low, middle)
        return (low + high) / 2


def _forward(values: Floats, proportion: bool) -> Floats:
    if not proportion:
        return np.asarray(values, dtype=np.float64)
    clipped = np.clip(values, _CLOSEST, 1 - _CLOSEST)
    return np.asarray(np.log(clipped / (1 - clipped)), dtype=np.float64)


def _backward(values: Floats, proportion: bool) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)) if proportion else values, dtype=np.float64)


def is_usable(curve: Sequence[float]) -> bool:
    """Whether a curve is long enough to be extrapolated, and all of it are numbers."""
    return len(curve) >= LEAST_EPOCHS and all(math.isfinite(y) for y in curve)


def extrapolate(curve: Sequence[float], epochs: int, *, proportion: bool = True) -> Mixture | None:
    """Where a curve will be after ``epochs`` epochs, by the ensemble.

    Args:
        curve: Score after each epoch so far, ``(n,)``.
        epochs: Number of epochs of the whole training; at least n.
        proportion: Whether scores are shares.

    Returns:
        None for a curve that is too short, or has values that are not finite.
    """
    return _ensemble(tuple(curve), epochs, proportion) if is_usable(curve) else None


@functools.lru_cache(maxsize=8192)  # predictors that learn from one more curve ask for the same ones again
def _ensemble(curve: tuple[float, ...], epochs: int, proportion: bool) -> Mixture:
    y = _forward(np.array(curve), proportion)
    unit = 1.0 if proportion else _unit(y)
    y = y / unit
    parts = [
        _posterior(family, rate, y, epochs)
        for family, (low, high) in zip(_FAMILIES, _SPANS, strict=True)
        for rate in np.geomspace(low, high, RATES)
    ]
    evidence = np.array([part[0] for part in parts])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    kept = np.flatnonzero(weights > 1e-6)
    return Mixture(
        tuple(weights[kept] / weights[kept].sum()),
        tuple(unit * parts[i][1] for i in kept),
        tuple(unit * parts[i][2] for i in kept),
        freedom=2 * _SHAPE + len(y),
        proportion=proportion,
    )


def _unit(curve: Floats) -> float:
    """What a curve of no shares is told in: a third of its extent, or its size if it is flat."""
    return float(np.ptp(curve) / 3 or abs(curve[-1]) or 1.0)


_SHAPE = 1.0
_NOISE = 0.15
"""Prior standard deviation of a score about its curve, in log odds: about 3 points of accuracy at 0.7."""
_WIDE = 20.0
"""Prior standard deviation of c and a in units of the noise."""


def _posterior(
    family: Callable[[Floats, float], Floats], rate: float, y: Floats, epochs: int
) -> tuple[float, float, float]:
    """Log evidence of one curve, and location and scale of its value at the end (Student).

    Prior: (c, a) normal about (last value, 0) with standard deviation :data:`_WIDE` times the noise's;
    the noise's variance inverse gamma with shape :data:`_SHAPE` and mode near ``_NOISE**2``.
    """
    t = np.arange(1, len(y) + 1, dtype=np.float64)
    x = np.column_stack([np.ones_like(t), -family(t, rate)])
    at_end = np.array([1.0, -float(family(np.array([float(epochs)]), rate)[0])])
    offset = y[-1]
    precision0 = np.eye(2) / _WIDE**2
    precision = precision0 + x.T @ x
    mean = np.linalg.solve(precision, x.T @ (y - offset))
    shape = _SHAPE + len(y) / 2
    scale0 = _SHAPE * _NOISE**2
    residual = float((y - offset) @ (y - offset) - mean @ precision @ mean)
    scale = scale0 + max(residual, 0.0) / 2
    evidence = -0.5 * np.linalg.slogdet(precision)[1] - shape * math.log(scale)
    spread = math.sqrt(scale / shape * (1 + at_end @ np.linalg.solve(precision, at_end)))
    return float(evidence), float(offset + at_end @ mean), spread


class CurvePredictor:
    """Learns from finished curves of the same length how beginnings end.

    Ridge regression of the final value on features of the beginning (the last value, the mean of the last
    three, the slope over the last half, the ensemble's answer), its penalty chosen by leave-one-out error.
    The uncertainty is that of the leave-one-out residuals: Student with their spread, so that it holds as far
    as new curves are like the finished ones (as in the jackknife of Barber et al. 2021, "Predictive
    inference with the jackknife+").

    Args:
        finished: Whole curves, each ``(epochs,)``; those that are not all numbers, or of another length
            than most, are left out.
        proportion: Whether scores are shares.
    """

    def __init__(self, finished: Sequence[Sequence[float]], *, proportion: bool = True) -> None:
        self.proportion = proportion
        sound = [tuple(curve) for curve in finished if is_usable(curve)]
        lengths = [len(curve) for curve in sound]
        self.epochs = max(set(lengths), key=lambda n: (lengths.count(n), n)) if lengths else 0
        self._curves = [curve for curve in sound if len(curve) == self.epochs]
        self._fits: dict[int, _Ridge] = {}

    @property
    def curves(self) -> int:
        """Number of curves that it learns from."""
        return len(self._curves)

    def predict(self, curve: Sequence[float]) -> Mixture | None:
        """Where a curve of the finished ones' length will end.

        Returns:
            None for a curve that cannot be extrapolated, while fewer than :data:`LEAST_CURVES` are
            finished, or where nothing is left to predict.
        """
        epoch = len(curve)
        if not is_usable(curve) or self.curves < LEAST_CURVES or epoch >= self.epochs:
            return None
        if epoch not in self._fits:
            rows = np.array([self._features(known[:epoch]) for known in self._curves])
            ends = _forward(np.array([known[-1] for known in self._curves]), self.proportion)
            self._fits[epoch] = _Ridge.fit(rows, ends)
        ridge = self._fits[epoch]
        mean, scale = ridge.predict(self._features(curve))
        return Mixture((1.0,), (mean,), (scale,), freedom=max(1.0, ridge.freedom), proportion=self.proportion)

    def _features(self, beginning: Sequence[float]) -> Floats:
        y = _forward(np.array(beginning), self.proportion)
        half = y[len(y) // 2 :]
        slope = (half[-1] - half[0]) / max(1, len(half) - 1)
        ensemble = extrapolate(beginning, self.epochs, proportion=self.proportion)
        middle = y[-1] if ensemble is None else float(np.array(ensemble.weights) @ np.array(ensemble.means))
        return np.array([y[-1], y[-3:].mean(), slope, middle])


@dataclass(frozen=True)
class _Ridge:
    """A ridge regression with the spread of its leave-one-out residuals."""

    mean: Floats
    std: Floats
    weights: Floats
    offset: float
    inverse: Floats
    spread: float
    freedom: float

    @classmethod
    def fit(cls, rows: Floats, ends: Floats) -> _Ridge:
        """Fits ``(n, p)`` to ``(n,)`` with the penalty of the least leave-one-out error."""
        mean, std = rows.mean(axis=0), rows.std(axis=0)
        std = np.where(std > 0, std, 1.0)
        x = (rows - mean) / std
        offset = float(ends.mean())
        best: tuple[float, Floats, Floats, float] | None = None
        for penalty in np.geomspace(1e-2, 1e2, 9):
            inverse = np.linalg.inv(x.T @ x + penalty * np.eye(x.shape[1]))
            weights = inverse @ x.T @ (ends - offset)
            leverage = np.einsum("ij,jk,ik->i", x, inverse, x) + 1 / len(x)
            left_out = (ends - offset - x @ weights) / (1 - np.minimum(leverage, 0.99))
            spread = math.sqrt(float(left_out @ left_out) / len(x))
            if best is None or spread < best[0]:
                best = spread, weights, inverse, float(leverage.sum())
        if best is None:
            raise ValueError("no penalty was tried")
        spread, weights, inverse, used = best
        least = 1e-6 * (float(ends.std()) or 1.0)
        return cls(mean, std, weights, offset, inverse, max(spread, least), len(x) - used)

    def predict(self, row: Floats) -> tuple[float, float]:
        """Location and scale of the end of one beginning ``(p,)``; wider far from the finished ones."""
        x = (row - self.mean) / self.std
        far = max(0.0, float(x @ self.inverse @ x) - 1.0)
        return self.offset + float(x @ self.weights), self.spread * math.sqrt(1 + far)
