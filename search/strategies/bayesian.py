"""Bayesian optimisation with architecture surrogates, measured shortlists, cost models, and hard limits.

The start is spread over the space (:func:`search.candidates.spread_start`).  Then each trial is the candidate
with the greatest expected hypervolume improvement (expected improvement, where accuracy is the only
objective), times the probabilities that it runs and that it meets the limits: :class:`search.belief.Belief`.
Candidates are the neighbours of the front, mutants, crossings and random architectures; the best of them are
then evolved on the model alone, as in BANANAS (White, Neiswanger, Savani 2021).

Before each training the most promising candidates are measured (:mod:`search.shortlist`): then their costs
are known, and only their accuracy is uncertain.  What was measured stays a candidate at no further cost.

A proposal's note carries what was predicted, so that the spread of the surrogate can be held against what
came out: its standard deviation is rescaled by the error of its own recent predictions, the noise of a
training apart (:mod:`search.calibration`).

Some trainings are chosen as if the surrogate were half as sure (:data:`BOLD_EVERY`), in a fixed cycle where
Berk et al. 2020 ("Randomised Gaussian process upper confidence bound") draw how far to explore.

Where a space keeps encodings of one network apart, training another of them draws the noise of training once
more, and what that luck may gain is expected like any gain.  But it teaches nothing about other networks,
which the improvement expected of a single training does not count: so of two trainings in a row at most one
is such a repetition, and none that is chosen boldly, as long as any other network probably keeps the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import threadpoolctl

from results.errors import ConfigError
from results.records import Architecture, Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.belief import Belief, Floats
from search.candidates import Neighbourhood, candidates, spread_start
from search.feasibility import LAST, standings
from search.graph_structure import STRUCTURES, structure_of
from search.history import History
from search.inputs import InputMemory
from search.shortlist import Shortlist, open_shortlist
from search.space import SearchSpace

TELLING = 4
"""Told trials from which on the start keeps to what is probably feasible."""

ROUNDS = 2
BEST = 8
"""Rounds of evolution on the model, and how many are evolved in each."""

BACKLOG = 2000
"""Candidates measured but not trained, the latest, among which the next is looked for, too."""

BOLD_EVERY = 4
BOLDNESS = 2.0
"""How often a training is chosen by a surrogate that is less sure than its errors say, and how much less.

Its errors are those of networks that it liked.  Of a kind that did badly in the start, for some other reason,
it is sure without ever trying it again, and a search could miss the best kind of all.
"""

DISTANCES = ("space", *STRUCTURES)

LIKELY = 0.5
"""Chance to keep the limits from which on a candidate is trained without having been measured before.

What is expected of a search that has found what there is to find is so little that it says nothing about
chances: such a search would propose hundreds of candidates that break a limit and train none of them.
"""

PARENTS = 12
"""Trials around which candidates are looked for, at least: the front, then what is next to it."""


class Strategy(strategy.Strategy):
    """Model-based search.

    Args:
        shortlist: Candidates measured per training, on average at most; 0 for none.
        start: Trained trials of the start; it ends at twice as many trials in all, trained or not.
        distance: How the surrogate of the accuracy tells how much two networks have in common, beside their
            features: ``space`` for what the space says (without anything better, the number of edits), or
            ``paths``, ``weisfeiler_lehman`` or ``optimal_transport`` (:mod:`search.graph_structure`).
    """

    def __init__(
        self,
        space: SearchSpace,
        problem: Problem,
        *,
        fidelity: Fidelity,
        seed: int,
        prior: Mapping[str, Any] | None = None,
        shortlist: int = 8,
        start: int = 12,
        distance: str = DISTANCES[0],
    ) -> None:
        super().__init__(space, problem, fidelity=fidelity, seed=seed, prior=prior)
        if shortlist < 0 or start < 1:
            raise ConfigError(f"bayesian needs shortlist >= 0 and start >= 1, got {shortlist} and {start}")
        if distance not in DISTANCES:
            raise ConfigError(f"bayesian: distance is one of {', '.join(DISTANCES)}, got {distance!r}")
        self.shortlist = shortlist
        self.measured_per_training = max(1, shortlist)
        self.start = start
        self.history = History(space, problem)
        self._memory = InputMemory(space, None if distance == DISTANCES[0] else structure_of(space, distance))
        self._neighbourhood = Neighbourhood(space)

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """A candidate to measure, the best of those measured, or one of the start; see the base class."""
        training = [trial for trial in pending if not trial.proposal.screen_only]
        if self._starting(len(training)):
            return self._start(training)
        chosen_from = open_shortlist(self.space, self.history, pending)
        if chosen_from is not None:
            return self._next(chosen_from, number, pending)
        return self._afresh(number, pending)

    def tell(self, evaluation: Evaluation) -> None:
        """Remembers what came out; see the base class."""
        self.history.add(evaluation)

    # ------------------------------------------------------------------ start

    def _starting(self, waiting: int) -> bool:
        told = [o for o in self.history.outcomes if o.state != "screened"]
        trained = sum(o.state == "complete" for o in told)
        return not told or (trained + waiting < self.start and len(told) + waiting < 2 * self.start)

    def _start(self, training: Sequence[Trial]) -> Proposal | None:
        waiting = [trial.proposal.architecture for trial in training]
        tried = [o.architecture for o in self.history.outcomes] + waiting
        rng = np.random.default_rng((self.seed,))
        chance = self._chance(training)
        found = spread_start(self.space, tried, self.history.taken(training), rng, chance)
        return None if found is None else Proposal(found, self.fidelity)

    def _chance(self, training: Sequence[Trial]) -> Callable[[Sequence[Architecture]], Floats] | None:
        """What tells feasible architectures apart, once limits were broken and some trials measured."""
        told = self.history.outcomes
        if len(told) < TELLING or not any(o.violation > 0 for o in told):
            return None
        return Belief(self.history, training, seed=self.seed, memory=self._memory).chance

    # ------------------------------------------------------------------ model

    def _afresh(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """The first of a new shortlist, or the best candidate where nothing can or need be measured."""
        with threadpoolctl.threadpool_limits(1):  # matrices are small: more threads only wait for each other
            begun = self._begun(pending)
            bold = len(begun) % BOLD_EVERY == BOLD_EVERY - 1
            belief = Belief(
                self.history,
                pending,
                seed=self.seed,
                memory=self._memory,
                boldness=BOLDNESS if bold else 1.0,
            )
            ranked = self._ranked(belief, pending, number, self._repeated(begun, bold))
            if not ranked:
                return None
            members = self._members(ranked, self._measurable(pending))
            chosen = members or [_feasible(ranked, belief)]
            found = Shortlist.of(chosen, belief)
        if not members:
            return found.training(0, belief.forecast(chosen).costs[0], self.fidelity)
        return self._next(found, number, pending)

    def _ranked(
        self, belief: Belief, pending: Sequence[Trial], number: int, repeated: Set[bytes]
    ) -> list[Architecture]:
        """Candidates from the best on; networks that are not to be repeated only if no other is likely."""
        ranked = self._evolved(belief, pending, number, repeated)
        if repeated and not (ranked and belief.chance(ranked).max() >= LIKELY):
            return self._evolved(belief, pending, number, frozenset())
        return ranked

    def _evolved(
        self, belief: Belief, pending: Sequence[Trial], number: int, repeated: Set[bytes]
    ) -> list[Architecture]:
        """Candidates and what evolves from the best of them on the model, from the best on."""
        taken, rng = self.history.taken(pending), self.randomness(number)
        backlog = [a for a in list(self.history.screened)[-BACKLOG:] if a not in taken]
        found = candidates(self._neighbourhood, self._parents(), taken, rng)
        pool = self._without(repeated, list(dict.fromkeys([*found, *backlog])))
        if not pool:
            return []
        scores = belief.score(belief.forecast(pool))
        for _ in range(ROUNDS):
            best = [pool[i] for i in np.argsort(-scores, kind="stable")[:BEST]]
            known = taken.union(pool)
            near = [a for a in self._neighbourhood.of(best, rng, 20 * BEST) if a not in known]
            near = self._without(repeated, near)
            if near:
                pool, scores = pool + near, np.r_[scores, belief.score(belief.forecast(near))]
        return [pool[i] for i in np.argsort(-scores, kind="stable")]

    def _repeated(self, begun: Sequence[Architecture], bold: bool) -> set[bytes]:
        """Networks of which no other encoding is trained now: all that were, after a repetition."""
        if not begun:
            return set()
        *earlier, last = self._memory.networks(begun)
        return {*earlier, last} if bold or last in earlier else set()

    def _without(self, repeated: Set[bytes], pool: list[Architecture]) -> list[Architecture]:
        if not repeated or not pool:
            return pool
        return [
            a for a, network in zip(pool, self._memory.networks(pool), strict=True) if network not in repeated
        ]

    def _parents(self) -> list[Architecture]:
        """Architectures of the front and those next to it, or those nearest to feasible."""
        outcomes = self.history.outcomes
        ranked = [s or LAST for s in standings(outcomes, self.problem.objectives)]
        order = sorted(range(len(ranked)), key=lambda i: ranked[i])
        best = ranked[order[0]]
        front = sum(s[:2] == best[:2] for s in ranked)
        chosen = [i for i in order[: max(front, PARENTS)] if ranked[i].tier == best.tier]
        return [outcomes[i].architecture for i in chosen]

    def _begun(self, pending: Sequence[Trial]) -> list[Architecture]:
        """What was trained, in the order of the tells, and what is under way."""
        trained = [o.architecture for o in self.history.outcomes if o.state == "complete"]
        return trained + [t.proposal.architecture for t in pending if not t.proposal.screen_only]

    # ------------------------------------------------------------------ shortlist

    def _measurable(self, pending: Sequence[Trial]) -> int:
        """How many candidates may be measured now; none if there is nothing to be learned from it."""
        metrics = self.history.metrics[1:]
        if not metrics and all(o.state != "failed" for o in self.history.outcomes):
            return 0
        measured = len(self.history.tried(pending))
        return max(0, min(2 * self.shortlist, self.shortlist * len(self._begun(pending)) - measured))

    def _members(self, ranked: Sequence[Architecture], measurable: int) -> list[Architecture]:
        """The best candidates of those that are measured already, and of those that are not.

        All can be measured that may be: even other encodings of one network, which take times of their own
        where a runtime executes what has no effect.
        """
        known = self.history.screened
        measured = [a for a in ranked if a in known][: 2 * self.shortlist]
        chosen = {*measured, *[a for a in ranked if a not in known][:measurable]}
        return [a for a in ranked if a in chosen]

    def _next(self, found: Shortlist, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """The next of a shortlist to be measured, or the best of it."""
        tried = self.history.tried(pending)
        for member in found.members:
            if member not in tried:
                return Proposal(member, self.fidelity, note=found.note(), screen_only=True)
        taken = self.history.taken(t for t in pending if not t.proposal.screen_only)
        known = self.history.screened
        rows = [i for i, member in enumerate(found.members) if member in known and member not in taken]
        if rows:
            best, costs = found.best(rows, self.history, pending)
            return found.training(best, costs, self.fidelity)
        if any(trial.proposal.screen_only for trial in pending):
            return None
        return self._afresh(number, pending)


def _feasible(ranked: Sequence[Architecture], belief: Belief) -> Architecture:
    """The first that is likely to run and to keep the limits, or the likeliest where none is."""
    chance = belief.chance(ranked)
    likely = np.flatnonzero(chance >= LIKELY)
    return ranked[int(likely[0] if len(likely) else chance.argmax())]
