"""Random search: every option of every decision equally likely, nothing tried twice.

The baseline that a strategy has to beat (Li and Talwalkar 2019, "Random search and reproducibility for
neural architecture search").  Ends when a small space is exhausted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.records import Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.history import History
from search.novelty import new_sample
from search.space import SearchSpace


class Strategy(strategy.Strategy):
    """Uniform sampling without repetition."""

    def __init__(
        self,
        space: SearchSpace,
        problem: Problem,
        *,
        fidelity: Fidelity,
        seed: int,
        prior: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(space, problem, fidelity=fidelity, seed=seed, prior=prior)
        self.history = History(space, problem)

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """A random architecture that is neither told nor pending; see the base class."""
        found = new_sample(self.space, self.randomness(number), self.history.taken(pending))
        return None if found is None else Proposal(found, self.fidelity)

    def tell(self, evaluation: Evaluation) -> None:
        """Remembers what was tried; see the base class."""
        self.history.add(evaluation)
