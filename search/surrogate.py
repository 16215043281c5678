"""What an untried architecture is expected to score, and how unsure that is.

:class:`GaussianProcess` measures how alike two architectures are in two ways at once: by the features of
their graphs (Matern 5/2, Rasmussen and Williams 2006, eq. 4.17) and by the substructures that they share:
paths of operations or, without anything better, decisions (exponential kernel of the city-block distance).
:class:`Ensemble` averages it with randomised trees (Geurts et al. 2006), which follow the jumps that a smooth
kernel rounds off.  :class:`SuccessModel` gives the probability that a candidate runs at all.

Accuracy is learned from graphs; costs and failures from the encoding, too
(:attr:`search.inputs.Inputs.as_run`).

Everything is deterministic for equal data and seed, and runs on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize
from scipy.spatial.distance import cdist, pdist
from sklearn import config_context
from sklearn.tree import ExtraTreeRegressor

from search.inputs import Inputs

Floats = NDArray[np.float64]

SUBSET = 150
"""Trials on which hyperparameters are fitted; the cost of a fit grows with their cube."""

TREES = 40
SUCCESS_TREES = 60
"""Trees of an ensemble, and of the model of what runs."""


@dataclass(frozen=True)
class Prediction:
    """Normal distributions of what will be observed.

    Attributes:
        mean: Shape ``(n,)``.
        deviation: Standard deviation, that of the noise included, shape ``(n,)``.
        noise: Standard deviation of an observation around the function; 0 for a function without noise.
    """

    mean: Floats
    deviation: Floats
    noise: float = 0.0

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Prediction:
        """Some of them."""
        return Prediction(self.mean[rows], self.deviation[rows], self.noise)

    def rescaled(self, factor: float) -> Prediction:
        """With another deviation of the function; noise stays what it is."""
        function = self.deviation**2 - self.noise**2
        return Prediction(self.mean, np.sqrt(self.noise**2 + factor**2 * function), self.noise)


# --------------------------------------------------------------------------- Gaussian process


class GaussianProcess:
    """Regression with a constant mean and the kernel::

        k(a, b) = v * [w * matern52(|features a - features b| / l) + (1 - w) * exp(-unshared(a, b) / d)]

    plus noise ``v * n``.  Features are standardised and their distance is divided by the square root of
    their number.  ``l, d, w, n`` maximise the marginal likelihood (Rasmussen and Williams 2006, eq. 5.8) with
    weak priors that keep them in range, ``v`` following in closed form.

    Args:
        inputs: Where it was observed, ``n`` rows.
        targets: Observations, shape ``(n,)``.
    """

    def __init__(self, inputs: Inputs, targets: Floats) -> None:
        self._centre = inputs.features.mean(axis=0)
        spread = inputs.features.std(axis=0)
        self._used = spread > 1e-12 * (1.0 + np.abs(self._centre))
        self._scale = np.where(self._used, spread, 1.0)
        self._root = np.sqrt(max(1, int(self._used.sum())))
        self._inputs = inputs
        self._offset = float(targets.mean())
        self._unit = float(targets.std()) or 1.0
        self._targets = (targets - self._offset) / self._unit
        self._parameters = self._fitted()
        self._factor, self._weights, self._variance = self._solved(self._parameters)

    def predict(self, inputs: Inputs) -> Prediction:
        """Posterior of the noise-free function (Rasmussen and Williams 2006, eqs. 2.25-2.26)."""
        cross = _kernel(*self._distances(inputs, self._inputs), self._parameters)  # (n, told)
        mean = cross @ self._weights
        solved = linalg.solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = self._variance * np.maximum(1.0 - np.sum(solved**2, axis=0), 1e-9)
        return Prediction(self._offset + self._unit * mean, self._unit * np.sqrt(variance))

    @property
    def noise(self) -> float:
        """Standard deviation of an observation around the function."""
        return float(self._unit * np.sqrt(self._variance * np.exp(self._parameters[3])))

    def _distances(self, a: Inputs, b: Inputs) -> tuple[Floats, Floats]:
        features = cdist(self._standardised(a), self._standardised(b)) / self._root
        return features, cdist(a.structures, b.structures, "cityblock") / 2.0

    def _standardised(self, inputs: Inputs) -> Floats:
        return np.asarray(((inputs.features - self._centre) / self._scale)[:, self._used])

    def _fitted(self) -> Floats:
        rows = np.arange(len(self._inputs))
        if len(rows) > SUBSET:  # the latest, among which the search decides, and an even spread of the rest
            rows = np.r_[
                np.linspace(0, len(rows) - SUBSET // 2 - 1, SUBSET // 2).astype(np.int64),
                rows[-SUBSET // 2 :],
            ]
        part = self._inputs.take(rows)
        features = pdist(self._standardised(part)) / self._root
        edits = pdist(part.structures, "cityblock") / 2.0
        targets = self._targets[rows]
        found = optimize.minimize(
            _negative_evidence,
            PRIOR_MEANS,
            args=(features, edits, targets),
            method="L-BFGS-B",
            jac=True,
            bounds=BOUNDS,
            options={"maxiter": 20},
        )
        return np.asarray(found.x, dtype=np.float64)

    def _solved(self, parameters: Floats) -> tuple[Floats, Floats, float]:
        kernel = _kernel(*self._distances(self._inputs, self._inputs), parameters)
        kernel[np.diag_indices_from(kernel)] += np.exp(parameters[3]) + JITTER
        factor = linalg.cholesky(kernel, lower=True, check_finite=False)
        weights = linalg.cho_solve((factor, True), self._targets, check_finite=False)
        return factor, weights, _variance(self._targets, weights)


JITTER = 1e-8
PRIOR_MEANS = np.array([np.log(1.0), np.log(3.0), 0.0, np.log(0.02)])
"""Of log length of features, log length of edits, logit of the share of features, log of the noise."""
PRIOR_DEVIATIONS = np.array([1.0, 1.0, 1.5, 1.5])
LEAST_NOISE = 0.006
"""Least variance of an observation, as a share of that of all: what was never told twice shows no noise, but
two trainings of one network differ."""
BOUNDS = [(m - 4 * s, m + 4 * s) for m, s in zip(PRIOR_MEANS, PRIOR_DEVIATIONS, strict=True)]
BOUNDS[3] = (float(np.log(LEAST_NOISE)), BOUNDS[3][1])


PRIOR_ROWS = 1.0
"""Weight, in observations, of the belief that standardised targets have variance 1: equal observations, or a
single one, say little about how far others lie from them."""


def _variance(targets: Floats, weights: Floats) -> float:
    return (float(targets @ weights) + PRIOR_ROWS) / (len(targets) + PRIOR_ROWS)


def _kernel(features: Floats, edits: Floats, parameters: Floats) -> Floats:
    scaled = np.sqrt(5.0) / np.exp(parameters[0]) * features
    matern = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
    share = 1.0 / (1.0 + np.exp(-parameters[2]))
    return np.asarray(share * matern + (1.0 - share) * np.exp(-edits / np.exp(parameters[1])))


def _negative_evidence(
    parameters: Floats, features: Floats, edits: Floats, targets: Floats
) -> tuple[float, Floats]:
    """Minus log marginal likelihood with the variance profiled out, minus log prior; and its gradient.

    Args:
        parameters: As in :data:`PRIOR_MEANS`, shape ``(4,)``.
        features: Distances of features between all pairs, as ``pdist`` orders them, shape ``(n(n-1)/2,)``.
        edits: Distances of structures, likewise.
        targets: Standardised observations, shape ``(n,)``.
    """
    length, distance, share = np.exp(parameters[0]), np.exp(parameters[1]), 1 / (1 + np.exp(-parameters[2]))
    noise, n = np.exp(parameters[3]), len(targets)
    scaled = features * (np.sqrt(5.0) / length)
    decay = np.exp(-scaled)
    matern = (1.0 + scaled + scaled**2 / 3.0) * decay
    exponential = np.exp(edits / -distance)
    pairs = np.triu_indices(n, 1)
    kernel = np.zeros((n, n))
    kernel[pairs] = share * matern + (1.0 - share) * exponential
    kernel[np.diag_indices(n)] = 1.0 + noise + JITTER
    # The transpose is laid out as LAPACK wants it: the lower triangle is factored and inverted in place.
    factor, _ = linalg.lapack.dpotrf(kernel.T, lower=1, overwrite_a=1, clean=0)
    determinant = 2.0 * float(np.log(np.diag(factor)).sum())
    weights, _ = linalg.lapack.dpotrs(factor, targets, lower=1)
    variance = _variance(targets, weights)
    inverse, _ = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    outer = inverse.T[pairs] - weights[pairs[0]] * weights[pairs[1]] / variance
    slopes = [  # of the kernel's pairs; its diagonal depends on the noise alone
        share * (scaled**2 * (1.0 + scaled) / 3.0) * decay,
        (1.0 - share) * exponential * edits / distance,
        share * (1.0 - share) * (matern - exponential),
    ]
    trace = float(np.trace(inverse)) - float(weights @ weights) / variance
    gradient = np.array([*(float(outer @ slope) for slope in slopes), 0.5 * noise * trace])
    evidence = 0.5 * (n + PRIOR_ROWS) * np.log(variance) + 0.5 * determinant
    off = (parameters - PRIOR_MEANS) / PRIOR_DEVIATIONS
    return evidence + 0.5 * float(off @ off), gradient + off / PRIOR_DEVIATIONS


# --------------------------------------------------------------------------- ensemble


class Trees:
    """Mean of extremely randomised trees (Geurts et al. 2006), the numbers of scikit-learn's ``ExtraTrees``.

    They are grown one by one: for some hundred trials an ensemble's own checks take longer than its trees.

    Args:
        columns: Where it was observed, shape ``(n, k)``.
        targets: Observations, shape ``(n,)``.
        number: Trees.
        max_features: Share of the columns among which a split is looked for, or ``"sqrt"``.
        seed: For the splits.
    """

    def __init__(
        self, columns: Floats, targets: Floats, number: int, max_features: float | str, seed: int
    ) -> None:
        observed = np.ascontiguousarray(targets, dtype=np.float64)[:, None]
        seeds = np.random.RandomState(seed).randint(np.iinfo(np.int32).max, size=number)
        narrow = np.ascontiguousarray(columns, dtype=np.float32)
        with config_context(skip_parameter_validation=True):
            self._grown = [
                ExtraTreeRegressor(max_features=max_features, random_state=int(s))
                .fit(narrow, observed, check_input=False)
                .tree_
                for s in seeds
            ]

    def predict(self, columns: Floats) -> Floats:
        """Means, shape ``(n,)``."""
        narrow = np.ascontiguousarray(columns, dtype=np.float32)
        total = np.zeros(len(narrow))
        for tree in self._grown:
            total += tree.predict(narrow)[:, 0]
        return total / len(self._grown)


class Ensemble:
    """Average of a Gaussian process and randomised trees.

    The variance is that of the process and its noise plus that between the members' means (law of total
    variance): what one training will give, not what many would on average, is what counts on a front.

    Args:
        inputs: Where it was observed.
        targets: Observations, shape ``(n,)``.
        seed: For the trees.
    """

    def __init__(self, inputs: Inputs, targets: Floats, seed: int) -> None:
        self._process = GaussianProcess(inputs, targets)
        self._trees = Trees(_columns(inputs), targets, TREES, 0.5, seed)

    def predict(self, inputs: Inputs) -> Prediction:
        """Mean and standard deviation."""
        process = self._process.predict(inputs)
        means = np.array([process.mean, self._trees.predict(_columns(inputs))])
        noise = self._process.noise
        variance = process.deviation**2 + noise**2 + means.var(axis=0)
        return Prediction(means.mean(axis=0), np.sqrt(variance), noise)


def _columns(inputs: Inputs) -> Floats:
    return np.hstack([inputs.features, inputs.structures])


class SuccessModel:
    """Probability that a candidate runs, from those that did and those that failed.

    Args:
        inputs: What was tried.
        succeeded: Whether it ran, shape ``(n,)``.
        seed: For the trees.
    """

    def __init__(self, inputs: Inputs, succeeded: NDArray[np.bool_], seed: int) -> None:
        self._share = (succeeded.sum() + 1.0) / (len(succeeded) + 1.0)
        self._trees = None
        if not succeeded.all() and succeeded.any():  # of 0 and 1, least squares splits as the Gini index does
            self._trees = Trees(_columns(inputs), succeeded.astype(np.float64), SUCCESS_TREES, "sqrt", seed)

    def predict(self, inputs: Inputs) -> Floats:
        """Probabilities, shape ``(n,)``; never exactly 0 or 1."""
        if self._trees is None:
            return np.full(len(inputs), self._share)
        return 0.01 + 0.98 * self._trees.predict(_columns(inputs))
