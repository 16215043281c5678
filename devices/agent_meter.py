"""Reads a power meter through an agent, wherever that runs, and runs plateaus on a board."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from devices.agent import metering
from devices.agent.failures import Failure
from devices.agent.options import read as read_options
from devices.agent_client import AgentClient
from results.errors import ConfigError, MeterError, ProtocolError, SessionTimeout, StoreError
from results.power import MeterTraits, Plateau, PowerTrace
from results.records import Artifact, Conditions, Option, RanOn, Target

START_LIMIT_S = 60.0
STOP_LIMIT_S = 120.0
COUNTER = "counter"
MOST_SAMPLES = 20_000_000
LEAST_SAMPLES = 3


@dataclass(frozen=True)
class MeterFacts:
    """What a meter is; see ``devices/agent/metering.py``.

    Attributes:
        meter: Name of the plug-in.
        source: Chip and rails.
        coverage: What its figure includes.
        period_s: How often it is read.
        change_s: How often its figure changes.
        channels: Rails that are read.
        total: Indices of those that add up to the figure.
        kind: ``samples`` or ``counter``.
    """

    meter: str
    source: str
    coverage: str
    period_s: float
    change_s: float
    channels: tuple[str, ...]
    total: tuple[int, ...]
    kind: str
    time_constant_s: float
    resolution_w: float
    gain: float
    offset_w: float
    least_s: float
    least_net_w: float
    leaves_out: str

    def __post_init__(self) -> None:
        if not 0 < self.period_s < 1e5 or not 0 < self.change_s < 1e5:
            raise ValueError(f"a meter cannot be read every {self.period_s!r} s")
        if not self.total or not all(0 <= i < len(self.channels) for i in self.total):
            raise ValueError("the channels that add up are not among the channels")
        numbers = (self.time_constant_s, self.resolution_w, self.gain, self.offset_w, self.least_s)
        if not all(0 <= number < 1e5 for number in numbers):
            raise ValueError("a trait of the meter is out of range")


@dataclass(frozen=True)
class _TraceHeader:
    count: int
    channels: int
    cpu_share: float
    stamp_bound_s: float


@dataclass(frozen=True)
class _Clock:
    ns: int


@dataclass(frozen=True)
class _Ran:
    runs: int
    idle_before_ns: tuple[int, int]
    active_ns: tuple[int, int]
    idle_after_ns: tuple[int, int]
    conditions: Conditions
    provider: str
    threads: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Spans:
    """How long each part of a plateau takes [s].

    Attributes:
        idle_s: Each idle part.
        settle_s: What is let pass before each part.
        active_s: The runs.
        warmup_s: Runs before all of it.
    """

    idle_s: float
    settle_s: float
    active_s: float
    warmup_s: float

    @property
    def total_s(self) -> float:
        """All parts together."""
        return self.warmup_s + 3 * self.settle_s + 2 * self.idle_s + self.active_s


def check_meter(device: str, meter: str, options: Mapping[str, Option]) -> None:
    """Refuses a meter that there is not, and options that it has not, before anything is connected.

    Raises:
        ConfigError: Naming the device, with what is known.
    """
    try:
        plugin = metering.plugin(meter)
        read_options(meter, plugin.OPTIONS, dict(options))
    except Failure as failure:
        raise ConfigError(f"[devices.{device}.meter] {failure.message}") from failure


def clock_s(agent: AgentClient) -> float:
    """The raw monotonic clock of the agent's machine now [s]."""
    return agent.checked(_Clock, agent.ask({"do": "clock"}), None).ns / 1e9


def start_meter(
    agent: AgentClient, meter: str, options: Mapping[str, Option], *, seed: int, limit_s: float
) -> MeterFacts:
    """Begins to sample a meter on the agent's machine; returns when it gives values.

    Args:
        agent: Where the meter is.
        meter: Its plug-in; empty for the one that the machine has itself.
        options: Its options.
        seed: Of the random moments of sampling.
        limit_s: When to end by itself, should nobody ask for the trace.

    Raises:
        MeterError: If there is none, or it gives no values; says what mends it.
        ConfigError: For an option that the meter does not have.
    """
    question = {"do": "meter_start", "meter": meter, "options": dict(options), "seed": seed}
    answer = agent.ask(question | {"limit_s": limit_s}, limit_s=START_LIMIT_S)
    return agent.checked(MeterFacts, answer, None)


def stop_meter(agent: AgentClient, facts: MeterFacts, *, number: int) -> tuple[PowerTrace, ...]:
    """Ends the sampling: the trace of the figure first, then one of each rail where there are several.

    Args:
        agent: Where the meter is.
        facts: What it said of itself.
        number: Of the plateau.

    Raises:
        MeterError: If the meter failed meanwhile.
    """
    answer = agent.ask({"do": "meter_stop"}, limit_s=STOP_LIMIT_S)
    header = agent.checked(_TraceHeader, answer, None, payload=True)
    times_s, channels = _unpacked(header, answer.payload, facts, agent.device)
    total = tuple(math.fsum(channels[i][n] for i in facts.total) for n in range(len(times_s)))
    traits = MeterTraits(
        **{
            name: getattr(facts, name)
            for name in MeterTraits.__dataclass_fields__
            if name in MeterFacts.__dataclass_fields__
        },
        stamp_bound_s=header.stamp_bound_s,
        cpu_share=header.cpu_share,
    )
    traits = replace(traits, period_s=max(facts.period_s, facts.change_s))
    figure = PowerTrace(
        source=facts.source,
        coverage=facts.coverage,
        clock=agent.hello.boot_id,
        times_s=times_s,
        powers_w=total,
        plateau=number,
        means=facts.kind == COUNTER,
        meter=traits,
    )
    if len(facts.channels) == 1:
        return (figure,)
    parts = zip(facts.channels, channels, strict=True)
    rails = (replace(figure, source=name, coverage="part", powers_w=values) for name, values in parts)
    return (figure, *rails)


def run_plateau(
    agent: AgentClient,
    artifact: Artifact,
    target: Target,
    spans: Spans,
    *,
    number: int,
    seed: int,
    min_runs: int,
) -> tuple[Plateau, RanOn]:
    """Idle, runs back to back, idle, in a fresh process on the board.

    Args:
        agent: On the board.
        artifact: A file that is there.
        target: How it is run.
        spans: How long each part takes.
        number: Of the freshly started agent.
        seed: Of the random inputs.
        min_runs: Least number of runs.

    Raises:
        CandidateError: As :meth:`BoardAgent.session`.
    """
    plan = {
        "warmup_s": spans.warmup_s,
        "idle_s": spans.idle_s,
        "settle_s": spans.settle_s,
        "active_s": spans.active_s,
        "min_runs": min_runs,
    }
    limit_s = START_LIMIT_S + 3 * spans.total_s
    runtime, answer = agent.run("plateau", artifact, target, {"seed": seed, "plan": plan}, limit_s)
    if answer.refusal is not None and answer.timed_out:
        raise SessionTimeout(artifact.sha256, f"did not end its runs for energy within {limit_s:.0f} s")
    ran = agent.checked(_Ran, answer, artifact.sha256)
    try:
        plateau = Plateau(
            agent=number,
            clock=agent.hello.boot_id,
            runs=ran.runs,
            idle_before_s=_seconds(ran.idle_before_ns),
            active_s=_seconds(ran.active_ns),
            idle_after_s=_seconds(ran.idle_after_ns),
            throttle_events=ran.conditions.throttle_events,
        )
    except StoreError as error:
        raise ProtocolError(agent.device, f"the agent sent no plateau: {error}") from error
    named = target.runtime if runtime.package == target.runtime else f"{target.runtime} ({runtime.package})"
    return plateau, RanOn(named, runtime.version, ran.threads, ran.provider, ran.cpus)


def _seconds(span_ns: tuple[int, int]) -> tuple[float, float]:
    return span_ns[0] / 1e9, span_ns[1] / 1e9


def _unpacked(
    header: _TraceHeader, payload: bytes, facts: MeterFacts, device: str
) -> tuple[tuple[float, ...], list[tuple[float, ...]]]:
    """Times [s] and the power of each channel [W]."""
    count, channels = header.count, header.channels
    if channels != len(facts.channels) or not 0 <= count <= MOST_SAMPLES:
        raise ProtocolError(device, f"the agent sent {count} samples of {channels} channels")
    if len(payload) != 8 * count * (1 + channels):
        raise ProtocolError(device, f"{count} samples of {channels} channels are not {len(payload)} bytes")
    times_ns = array("q", payload[: 8 * count])
    if any(later <= earlier for earlier, later in pairwise(times_ns)):
        raise MeterError(device, f"{facts.source}: its times run backwards; did its clock jump?")
    if count < LEAST_SAMPLES:
        raise MeterError(device, f"{facts.source} gave {count} values in all")
    times_s = tuple(ns / 1e9 for ns in times_ns)
    values = [tuple(array("d", payload[8 * count * k : 8 * count * (k + 1)])) for k in range(1, channels + 1)]
    if not all(math.isfinite(value) for channel in values for value in channel):
        raise ProtocolError(device, "the agent sent a power that is no number")
    if facts.kind == COUNTER:
        values = [_mean_powers(times_s, energies_j) for energies_j in values]
    return times_s, values


def _mean_powers(times_s: tuple[float, ...], energies_j: tuple[float, ...]) -> tuple[float, ...]:
    """Mean power since the reading before, from a counter; the first one repeats the second."""
    pairs = zip(pairwise(times_s), pairwise(energies_j), strict=True)
    means = [(e1 - e0) / (t1 - t0) for (t0, t1), (e0, e1) in pairs]
    return (means[0], *means)
