"""Whose weights a trial's training began with, and what trainings stand behind its score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from results.evaluations import TrialRecords

SUPERNET = "supernet"


@dataclass(frozen=True)
class Lineage:
    """A trial with its ancestors.

    Attributes:
        ancestors: Numbers of the trials whose weights it goes back to, its parent first.
        epochs: Epochs of its training and of all theirs, whatever share of the data they had.
        training_s: CPU time of those [s]; the supernet's is not in it.
        supernet: Whether the first of them began with shared weights.
    """

    ancestors: tuple[int, ...]
    epochs: int
    training_s: float
    supernet: bool


def own_epochs(known: TrialRecords) -> int:
    """Epochs that a trial was trained itself: fewer than asked for where it was ended early."""
    asked = known.trial.proposal.fidelity.epochs
    return min(asked, len(known.learning_curve)) if known.learning_curve else asked


def lineages(trials: Iterable[TrialRecords]) -> dict[int, Lineage]:
    """The lineage of every trained trial by its number.

    A parent that is not among the trials, or was not trained, adds nothing.
    """
    found: dict[int, Lineage] = {}
    for known in sorted(trials, key=lambda t: t.trial.number):
        if not known.accuracy:
            continue
        source = known.trial.proposal.weights_from
        epochs = own_epochs(known)
        parent = found.get(source) if isinstance(source, int) else None
        if parent is None or not isinstance(source, int):
            found[known.trial.number] = Lineage((), epochs, known.training_s, source == SUPERNET)
        else:
            found[known.trial.number] = Lineage(
                (source, *parent.ancestors),
                epochs + parent.epochs,
                known.training_s + parent.training_s,
                parent.supernet,
            )
    return found
