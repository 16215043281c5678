"""Regularized evolution: Real, Aggarwal, Huang, Le 2019 (AAAI), "Regularized evolution for image
classifier architecture search", Algorithm 1.

The population is the last ``population`` trials told: the oldest leaves, however good (aging).  A parent
is the best of ``sample`` members drawn with replacement; the child is the parent with one decision changed.

Deviations, because boards add what the paper has not: who is best is told by feasibility, non-dominated
rank and crowding (:mod:`search.feasibility`) instead of accuracy alone; a child that was tried before is
mutated again; trials that the board lost take no place in the population.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from results.errors import ConfigError
from results.records import Architecture, Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.feasibility import LAST, standings
from search.history import History
from search.novelty import new_mutant, new_sample
from search.space import SearchSpace


class Strategy(strategy.Strategy):
    """Aging evolution with tournaments.

    Args:
        population: Trials that can be parents (P of the paper); as many are drawn at random first.
        sample: Members that compete to be the parent (S of the paper).
    """

    def __init__(
        self,
        space: SearchSpace,
        problem: Problem,
        *,
        fidelity: Fidelity,
        seed: int,
        prior: Mapping[str, Any] | None = None,
        population: int = 20,
        sample: int = 5,
    ) -> None:
        super().__init__(space, problem, fidelity=fidelity, seed=seed, prior=prior)
        if not 1 <= sample <= population:
            raise ConfigError(
                f"regularized_evolution needs 1 <= sample <= population, got {sample} and {population}"
            )
        self.population = population
        self.sample = sample
        self.history = History(space, problem)

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """A mutant of a tournament's winner, or a random architecture at first; see the base class."""
        rng = self.randomness(number)
        taken = self.history.taken(pending)
        standing = standings(self.history.outcomes, self.problem.objectives)
        usable = [i for i, s in enumerate(standing) if s is not None]
        if not usable or len(usable) + len(pending) < self.population:
            child = new_sample(self.space, rng, taken)
        else:
            child = new_mutant(self.space, self._parent(usable[-self.population :], rng), rng, taken)
        return None if child is None else Proposal(child, self.fidelity)

    def tell(self, evaluation: Evaluation) -> None:
        """The trial joins the population, the oldest leaves it; see the base class."""
        self.history.add(evaluation)

    def _parent(self, population: Sequence[int], rng: np.random.Generator) -> Architecture:
        """Winner of one tournament; ties are broken by chance, for the draw comes in random order."""
        members = [self.history.outcomes[i] for i in population]
        standing = standings(members, self.problem.objectives)
        drawn: list[int] = rng.integers(len(members), size=self.sample).tolist()
        return members[min(drawn, key=lambda i: standing[i] or LAST)].architecture
