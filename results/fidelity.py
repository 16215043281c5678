"""Which trials had the study's full training, and whether lower ones predict it.

A trial's *level* is its fidelity with the epochs counted that its weights had before: a promoted trial goes
on with those of its parent.  Scores of different levels are never ranked with each other; only trials at
the full level enter fronts, and none whose training was ended before its last epoch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from results.rank_correlation import kendall
from results.records import Architecture, Evaluation, Fidelity, Interval, Trial

PREDICTS = 0.5
"""Kendall's tau that a rung is to reach: then three of four pairs of networks are in the right order."""

INHERITED = "inherited_epochs"
"""Key of a proposal's note: how many epochs of its parent a child is to count at the most."""

LEAST_PAIRS = 8
"""Networks at two rungs from which on a rung may be raised."""


@dataclass(frozen=True)
class Agreement:
    """How well one rung puts networks into the order of the next.

    Attributes:
        low: Fidelity of the lower rung.
        high: Fidelity of the higher one.
        networks: Number of networks that were trained at both: those that were promoted, the better ones of
            the lower rung, among which the order is harder to tell than among all.
        tau: Kendall's rank correlation (tau-b) with its 95 % interval; None for fewer than five networks.
    """

    low: Fidelity
    high: Fidelity
    networks: int
    tau: Interval | None

    @property
    def misleads(self) -> bool:
        """Whether the lower rung certainly predicts too little: even the interval's upper end does."""
        return self.tau is not None and self.networks >= LEAST_PAIRS and self.tau.high < PREDICTS


class Levels:
    """Fidelity of each trial, with the epochs counted that its weights had before, as the trials come.

    Epochs count where they were of the same subset, width and resolution: all of them where the network is
    the same (a promotion); of another network that it grew from, at most as many as it was trained itself,
    which is what inherited weights are worth at best, and no more than its proposal's note says
    (:data:`INHERITED`), so that it is of the level that was wanted.  A supernet's never do.  A parent that
    has not come before its child adds none.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Architecture, Fidelity]] = {}

    def add(self, trial: Trial) -> Fidelity:
        """The level of one more trial."""
        proposal = trial.proposal
        own, parent = proposal.fidelity, proposal.weights_from
        if isinstance(parent, int) and parent in self._known:
            architecture, before = self._known[parent]
            if replace(before, epochs=own.epochs) == own:
                inherited = before.epochs
                if architecture != proposal.architecture:
                    inherited = min(inherited, own.epochs, proposal.note.get(INHERITED, inherited))
                own = replace(own, epochs=own.epochs + inherited)
        self._known[trial.number] = proposal.architecture, own
        return own


def levels(trials: Iterable[Trial]) -> dict[int, Fidelity]:
    """The level of each trial (:class:`Levels`) by its number, whatever the order in which they are given."""
    known = Levels()
    return {trial.number: known.add(trial) for trial in sorted(trials, key=lambda trial: trial.number)}


def is_full(level: Fidelity, full: Fidelity) -> bool:
    """Whether a level has what a full training has: the same images and network, and no fewer epochs."""
    return replace(level, epochs=full.epochs) == full and level.epochs >= full.epochs


def agreements(evaluations: Iterable[Evaluation]) -> list[Agreement]:
    """Rank correlation of validation scores between each two levels that follow each other.

    Of networks that were trained at both, wherever there are some; trainings that were ended early are left
    out.  In order of falling number of networks.
    """
    complete = [e for e in evaluations if e.state == "complete" and not e.stopped]
    reached = levels(e.trial for e in complete)
    scores: dict[Architecture, dict[Fidelity, float]] = {}
    for evaluation in complete:
        if "fp32" in evaluation.accuracy:
            of_network = scores.setdefault(evaluation.trial.proposal.architecture, {})
            of_network[reached[evaluation.trial.number]] = evaluation.accuracy["fp32"].value
    pairs: dict[tuple[Fidelity, Fidelity], list[tuple[float, float]]] = {}
    for known in scores.values():
        for low, high in itertools.pairwise(known):  # in the order of the trials: from rung to rung
            pairs.setdefault((low, high), []).append((known[low], known[high]))
    found = [_agreement(low, high, both) for (low, high), both in pairs.items()]
    return sorted(found, key=lambda agreement: -agreement.networks)


def _agreement(low: Fidelity, high: Fidelity, pairs: Sequence[tuple[float, float]]) -> Agreement:
    table = np.array(pairs)
    return Agreement(low, high, len(pairs), kendall(table[:, 0], table[:, 1]))  # type: ignore[arg-type]


def describe_fidelity(fidelity: Fidelity) -> str:
    """A fidelity in a few words: epochs, and what differs from the whole data and network."""
    words = [f"{fidelity.epochs} epochs" if fidelity.epochs != 1 else "1 epoch"]
    if fidelity.subset != 1:
        words.append(f"{100 * fidelity.subset:.3g}% of the data")
    if fidelity.width != 1:
        words.append(f"width x{fidelity.width:g}")
    if fidelity.resolution is not None:
        words.append(f"{fidelity.resolution} pixels")
    return ", ".join(words)
