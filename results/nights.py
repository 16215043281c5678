"""Nights of a plan as their records tell them, judged one after the other.

Judgements follow from the figures and are made anew each time (:mod:`results.regression`); what is stored is
what was measured and what was accepted.  A series is known by name, target, metric and environment: where the
kernel, a runtime or the reference changes, a new series begins, and the step between the two is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from results.codec import digest, from_json, to_json
from results.errors import ConfigError, unknown_name
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
from results.regression import Finding, Watch, baseline, confirmed, examine
from results.statistics import agent_logs, judge, value
from results.store import Run
from results.units import si_unit

Outcome = Literal[
    "fine",
    "learning",
    "unconfirmed",
    "regression",
    "slow change",
    "new environment",
    "not judged",
    "unmeasured",
]
BAD: tuple[Outcome, ...] = ("regression", "slow change")
QUANTILES = {"latency_p50": 0.5, "latency_p90": 0.9, "latency_p99": 0.99}


@dataclass(frozen=True)
class Look:
    """One figure of one series in one night: an index of what was measured, beside the raw sessions.

    Attributes:
        night: Which night.
        name: Name of the source.
        target: Name of the target.
        metric: Which figure.
        slot: 0 for the first look of a night, 1 for the second at a candidate, 2 for the file of the night
            before in a new environment (a bridge).
        figure: With its interval, SI.
        z: Logarithm of the figure, less that of the reference where there is one.
        environment: Facts that must be equal within a series.
        artifact: Hash of the file.
        verdict: Whether the measurement could be trusted.
        reasons: Why not.
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

    @property
    def series(self) -> str:
        """Name of the series, whatever the environment."""
        return f"{self.name}/{self.target}/{self.metric}"


@dataclass(frozen=True)
class Judged:
    """What a night says of a series.

    Attributes:
        series: Name of the series.
        outcome: In a word.
        look: The figure; None where it was not measured.
        finding: Of the rules.
        text: In a sentence.
    """

    series: str
    outcome: Outcome
    look: Look | None = None
    finding: Finding = field(default_factory=lambda: Finding("learning"))
    text: str = ""


def look(measurement: Measurement, metric: str, *, night: str, name: str, slot: int) -> Look | None:
    """The figure of a measurement for its series; None where it has none.

    Args:
        measurement: With sessions of the reference beside those of the model.
        metric: Which figure.
        night: Which night.
        name: Name of the source.
        slot: Which look of the night.
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
    )


def keep(run: Run, measurement: Measurement, looks: list[Look], slot: int) -> None:
    """Stores a measurement of a night and the figures of its series."""
    if not looks:
        return
    first = looks[0]
    key = f"{first.night}/{first.name}/{first.target}/{slot}"
    run.append("measured", key, {"measurement": to_json(measurement)})
    for one in looks:
        run.append("looked", f"{first.night}/{one.series}/{slot}", to_json(one))


def accept(run: Run, name: str) -> list[str]:
    """Accepts the newest level of all series of a source, or of one series; their names.

    Raises:
        ConfigError: If there is none of that name, with the nearest known.
    """
    looks = _looks(run)
    known = {one.series for one in looks} | {one.name for one in looks}
    if name not in known:
        raise ConfigError(unknown_name("series or source", name, known))
    series = sorted({one.series for one in looks if name in (one.series, one.name)})
    nights = [record.key for record in run.records("night")]
    for one in series:
        run.append("accepted", f"{nights[-1]}/{one}", {"series": one})
    return series


def _looks(run: Run) -> list[Look]:
    return [from_json(Look, record.body) for record in run.records("looked")]


@dataclass
class _State:
    """What is known of all series up to some night."""

    thresholds: Mapping[str, float]
    watches: dict[tuple[str, str], Watch] = field(default_factory=dict)
    newest: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Environment] = field(default_factory=dict)

    def watch(self, one: Look) -> Watch:
        fresh = Watch(one.metric, threshold=self.thresholds.get(one.metric))
        return self.watches.setdefault((one.series, one.environment.fingerprint), fresh)

    def add(self, one: Look) -> None:
        watch = self.watch(one)
        watch.history = watch.history.add(one.z)

    def accept(self, series: str) -> None:
        for (name, _), watch in self.watches.items():
            if name == series:
                watch.history = watch.history.accept()


def judge_nights(run: Run, thresholds: Mapping[str, float]) -> dict[str, list[Judged]]:
    """Every night judged by those before it, oldest first.

    Args:
        run: The plan's run.
        thresholds: Least shift that matters per metric, as a share, where it is not the default.
    """
    state = _State(thresholds)
    nights: dict[str, list[Look]] = {record.key: [] for record in run.records("night")}
    missing: dict[str, list[Judged]] = {night: [] for night in nights}
    for one in _looks(run):
        nights[one.night].append(one)
    for record in run.records("unmeasured"):
        night, series = record.key.split("/", 1)
        missing[night].append(Judged(series, "unmeasured", text=str(record.body["reason"])))
    accepted: dict[str, list[str]] = {}
    for record in run.records("accepted"):
        night, series = record.key.split("/", 1)
        accepted.setdefault(night, []).append(series)
    judged = {}
    for night, looks in nights.items():
        judged[night] = [*_judge_night(state, looks, accepted.get(night, [])), *missing[night]]
    return judged


def _judge_night(state: _State, looks: list[Look], accepted: list[str]) -> list[Judged]:
    first = {one.series: one for one in looks if one.slot == 0}
    second = {one.series: one for one in looks if one.slot == 1}
    bridges = {one.series: one for one in looks if one.slot == 2}
    usable = {name: one for name, one in first.items() if not _unusable(one)}
    watches = {name: state.watch(one) for name, one in usable.items()}
    tonight = {name: one.z for name, one in usable.items()}
    findings = examine(watches, tonight)
    bad = confirmed(
        watches, tonight, {n: one.z for n, one in second.items() if n in usable and not _unusable(one)}
    )
    judged = []
    for name, one in first.items():
        if name not in usable:
            judged.append(Judged(name, "not judged", one, text=_unusable(one)))
            continue
        result = _outcome(one, findings[name], name in second, name in bad)
        result = _new_environment(state, result, bridges.get(name))
        judged.append(result)
        state.newest[name] = one.environment.fingerprint
        state.facts[one.environment.fingerprint] = one.environment
    for name in accepted:
        state.accept(name)
    for result in judged:
        is_history = result.outcome not in (*BAD, "not judged") or result.series in accepted
        if result.look is not None and is_history:
            state.add(result.look)
    return judged


def _unusable(one: Look) -> str:
    if one.environment.get("emulated", ""):
        return "an emulated board: never alerted"
    return f"the measurement is invalid: {'; '.join(one.reasons)}" if one.verdict == "invalid" else ""


def _outcome(one: Look, finding: Finding, looked_again: bool, is_bad: bool) -> Judged:
    base = f"over {finding.nights} nights, p = {finding.p:.2g}"
    if finding.state == "learning":
        text = f"learning: {finding.nights} nights of history"
        return Judged(one.series, "learning", one, finding, text)
    if finding.state == "slow change":
        text = f"crept up by {finding.shift:.1%} within {finding.nights} nights"
        return Judged(one.series, "slow change", one, finding, text)
    if finding.state == "fine":
        return Judged(one.series, "fine", one, finding, f"{finding.shift:+.1%} {base}")
    if is_bad:
        text = f"{finding.shift:+.1%} {base}; measured again in the same night and confirmed"
        return Judged(one.series, "regression", one, finding, text)
    why = "not confirmed when measured again" if looked_again else "not measured again"
    return Judged(one.series, "unconfirmed", one, finding, f"{finding.shift:+.1%} {base}; {why}")


def _new_environment(state: _State, judged: Judged, bridge: Look | None) -> Judged:
    """A series whose environment is another one than last time begins anew; says how far apart they are."""
    one = judged.look
    if one is None or judged.outcome != "learning" or judged.finding.nights:
        return judged
    before = state.newest.get(one.series)
    if before is None or before == one.environment.fingerprint:
        return judged
    old, new = dict(state.facts[before].facts), dict(one.environment.facts)
    changed = [
        f"{key} {old.get(key)} -> {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)
    ]
    base = baseline(state.watches[one.series, before].history)
    shift = "" if base is None else f"; {math.expm1(one.z - base.mean):+.1%} against the series before"
    if bridge is not None and base is not None:
        shift += f", {math.expm1(bridge.z - base.mean):+.1%} with the file of the night before"
    text = f"a new series begins: {', '.join(changed)}{shift}"
    return replace(judged, outcome="new environment", text=text)


def newest_artifacts(run: Run) -> dict[str, Look]:
    """The newest look of every series, for a bridge to a new environment."""
    return {one.series: one for one in _looks(run) if one.slot == 0}


def row(night: str, judged: Judged) -> dict[str, Any]:
    """A judged series as a row of the history CSV, and of the JSON output."""
    one, figure = judged.look, judged.look.figure if judged.look else None
    name, target, metric = (
        judged.series.split("/", 2) if judged.series.count("/") >= 2 else (judged.series, "", "")
    )
    return {
        "night": night,
        "series": judged.series,
        "name": name,
        "target": target,
        "metric": metric,
        "outcome": judged.outcome,
        "shift": None if judged.outcome in ("unmeasured", "not judged", "learning") else judged.finding.shift,
        "p": judged.finding.p if judged.outcome in ("fine", "unconfirmed", "regression") else None,
        "history_nights": judged.finding.nights,
        "unit": si_unit(metric),
        "figure": figure.value if figure else None,
        "figure_low": figure.low if figure else None,
        "figure_high": figure.high if figure else None,
        "log_ratio": one.z if one else None,
        "verdict": one.verdict if one else None,
        "artifact_sha256": one.artifact if one else None,
        "environment": digest(to_json(one.environment))[:12] if one else None,
        "text": judged.text,
    }
