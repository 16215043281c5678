"""Regularized evolution: Real, Aggarwal, Huang, Le 2019 (AAAI), "Regularized evolution for image
classifier architecture search", Algorithm 1.

The population is the last ``population`` trials told: the oldest leaves, however good (aging).  A parent
is the best of ``sample`` members drawn with replacement; the child is the parent with one decision changed.

Deviations, because boards add what the paper has not: who is best is told by feasibility, non-dominated
rank and crowding (:mod:`search.feasibility`) instead of accuracy alone; a child that was tried before is
mutated again; trials that the board lost take no place in the population.

Infeasible trials age in a population of their own, and every other parent comes from there, the least
violation winning.  The best network mostly lies at the limit, and what is reached from one side only is
easily a local optimum (infeasibility driven evolution, Ray, Singh, Isaacs, Smith 2009); here it costs no
training, since a child that breaks a limit is measured only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from results.errors import ConfigError
from results.records import Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.feasibility import LAST, standings
from search.history import History, Outcome
from search.novelty import new_mutant, new_sample
from search.space import SearchSpace

INFEASIBLE_PARENTS = 0.5
"""Share of the parents that are infeasible, where there are both kinds."""


class Strategy(strategy.Strategy):
    """Aging evolution with tournaments.

    Args:
        population: Trials that can be parents (P of the paper); as many are drawn at random first.
        sample: Members that compete to be the parent (S of the paper).
        inherit: Whether a child begins its training with its parent's weights, where that was trained; the
            network is grown function-preservingly where a morphism leads to it (:mod:`search.morphism`).
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
        inherit: bool = False,
    ) -> None:
        super().__init__(space, problem, fidelity=fidelity, seed=seed, prior=prior)
        if not 1 <= sample <= population:
            raise ConfigError(
                f"regularized_evolution needs 1 <= sample <= population, got {sample} and {population}"
            )
        self.population = population
        self.sample = sample
        self.inherit = inherit
        self.history = History(space, problem)

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """A mutant of a tournament's winner, or a random architecture at first; see the base class."""
        rng = self.randomness(number)
        taken = self.history.taken(pending)
        tiers = self._tiers()
        told = sum(len(tier) for tier in tiers)
        if not told or told + len(pending) < self.population:
            parent, child = None, new_sample(self.space, rng, taken)
        else:
            parent = self._parent(self._population(tiers, rng), rng)
            child = new_mutant(self.space, parent.architecture, rng, taken)
        return None if child is None else Proposal(child, self.fidelity, self._weights_from(parent))

    def _weights_from(self, parent: Outcome | None) -> int | None:
        """Number of the trial whose weights a child begins with, if it is to and there are any."""
        trained = parent is not None and parent.state == "complete"
        return parent.number if parent is not None and trained and self.inherit else None

    def tell(self, evaluation: Evaluation) -> None:
        """The trial joins the population, the oldest leaves it; see the base class."""
        self.history.add(evaluation)

    def _tiers(self) -> tuple[list[Outcome], list[Outcome], list[Outcome]]:
        """Feasible, infeasible and failed trials, each in the order of the tells."""
        tiers: tuple[list[Outcome], list[Outcome], list[Outcome]] = ([], [], [])
        outcomes = self.history.outcomes
        for outcome, standing in zip(outcomes, standings(outcomes, self.problem.objectives), strict=True):
            if standing is not None:
                tiers[standing.tier].append(outcome)
        return tiers

    def _population(
        self, tiers: tuple[list[Outcome], list[Outcome], list[Outcome]], rng: np.random.Generator
    ) -> list[Outcome]:
        """The latest of the tier from which the parent comes; failed trials only where nothing ran."""
        feasible, infeasible, failed = tiers
        if feasible and infeasible:
            chosen = infeasible if rng.random() < INFEASIBLE_PARENTS else feasible
        else:
            chosen = feasible or infeasible or failed
        return chosen[-self.population :]

    def _parent(self, members: Sequence[Outcome], rng: np.random.Generator) -> Outcome:
        """Winner of one tournament; ties are broken by chance, for the draw comes in random order."""
        standing = standings(members, self.problem.objectives)
        drawn: list[int] = rng.integers(len(members), size=self.sample).tolist()
        return members[min(drawn, key=lambda i: standing[i] or LAST)]
