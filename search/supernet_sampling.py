"""How a supernet is trained: which networks a step trains, and how many steps.

- ``uniform``: one network, every option equally likely (Guo et al. 2020, "Single path one-shot",
  section 3.3).
- ``fair``: as many networks as the longest decision has options; every option of a decision is in as many of
  them (Chu, Zhang, Xu 2021, "FairNAS", algorithm 1: strict fairness).  Where the number of options does
  not divide that of the networks, options differ by one; of decisions that depend on others, options are
  balanced before it is known which apply.
- ``sandwich``: the largest network, the smallest and ``paths`` random ones (Yu and Huang 2019, "Universally
  slimmable networks", section 3.1); all but the largest learn what the largest says (in-place distillation,
  section 3.2).  Decisions without an order (which operation) are drawn, once for both of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from results.errors import ConfigError
from results.records import Architecture
from search.space import SearchSpace
from search.supernet_names import extreme, upwards

Sampling = Literal["uniform", "fair", "sandwich"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)

SMALLEST_BATCH = 8
"""Images, below which batch norms learn nothing and a supernet that finds no memory is given up."""


@dataclass(frozen=True)
class SupernetPlan:
    """How a supernet is trained.

    Attributes:
        epochs: Passes over the training split.
        sampling: Which networks a step trains, see :mod:`search.supernet_sampling`.
        paths: Random networks of a step of ``sandwich``.
        batch_size: Images of a step; fewer where memory is short.
        learning_rate: Peak rate.
        subset: Share of the training data.

    Raises:
        ConfigError: For numbers that cannot be used.
    """

    epochs: int = 20
    sampling: Sampling = "uniform"
    paths: int = 2
    batch_size: int = 64
    learning_rate: float = 3e-3
    subset: float = 1.0

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise ConfigError(
                f"a supernet's sampling is one of {', '.join(SAMPLINGS)}, got {self.sampling!r}"
            )
        if min(self.epochs, self.paths) < 1 or self.batch_size < SMALLEST_BATCH or self.learning_rate <= 0:
            raise ConfigError(f"a supernet needs epochs, paths and batches of {SMALLEST_BATCH}, got {self}")


class Sampler:
    """Draws the networks of each step.

    Args:
        space: Where from.
        plan: Which sampling.
        seed: The draws follow from it.
    """

    def __init__(self, space: SearchSpace, plan: SupernetPlan, seed: int) -> None:
        self._space = space
        self._plan = plan
        self._rng = np.random.default_rng((seed, 13))
        self._upwards = upwards(space) if plan.sampling == "sandwich" else []

    def draw(self) -> list[Architecture]:
        """The networks of one step; of ``sandwich``, the largest is the first and the smallest the second."""
        match self._plan.sampling:
            case "uniform":
                return [self._space.sample(self._rng)]
            case "fair":
                return _fair(self._space, self._rng)
            case "sandwich":
                return self._sandwich()

    def _sandwich(self) -> list[Architecture]:
        state = int(self._rng.integers(2**31))
        largest, smallest = (
            extreme(self._space, np.random.default_rng(state), largest=which, upwards=self._upwards)
            for which in (True, False)
        )
        return [largest, smallest, *(self._space.sample(self._rng) for _ in range(self._plan.paths))]


def _fair(space: SearchSpace, rng: np.random.Generator) -> list[Architecture]:
    count = max(len(decision.options) for decision in space.decisions)
    columns = []
    for decision in space.decisions:
        options = len(decision.options)
        rounds = [rng.permutation(options) for _ in range(-(-count // options))]
        columns.append(rng.permutation(np.concatenate(rounds)[:count]))
    return [space.architecture([int(column[i]) for column in columns]) for i in range(count)]
