"""What the speed-ups of a study saved, and what they risked.

Savings are estimates: what was not trained has no time of its own.  A full training of a network is taken to
cost its own seconds per epoch times the full number of epochs, or the mean of the full trainings where it was
only trained smaller.  What trainings that never came to their end risked: :mod:`results.risk`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from results.evaluations import History, TrialRecords, full_fidelity
from results.fidelity import Agreement, agreements, describe_fidelity, is_full, levels
from results.markdown import table
from results.records import Architecture, Evaluation, Fidelity, Interval
from results.risk import Risk, risks, unfinished


@dataclass(frozen=True)
class Saving:
    """What one speed-up did.

    Attributes:
        name: As the study names it.
        trainings: Number of trainings that it shortened or made unnecessary.
        saved_s: CPU seconds that they would have taken, estimated.
        risk: Better candidates that may have been lost; None where that is not known.
    """

    name: str
    trainings: int
    saved_s: float
    risk: Risk | None


@dataclass(frozen=True)
class _Trained:
    """A trained trial with the level that it reached."""

    known: TrialRecords
    evaluation: Evaluation
    level: Fidelity
    full: bool

    @property
    def architecture(self) -> Architecture:
        return self.known.trial.proposal.architecture

    @property
    def epoch_s(self) -> float:
        return self.known.training_s / max(1, len(self.known.learning_curve))


def savings(known: History, pretrained: Sequence[Mapping[str, Any]] = ()) -> list[Saving]:
    """What each speed-up that left a trace saved; empty for a plain search.

    Args:
        known: The run.
        pretrained: Records of the stage ``pretrain``; a supernet among them took seconds and saved none of
            its own: what is not trained for its scores is a saving of the rung that they are.
    """
    full = full_fidelity(known)
    if full is None:
        return []
    trained = _trained(known, full)
    shared = sum(t.trial.proposal.weights_from == "supernet" for t in known.trials)
    lost = _risks(known, trained, full)
    found = [
        _ended(known, lost.get("learning_curves")),
        _not_promoted(trained, full, lost.get("lower_fidelity")),
        _inherited(trained, full),
        Saving("supernet", shared, -_supernet_s(pretrained), None),
    ]
    return [saving for saving in found if saving.trainings]


def _supernet_s(pretrained: Sequence[Mapping[str, Any]]) -> float:
    """CPU seconds of the shared weights; other strategies' records have no losses."""
    return sum(float(body["training_s"]) for body in pretrained if "losses" in body)


def _trained(known: History, full: Fidelity) -> list[_Trained]:
    reached = levels(t.trial for t in known.trials)
    complete = [(t, t.evaluation()) for t in known.trials if t.state == "complete" and "fp32" in t.accuracy]
    return [
        _Trained(t, e, reached[t.trial.number], is_full(reached[t.trial.number], full) and not e.stopped)
        for t, e in complete
    ]


def _ended(known: History, risk: Risk | None) -> Saving:
    bodies = [t.stopped for t in known.trials if t.stopped]
    return Saving("learning_curves", len(bodies), sum(float(body["saved_s"]) for body in bodies), risk)


def _inherited(trained: Sequence[_Trained], full: Fidelity) -> Saving:
    """Epochs that children of other networks did not have to be trained."""
    children = [
        t
        for t in trained
        if isinstance(t.known.trial.proposal.weights_from, int)
        and t.level.epochs > t.known.trial.proposal.fidelity.epochs
        and not _is_promotion(t, trained)
    ]
    epochs = [t.level.epochs - t.known.trial.proposal.fidelity.epochs for t in children]
    saved_s = sum(n * t.epoch_s for n, t in zip(epochs, children, strict=True))
    return Saving("inheritance", len(children), saved_s, None)


def _is_promotion(child: _Trained, trained: Sequence[_Trained]) -> bool:
    parent = child.known.trial.proposal.weights_from
    return any(t.known.trial.number == parent and t.architecture == child.architecture for t in trained)


def _left(trained: Sequence[_Trained]) -> list[list[_Trained]]:
    """Trainings of each network that was left at a lower rung."""
    groups: dict[Architecture, list[_Trained]] = {}
    for one in trained:
        groups.setdefault(one.architecture, []).append(one)
    return [group for group in groups.values() if not any(one.full or one.known.stopped for one in group)]


def _not_promoted(trained: Sequence[_Trained], full: Fidelity, risk: Risk | None) -> Saving:
    left = _left(trained)
    whole = [t.epoch_s * full.epochs for t in trained if t.full]
    saved_s = 0.0
    for group in left:
        last = group[-1]
        same_size = (last.level.width, last.level.resolution, last.level.subset) == (
            full.width,
            full.resolution,
            full.subset,
        )
        timed = same_size and last.level.epochs > 0  # a score of shared weights tells no training's cost
        cost_s = last.epoch_s * full.epochs if timed or not whole else statistics.fmean(whole)
        saved_s += max(0.0, cost_s - sum(one.known.training_s for one in group))
    return Saving("lower_fidelity", len(left), saved_s, risk)


def _risks(known: History, trained: Sequence[_Trained], full: Fidelity) -> dict[str, Risk]:
    """The risk of each speed-up that left trainings unfinished, where it is known."""
    ends = {t.known.trial.number: Interval(**t.known.stopped["ends"]) for t in trained if t.known.stopped}
    begun = unfinished([t.evaluation for t in trained], ends, full)
    if not all(one.is_foreseen for one in begun):
        begun = [one for one in begun if one.ends is not None]
    whole = [t.evaluation for t in trained if t.full]
    return risks(begun, whole, known.problem) or {}


# --------------------------------------------------------------------------- the report


def speedups(known: History, pretrained: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """The section of the report; empty for a plain search.  Arguments as of :func:`savings`."""
    found = savings(known, pretrained)
    if not found:
        return []
    rows = [(s.name.replace("_", " "), s.trainings, f"{s.saved_s:.0f} s", _risk(s)) for s in found]
    supernet_s = _supernet_s(pretrained)
    spent_s = sum(t.training_s for t in known.trials) + supernet_s
    apart = " Networks that were trained alone to be compared with the supernet are not counted." * (
        supernet_s > 0
    )
    parts = [
        "## Speed-ups",
        "All trainings, parents', lower rungs', a supernet's and those that failed among them, took "
        f"{spent_s:.0f} s of CPU time; without the speed-ups about "
        f"{spent_s + sum(s.saved_s for s in found):.0f} s (estimated).{apart}",
        table(("speed-up", "trainings", "saved, estimated", "better candidates lost, estimated"), rows),
    ]
    if any(saving.risk is not None for saving in found):
        parts.append(
            "A better candidate would have been on the front, were all trained fully, and no full training "
            "can be taken for it within 95 % intervals of score and costs; near ties are further networks "
            "that would have been on the front by a hair."
        )
    stopped = [t for t in known.trials if t.stopped]
    if stopped:
        parts.append(
            f"{len(stopped)} trainings were ended early. The scores that they would have reached are "
            "**modelled**; they are in no front and no table of figures."
        )
    return [*parts, *_rungs(known)]


def _risk(saving: Saving) -> str:
    if saving.risk is None:
        return "not known"
    return (
        f"{saving.risk.expected:.2g} expected; at least one with probability {saving.risk.any:.0%}; "
        f"near ties {saving.risk.near_ties:.2g}"
    )


def _rungs(known: History) -> list[str]:
    found = agreements(t.evaluation() for t in known.trials if t.state == "complete")
    if not found:
        return []
    rows = [(describe_fidelity(a.low), describe_fidelity(a.high), a.networks, tau_of(a)) for a in found]
    return [
        "Whether lower rungs predict higher ones (Kendall's tau of the validation scores, 95 % interval, "
        "of the networks that were promoted, among which the order is harder to tell):",
        table(("rung", "next rung", "networks", "tau"), rows),
    ]


def tau_of(agreement: Agreement) -> str:
    """A rank correlation in words."""
    if agreement.tau is None:
        return "too few networks"
    low, middle, high = agreement.tau.low, agreement.tau.value, agreement.tau.high
    raised = "; does not predict: raised" if agreement.misleads else ""
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]{raised}"
