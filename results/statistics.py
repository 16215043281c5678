"""Figures from raw records: the only place that reads samples.

**Sessions, not samples.**  Runs within one process share its memory layout, its core and its warm-up, so
an interval over pooled runs covers the truth about half the time.  The figure of a session is the quantile
of its runs (Hyndman & Fan 1996, type 8, which is median-unbiased), and the interval is a t-interval over the
logarithms of those figures; where a plan spreads sessions over several agents, whose forked children share
one address layout, over the means per agent.  The value is the centre of that interval, so the geometric
mean of the sessions.

**Tails.**  Runs that resemble their predecessors reach the tail of their distribution in a long session
only, so that the quantiles of short ones lie too near the median, and averaging over sessions does not help.
Such a bias falls with the length of the session, and is taken off by the jackknife over g consecutive parts
of it (Quenouille 1956, who has g = 2): with q the quantile of the session and q_i those of its parts::

    q + (q - mean(q_i)) / (g - 1)

on logarithms, not beyond the runs themselves, and only where each part reaches the quantile.  At an AR(1) of
0.9 the interval of p90 over 8 agents with 2 sessions of 100 runs covers 90 % without it and 95 % with it.

**Known spread.**  What a target's sessions varied by before (``Plan.spread`` with ``spread_sessions``
degrees of freedom) is pooled with what the K sessions at hand vary by::

    s^2 = (spread_sessions * spread^2 + (K - 1) * s_K^2) / (spread_sessions + K - 1)

with t at ``spread_sessions + K - 1`` degrees of freedom (pooled variance, Snedecor & Cochran 1989, 6.4).
The known spread is that of medians; for another quantile the sampling variance of that quantile within a
session is added to it (order statistics, David & Nagaraja 2003, 7.1), because tails vary more.  Means per
agent do not pool it: it says nothing about how agents differ.

**More agents where the interval is wide.**  The spread is then that of the agents that were planned at least
(Stein 1945), so that the interval covers what it says although it decides when to stop.

**Known spread between agents.**  Sessions of a screen share one agent, so what one agent differs by from the
next does not average out.  ``Plan.agent_spread`` (one-way analysis of variance of the reference over several
agents) is added to the variance of the mean, ``s^2 / K + agent_spread^2``, with the degrees of freedom of
Welch & Satterthwaite.

**Warm-up.**  Runs at the start of the sessions that still belong to the warm-up are left out
(:func:`results.detectors.settled`).

**One session of unknown spread** has no interval that could be stated; it is given as
``value * [1/2, 2]`` so that nothing is certain by it.  A single replayed figure stands for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from results import detectors, energy, scores
from results.conditions import remarks
from results.errors import ConfigError, unknown_name
from results.records import Evaluation, Interval, Limit, Measurement, Metric, Plan, Score, Session

Floats = NDArray[np.float64]
Decision = Literal["met", "broken", "unclear", "unknown"]

CONFIDENCE = scores.CONFIDENCE
UNKNOWN_SPREAD = 2.0
"""Factor by which one session of unknown spread is taken to be off, either way."""

POOLED_RUNS_OF_P99 = 1000
"""Runs in all sessions together without which there is no 99th percentile."""

MOST_PARTS = 4
"""Parts of a session for the bias of its tail; four make the interval 5 % wider, two 12 %."""

QUANTILES = {"latency_p50": 0.5, "latency_p90": 0.9, "latency_p99": 0.99}
METRICS = ("accuracy", *QUANTILES, "energy", "peak_memory", "size", "macs", "parameters")


# --------------------------------------------------------------------------- figures of an evaluation


def value(evaluation: Evaluation, metric: Metric, confidence: float = CONFIDENCE) -> Interval | None:
    """A figure of an evaluation with its interval, in SI units; None where it is not known.

    * ``accuracy``: validation score at the precision of the metric's targets, ``fp32`` without targets; see
      :mod:`results.scores`.
    * ``latency_p50`` (``p90``, ``p99``): see :func:`latency` [s].
    * ``peak_memory``: greatest of the sessions, from the least to the greatest of them [bytes].
    * ``size``: of the file that was measured; without targets, of the largest file written [bytes].
    * ``macs``, ``parameters``: of the network.
    * ``energy``: gross, see :mod:`results.energy` [J].

    With several targets it is the worst of figure / scale, and None if one of them is not known.

    Raises:
        ConfigError: For an unknown metric, or one that needs a target and has none.
    """
    if metric.name not in METRICS:
        raise ConfigError(unknown_name("metric", metric.name, METRICS))
    if not metric.targets:
        return _of_network(evaluation, metric.name, confidence)
    scales = metric.scales or (1.0,) * len(metric.targets)
    figures = [_of_target(evaluation, metric.name, target, confidence) for target in metric.targets]
    known = [f for f in figures if f is not None]
    if len(known) < len(figures):
        return None
    worst: Callable[[list[float]], float] = min if metric.maximise else max
    scaled = list(zip(known, scales, strict=True))
    return Interval(
        worst([f.low / s for f, s in scaled]),
        worst([f.value / s for f, s in scaled]),
        worst([f.high / s for f, s in scaled]),
    )


def _of_network(evaluation: Evaluation, name: str, confidence: float) -> Interval | None:
    if name == "accuracy":
        return _score(evaluation.accuracy.get("fp32"), confidence)
    if name in ("macs", "parameters"):
        return _exact(evaluation.network.get(name))
    if name == "size":
        return _exact(
            max((v for k, v in evaluation.network.items() if k.startswith("size_bytes_")), default=None)
        )
    raise ConfigError(f"metric {name!r} is measured on a target; name one")


def measured_on(evaluation: Evaluation, place: str) -> Measurement | None:
    """The measurement on a target, or on the one that the trial chose of a device."""
    chosen = (m for m in evaluation.measurements.values() if m.target.device == place)
    return evaluation.measurements.get(place) or next(chosen, None)


def _of_target(evaluation: Evaluation, name: str, target: str, confidence: float) -> Interval | None:
    if name in ("macs", "parameters"):
        return _exact(evaluation.network.get(name))
    measurement = measured_on(evaluation, target)
    if measurement is None:
        return None
    if name == "accuracy":
        return _score(evaluation.accuracy.get(measurement.target.precision), confidence)
    if name == "size":
        return _exact(measurement.artifact.size_bytes)
    if name == "peak_memory":
        return peak_memory(measurement)
    if name == "energy":
        return energy.interval(measurement, confidence)
    return latency(measurement, QUANTILES[name], confidence)


def _exact(number: float | None) -> Interval | None:
    return None if number is None else Interval(number, number, number)


def _score(score: Score | None, confidence: float) -> Interval | None:
    return None if score is None else scores.interval(score, confidence)


# --------------------------------------------------------------------------- figures of a measurement


def latency(measurement: Measurement, quantile: float, confidence: float = CONFIDENCE) -> Interval | None:
    """A quantile of the time of one run [s], with its interval over sessions.

    None where the runs do not reach so far: every session needs ``1 / (1 - quantile)`` runs (10 for p90),
    the 99th percentile needs :data:`POOLED_RUNS_OF_P99` in all.  Figures replayed from a table, one
    number per session, stand for every quantile.

    Args:
        measurement: Sessions of role ``model`` are read.
        quantile: In (0, 1).
        confidence: Of the interval.
    """
    sessions = model_sessions(measurement)
    table = measurement.origin == "replayed" and all(len(s.durations_s) == 1 for s in sessions)
    if not sessions or not (table or _enough_runs(sessions, quantile)):
        return None
    logs, errors = _session_logs(sessions, quantile)
    plan = measurement.plan
    if plan.agents > 1:
        logs = np.array([logs[[s.agent == agent for s in sessions]].mean() for agent in _agents(sessions)])
    if table and len(logs) == 1:
        return _exact(sessions[0].durations_s[0])
    if plan.agents > 1:
        return _stein(logs, plan.agents, confidence)
    tail = 0.0 if quantile == 0.5 else float(np.mean(errors**2))
    known = _Known(
        plan.spread**2 + tail, plan.spread_sessions, plan.agent_spread**2, plan.agent_spread_agents
    )
    return _log_interval(logs, known, confidence)


@dataclass(frozen=True)
class _Known:
    """Variances known before, of the logarithms, with their degrees of freedom."""

    session: float = 0.0
    sessions: int = 0
    agent: float = 0.0
    agents: int = 0


def model_sessions(measurement: Measurement) -> list[Session]:
    """Sessions of the artifact itself, without those of the reference."""
    return [s for s in measurement.sessions if s.role == "model"]


def agent_logs(measurement: Measurement, quantile: float, role: str = "model") -> dict[int, float]:
    """Mean logarithm of the session figures per agent, of the sessions of one role."""
    sessions = [s for s in measurement.sessions if s.role == role]
    if not sessions or not _enough_runs(sessions, quantile):
        return {}
    logs = _session_logs(sessions, quantile)[0]
    return {agent: float(logs[[s.agent == agent for s in sessions]].mean()) for agent in _agents(sessions)}


def _agents(sessions: Sequence[Session]) -> list[int]:
    return sorted({s.agent for s in sessions})


def runs_needed(quantile: float, sessions: int) -> int:
    """Runs in each of so many sessions without which :func:`latency` knows no such quantile."""
    # The small number keeps 1 / (1 - 0.9), which is 10.000000000000002, from asking for 11.
    alone = 1 if quantile <= 0.5 else math.ceil(1 / (1 - quantile) - 1e-9)
    return alone if quantile < 0.99 else max(alone, math.ceil(POOLED_RUNS_OF_P99 / sessions))


def _enough_runs(sessions: Sequence[Session], quantile: float) -> bool:
    runs = [len(s.durations_s) for s in sessions]
    if quantile >= 0.99 and sum(runs) < POOLED_RUNS_OF_P99:
        return False
    return min(runs) >= runs_needed(quantile, POOLED_RUNS_OF_P99)


def _session_logs(sessions: Sequence[Session], quantile: float) -> tuple[Floats, Floats]:
    """Logarithm of each session's quantile and its standard error within the session, each ``(K,)``."""
    runs = detectors.settled([session.durations_s for session in sessions])
    rows = np.array([_session_log(durations_s, quantile) for durations_s in runs])
    return rows[:, 0], rows[:, 1]


@lru_cache(maxsize=4096)
def _session_log(durations_s: tuple[float, ...], quantile: float) -> tuple[float, float]:
    """Logarithm of a session's quantile, and its standard error within the session: half the distance between
    the quantiles one binomial standard deviation to either side."""
    runs = np.array(durations_s)
    ordered = np.sort(runs)
    step = math.sqrt(quantile * (1 - quantile) / len(ordered))
    low, log, high = (
        math.log(_quantile(ordered, q))
        for q in (max(0.0, quantile - step), quantile, min(1.0, quantile + step))
    )
    parts = min(MOST_PARTS, int(len(runs) * (1 - quantile) + 1e-9)) if quantile != 0.5 else 0
    if parts >= 2:
        split = np.array_split(runs, parts)
        mean = sum(math.log(_quantile(np.sort(part), quantile)) for part in split) / parts
        corrected = log + (log - mean) / (parts - 1)
        log = min(max(corrected, math.log(ordered[0])), math.log(ordered[-1]))
    return log, (high - low) / 2


def _quantile(ordered: Floats, quantile: float) -> float:
    """Type 8; strategies ask for thousands, and numpy's general function takes ten times as long."""
    place = min(max(quantile * (len(ordered) + 1 / 3) - 2 / 3, 0.0), len(ordered) - 1.0)
    i = min(int(place), len(ordered) - 2) if len(ordered) > 1 else 0
    low, high = ordered[i], ordered[min(i + 1, len(ordered) - 1)]
    return float(low + (place - i) * (high - low))


def _log_interval(logs: Floats, known: _Known, confidence: float) -> Interval:
    """t-interval of the mean of ``logs`` ``(K,)`` with what is known pooled in, on the original scale."""
    k, mean = len(logs), float(logs.mean())
    freedom: float = known.sessions + k - 1
    centre = math.exp(mean)
    if freedom < 1:
        return Interval(centre / UNKNOWN_SPREAD, centre, centre * UNKNOWN_SPREAD)
    of_mean = (known.sessions * known.session + float(((logs - mean) ** 2).sum())) / freedom / k
    variance = of_mean + known.agent
    if known.agent > 0 and known.agents > 0:
        freedom = variance**2 / (of_mean**2 / freedom + known.agent**2 / known.agents)
    half = float(special.stdtrit(freedom, 0.5 + confidence / 2)) * math.sqrt(variance)
    return Interval(centre * math.exp(-half), centre, centre * math.exp(half))


def _stein(logs: Floats, first: int, confidence: float) -> Interval:
    """Stein's two-stage interval (1945) of the mean over agents ``(A,)``: the spread is that of the ``first``
    agents, which decided how many more there were.

    An interval that stops once it is narrow, by the spread of all, stops when the spread happens to look
    small: at 1 % aimed for and 2 % between agents it covered 91 % instead of 95 %.
    """
    stage = logs[: max(2, first)]
    if len(stage) < 2:
        return _log_interval(logs, _Known(), confidence)
    mean, error = float(logs.mean()), float(stage.std(ddof=1)) / math.sqrt(len(logs))
    half = float(special.stdtrit(len(stage) - 1, 0.5 + confidence / 2)) * error
    return Interval(math.exp(mean - half), math.exp(mean), math.exp(mean + half))


def half_width(interval: Interval) -> float:
    """Half the width of an interval over its value (0.02 is 2 %)."""
    return (interval.high - interval.low) / 2 / interval.value


@dataclass(frozen=True)
class Spread:
    """How far figures of one file lie apart on a target: standard deviations of the log of medians.

    Attributes:
        sessions: Between sessions of one agent.
        session_freedom: Degrees of freedom behind it.
        agents: Between agents, on top of that.
        agent_freedom: Degrees of freedom behind it.
    """

    sessions: float = 0.0
    session_freedom: int = 0
    agents: float = 0.0
    agent_freedom: int = 0

    def into(self, plan: Plan) -> Plan:
        """The plan, leaning on this."""
        return replace(
            plan,
            spread=self.sessions,
            spread_sessions=self.session_freedom,
            agent_spread=self.agents,
            agent_spread_agents=self.agent_freedom,
        )


def spread(measurement: Measurement) -> Spread:
    """Spread between sessions and between agents: one-way analysis of variance (Searle 1992, 3.6).

    Estimates below zero are zero.  With one agent there is nothing to say about agents; with one session
    per agent everything is between agents.
    """
    sessions = model_sessions(measurement)
    if len(sessions) < 2:
        return Spread()
    logs = _session_logs(sessions, 0.5)[0]
    groups = [logs[[s.agent == agent for s in sessions]] for agent in _agents(sessions)]
    within_freedom, between_freedom = len(logs) - len(groups), len(groups) - 1
    within = sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / max(1, within_freedom)
    if between_freedom == 0:
        return Spread(math.sqrt(within), within_freedom)
    between = sum(len(g) * float((g.mean() - logs.mean()) ** 2) for g in groups) / between_freedom
    size = (len(logs) - sum(len(g) ** 2 for g in groups) / len(logs)) / between_freedom
    agents = math.sqrt(max(0.0, (between - within) / size))
    return Spread(math.sqrt(within), within_freedom, agents, between_freedom)


def latency_ratio(measurement: Measurement) -> float | None:
    """Median latency over that of the reference network measured beside it; None without a reference."""
    model = model_sessions(measurement)
    reference = [s for s in measurement.sessions if s.role == "reference"]
    if not model or not reference:
        return None
    return math.exp(_session_logs(model, 0.5)[0].mean() - _session_logs(reference, 0.5)[0].mean())


def peak_memory(measurement: Measurement) -> Interval | None:
    """Greatest peak of the sessions, from the least to the greatest of them (a range) [bytes]."""
    peaks = [s.peak_memory_bytes for s in model_sessions(measurement) if s.peak_memory_bytes is not None]
    return Interval(min(peaks), max(peaks), max(peaks)) if peaks else None


# --------------------------------------------------------------------------- judgements


@dataclass(frozen=True)
class Verdict:
    """Whether a measurement may be trusted: ``noisy`` with care, ``invalid`` not at all; and why not."""

    state: Literal["valid", "noisy", "invalid"]
    reasons: tuple[str, ...] = ()


def judge(measurement: Measurement) -> Verdict:
    """Judges a measurement by the board's state (:mod:`results.conditions`), by what its runs say of
    themselves (:mod:`results.detectors`), and by its spread.

    A measurement whose median has a wider interval than the plan asked for is noisy.  Figures that were
    replayed from a table carry no conditions and are judged by their width alone.
    """
    sessions = model_sessions(measurement)
    if not sessions:
        return Verdict("invalid", ("no sessions",))
    found = [*remarks(measurement, sessions), *detectors.remarks(sessions)]
    reasons = [remark.text for remark in found]
    interval = latency(measurement, 0.5)
    if interval is not None and half_width(interval) > measurement.plan.half_width:
        wanted = measurement.plan.half_width
        found_width = half_width(interval)
        reasons.append(f"interval wider than planned (median ±{found_width:.1%}, plan ±{wanted:.1%})")
    if any(remark.severity == "invalid" for remark in found):
        return Verdict("invalid", tuple(reasons))
    return Verdict("noisy" if reasons else "valid", tuple(reasons))


# --------------------------------------------------------------------------- limits


def decide(evaluation: Evaluation, limit: Limit) -> Decision:
    """Whether a limit is kept, by the interval at the limit's certainty.

    Returns:
        ``met`` if all of the interval is within, ``broken`` if none of it is, ``unclear`` in between,
        ``unknown`` if the figure is not known.
    """
    figure = value(evaluation, limit.metric, limit.certainty)
    if figure is None:
        return "unknown"
    if figure.high <= limit.upper:
        return "met"
    return "broken" if figure.low > limit.upper else "unclear"


def violation(evaluation: Evaluation, limits: Sequence[Limit]) -> float:
    """How far a trial is from feasible: sum of the relative overshoots of the nominal figures.

    The constraint violation of Deb 2000 (Comput. Methods Appl. Mech. Eng. 186, section 3), 0 being
    feasible.  A figure that is not known adds nothing where another limit is exceeded (a trial over one
    limit is not measured further); where none is, the trial is not known to be feasible, and the result
    is infinite.
    """
    total, unknown = 0.0, False
    for limit in limits:
        figure = value(evaluation, limit.metric, limit.certainty)
        if figure is None:
            unknown = True
        else:
            total += max(0.0, figure.value - limit.upper) / (abs(limit.upper) or 1.0)
    return math.inf if unknown and total == 0 else total
