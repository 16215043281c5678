"""How far off a surrogate's predictions were, and so how wide they should have been."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FACTORS = np.geomspace(1.0, 2.0, 9)
"""Factors of the standard deviation of the surrogate, of which the likeliest is taken.

None is below 1: a surrogate that was right a few times would else be sure of the neighbourhood that it knows,
and search nowhere else (under a hard limit it was then behind random search after 50 trainings).
"""

TAIL = 4.0
"""Degrees of freedom of Student's distribution of the errors."""

RECENT = 60
FEWEST = 5
"""Predictions by which the spread is judged: the most recent ones, and the fewest that say anything."""


def likeliest_factor(
    errors: Sequence[float] | NDArray[np.float64],
    deviations: Sequence[float] | NDArray[np.float64],
    noises: Sequence[float] | NDArray[np.float64],
) -> float:
    """Factor of the surrogate's own standard deviation under which the latest errors are likeliest.

    The noise of a training stays as it is: that two trainings of one network differ is no error of the
    surrogate, and no prediction is surer than that.  Errors are Student's with :data:`TAIL` degrees of
    freedom, so that one network that did not learn at all, far off as its prediction was, does not widen all
    others (Lange, Little, Taylor 1989).

    Args:
        errors: What came out less what was predicted, from the oldest on, shape ``(n,)``.
        deviations: Standard deviations as predicted, that of the noise included, ``(n,)``.
        noises: Standard deviations of the noise alone, ``(n,)``.
    """
    if len(errors) < FEWEST:
        return 1.0
    error, deviation, noise = (np.square(np.asarray(v)[-RECENT:]) for v in (errors, deviations, noises))
    variance = noise + np.square(FACTORS)[:, None] * (deviation - noise)
    surprise = (TAIL + 1.0) * np.log1p(error / (TAIL * variance)) + np.log(variance)
    return float(FACTORS[surprise.sum(axis=1).argmin()])
