"""Which runtime, how many threads, which precision is best on a board: its targets side by side.

There are two answers.  One network of the space is measured on every target before the search; those
figures differ by the deployment alone.  And the candidates of all targets make one front, in which each
stands as it ran: a deployment is good if its candidates are there.

Figures of two deployments come from different runtimes by intention.  They are ranked where everything else
of their environments and their origin is equal, and not otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from results.evaluations import History
from results.front import Candidate, candidates, limits_of, objectives, within
from results.pareto import fronts
from results.records import Measurement, Target
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
    """The nominal front over all targets of a device, best accuracy first.

    Members are within all limits by their values, and measured validly in the newest state of the board.
    """
    groups: dict[Board, list[tuple[Target, Candidate]]] = {}
    for target in targets_on(known, device):
        limits = limits_of(known.problem, target)
        for candidate in candidates(known, target.name):
            if within(candidate, limits) and judge(candidate.measurement).state != "invalid":
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
    return sorted(members, key=lambda m: -m.candidate.figures[0].value * (1 if maximise[0] else -1))


def board(measurement: Measurement) -> Board:
    """What must be equal for figures of two deployments to be ranked."""
    facts = measurement.environment.facts
    return tuple(f for f in facts if f[0] not in DEPLOYMENT_FACTS), measurement.origin


def targets_on(known: History, device: str) -> list[Target]:
    """The targets of a device, in the order of the study."""
    return [target for target in known.targets if target.device == device]


def _started_at(measurement: Measurement) -> float:
    return max(session.started_at for session in measurement.sessions)
