"""Power traces of known truth: what a meter would have seen of a plateau, with its faults.

Used by the tests of energy and by ``benchmarks/energy_trust.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from results.power import ClockFit, MeterTraits, Plateau, PowerTrace
from results.records import Artifact, Environment, Measurement, Plan, RanOn, Target

Floats = NDArray[np.float64]
START_S = 5000.0
BOARD, OTHER, HOST = "board", "meter", "host"


@dataclass(frozen=True)
class Scene:
    """A plateau and the meter that watches it.

    Attributes:
        idle_w: Power while idle.
        net_w: Mean power above idle while it runs.
        swing: Depth of the pulses while it runs: power is net * (1 +- swing) for half of a run each.
        run_s: Time of one run.
        active_s: Time of the runs.
        idle_s: Time of each idle part.
        drift_per_min: Relative rise of the idle power per minute, in runs too.
        noise_w: White noise of the sensor.
        slow_noise_w: Noise of the power itself, standard deviation, correlated over ``slow_noise_s``.
        slow_noise_s: Its time constant.
        cycle_s: Time in which the sensor makes a new value; 0: at once.
        averaged: Number of values that the sensor averages over, as a running mean.
        step_w: Step of its figure.
        period_s: How often it is read.
        jitter: Whether the moments of reading are random.
        lost: Share of readings that are lost.
        gap_s: Length of one gap in the middle of the runs.
        offset_s: The meter's clock is ahead by this ...
        skew: ... and gains this per second.
        round_trip_s: Of the probes by which clocks are compared, out and back.
        session_spread: Relative spread of the net power from one agent to the next.
        traits: What is told of the meter beside period, time constant and step.
    """

    idle_w: float = 3.0
    net_w: float = 2.0
    swing: float = 0.0
    run_s: float = 0.0213
    active_s: float = 10.0
    idle_s: float = 10.0
    drift_per_min: float = 0.0
    noise_w: float = 0.0
    slow_noise_w: float = 0.0
    slow_noise_s: float = 0.1
    cycle_s: float = 0.0
    averaged: int = 1
    step_w: float = 0.0
    period_s: float = 0.0066
    jitter: bool = True
    lost: float = 0.0
    gap_s: float = 0.0
    offset_s: float = 0.0
    skew: float = 0.0
    round_trip_s: tuple[float, float] = (0.0, 0.0)
    session_spread: float = 0.0
    traits: MeterTraits = field(default_factory=MeterTraits)

    @property
    def gross_j(self) -> float:
        """True energy of a run, as of the middle of the plateau."""
        return (self.idle_w + self.net_w) * self.run_s

    @property
    def net_j(self) -> float:
        """True energy of a run above idle."""
        return self.net_w * self.run_s


def record(
    scene: Scene, rng: np.random.Generator, number: int = 0
) -> tuple[Plateau, PowerTrace, list[ClockFit]]:
    """What is stored of a plateau."""
    time_constant_s = scene.averaged * scene.cycle_s if scene.averaged > 1 else 0.0
    settle_s = max(1.0, 5 * time_constant_s)
    runs = max(1, round(scene.active_s / scene.run_s))
    idle_before = (START_S, START_S + scene.idle_s)
    active = (idle_before[1] + settle_s, idle_before[1] + settle_s + runs * scene.run_s)
    idle_after = (active[1] + settle_s, active[1] + settle_s + scene.idle_s)
    plateau = Plateau(number, BOARD, runs, idle_before, active, idle_after)
    factor = 1 + scene.session_spread * rng.standard_normal()
    times = _readings(scene, rng, (idle_before[0] - 1.0, idle_after[1] + 1.0), active)
    powers = _seen(scene, rng, times, (idle_before, active), factor)
    traits = replace(
        scene.traits,
        period_s=scene.period_s,
        time_constant_s=time_constant_s,
        resolution_w=scene.step_w,
    )
    away = bool(scene.offset_s or scene.skew)
    stamps = times + scene.offset_s + scene.skew * times if away else times
    trace = PowerTrace(
        source="simulated",
        coverage="module",
        clock=OTHER if away else BOARD,
        times_s=tuple(stamps.tolist()),
        powers_w=tuple(powers.tolist()),
        plateau=number,
        meter=traits,
    )
    return plateau, trace, _fits(scene, rng, (times[0], times[-1]), number) if away else []


def measurement(*recorded: tuple[Plateau, PowerTrace, list[ClockFit]]) -> Measurement:
    """A measurement that has nothing but its plateaus."""
    return Measurement(
        artifact=Artifact("0" * 64, "g", "w", "onnx", "fp32", 1),
        target=Target("pi", "onnxruntime"),
        plan=Plan("bench", energy=True),
        environment=Environment(()),
        sessions=(),
        ran_on=RanOn("onnxruntime", "1", 1, "cpu"),
        traces=tuple(trace for _, trace, _ in recorded),
        clocks=tuple(fit for _, _, fits in recorded for fit in fits),
        plateaus=tuple(plateau for plateau, _, _ in recorded),
    )


def _readings(
    scene: Scene, rng: np.random.Generator, span: tuple[float, float], active: tuple[float, float]
) -> Floats:
    times = np.arange(span[0], span[1], scene.period_s)
    if scene.jitter:
        times = times + scene.period_s * (rng.random(len(times)) - 0.5)
    keep = rng.random(len(times)) >= scene.lost
    middle = (active[0] + active[1]) / 2
    keep &= ~((times > middle) & (times < middle + scene.gap_s))
    keep[[0, -1]] = True
    return times[keep]


def _true_w(
    scene: Scene, times: Floats, spans: tuple[tuple[float, float], tuple[float, float]], factor: float
) -> Floats:
    idle_before, active = spans
    middle = (active[0] + active[1]) / 2
    idle = scene.idle_w * (1 + scene.drift_per_min * (times - middle) / 60)
    phase = ((times - active[0]) / scene.run_s) % 1.0
    pulses = scene.net_w * factor * (1 + scene.swing * np.where(phase < 0.5, 1.0, -1.0))
    # What settles before the runs is runs too.
    running = (times >= idle_before[1]) & (times < active[1])
    return idle + np.where(running, pulses, 0.0)


def _seen(
    scene: Scene,
    rng: np.random.Generator,
    times: Floats,
    spans: tuple[tuple[float, float], tuple[float, float]],
    factor: float,
) -> Floats:
    """What the sensor shows at the moments at which it is read."""
    at = times
    if scene.cycle_s:
        at = np.arange(times[0] - 5 * scene.averaged * scene.cycle_s, times[-1], scene.cycle_s)
    values = _true_w(scene, at, spans, factor) + scene.noise_w * rng.standard_normal(len(at))
    if scene.slow_noise_w:
        values = values + scene.slow_noise_w * _wandering(rng, np.diff(at, prepend=at[0]), scene.slow_noise_s)
    if scene.step_w:
        values = scene.step_w * np.round(values / scene.step_w)  # the converter's steps come before its mean
    if scene.averaged > 1:
        values = _running_mean(values, scene.averaged)
        if scene.step_w:
            values = scene.step_w * np.round(values / scene.step_w)
    if scene.cycle_s:
        values = values[np.searchsorted(at, times, side="right") - 1]
    return values


def _running_mean(values: Floats, n: int) -> Floats:
    """new = old + (value - old) / n"""
    shown = np.empty_like(values)
    last = values[0]
    for i, value in enumerate(values):
        last += (value - last) / n
        shown[i] = last
    return shown


def _wandering(rng: np.random.Generator, gaps_s: Floats, time_constant_s: float) -> Floats:
    """First-order autoregression of unit variance at uneven times."""
    keep = np.exp(-gaps_s / time_constant_s)
    kicks = rng.standard_normal(len(gaps_s)) * np.sqrt(1 - keep**2)
    values = np.empty(len(gaps_s))
    last = rng.standard_normal()
    for i in range(len(gaps_s)):
        last = keep[i] * last + kicks[i]
        values[i] = last
    return values


def _fits(scene: Scene, rng: np.random.Generator, span: tuple[float, float], number: int) -> list[ClockFit]:
    """As :func:`harness.energy.fit` makes them, from probes before and after."""
    from harness.clocks import Probe, fit

    out_s, back_s = scene.round_trip_s

    def probes(middle_s: float) -> list[Probe]:
        found = []
        for k in range(40):
            sent = middle_s + 0.01 * k
            out, back = (leg * (1 + rng.exponential(0.5)) for leg in (out_s, back_s))
            there = sent + out
            found.append(Probe(sent, there + scene.offset_s + scene.skew * there, there + back))
        return found

    meter = fit(OTHER, probes(span[0] - 1), probes(span[1] + 1), number)
    # The board's clock is the host's here.
    return [meter, ClockFit(BOARD, 0.0, 0.0, 0.0, number)]
