"""What the intervals and verdicts are worth: coverage and error rates against known truth.

``python -m benchmarks.trust [--json FILE] [--docs docs/measurement.md] [--repetitions 2000]``

Coverage: the product's own loop (:func:`harness.measure.measure_together`, adaptive stopping and all)
measures simulated boards, and its own ``value`` gives the interval; how often does it hold the true quantile?
Beside each coverage stand the median half width and the share of measurements that ``judge`` refuses
(invalid) or marks (noisy), since wide intervals and refusals flatter a coverage.  Detectors: ``judge`` on
records drawn with and without what it should find.  The figures of energy are those of
``benchmarks.energy_trust``, whose tables are in ``docs/energy.md``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import energy_trust
from benchmarks.simulated_board import (
    ARTIFACT,
    FACTS,
    MEDIAN_S,
    TARGET,
    SimulatedDevice,
    Truth,
    autoregressive,
    drawn,
    exponential,
    normal,
    pareto,
    spikes,
    student,
)
from harness.measure import Job, environment, measure, measure_together
from harness.stages import PREPARE_PLAN
from harness.study import CONFIRM, NIGHTLY, SCREEN
from results.detectors import settled
from results.records import (
    Architecture,
    Conditions,
    Evaluation,
    Fidelity,
    Interval,
    Measurement,
    Metric,
    Plan,
    Proposal,
    RanOn,
    Trial,
)
from results.statistics import half_width, judge, spread, value

TRUTHS = (
    Truth("independent runs, 3 %", normal(0.03)),
    Truth("sessions 1 %", normal(0.03), sessions=0.01),
    Truth("agents 1 %, sessions 0.5 %", normal(0.03), sessions=0.005, agents=0.01),
    Truth("agents 2 %, sessions 1 %", normal(0.03), sessions=0.01, agents=0.02),
    Truth("AR(1) 0.9, sessions 1 %", autoregressive(0.03, 0.9), sessions=0.01),
    Truth("heavy tails (t3), sessions 1 %", student(0.01), sessions=0.01),
    Truth("skewed (exponential 3 %), sessions 0.5 %", exponential(0.03), sessions=0.005),
)
PLANS = ("screen", "confirm", "nightly")
METRICS = (("latency_p50", 0.5), ("latency_p90", 0.9))
TRIAL = Trial(0, Proposal(Architecture("", ()), Fidelity(1)))
BEGIN, END = "<!-- trust: begin -->", "<!-- trust: end -->"


@dataclass(frozen=True)
class Coverage:
    """How often a plan's interval of one figure holds the truth."""

    plan: str
    truth: str
    metric: str
    coverage: float
    half_width: float
    noisy: float
    invalid: float
    sessions: float


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


# --------------------------------------------------------------------------- coverage


def measured(plan: str, truth: Truth, rng: np.random.Generator) -> Measurement:
    """A measurement by a plan, as a study takes it."""
    device = SimulatedDevice(truth, rng)
    if plan != "screen":
        job = _job({"confirm": CONFIRM, "nightly": NIGHTLY}[plan])
        measure_together(device.board, [job], seed=int(rng.integers(2**31)))
        return job.measurement(FACTS, "measured")
    first = _job(PREPARE_PLAN)
    measure_together(device.board, [first], seed=int(rng.integers(2**31)))
    device.board.restart_agent()
    return measure(device.board, _job(spread(first.measurement(FACTS, "measured")).into(SCREEN)))


def _job(plan: Plan) -> Job:
    return Job(ARTIFACT, b"", TARGET, plan)


def interval(measurement: Measurement, metric: str) -> Interval | None:
    """The product's interval of a figure."""
    evaluation = Evaluation(TRIAL, "complete", {TARGET.name: measurement})
    return value(evaluation, Metric(metric, (TARGET.name,)))


def coverages(plan: str, truth: Truth, seed: int, repetitions: int) -> Iterator[Coverage]:
    """Coverage of each figure over many measurements."""
    states: list[str] = []
    sessions: list[int] = []
    intervals: dict[str, list[Interval]] = {metric: [] for metric, _ in METRICS}
    for number in range(repetitions):
        found = measured(plan, truth, np.random.default_rng((seed, PLANS.index(plan), number)))
        states.append(judge(found).state)
        sessions.append(len(found.sessions))
        for metric, held in intervals.items():
            one = interval(found, metric)
            if one is not None:
                held.append(one)
    for metric, quantile in METRICS:
        true_s, held = truth.quantile(quantile), intervals[metric]
        yield Coverage(
            plan=plan,
            truth=truth.name,
            metric=metric,
            coverage=float(np.mean([one.low <= true_s <= one.high for one in held])),
            half_width=float(np.median([half_width(one) for one in held])),
            noisy=states.count("noisy") / len(states),
            invalid=states.count("invalid") / len(states),
            sessions=float(np.mean(sessions)),
        )


# --------------------------------------------------------------------------- detectors


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


def rates(seed: int, repetitions: int) -> Iterator[Rate]:
    """What each detector says, per case."""
    for number, (detector, truth, draw, runs, wanted) in enumerate(CASES):
        rng = np.random.default_rng((seed, number))
        said = 0
        for _ in range(repetitions):
            said += _says(detector, [drawn(draw(rng, runs)) for _ in range(SESSIONS)])
        yield Rate(detector, truth, said / repetitions, wanted)
    for number, (detector, truth, state, wanted) in enumerate(STATES):
        rng = np.random.default_rng((seed, 1000 + number))
        said = 0
        for _ in range(repetitions):
            logs = normal(0.01)(rng, RUNS)
            said += _says(detector, [drawn(logs, conditions=state(rng)) for _ in range(SESSIONS)])
        yield Rate(detector, truth, said / repetitions, wanted)


def _says(detector: str, sessions: list[Any]) -> bool:
    ran_on = RanOn("simulated", "1", 1, "simulated")
    place = environment(FACTS, TARGET, ran_on)
    measurement = Measurement(ARTIFACT, TARGET, CONFIRM, place, tuple(sessions), ran_on)
    return any(detector in reason for reason in judge(measurement).reasons)


def warm_up_bias(seed: int, repetitions: int) -> dict[str, float]:
    """Relative error of the median of sessions of 1000 runs that begin twice as slow."""
    found = {}
    for tau in (5, 20, 60):
        rng = np.random.default_rng((seed, tau))
        medians = [
            np.median(settled(drawn(warm_up(tau, normal(0.03))(rng, 1000)).durations_s))
            for _ in range(repetitions)
        ]
        found[str(tau)] = float(np.mean(medians)) / MEDIAN_S - 1
    return found


# --------------------------------------------------------------------------- output


def run(seed: int, repetitions: int) -> dict[str, Any]:
    """All figures."""
    covered = [c for plan in PLANS for truth in TRUTHS for c in coverages(plan, truth, seed, repetitions)]
    found = list(rates(seed, repetitions))

    def worst(metric: str, *plans: str) -> float:
        return min(c.coverage for c in covered if c.plan in plans and c.metric == metric)

    def share(detector: str, truth: str) -> float:
        return next(r.share for r in found if r.detector == detector and r.truth.startswith(truth))

    return {
        "seed": seed,
        "repetitions": repetitions,
        "latency_coverage": worst("latency_p50", "confirm", "nightly"),
        "latency_coverage_search": worst("latency_p50", "screen"),
        "latency_coverage_p90": worst("latency_p90", "confirm", "nightly"),
        "latency_coverage_p90_search": worst("latency_p90", "screen"),
        "drift_detection": share("drift", "3 % within a session, runs 1 %"),
        "drift_false_alarm": max(share("drift", "none: normal, 1 %"), share("drift", "none: normal, 3 %")),
        "two_regimes_detection": share("two regimes", "ratio 1.05, weight 30 %"),
        "two_regimes_false_alarm_unimodal": max(
            share("two regimes", f"none: {null}") for null in ("normal, 1 %", "normal, 3 %", "skewed")
        ),
        "two_regimes_false_alarm_heavy_tailed": max(
            share("two regimes", f"none: {null}")
            for null in ("heavy tails (t3)", "heavy tails (Pareto", "spikes")
        ),
        "warm_up_bias": warm_up_bias(seed, repetitions),
        "not_reached": [
            f"{r.detector}: {r.truth}: {r.share:.3f}, wanted {r.wanted}" for r in found if not r.reached
        ],
        "coverage": [vars(c) for c in covered],
        "detectors": [{**vars(r), "reached": r.reached} for r in found],
    }


def tables(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    head = f"{figures['repetitions']} repetitions per line, seed {figures['seed']}."
    lines = [head, "", "| plan | truth | figure | coverage | half width | sessions | noisy | invalid |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for c in figures["coverage"]:
        lines.append(
            f"| {c['plan']} | {c['truth']} | {c['metric']} | {c['coverage']:.3f} | {c['half_width']:.2%} "
            f"| {c['sessions']:.1f} | {c['noisy']:.1%} | {c['invalid']:.1%} |"
        )
    lines += ["", "| detector | what was drawn | said | wanted | |", "| --- | --- | --- | --- | --- |"]
    for r in figures["detectors"]:
        mark = "" if r["reached"] else "not reached"
        lines.append(f"| {r['detector']} | {r['truth']} | {r['share']:.1%} | {r['wanted']} | {mark} |")
    bias = ", ".join(
        f"{error:+.2%} (time constant {tau} runs)" for tau, error in figures["warm_up_bias"].items()
    )
    lines += ["", f"Error of the median where a warm-up that ends is cut off: {bias}."]
    return "\n".join(lines)


def write_docs(path: Path, figures: dict[str, Any]) -> None:
    """Puts the tables between the marks of a documentation page."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{path} has no {BEGIN} ... {END}")
    path.write_text(f"{before}{BEGIN}\n\n{tables(figures)}\n\n{END}{after}")


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description="Coverage and error rates against known truth.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="page whose tables are written anew")
    parser.add_argument(
        "--figures", type=Path, metavar="FILE", help="what --json wrote, instead of a new run"
    )
    args = parser.parse_args()
    if args.figures:
        figures = json.loads(args.figures.read_text())
    else:
        figures = run(args.seed, args.repetitions)
        energy = energy_trust.figures(args.repetitions)
        figures |= {"energy_coverage": energy["energy_coverage"], "energy": energy}
    print(tables(figures))
    for key, figure in figures.items():
        if isinstance(figure, float):
            print(f"{key:40} {figure:.4f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.docs:
        write_docs(args.docs, figures)


if __name__ == "__main__":
    main()
