"""Lower fidelity: many short trainings, and full ones for what is good after them; around any strategy.

Asynchronous successive halving (Li et al. 2020, "A system for massively parallel hyperparameter tuning",
algorithm 2): whenever something may be trained, a candidate that is among the best ``1 / reduction`` of its
rung is promoted to the next one, from the top rung down; where there is none, the strategy within is asked
for a new candidate, which begins at the lowest rung.  With several brackets a share of the candidates begins
higher, in proportion to Hyperband's budgets (Li et al. 2018, "Hyperband", algorithm 1; its asynchronous form
is section 3.3 of the first).

What differs here, and why:

* One of ``reduction`` of a rung goes on, but which ones does not follow from the score alone, nor from ranks:
  it is those that keep the limits and of which most is expected for the front (:mod:`search.promotion`),
  costs being those measured on the boards.  A network that is cheap enough to be on the front with a poor
  score is promoted for that.
* Every rung is a short training of its own, whose learning rate comes down to nothing: such runs tell the
  final order far better than early epochs of a long one (rank correlation 0.79 against 0.37 where we
  measured).  A promoted network goes through another whole cycle, from its weights.
* Nothing is promoted before a share of what a rung will have is known (a half, unless said otherwise): the
  best of the first few seldom are among the best of all, and every full training of such a one is wasted.
* Costs are known before anything is trained, and full trainings tell what a network has to beat at its own.
  Where it would hardly do so, judging by what the promoted ones gained (:mod:`results.promise`), it is not
  promoted, however good it is for its rung.
* When the strategy within has no more candidates, the best of each rung are promoted without waiting for more
  company, so that a search ends with full trainings.
* A rung that certainly does not predict the next is raised: new candidates begin at the next one, and nothing
  is promoted out of it any more.

The strategy within sees one trial per candidate, at the full fidelity, with the score of the highest rung
that it reached, raised by what the networks trained at both rungs gained between them (on the scale of log
odds; median): modelled figures, for choosing alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from results.errors import ConfigError
from results.fidelity import agreements
from results.promise import LEAST_GAINS, bar, chance, log_odds
from results.records import Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.feasibility import standings
from search.history import History
from search.ladder import Ladder
from search.promotion import Outlook, moved
from search.space import SearchSpace

MakeStrategy = Callable[[], strategy.Strategy]
"""Makes the strategy within, fresh; called again whenever what it was told before has become outdated."""

_NOWHERE = -1
"""Rung of what is measured and not trained."""


@dataclass
class _Candidate:
    """What is known of one architecture: its evaluations by rung."""

    number: int
    bracket: int
    first: Trial
    note: Mapping[str, Any]
    told: dict[int, Evaluation] = field(default_factory=dict)

    def trained(self, rung: int) -> Evaluation | None:
        """Its evaluation at a rung, if it was trained there to the end."""
        evaluation = self.told.get(rung)
        return evaluation if evaluation is not None and _came_to_its_end(evaluation) else None


def _came_to_its_end(evaluation: Evaluation) -> bool:
    return evaluation.state == "complete" and not evaluation.stopped and "fp32" in evaluation.accuracy


class SuccessiveHalving(strategy.Strategy):
    """Successive halving around a strategy.

    Args:
        make: The strategy within.
        space: Where to search.
        problem: Objectives and limits.
        ladder: The rungs; the last is the full fidelity.
        candidates: Number of different architectures to try at the lowest rungs.
        seed: Everything random follows from it.
    """

    def __init__(
        self,
        make: MakeStrategy,
        space: SearchSpace,
        problem: Problem,
        *,
        ladder: Ladder,
        candidates: int,
        seed: int,
    ) -> None:
        super().__init__(space, problem, fidelity=ladder.rungs[-1], seed=seed)
        self.ladder = ladder
        self._make = make
        self._candidates = candidates
        self._inner = make()
        self._evaluations: list[Evaluation] = []
        self._known: dict[int, _Candidate] = {}
        self._histories: dict[tuple[int, int], History] = {}
        self._lowest = 0

    # ------------------------------------------------------------------ ask

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """A promotion where one is due, else a new candidate; see the base class."""
        promotion = self._promotion(pending, closing=False)
        if promotion is not None:
            return promotion
        first = [trial for trial in pending if _is_first(trial)]
        begun = [*(candidate.first for candidate in self._known.values()), *first]
        if sum(not trial.proposal.screen_only for trial in begun) < self._candidates:
            within = [_inner_trial(trial, self.fidelity) for trial in first]
            proposal = self._inner.ask(len(begun), within)
            if proposal is not None:
                return self._begin(len(begun), proposal)
            if within:
                return None
        return self._promotion(pending, closing=True)

    def _begin(self, candidate: int, proposal: Proposal) -> Proposal:
        if proposal.screen_only:
            place = {"candidate": candidate, "bracket": _NOWHERE, "rung": _NOWHERE}
            return replace(proposal, note={**place, "within": dict(proposal.note)})
        rung = max(self._lowest, self.ladder.bracket(candidate))
        note = {"candidate": candidate, "bracket": rung, "rung": rung, "within": dict(proposal.note)}
        if proposal.weights_from is not None and rung == self.ladder.top:
            return replace(proposal, note=note)  # a full training, as the strategy within wants it
        return Proposal(proposal.architecture, self.ladder.rungs[rung], proposal.weights_from, note)

    def _promotion(self, pending: Sequence[Trial], *, closing: bool) -> Proposal | None:
        """The next promotion, highest rungs first; ``closing`` when there will be no more candidates."""
        notes = [_note(trial) for trial in pending]
        under_way = {(note["candidate"], note["rung"]) for note in notes}
        for rung in reversed(range(self._lowest, self.ladder.top)):
            for bracket in range(rung + 1):
                if closing and any(n["bracket"] == bracket and n["rung"] <= rung for n in notes):
                    continue  # its rung is not full yet
                if not closing and not self._is_known(bracket, rung):
                    continue
                feasible, most = self._feasible(bracket, rung, closing=closing)
                due = [
                    c for c in feasible if rung + 1 not in c.told and (c.number, rung + 1) not in under_way
                ]
                hopeful = [c for c in due if not self._is_hopeless(c, rung)]
                if hopeful and len(feasible) - len(due) < most:
                    return self._promoted(self._most_promising(hopeful, rung, under_way), rung + 1)
        return None

    def _most_promising(
        self, candidates: Sequence[_Candidate], rung: int, under_way: Set[tuple[int, int]]
    ) -> _Candidate:
        """The one that is expected to add most to the front; of equal ones the first."""
        top = self.ladder.top
        known = [(c, e) for c in self._known.values() if (e := c.trained(rung)) is not None]
        gains = self._gains(rung, top)
        ahead = {number for number, at in under_way if at > rung}
        if len(gains) < LEAST_GAINS:  # compared by what the rung itself says
            ahead |= {c.number for c, _ in known if rung + 1 in c.told}
        promoted = [e for c, e in known if c.number in ahead]
        outlook = Outlook(self.problem, [e for _, e in known], gains, self._whole(), promoted)
        return max(candidates, key=lambda c: outlook.of(c.told[rung]))

    def _whole(self) -> list[Evaluation]:
        """Full trainings."""
        return [e for c in self._known.values() if (e := c.trained(self.ladder.top)) is not None]

    def _is_hopeless(self, candidate: _Candidate, rung: int) -> bool:
        """Whether a network would hardly reach the front at its measured cost."""
        gains = self._gains(rung, self.ladder.top)
        if self.ladder.level == 0 or len(gains) < LEAST_GAINS:
            return False
        evaluation = candidate.told[rung]
        to_beat = bar(evaluation, self._whole(), self.problem)
        if to_beat is None:
            return False
        score, maximise = evaluation.accuracy["fp32"], self.problem.maximise
        return chance(score, to_beat, gains, maximise=maximise) < self.ladder.level

    def _is_known(self, bracket: int, rung: int) -> bool:
        """Whether enough networks of a rung are known to tell the best."""
        history = self._histories.get((bracket, rung))
        begins = sum(self.ladder.bracket(i) == bracket for i in range(self._candidates))
        expected = begins / self.ladder.reduction ** (rung - bracket)
        return history is not None and len(history.outcomes) >= self.ladder.known * expected

    def _promoted(self, candidate: _Candidate, rung: int) -> Proposal:
        fidelity, goes_on = self.ladder.training(rung)
        parent = candidate.told[rung - 1].trial.number if goes_on else None
        note = {"candidate": candidate.number, "bracket": candidate.bracket, "rung": rung}
        return Proposal(candidate.first.proposal.architecture, fidelity, parent, note)

    def _feasible(self, bracket: int, rung: int, *, closing: bool) -> tuple[list[_Candidate], int]:
        """Those of a rung that keep the limits, best first, and how many of them may go on.

        That is one of ``reduction``, rounded up at the end.
        """
        history = self._histories.get((bracket, rung))
        if history is None:
            return [], 0
        share = sum(o.state == "complete" for o in history.outcomes) / self.ladder.reduction
        ranked = sorted(
            (standing, outcome.note["candidate"])
            for standing, outcome in zip(
                standings(history.outcomes, self.problem.objectives), history.outcomes, strict=True
            )
            if standing is not None and standing.tier == 0
        )
        return [self._known[number] for _, number in ranked], math.ceil(share) if closing else int(share)

    # ------------------------------------------------------------------ tell

    def tell(self, evaluation: Evaluation) -> None:
        """Takes in a trial of whatever rung; see the base class."""
        note = _note(evaluation.trial)
        if any(e.trial.number == evaluation.trial.number for e in self._evaluations):
            raise ConfigError(f"trial {evaluation.trial.number} was told before; a trial is told once")
        known = self._known.get(note["candidate"])
        if known is None:
            self._inner.tell(self._lifted(evaluation, note))
            known = _Candidate(note["candidate"], note["bracket"], evaluation.trial, note.get("within", {}))
            self._known[known.number] = known
            known.told[note["rung"]] = evaluation
        else:
            known.told[note["rung"]] = evaluation
            self._tell_again()
        place = note["bracket"], note["rung"]
        self._histories.setdefault(place, History(self.space, self.problem)).add(evaluation)
        self._evaluations.append(evaluation)
        self._raise_rungs()

    def _raise_rungs(self) -> None:
        misleading = {a.low for a in agreements(self._evaluations) if a.misleads}
        for number, rung in enumerate(self.ladder.rungs[:-1]):
            if rung in misleading:  # what is below leads through it, so it is of no use either
                self._lowest = max(self._lowest, number + 1)

    @property
    def lowest(self) -> int:
        """Rung at which new candidates begin; more than 0 where lower ones do not predict."""
        return self._lowest

    def _tell_again(self) -> None:
        """A fresh strategy within, told every candidate as it is known now."""
        self._inner = self._make()
        for candidate in sorted(self._known.values(), key=lambda c: c.first.number):
            rung = max((r for r, e in candidate.told.items() if e.state == "complete"), default=None)
            evaluation = candidate.told[min(candidate.told) if rung is None else rung]
            note: dict[str, Any] = {"candidate": candidate.number}
            note["rung"] = min(candidate.told) if rung is None else rung
            note["within"] = candidate.note
            self._inner.tell(self._lifted(evaluation, note))

    def _lifted(self, evaluation: Evaluation, note: Mapping[str, Any]) -> Evaluation:
        """What the strategy within is told: at the full fidelity, by its own number and note."""
        gain = sum(self._gain(rung) for rung in range(max(0, note["rung"]), self.ladder.top))
        accuracy = {name: moved(score, gain) for name, score in evaluation.accuracy.items()}
        asked = replace(evaluation.trial.proposal, note=note)
        told = _inner_trial(replace(evaluation.trial, proposal=asked), self.fidelity)
        return replace(evaluation, trial=told, accuracy=accuracy)

    def _gain(self, rung: int) -> float:
        """Median gain from a rung to the next; 0 while too few know it."""
        gains = self._gains(rung, rung + 1)
        return float(np.median(gains)) if len(gains) >= LEAST_GAINS else 0.0

    def _gains(self, low: int, high: int) -> list[float]:
        """What networks gained from one rung to another, on the scale of :func:`results.promise.log_odds`."""
        both = [(c.trained(low), c.trained(high)) for c in self._known.values()]
        return [
            log_odds(b.accuracy["fp32"]) - log_odds(a.accuracy["fp32"])
            for a, b in both
            if a is not None and b is not None
        ]


def _note(trial: Trial) -> Mapping[str, Any]:
    note = trial.proposal.note
    if "rung" not in note:
        raise ConfigError(
            f"trial {trial.number} belongs to no rung: the run was begun without lower fidelity"
        )
    return note


def _is_first(trial: Trial) -> bool:
    return bool(_note(trial)["rung"] == _note(trial)["bracket"])


def _inner_trial(trial: Trial, fidelity: Fidelity) -> Trial:
    note = _note(trial)
    asked = trial.proposal
    within = Proposal(
        asked.architecture, fidelity, note=dict(note.get("within", {})), screen_only=asked.screen_only
    )
    return Trial(note["candidate"], within)
