"""Trainings that begin with weights that are there, of a near relative or the supernet; around any strategy.

A new candidate takes over the weights of the trained network that differs from it in the fewest decisions.
Where a morphism leads from one to the other it begins with what that one computes (:mod:`search.morphism`);
elsewhere with what fits.  It is then trained for a share of the epochs: a child of a full parent needs about
half (Cai et al. 2018, "Efficient architecture search by network transformation", had 20 epochs for 300; here
a deeper child reached in 3 epochs what took 5 to 6 from fresh weights).  The parent's epochs count for the
rest, up to as many as it is trained itself (:class:`results.fidelity.Levels`): a parent that has had fewer
leaves more to do, and one that was trained on other images is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from results.errors import ConfigError
from results.fidelity import INHERITED, Levels
from results.records import Architecture, Evaluation, Fidelity, Proposal, Trial
from search import strategy

SHARE = 0.5
"""Share of the epochs that a child is trained."""

NEAREST = 3.0
"""Greatest distance (decisions that differ, :meth:`search.space.SearchSpace.distance`) of a parent."""


class StartsFrom(strategy.Strategy):
    """A strategy whose candidates begin with weights that are there.

    Args:
        within: The strategy.
        source: ``parent`` or ``supernet``.
        share: Share of the epochs that a child of a parent is trained.
        nearest: Greatest distance of a parent; where none is as near, weights are fresh.
    """

    def __init__(
        self,
        within: strategy.Strategy,
        *,
        source: Literal["parent", "supernet"] = "parent",
        share: float = SHARE,
        nearest: float = NEAREST,
    ) -> None:
        super().__init__(within.space, within.problem, fidelity=within.fidelity, seed=within.seed)
        if not 0.5 <= share <= 1 or nearest <= 0:
            raise ConfigError(
                "inheritance: share lies between 0.5 (inherited epochs count as much as own ones) and 1, and "
                f"nearest above 0, got {share} and {nearest}"
            )
        self._within = within
        self._source = source
        self._share = share
        self._nearest = nearest
        self._levels = Levels()
        self._trained: dict[tuple[Architecture, Fidelity], tuple[Trial, int]] = {}
        """The last training of each network by what it saw of images, and its epochs with inherited ones."""

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """What the strategy within proposes, with where its weights come from."""
        proposal = self._within.ask(number, pending)
        if proposal is None or proposal.screen_only or proposal.weights_from is not None:
            return proposal
        if (proposal.architecture, _images(proposal.fidelity)) in self._trained:
            return proposal  # it was trained before and is to begin again
        if self._source == "supernet":
            return replace(proposal, weights_from="supernet")
        return self._child(proposal)

    def _child(self, proposal: Proposal) -> Proposal:
        """A proposal that begins with a parent's weights; itself where there is none near enough."""
        images, wanted = _images(proposal.fidelity), proposal.fidelity.epochs
        near = [
            (
                self.space.distance(proposal.architecture, other),
                -t.proposal.fidelity.epochs,
                -t.number,
                epochs,
            )
            for (other, seen), (t, epochs) in self._trained.items()
            if seen == images
        ]
        distance, _, number, epochs = min(near, default=(math.inf, 0, 0, 0))  # as near: the longest trained
        if distance > self._nearest:
            return proposal
        own = max(math.ceil(self._share * wanted), wanted - epochs)
        note = {**proposal.note, INHERITED: wanted - own}
        fidelity = replace(proposal.fidelity, epochs=own)
        return replace(proposal, weights_from=-number, fidelity=fidelity, note=note)

    def tell(self, evaluation: Evaluation) -> None:
        """Remembers whose weights there are, and tells the strategy within."""
        trial = evaluation.trial
        level = self._levels.add(trial)
        if evaluation.state == "complete" and not evaluation.stopped:
            self._trained[trial.proposal.architecture, _images(level)] = trial, level.epochs
        self._within.tell(evaluation)


def _images(fidelity: Fidelity) -> Fidelity:
    """What is trained of a network, and on which images, whatever the number of epochs."""
    return replace(fidelity, epochs=0)
