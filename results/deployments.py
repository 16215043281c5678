"""Which runtime, how many threads, which precision is best on a board: its targets side by side.

There are two answers.  One network of the space is measured on every target before the search; those
figures differ by the deployment alone.  And the candidates of all targets make one front, in which each
stands as it ran: a deployment is good if its candidates are there.

Figures of two deployments come from different runtimes by intention.  They are ranked where everything else
of their environments and their origin is equal, and not otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from results.evaluations import History
from results.front import Candidate, candidates, limits_of, objectives, within
from results.pareto import fronts
from results.records import Interval, Measurement, Target
from results.statistics import decide, judge

DEPLOYMENT_FACTS = ("runtime", "runtime_version", "provider")
"""Facts of an environment in which deployments differ."""

Board = tuple[tuple[tuple[str, str], ...], str]
"""What must be equal: the other facts, and the origin."""


@dataclass(frozen=True)
class Deployed:
    """A candidate on the front of a whole board.

    Attributes:
        target: Where it ran.
        candidate: What ran.
        certain: Whether nothing even possibly dominates it.
    """

    target: Target
    candidate: Candidate
    certain: bool


def same_network(known: History, device: str) -> dict[Target, Measurement]:
    """What the one network took on every target of a device, the newest state of the board only."""
    found = {t: known.prepared[t.name] for t in targets_on(known, device) if t.name in known.prepared}
    if not found:
        return {}
    newest = board(max(found.values(), key=_started_at))
    return {t: m for t, m in found.items() if board(m) == newest}


def board_front(known: History, device: str) -> list[Deployed]:
    """The nominal front over all targets of a device, best score first.

    Members are within all limits by their values, and measured validly in the newest state of the board.
    """
    groups: dict[Board, list[tuple[Target, Candidate]]] = {}
    for target in targets_on(known, device):
        limits = limits_of(known.problem, target)
        for candidate in candidates(known, target.name):
            if within(candidate.evaluation, limits) and judge(candidate.measurement).state != "invalid":
                groups.setdefault(board(candidate.measurement), []).append((target, candidate))
    if not groups:
        return []
    group = max(groups.values(), key=lambda rows: max(_started_at(c.measurement) for _, c in rows))
    maximise = [metric.maximise for metric in objectives(known.problem, group[0][0].name)]
    met = [
        all(decide(c.evaluation, limit) == "met" for limit in limits_of(known.problem, t)) for t, c in group
    ]
    found = fronts([c.figures for _, c in group], maximise, feasible=met)
    members = [Deployed(*group[i], certain=i in found.certain) for i in found.nominal]
    return sorted(members, key=lambda m: m.candidate.figures[0].value, reverse=known.problem.maximise)


@dataclass(frozen=True)
class Factor:
    """What one decision does to the time of one and the same network, everything else being equal.

    Attributes:
        name: ``runtime``, ``threads`` or ``precision``.
        fastest: The best value.
        others: Time of the other values over that of the fastest, the faster first.
        pairs: In how many combinations of the other decisions every value was measured.
    """

    name: str
    fastest: str
    others: tuple[tuple[str, Interval], ...]
    pairs: int


def factors(times: Mapping[Target, Interval]) -> list[Factor]:
    """Decisions with several values, compared where the others are equal: geometric means of the ratios.

    A runtime counts with its options other than the threads: they are its own.  The variances of the
    logarithms are added over both values and all combinations.
    """
    found = []
    for name in ("runtime", "threads", "precision"):
        rows: dict[tuple[str, ...], dict[str, Interval]] = {}
        for target, interval in times.items():
            decided = decisions(target)
            value = decided.pop(name)
            rows.setdefault(tuple(decided.values()), {})[value] = interval
        values = {value for row in rows.values() for value in row}
        whole = [row for row in rows.values() if row.keys() == values]
        if len(values) > 1 and whole:
            found.append(_factor(name, whole))
    return found


def decisions(target: Target) -> dict[str, str]:
    """Runtime with its own options, threads and precision of a target."""
    options = dict(target.options)
    threads = str(options.pop("threads", 1))
    release = str(options.pop("package", ""))
    own = [release or target.runtime] if not release.startswith("==") else [target.runtime + release]
    own += [f"{key}={value}" for key, value in options.items()]
    return {"runtime": " ".join(own), "threads": threads, "precision": target.precision}


def _factor(name: str, rows: Sequence[Mapping[str, Interval]]) -> Factor:
    means = {value: sum(math.log(row[value].value) for row in rows) / len(rows) for value in rows[0]}
    fastest, *others = sorted(means, key=means.__getitem__)
    ratios = []
    for other in others:
        half = math.hypot(*(_log_half(row[v]) for row in rows for v in (fastest, other))) / len(rows)
        mean = means[other] - means[fastest]
        ratios.append((other, Interval(math.exp(mean - half), math.exp(mean), math.exp(mean + half))))
    return Factor(name, fastest, tuple(ratios), len(rows))


def _log_half(interval: Interval) -> float:
    return math.log(interval.high / interval.value)


def board(measurement: Measurement) -> Board:
    """What must be equal for figures of two deployments to be ranked."""
    facts = measurement.environment.facts
    return tuple(f for f in facts if f[0] not in DEPLOYMENT_FACTS), measurement.origin


def targets_on(known: History, device: str) -> list[Target]:
    """The targets of a device, in the order of the study."""
    return [target for target in known.targets if target.device == device]


def _started_at(measurement: Measurement) -> float:
    return max(session.started_at for session in measurement.sessions)
