"""What each detector says of sessions drawn with and without what it should find.

Used by ``benchmarks.trust``; the product's own :func:`results.statistics.judge` speaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulated_board import (
    ARTIFACT,
    FACTS,
    TARGET,
    autoregressive,
    drawn,
    exponential,
    normal,
    pareto,
    spikes,
    student,
)
from harness.measure import environment
from harness.study import CONFIRM
from results.records import Conditions, Measurement, RanOn, Session
from results.statistics import judge


@dataclass(frozen=True)
class Rate:
    """How often a detector says something.

    Attributes:
        detector: Its word in the verdict's reasons.
        truth: What was drawn.
        share: Of the measurements in which it was said.
        wanted: What the share should be, such as ``>= 0.95``.
    """

    detector: str
    truth: str
    share: float
    wanted: str

    @property
    def reached(self) -> bool:
        """Whether the share is as wanted."""
        sign, bound = self.wanted.split()
        return self.share >= float(bound) if sign == ">=" else self.share <= float(bound)


Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
"""Logarithms of the runs of one session; the second argument is the number of runs."""


def trend(total: float, within: Draw) -> Draw:
    """A steady slow-down over the session."""
    return lambda rng, n: within(rng, n) + total * np.linspace(0, 1, n)


def step(share: float, within: Draw) -> Draw:
    """Slower by a share from the middle on."""
    return lambda rng, n: within(rng, n) + np.where(np.arange(n) < n // 2, 0.0, math.log1p(share))


def mixture(ratio: float, weight: float, within: Draw) -> Draw:
    """Some runs in a slower regime."""
    return lambda rng, n: within(rng, n) + np.where(rng.random(n) < weight, math.log(ratio), 0.0)


def warm_up(tau: float, within: Draw) -> Draw:
    """Twice as slow at first, with a time constant in runs."""
    return lambda rng, n: within(rng, n) + np.log1p(np.exp(-np.arange(n) / tau))


SESSIONS, RUNS = 10, 200
CASES: tuple[tuple[str, str, Draw, int, str], ...] = (
    ("drift", "3 % within a session, runs 1 %", trend(0.03, normal(0.01)), RUNS, ">= 0.95"),
    ("drift", "3 % within a session, runs 3 %", trend(0.03, normal(0.03)), RUNS, ">= 0.95"),
    ("drift", "none: normal, 1 %", normal(0.01), RUNS, "<= 0.01"),
    ("drift", "none: normal, 3 %", normal(0.03), RUNS, "<= 0.01"),
    ("drift", "none: heavy tails (t3)", student(0.01), RUNS, "<= 0.01"),
    ("drift", "none: skewed (exponential 3 %)", exponential(0.03), RUNS, "<= 0.01"),
    ("drift", "none: AR(1) 0.5, 3 %", autoregressive(0.03, 0.5), RUNS, "<= 0.05"),
    ("drift", "none: AR(1) 0.9, 3 %", autoregressive(0.03, 0.9), RUNS, "<= 0.10"),
    ("drift", "throttled to 4/5 in the middle, no indicator", step(0.25, normal(0.01)), RUNS, ">= 0.95"),
    (
        "two regimes",
        "ratio 1.05, weight 10 %, runs 0.5 %",
        mixture(1.05, 0.1, normal(0.005)),
        RUNS,
        ">= 0.90",
    ),
    ("two regimes", "ratio 1.05, weight 30 %, runs 1 %", mixture(1.05, 0.3, normal(0.01)), RUNS, ">= 0.90"),
    ("two regimes", "ratio 1.05, weight 10 %, runs 1 %", mixture(1.05, 0.1, normal(0.01)), RUNS, ">= 0.90"),
    ("two regimes", "ratio 1.10, weight 10 %, runs 1 %", mixture(1.10, 0.1, normal(0.01)), RUNS, ">= 0.90"),
    ("two regimes", "none: normal, 1 %", normal(0.01), RUNS, "<= 0.01"),
    ("two regimes", "none: normal, 3 %", normal(0.03), RUNS, "<= 0.01"),
    ("two regimes", "none: skewed (exponential 3 %)", exponential(0.03), RUNS, "<= 0.01"),
    ("two regimes", "none: heavy tails (t3)", student(0.01), RUNS, "<= 0.05"),
    ("two regimes", "none: heavy tails (Pareto 2)", pareto(0.01), RUNS, "<= 0.05"),
    ("two regimes", "none: spikes of 50 % in 3 % of the runs", spikes(0.01, 0.03, 0.5), RUNS, "<= 0.05"),
    ("two regimes", "none: AR(1) 0.9, 3 %", autoregressive(0.03, 0.9), RUNS, "<= 0.05"),
    ("warm-up", "time constant 150 of 1000 runs", warm_up(150, normal(0.03)), 1000, ">= 0.90"),
    ("warm-up", "time constant 500 of 1000 runs", warm_up(500, normal(0.03)), 1000, ">= 0.95"),
    ("warm-up", "ended: time constant 60 of 1000 runs", warm_up(60, normal(0.03)), 1000, "<= 0.01"),
    ("warm-up", "none: normal, 3 %", normal(0.03), RUNS, "<= 0.01"),
    ("warm-up", "none: AR(1) 0.9, 3 %", autoregressive(0.03, 0.9), RUNS, "<= 0.01"),
)

States = Callable[[np.random.Generator], Conditions]
"""Draws the board's state around a session of 0.5 s on 4 CPUs."""

TICK_S, SESSION_S, CPUS = 0.01, 0.5, 4


def others(cpus: float) -> States:
    """Other work on so many CPUs, counted in ticks of the kernel's clock less one of rounding per CPU."""

    def draw(rng: np.random.Generator) -> Conditions:
        ticks = rng.poisson(cpus * SESSION_S / TICK_S)
        return Conditions(others_cpus=max(0.0, ticks - CPUS) * TICK_S / SESSION_S)

    return draw


def pressure(share: float) -> States:
    """Tasks that waited for a CPU, in bursts of 2 ms (a scheduler's slice)."""
    return lambda rng: Conditions(
        cpu_pressure=min(1.0, 0.002 * rng.poisson(share * SESSION_S / 0.002) / SESSION_S)
    )


def switches(per_run: float) -> States:
    """Involuntary switches of the session's process."""
    return lambda rng: Conditions(involuntary_switches=int(rng.poisson(per_run * (RUNS + 11))))


def slow_clock(share: float) -> States:
    """Ticks below the greatest clock."""
    return lambda rng: Conditions(clock_low_share=float(rng.binomial(50, share)) / 50)


def counted(name: str, rate: float) -> States:
    """Events that the kernel counts one by one."""
    return lambda rng: Conditions(**{name: int(rng.poisson(rate))})


STATES: tuple[tuple[str, str, States, str], ...] = (
    ("others used", "other work on 1.5 of 4 CPUs", others(1.5), ">= 0.95"),
    ("others used", "none: daemons on 0.1 of 4 CPUs", others(0.1), "<= 0.01"),
    ("CPU pressure", "tasks wait for 5 % of the time", pressure(0.05), ">= 0.95"),
    ("CPU pressure", "none: for 0.1 % of the time", pressure(0.001), "<= 0.05"),
    ("involuntary", "a switch in every 10th run", switches(0.1), ">= 0.95"),
    ("involuntary", "none: in every 100th run", switches(0.01), "<= 0.01"),
    ("clock", "5 % of the time below the greatest", slow_clock(0.05), ">= 0.95"),
    ("clock", "none: constant", slow_clock(0.0), "<= 0.00"),
    ("throttled", "3 signs per session on average", counted("throttle_events", 3), ">= 0.95"),
    ("throttled", "none", counted("throttle_events", 0), "<= 0.00"),
    ("swapping", "20 pages per session", counted("swapped_pages", 20), ">= 0.95"),
    ("swapping", "none", counted("swapped_pages", 0), "<= 0.00"),
    ("page faults", "1 per session on average", counted("major_faults", 1), ">= 0.95"),
    ("page faults", "none", counted("major_faults", 0), "<= 0.00"),
)


def rate(number: int, seed: int, repetitions: int) -> Rate:
    """What a detector says of a case, of those on runs first and those on states behind them."""
    if number < len(CASES):
        detector, truth, draw, runs, wanted = CASES[number]

        def sessions(rng: np.random.Generator) -> list[Session]:
            return [drawn(draw(rng, runs)) for _ in range(SESSIONS)]

    else:
        detector, truth, state, wanted = STATES[number - len(CASES)]

        def sessions(rng: np.random.Generator) -> list[Session]:
            logs = normal(0.01)(rng, RUNS)
            return [drawn(logs, conditions=state(rng)) for _ in range(SESSIONS)]

    rng = np.random.default_rng((seed, number))
    said = sum(_says(detector, sessions(rng)) for _ in range(repetitions))
    return Rate(detector, truth, said / repetitions, wanted)


def _says(detector: str, sessions: list[Session]) -> bool:
    ran_on = RanOn("simulated", "1", 1, "simulated")
    place = environment(FACTS, TARGET, ran_on)
    measurement = Measurement(ARTIFACT, TARGET, CONFIRM, place, tuple(sessions), ran_on)
    return any(detector in reason for reason in judge(measurement).reasons)
