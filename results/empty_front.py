"""Why a target's front is empty, and what came closest to its limits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from results.evaluations import History, TrialRecords, fully_trained
from results.limits import exceeded, sentences
from results.records import Evaluation, Target
from results.statistics import violation

_STATES = {
    "infeasible": "broke a limit for certain, so never trained",
    "failed": "failed",
    "unmeasured": "not measured: the board was away",
    "screened": "measured only, to choose what is worth a training",
    "pending": "not finished",
}


@dataclass(frozen=True)
class Closest:
    """A trial that breaks limits, and by how much.

    Attributes:
        known: Its records.
        evaluation: With the confirmed measurements.
        breaks: The limits that it is over, each with its figure.
        violation: Sum of the relative overshoots.
    """

    known: TrialRecords
    evaluation: Evaluation
    breaks: str
    violation: float


def why_empty(known: History, target: Target) -> str:
    """What became of the trials that were to run on a target, in one sentence without a full stop."""
    if not known.trials:
        return "no trial was asked for yet"
    here = _here(known, target)
    if not here:
        return f"no trial chose this target ({len(known.trials)} chose others of {target.device})"
    full = fully_trained(known)
    trained = [t for t in here if t.trial.number in full and target.name in t.measurements]
    refuted = sum(target.name in t.refuted for t in trained)
    counts = Counter(t.state for t in here)
    parts = [f"{counts[state]} {words}" for state, words in _STATES.items() if counts[state]]
    lower = counts["complete"] - len(trained)
    if lower:
        parts.insert(0, f"{lower} trained shorter or on less, or ended early, which is not ranked")
    if refuted:
        parts.insert(0, f"{refuted} that could not be confirmed, see the failures")
    if len(trained) > refuted:
        parts.insert(0, f"none of {len(trained) - refuted} full trainings is within all limits")
    elif not trained:
        parts.insert(0, "no full training was measured here" + (" yet" if lower or counts["pending"] else ""))
    return "; ".join(parts)


def closest(known: History, target: Target, n: int) -> list[Closest]:
    """The ``n`` trials on a target that break limits, the least first; none that keeps them all."""
    limits = known.problem.limits
    found = []
    for trial in _here(known, target):
        if trial.state in ("complete", "infeasible"):
            evaluation = trial.evaluation()
            measurements = {**evaluation.measurements, **trial.confirmed}
            evaluation = replace(evaluation, measurements=measurements)
            if over := exceeded(evaluation, limits):
                told = sentences(evaluation, over)
                found.append(Closest(trial, evaluation, told, violation(evaluation, limits)))
    return sorted(found, key=lambda each: (each.violation, each.known.trial.number))[:n]


def _here(known: History, target: Target) -> list[TrialRecords]:
    """Trials that run on a target: all, or those that chose it of its device."""
    decision, own = f"deployment.{target.device}", target.name.removeprefix(f"{target.device}-")
    return [t for t in known.trials if t.options.get(decision, own) == own]
