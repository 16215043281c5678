"""Which candidates are on a target's front, by the figures that count at the end.

A candidate is a trained trial that was measured on the target and is within all limits of the target and of
the network by its values.  Confirmed figures replace those of the screen.  Whether a limit is *certainly*
kept decides how much a candidate may claim: one in doubt is on no certain front and rules nobody out, and
so is one whose measurement is invalid.

The score here is that of the validation split, for all candidates alike: the test split is known for some
only, and choosing by it would spend it.

Figures of different environments (kernel, runtime version, unit ...) or origins (measured, replayed) are
never ranked with each other: the newest environment's candidates make the front, those of others that lead
among themselves are listed as ``other environment``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from results import energy
from results.evaluations import History, TrialRecords, fully_trained
from results.pareto import Fronts, fronts
from results.records import Evaluation, Interval, Limit, Measurement, Metric, Problem, Target
from results.statistics import decide, judge, value

Place = Literal["certain", "possible", "other environment"]


@dataclass(frozen=True)
class Candidate:
    """A trained trial on one target.

    Attributes:
        known: Its records.
        evaluation: With the confirmed measurement of the target, where there is one.
        measurement: That measurement.
        confirmed: Whether it is a confirmed one.
        figures: Its objectives, in the order of :func:`objectives`.
    """

    known: TrialRecords
    evaluation: Evaluation
    measurement: Measurement
    confirmed: bool
    figures: tuple[Interval, ...]

    @property
    def environment(self) -> tuple[str, str]:
        """What must be equal for two candidates to be ranked."""
        return self.measurement.environment.fingerprint, self.measurement.origin


@dataclass(frozen=True)
class Member:
    """A candidate on a front.

    Attributes:
        candidate: The candidate.
        place: The certain front, the possible front, or the front of another environment.
        nominal: Whether nobody dominates it by the values alone.
        limits: ``met``, or ``unclear`` where the interval reaches over a limit.
    """

    candidate: Candidate
    place: Place
    nominal: bool
    limits: Literal["met", "unclear"]


def objectives(problem: Problem, target: str) -> tuple[Metric, ...]:
    """The problem's objectives as they are on one target: the task's metric first, then the costs.

    A cost that is an objective of every target is one on each.
    """
    costs = [replace(o, targets=(target,) if o.targets else (), scales=()) for o in problem.objectives[1:]]
    return Metric("accuracy", (target,), maximise=problem.maximise), *dict.fromkeys(costs)


def limits_of(problem: Problem, target: Target) -> tuple[Limit, ...]:
    """The limits that a candidate must keep on a target: the target's own and the network's."""
    network = tuple(limit for limit in problem.limits if not limit.metric.targets)
    return (*own_limits(problem, target), *network)


def own_limits(problem: Problem, target: Target) -> tuple[Limit, ...]:
    """The limits of a target itself; where trials choose a target of the device, those of the device."""
    places = ((target.name,), (target.device,))
    return tuple(limit for limit in problem.limits if limit.metric.targets in places)


def candidates(history: History, target: str) -> list[Candidate]:
    """Fully trained trials that were measured on a target and not refuted, within the limits or not."""
    found = []
    full = fully_trained(history)
    for known in history.trials:
        measurement = known.confirmed.get(target) or known.measurements.get(target)
        if known.trial.number not in full or measurement is None or target in known.refuted:
            continue
        evaluation = known.evaluation()
        evaluation = replace(evaluation, measurements={**evaluation.measurements, target: measurement})
        figures = [value(evaluation, metric) for metric in objectives(history.problem, target)]
        complete = tuple(f for f in figures if f is not None)
        if len(complete) == len(figures):
            found.append(Candidate(known, evaluation, measurement, target in known.confirmed, complete))
    return found


def within(evaluation: Evaluation, limits: Sequence[Limit]) -> bool:
    """Whether all figures are within their limits by their values."""
    figures = [(value(evaluation, limit.metric), limit.upper) for limit in limits]
    return all(figure is not None and figure.value <= upper for figure, upper in figures)


def front(history: History, target: str) -> list[Member]:
    """Members of the certain and the possible front of a target, the best score first.

    Those of other environments come last, see the head of this module.
    """
    limits = limits_of(history.problem, history.target(target))
    metrics = (*objectives(history.problem, target), *(limit.metric for limit in limits))
    by_energy = any(metric.name == "energy" for metric in metrics)
    groups: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in candidates(history, target):
        if within(candidate.evaluation, limits):
            # Another meter covers something else.
            meter = energy.meter_of(candidate.measurement) if by_energy else ""
            groups.setdefault((*candidate.environment, meter), []).append(candidate)
    members: list[Member] = []
    newest_first = sorted(groups.values(), key=lambda group: -max(map(_measured_at, group)))
    for number, group in enumerate(newest_first):
        members += _members(group, history.problem, target, limits, newest=number == 0)
    return members


def _members(
    group: list[Candidate], problem: Problem, target: str, limits: Sequence[Limit], *, newest: bool
) -> list[Member]:
    met = [all(decide(c.evaluation, limit) == "met" for limit in limits) for c in group]
    sound = [judge(c.measurement).state != "invalid" for c in group]
    maximise = [metric.maximise for metric in objectives(problem, target)]
    found = fronts(
        [c.figures for c in group], maximise, feasible=[m and s for m, s in zip(met, sound, strict=True)]
    )
    members = [
        Member(
            candidate=group[i],
            place=_place(i, found) if newest else "other environment",
            nominal=newest and i in found.nominal,
            limits="met" if met[i] else "unclear",
        )
        for i in found.possible
    ]
    return sorted(members, key=lambda m: m.candidate.figures[0].value, reverse=problem.maximise)


def _place(index: int, found: Fronts) -> Place:
    return "certain" if index in found.certain else "possible"


def _measured_at(candidate: Candidate) -> float:
    return max(session.started_at for session in candidate.measurement.sessions)
