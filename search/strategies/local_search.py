"""Local search: White, Nolen, Savani 2021 (UAI), "Exploring the loss landscape in NAS".

From the best of a few random architectures, one-edit neighbours are tried until one is better; then its
neighbours, and so on.  Where no neighbour is left (a local optimum), a new descent starts at random.

With several objectives a descent holds the non-dominated trials of its own and tries the neighbours of one
of them: Pareto local search (Paquete, Chiarandini, Stuetzle 2004), with the less crowded of two drawn at
random where that paper draws one, so that a search too short for all neighbourhoods spreads along the front.
With none that is feasible it descends in the violation of the limits.

The first descent starts from ``start`` random trials, later ones from a single one, as after a local optimum
the budget is mostly gone.  Trials asked while others are out are neighbours too: nobody waits for the end of
a neighbourhood.  A trial knows its descent by the note of its proposal; those that came from elsewhere belong
to the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from results.errors import ConfigError
from results.records import Architecture, Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.feasibility import LAST, standings
from search.history import History, Outcome
from search.novelty import new_sample
from search.space import SearchSpace

DESCENT = "descent"
"""Key in the note: number of the trial that began the descent (0: the first)."""


class Strategy(strategy.Strategy):
    """Descent over one-edit neighbours with random restarts.

    Args:
        start: Random trials of which the best begin the first descent.
    """

    def __init__(
        self,
        space: SearchSpace,
        problem: Problem,
        *,
        fidelity: Fidelity,
        seed: int,
        prior: Mapping[str, Any] | None = None,
        start: int = 10,
    ) -> None:
        super().__init__(space, problem, fidelity=fidelity, seed=seed, prior=prior)
        if start < 1:
            raise ConfigError(f"local_search needs start >= 1, got {start}")
        self.start = start
        self.history = History(space, problem)

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """A neighbour of the latest descent that has one left, else a random start; see the base class."""
        rng = self.randomness(number)
        taken = self.history.taken(pending)
        if len(self.history.outcomes) + len(pending) >= self.start:
            for descent, outcomes in sorted(self._descents().items(), reverse=True):
                near = self._neighbour(outcomes, rng, taken)
                if near is not None:
                    return Proposal(near, self.fidelity, note={DESCENT: descent})
        found = new_sample(self.space, rng, taken)
        begun = number if number >= self.start else 0
        return None if found is None else Proposal(found, self.fidelity, note={DESCENT: begun})

    def tell(self, evaluation: Evaluation) -> None:
        """The trial joins its descent; see the base class."""
        self.history.add(evaluation)

    def _descents(self) -> dict[int, list[Outcome]]:
        """Outcomes by the number of the trial that began their descent."""
        descents: dict[int, list[Outcome]] = {}
        for outcome in self.history.outcomes:
            begun = outcome.note.get(DESCENT, 0)
            descents.setdefault(begun if isinstance(begun, int) else 0, []).append(outcome)
        return descents

    def _neighbour(
        self, outcomes: Sequence[Outcome], rng: np.random.Generator, taken: Set[Architecture]
    ) -> Architecture | None:
        """A random new neighbour of an incumbent; None at a local optimum."""
        left = self._incumbents(outcomes)
        while left:
            first, second = (int(i) for i in rng.integers(len(left), size=2))
            _, incumbent = left.pop(second if left[second][0] < left[first][0] else first)
            near = [a for a in self.space.neighbours(incumbent) if a not in taken]
            if near:
                return near[int(rng.integers(len(near)))]
        return None

    def _incumbents(self, outcomes: Sequence[Outcome]) -> list[tuple[float, Architecture]]:
        """The best by tier and rank, with their (negated) crowding distances; none that failed.

        That is the feasible front, or what has the least violation where nothing is feasible.
        """
        standing = [s or LAST for s in standings(outcomes, self.problem.objectives)]
        best = min((s[:2] for s in standing if s.tier < 2), default=None)
        pairs = zip(outcomes, standing, strict=True)
        return [(s.crowding, o.architecture) for o, s in pairs if s[:2] == best]
