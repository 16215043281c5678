"""The rungs of lower fidelity, and how a network gets from one to the next."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from results.errors import ConfigError
from results.records import Fidelity

LEVEL = 0.05
"""Probability to reach the front below which a network is not promoted."""

KNOWN = 0.5
"""Share of a rung's expected networks that are told before the best of them are promoted."""


@dataclass(frozen=True)
class Ladder:
    """The rungs.

    Attributes:
        rungs: Fidelity that a candidate has *had* at each rung, the full one last.
        reduction: One of so many candidates of a rung goes on to the next.
        brackets: Rungs at which candidates begin: 1 for successive halving, up to ``len(rungs)``.
        keep_weights: Whether a promoted network goes on with its weights instead of fresh ones.
        level: Probability to reach the front below which a network is not promoted; 0 for promoting
            whatever is among the best of its rung.
        known: Share of a rung's expected networks that are told before the best of them are promoted.

    Raises:
        ConfigError: If rungs do not rise, or a number is out of range.
    """

    rungs: tuple[Fidelity, ...]
    reduction: int = 3
    brackets: int = 1
    keep_weights: bool = True
    level: float = LEVEL
    known: float = KNOWN

    def __post_init__(self) -> None:
        if not self.rungs or self.reduction < 2 or not 1 <= self.brackets <= len(self.rungs):
            raise ConfigError(
                f"a ladder needs rungs, a reduction >= 2 and 1 to {len(self.rungs)} brackets, got {self}"
            )
        if not 0 < self.known <= 1:
            raise ConfigError(
                f"the share of a rung that is to be known is above 0 and at most 1, got {self.known}"
            )
        if not 0 <= self.level < 0.5:
            raise ConfigError(
                f"a network is not promoted below a probability from 0 to 0.5, got {self.level}"
            )
        for low, high in itertools.pairwise(self.rungs):
            if not is_below(low, high):
                raise ConfigError(f"the rungs of a ladder must rise, but {low} is not below {high}")

    @property
    def top(self) -> int:
        """Number of the highest rung."""
        return len(self.rungs) - 1

    def training(self, rung: int) -> tuple[Fidelity, bool]:
        """Fidelity of the training that takes a network from the rung below, and whether from its weights.

        Where only epochs differ it gets those that it lacks.  Where the images differ it begins with the
        weights but gets all epochs; where the width does, the weights do not fit.
        """
        low, high = self.rungs[rung - 1], self.rungs[rung]
        if not self.keep_weights or low.width != high.width:
            return high, False
        if replace(low, epochs=high.epochs) == high:
            return replace(high, epochs=high.epochs - low.epochs), True
        return high, True

    def bracket(self, candidate: int) -> int:
        """Rung at which a candidate begins, by its number.

        A round of candidates has Hyperband's numbers: ``ceil((s + 1) / (k + 1) * reduction**k)`` begin ``k``
        rungs below the top of ``s + 1`` (algorithm 1, line 3).
        """
        counts = []
        for lowest in range(self.brackets):
            k = self.top - lowest
            counts.append(math.ceil((self.top + 1) / (k + 1) * self.reduction**k))
        place = candidate % sum(counts)
        for lowest, count in enumerate(counts):
            if place < count:
                return lowest
            place -= count
        return 0


def is_below(low: Fidelity, high: Fidelity) -> bool:
    """Whether a fidelity has no more of anything than another, and less of something.

    Scores of shared weights (no epochs) are below any training, whatever its images.
    """
    if low.epochs == 0 < high.epochs:
        return True
    a = (low.epochs, low.subset, low.width, low.resolution or math.inf)
    b = (high.epochs, high.subset, high.width, high.resolution or math.inf)
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def geometric(full: Fidelity, *, least_epochs: int, reduction: int) -> tuple[Fidelity, ...]:
    """Rungs with ``reduction`` times more epochs each, from at least ``least_epochs`` to all of them."""
    epochs = [full.epochs]
    while round(epochs[0] / reduction) >= least_epochs:
        epochs.insert(0, round(epochs[0] / reduction))
    return tuple(replace(full, epochs=e) for e in epochs)
