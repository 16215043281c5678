"""Bayesian optimisation with architecture surrogates, cost models, and hard limits.

The start is spread over the space (:func:`search.candidates.spread_start`).  Then each trial is the candidate
with the greatest expected hypervolume improvement (expected improvement, where accuracy is the only
objective), times the probabilities that it runs and that it meets the limits: :class:`search.belief.Belief`.
Candidates are the neighbours of the front, mutants, crossings and random architectures; the best of them are
then evolved on the model alone, as in BANANAS (White, Neiswanger, Savani 2021).

A proposal's note carries what was predicted, so that the spread of the surrogate can be held against what
came out: its standard deviation is rescaled by the error of its own recent predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from results.records import Architecture, Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.belief import Belief, Floats
from search.candidates import candidates, neighbours, spread_start
from search.feasibility import LAST, standings
from search.history import History
from search.space import SearchSpace

START = 12
"""Trained trials of the start; it ends at twice as many trials in all, trained or not."""

TELLING = 4
"""Told trials from which on the start keeps to what is probably feasible."""

ROUNDS = 2
BEST = 8
"""Rounds of evolution on the model, and how many are evolved in each."""


class Strategy(strategy.Strategy):
    """Model-based search."""

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
        """The most promising architecture by the model, or one of the start; see the base class."""
        taken = self.history.taken(pending)
        waiting = [trial.proposal.architecture for trial in pending]
        if self._starting(len(waiting)):
            tried = [o.architecture for o in self.history.outcomes] + waiting
            found = spread_start(
                self.space, tried, taken, np.random.default_rng((self.seed,)), self._chance(waiting)
            )
            return None if found is None else Proposal(found, self.fidelity)
        belief = Belief(self.history, waiting, seed=self.seed)
        found = self._best(belief, taken, self.randomness(number))
        return None if found is None else Proposal(found, self.fidelity, note=belief.note(found))

    def tell(self, evaluation: Evaluation) -> None:
        """Remembers what came out; see the base class."""
        self.history.add(evaluation)

    def _chance(self, waiting: list[Architecture]) -> Callable[[Sequence[Architecture]], Floats] | None:
        """What tells feasible architectures apart, once limits were broken and some trials measured."""
        told = self.history.outcomes
        if len(told) < TELLING or not any(o.violation > 0 for o in told):
            return None
        return Belief(self.history, waiting, seed=self.seed).chance

    def _starting(self, waiting: int) -> bool:
        told = self.history.outcomes
        trained = sum(o.state == "complete" for o in told)
        return not told or (trained + waiting < START and len(told) + waiting < 2 * START)

    def _parents(self) -> list[Architecture]:
        """Architectures of the front, or those nearest to feasible."""
        outcomes = self.history.outcomes
        ranked = [s or LAST for s in standings(outcomes, self.problem.objectives)]
        best = min(ranked)
        return [o.architecture for o, s in zip(outcomes, ranked, strict=True) if s[:2] == best[:2]]

    def _best(
        self, belief: Belief, taken: set[Architecture], rng: np.random.Generator
    ) -> Architecture | None:
        pool = candidates(self.space, self._parents(), taken, rng)
        if not pool:
            return None
        scores = belief.score(pool)
        for _ in range(ROUNDS):
            best = [pool[i] for i in np.argsort(-scores, kind="stable")[:BEST]]
            known = set(pool)
            near = [a for a in neighbours(self.space, best, rng, 20 * BEST) if a not in taken | known]
            if near:
                pool, scores = pool + near, np.r_[scores, belief.score(near)]
        return pool[int(scores.argmax())]
