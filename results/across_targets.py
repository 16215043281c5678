"""The front over all targets together, where the costs of each are objectives of their own.

A network that is a good compromise between two boards may be on the front of neither.  A candidate here is
a trained trial that is within all limits and has all objectives; confirmed figures replace those of the
screen, target by target.  As on the front of one target (:mod:`results.front`), only figures of the newest
environment and origin are ranked, here those of every target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from results import energy
from results.deployments import board
from results.evaluations import History, TrialRecords, fully_trained
from results.front import within
from results.pareto import fronts
from results.records import Evaluation, Interval, Measurement, Problem
from results.statistics import decide, judge, value


@dataclass(frozen=True)
class Compromise:
    """A trained trial with its figures on all its targets.

    Attributes:
        known: Its records.
        evaluation: With the confirmed measurements, where there are some.
        figures: The problem's objectives, in order.
        confirmed: Whether it is confirmed on every target that it was measured on.
        place: ``certain`` or ``possible`` front.
        nominal: Whether nobody dominates it by the values alone.
        limits: ``met``, or ``unclear`` where an interval reaches over a limit.
    """

    known: TrialRecords
    evaluation: Evaluation
    figures: tuple[Interval, ...]
    confirmed: bool
    place: Literal["certain", "possible"] = "possible"
    nominal: bool = False
    limits: Literal["met", "unclear"] = "unclear"


def spans_targets(problem: Problem) -> bool:
    """Whether the costs of several targets are objectives of their own."""
    return len({objective.targets for objective in problem.objectives[1:] if objective.targets}) > 1


def front_across_targets(known: History) -> list[Compromise]:
    """Members of the certain and the possible front by all objectives, best score first.

    Empty where no study asked for it (:func:`spans_targets`).
    """
    if not spans_targets(known.problem):
        return []
    limits = known.problem.limits
    group = _comparable(known.problem, [c for c in _candidates(known) if within(c.evaluation, limits)])
    met = [all(decide(c.evaluation, limit) == "met" for limit in limits) for c in group]
    sound = [all(judge(m).state != "invalid" for m in c.evaluation.measurements.values()) for c in group]
    maximise = [objective.maximise for objective in known.problem.objectives]
    found = fronts(
        [c.figures for c in group], maximise, feasible=[m and s for m, s in zip(met, sound, strict=True)]
    )
    members = [
        replace(
            group[i],
            place="certain" if i in found.certain else "possible",
            nominal=i in found.nominal,
            limits="met" if met[i] else "unclear",
        )
        for i in found.possible
    ]
    return sorted(members, key=lambda member: member.figures[0].value, reverse=known.problem.maximise)


def _candidates(known: History) -> list[Compromise]:
    """Fully trained trials whose objectives are all known and whose files none of their targets refuted."""
    found = []
    full = fully_trained(known)
    for trial in known.trials:
        if trial.trial.number not in full or trial.refuted:
            continue
        evaluation = trial.evaluation()
        evaluation = replace(evaluation, measurements={**evaluation.measurements, **trial.confirmed})
        figures = [value(evaluation, objective) for objective in known.problem.objectives]
        complete = tuple(figure for figure in figures if figure is not None)
        if len(complete) == len(figures):
            confirmed = evaluation.measurements.keys() <= trial.confirmed.keys()
            found.append(Compromise(trial, evaluation, complete, confirmed))
    return found


def _comparable(problem: Problem, found: list[Compromise]) -> list[Compromise]:
    """Those whose measurements are all of the newest state of their targets and boards."""
    by_energy = any(objective.name == "energy" for objective in problem.objectives)
    newest: dict[tuple[str, str], object] = {}
    for measurement in sorted(_measurements(found), key=_measured_at):
        newest.update(_states(measurement, by_energy=by_energy))
    return [
        c
        for c in found
        if all(_states(m, by_energy=by_energy).items() <= newest.items() for m in _measurements([c]))
    ]


def _measurements(found: Iterable[Compromise]) -> list[Measurement]:
    return [m for c in found for m in c.evaluation.measurements.values()]


def _measured_at(measurement: Measurement) -> float:
    return max(session.started_at for session in measurement.sessions)


def _states(measurement: Measurement, *, by_energy: bool) -> dict[tuple[str, str], object]:
    """What must be equal on a target, and on its device whichever the target."""
    meter = energy.meter_of(measurement) if by_energy else ""
    target = measurement.target
    return {
        ("target", target.name): (measurement.environment.fingerprint, measurement.origin, meter),
        ("device", target.device): (board(measurement), meter),
    }
