"""NSGA-II: Deb, Pratap, Agarwal, Meyarivan 2002 (IEEE TEC 6(2)), "A fast and elitist multiobjective genetic
algorithm: NSGA-II".

Two binary tournaments by constrained domination and crowding (sections III.B and VI.A) choose the parents;
the child is their uniform crossover, mutated.  The population is the best of all that were told, by
non-dominated rank, then crowding: the elitist survival of section III.C.

Deviations, because trials come back one by one and a board must not wait for a generation:

* Steady state: each trial told enters at once and the worst leaves, instead of N children together.
* Decisions are categories: uniform crossover and a random other option replace the paper's simulated binary
  crossover and polynomial mutation.  Each decision that applies changes with probability 1 / their number.
* Infeasible trials are compared by their violation (Deb 2000), and failed ones come last
  (:mod:`search.feasibility`); trials that the board lost take no place.
* A child that was tried before is made again from other parents, and in the end mutated until it is new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from results.errors import ConfigError
from results.records import Architecture, Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.feasibility import LAST, Standing, standings
from search.history import History
from search.novelty import new_mutant, new_sample
from search.space import SearchSpace

MATINGS = 20
"""Pairs of parents that are tried for a new child."""


class Strategy(strategy.Strategy):
    """Elitist evolution by non-dominated sorting.

    Args:
        population: Trials that can be parents (N of the paper); as many are drawn at random first.
        crossover: Probability that a child has two parents (p_c of the paper).
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
        crossover: float = 0.9,
    ) -> None:
        super().__init__(space, problem, fidelity=fidelity, seed=seed, prior=prior)
        if population < 2 or not 0.0 <= crossover <= 1.0:
            raise ConfigError(
                "nsga2 needs population >= 2 and crossover between 0 and 1, "
                f"got population = {population} and crossover = {crossover}"
            )
        self.population = population
        self.crossover = crossover
        self.history = History(space, problem)

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """A child of two tournaments' winners, or a random architecture at first; see the base class."""
        rng = self.randomness(number)
        taken = self.history.taken(pending)
        ranked = self._survivors()
        if not ranked or len(ranked) + len(pending) < self.population:
            child = new_sample(self.space, rng, taken)
        else:
            child = self._child(ranked, rng, taken)
        return None if child is None else Proposal(child, self.fidelity)

    def tell(self, evaluation: Evaluation) -> None:
        """The trial joins the population if it is among the best; see the base class."""
        self.history.add(evaluation)

    def _survivors(self) -> list[tuple[Standing, Architecture]]:
        """The population, best first; the older of two equally good trials first."""
        outcomes = self.history.outcomes
        standing = standings(outcomes, self.problem.objectives)
        usable = [i for i, s in enumerate(standing) if s is not None]
        usable.sort(key=lambda i: standing[i] or LAST)
        return [(standing[i] or LAST, outcomes[i].architecture) for i in usable[: self.population]]

    def _child(
        self,
        ranked: Sequence[tuple[Standing, Architecture]],
        rng: np.random.Generator,
        taken: Set[Architecture],
    ) -> Architecture | None:
        child = ranked[0][1]
        for _ in range(MATINGS):
            child = _tournament(ranked, rng)
            if rng.random() < self.crossover:
                child = self.space.crossover(child, _tournament(ranked, rng), rng)
            child = self._mutated(child, rng)
            if child not in taken:
                return child
        return new_mutant(self.space, child, rng, taken)

    def _mutated(self, child: Architecture, rng: np.random.Generator) -> Architecture:
        """Changes each decision that applies with probability 1 / their number; possibly none."""
        applying = sum(self.space.applying(child.choices))
        changes = int(rng.binomial(applying, 1.0 / applying)) if applying else 0
        return self.space.mutate(child, rng, changes=changes) if changes else child


def _tournament(ranked: Sequence[tuple[Standing, Architecture]], rng: np.random.Generator) -> Architecture:
    """The better of two members drawn at random; of equally good ones the first drawn."""
    first, second = rng.integers(len(ranked), size=2)
    return ranked[int(second if ranked[second][0] < ranked[first][0] else first)][1]
