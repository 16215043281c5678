"""Figures of the nights: what was measured of a series, as it is stored beside the raw sessions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from results.records import (
    Architecture,
    Environment,
    Evaluation,
    Fidelity,
    Interval,
    Measurement,
    Metric,
    Proposal,
    Trial,
)
from results.series import Point
from results.statistics import agent_logs, judge, value

QUANTILES = {"latency_p50": 0.5, "latency_p90": 0.9, "latency_p99": 0.99}
FILE = Environment(())
"""What a figure of the file alone depends on; all other figures are of a board."""

SAME_BOARD = ("model", "unit", "emulated")
"""Facts of an environment that say which board it is."""


@dataclass(frozen=True)
class Look:
    """One figure of one series in one night: an index of what was measured, beside the raw sessions.

    Attributes:
        night: Which night.
        name: Name of the source.
        target: Name of the target.
        metric: Which figure.
        slot: 0 for the first look of a night, 1 for the second at a candidate, 2 for the file of the night
            before in a changed environment (a bridge).
        figure: With its interval, SI.
        z: Logarithm of the figure, less that of the reference where there is one.
        environment: Facts that should be equal within a series; none of a file's size.
        artifact: Hash of the file.
        verdict: Whether the measurement could be trusted.
        reasons: Why not.
        took_s: Time on the board, shared among the metrics of a measurement [s].
    """

    night: str
    name: str
    target: str
    metric: str
    slot: int
    figure: Interval
    z: float
    environment: Environment
    artifact: str
    verdict: str
    reasons: tuple[str, ...] = ()
    took_s: float = 0.0

    @property
    def series(self) -> str:
        """Name of the series, whatever the environment."""
        return f"{self.name}/{self.target}/{self.metric}"

    @property
    def board(self) -> tuple[str, ...]:
        """Which board it was: figures of two are never compared."""
        return tuple(self.environment.get(fact, "") for fact in SAME_BOARD)

    @property
    def point(self) -> Point:
        """The figure for the rules."""
        return Point(self.night, self.environment.fingerprint, math.log(self.figure.value), self.z)


def look(
    measurement: Measurement, metric: str, *, night: str, name: str, slot: int, took_s: float = 0.0
) -> Look | None:
    """The figure of a measurement for its series; None where it has none.

    Args:
        measurement: With sessions of the reference beside those of the model.
        metric: Which figure.
        night: Which night.
        name: Name of the source.
        slot: Which look of the night.
        took_s: Time on the board [s].
    """
    trial = Trial(0, Proposal(Architecture("", ()), Fidelity(1)))
    target = measurement.target.name
    evaluation = Evaluation(trial, "complete", {target: measurement})
    figure = value(evaluation, Metric(metric, (target,)))
    if figure is None or figure.value <= 0:
        return None
    beside = agent_logs(measurement, QUANTILES[metric], "reference") if metric in QUANTILES else {}
    z = math.log(figure.value) - (sum(beside.values()) / len(beside) if beside else 0.0)
    facts = (*measurement.environment.facts, ("beside", "reference" if beside else "nothing"))
    verdict = judge(measurement)
    return Look(
        night=night,
        name=name,
        target=target,
        metric=metric,
        slot=slot,
        figure=figure,
        z=z,
        environment=Environment(facts),
        artifact=measurement.artifact.sha256,
        verdict=verdict.state,
        reasons=verdict.reasons,
        took_s=took_s,
    )


def file_look(size_bytes: int, artifact: str, *, night: str, name: str, target: str) -> Look:
    """The size of a file, which takes no board."""
    size = float(size_bytes)
    figure, z = Interval(size, size, size), math.log(size)
    return Look(night, name, target, "size", 0, figure, z, FILE, artifact, "valid")
