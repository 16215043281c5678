"""What the intervals and verdicts are worth: coverage and error rates against known truth.

``python -m benchmarks.trust [--json FILE] [--docs docs] [--repetitions 2000] [--processes 2]``

Coverage: the product's own loop (:func:`harness.measure.measure_together`, adaptive stopping and all)
measures simulated boards, and its own ``value`` gives the interval; how often does it hold the true quantile?
Beside each coverage stand the median half width and the share of measurements that ``judge`` refuses
(invalid) or marks (noisy), since wide intervals and refusals flatter a coverage.  Detectors: ``judge`` on
records drawn with and without what it should find (``benchmarks.detector_cases``).  Energy and nightly
verdicts: figures of ``benchmarks.energy_trust`` and ``benchmarks.nightly``.  What must hold of all of them is
one table, line by line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import detector_cases, energy_trust, nightly
from benchmarks.detector_cases import Rate, warm_up
from benchmarks.energy_trust import Line
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
    student,
)
from harness.measure import Job, measure, measure_together
from harness.prepare import PREPARE_PLAN
from harness.study import CONFIRM, NIGHTLY, SCREEN
from results.detectors import settled
from results.records import (
    Architecture,
    Evaluation,
    Fidelity,
    Interval,
    Measurement,
    Metric,
    Plan,
    Proposal,
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
TAUS = (5, 20, 60)
FLEETS = 10
NIGHTLY_BOUNDS = (
    ("false_alarm_candidate", "nightly: an unchanged series looks slower and is measured again", "<= 0.005"),
    ("false_alarm_confirmed", "... is told as a regression", "<= 0.001"),
    (
        "false_alarm_confirmed_heavy_tailed",
        "... where what a night does to a file is heavy-tailed",
        "<= 0.005",
    ),
    ("found_3_percent", "nightly: 3 % slower looks slower and is measured again", ">= 0.80"),
    ("found_3_percent_confirmed", "... is told as a regression the same night", ">= 0.70"),
    ("found_5_percent_confirmed", "nightly: 5 % slower is told as a regression the same night", ">= 0.99"),
)
HEADLINES = (
    (
        "latency_coverage",
        "median, `confirm` and `nightly`: the interval holds the truth, worst case",
        ">= 0.93",
    ),
    ("latency_coverage_search", "median, `screen`: worst case", ">= 0.90"),
    ("latency_coverage_p90", "p90, `confirm` and `nightly`: worst case", ">= 0.90"),
    ("energy_coverage", "energy, gross and net: worst case", ">= 0.90"),
    ("drift_detection", "a drift of 3 % within sessions is found", ">= 0.95"),
    ("drift_false_alarm", "a drift is found where there is none", "<= 0.01"),
    ("two_regimes_detection", "two regimes 5 % apart are found", ">= 0.90"),
    ("two_regimes_false_alarm_unimodal", "... where there is one", "<= 0.01"),
    ("two_regimes_false_alarm_heavy_tailed", "... where there is one with heavy tails", "<= 0.05"),
)
PAGE = "trust"
HEAD = "trust headlines"


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


def coverages(plan: str, truth: int, seed: int, repetitions: int) -> list[Coverage]:
    """Coverage of each figure over many measurements of a truth, by its place in the list."""
    states: list[str] = []
    sessions: list[int] = []
    intervals: dict[str, list[Interval]] = {metric: [] for metric, _ in METRICS}
    for number in range(repetitions):
        rng = np.random.default_rng((seed, PLANS.index(plan), number))
        found = measured(plan, TRUTHS[truth], rng)
        states.append(judge(found).state)
        sessions.append(len(found.sessions))
        for metric, held in intervals.items():
            one = interval(found, metric)
            if one is not None:
                held.append(one)
    rows = []
    for metric, quantile in METRICS:
        true_s, held = TRUTHS[truth].quantile(quantile), intervals[metric]
        rows.append(
            Coverage(
                plan=plan,
                truth=TRUTHS[truth].name,
                metric=metric,
                coverage=float(np.mean([one.low <= true_s <= one.high for one in held])),
                half_width=float(np.median([half_width(one) for one in held])),
                noisy=states.count("noisy") / len(states),
                invalid=states.count("invalid") / len(states),
                sessions=float(np.mean(sessions)),
            )
        )
    return rows


# --------------------------------------------------------------------------- the table, line by line


def warm_up_bias(tau: int, seed: int, repetitions: int) -> float:
    """Relative error of the median of sessions of 1000 runs that begin twice as slow."""
    rng = np.random.default_rng((seed, tau))
    draw = warm_up(tau, normal(0.03))
    sessions = [drawn(draw(rng, 1000)).durations_s for _ in range(repetitions)]
    return float(np.mean([np.median(settled([one])[0]) for one in sessions])) / MEDIAN_S - 1


def lines(figures: dict[str, Any]) -> Iterator[Line]:
    """What must hold of latency, verdicts and nights, with what was found."""
    rows = figures["coverage"]
    for metric in ("latency_p50", "latency_p90"):
        worst = min(c["coverage"] for c in rows if c["metric"] == metric and c["truth"].startswith("AR(1)"))
        name = f"coverage of {metric}, AR(1) 0.9 and sessions that differ by 1 %, worst plan"
        yield _line(name, ">= 0.90", worst)
    for tau, bias in figures["warm_up_bias"].items():
        name = f"error of the median, warm-up with a time constant of {tau} runs"
        yield _line(name, "<= 0.005", abs(bias))
    for one in figures["detectors"]:
        yield Line(f"{one['detector']}: {one['truth']}", one["wanted"], one["share"], one["reached"])


def headlines(figures: dict[str, Any]) -> Iterator[Line]:
    """The figures that sum up the others."""
    for key, text, bound in HEADLINES:
        yield _line(text, bound, figures[key])
    for key, text, bound in NIGHTLY_BOUNDS:
        yield _line(text, bound, figures["nightly"][key])


def _line(name: str, bound: str, found: float) -> Line:
    sign, limit = bound.split()
    return Line(name, bound, found, found <= float(limit) if sign == "<=" else found >= float(limit))


def judged(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures with what must hold of them, and what does not."""
    found = {
        "headlines": [vars(line) for line in headlines(figures)],
        "lines": [vars(line) for line in lines(figures)],
    }
    every = (*found["headlines"], *found["lines"], *figures["energy"]["lines"])
    return figures | found | {"not_reached": [one["name"] for one in every if not one["holds"]]}


# --------------------------------------------------------------------------- output


def run(seed: int, repetitions: int, processes: int) -> dict[str, Any]:
    """All figures."""
    cases = len(detector_cases.CASES) + len(detector_cases.STATES)
    plans, truths = zip(*((plan, k) for k in range(len(TRUTHS)) for plan in reversed(PLANS)), strict=True)
    seeds, counts = repeat(seed), repeat(repetitions)
    with ProcessPoolExecutor(processes) as pool:
        nights = pool.submit(nightly.run, seed, FLEETS)
        covered = pool.map(coverages, plans, truths, seeds, counts)
        said = pool.map(detector_cases.rate, range(cases), seeds, counts)
        powers = pool.map(energy_trust.coverage, energy_trust.CASES, counts)
        biases = pool.map(warm_up_bias, TAUS, seeds, counts)
        rows = sorted(
            (c for each in covered for c in each),
            key=lambda c: (PLANS.index(c.plan), [t.name for t in TRUTHS].index(c.truth), c.metric),
        )
        figures = {
            "seed": seed,
            "repetitions": repetitions,
            **_latency(rows),
            **_detection(list(said)),
            "warm_up_bias": {str(tau): bias for tau, bias in zip(TAUS, biases, strict=True)},
            "energy": energy_trust.figures(list(powers), repetitions),
            "nightly": nights.result(),
        }
    figures["energy_coverage"] = figures["energy"]["energy_coverage"]
    return judged(figures)


def _latency(rows: list[Coverage]) -> dict[str, Any]:
    def worst(metric: str, *plans: str) -> float:
        return min(c.coverage for c in rows if c.plan in plans and c.metric == metric)

    return {
        "latency_coverage": worst("latency_p50", "confirm", "nightly"),
        "latency_coverage_search": worst("latency_p50", "screen"),
        "latency_coverage_p90": worst("latency_p90", "confirm", "nightly"),
        "latency_coverage_p90_search": worst("latency_p90", "screen"),
        "coverage": [vars(c) for c in rows],
    }


def _detection(found: list[Rate]) -> dict[str, Any]:
    def shares(detector: str, *truths: str) -> list[float]:
        return [r.share for r in found if r.detector == detector and r.truth.startswith(truths)]

    return {
        "drift_detection": min(shares("drift", "3 % within a session")),
        "drift_false_alarm": max(shares("drift", "none: normal")),
        "two_regimes_detection": min(shares("two regimes", "ratio 1.05")),
        "two_regimes_false_alarm_unimodal": max(shares("two regimes", "none: normal", "none: skewed")),
        "two_regimes_false_alarm_heavy_tailed": max(shares("two regimes", "none: heavy", "none: spikes")),
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
    return "\n".join([*lines, "", *_table(figures["lines"])])


def _table(found: list[dict[str, Any]]) -> list[str]:
    rows = [
        f"| {one['name']} | {one['bound']} | {one['found']:.3g} | {'' if one['holds'] else 'not reached'} |"
        for one in found
    ]
    return ["| what must hold | wanted | found | |", "| --- | --- | --- | --- |", *rows]


def write_docs(folder: Path, figures: dict[str, Any]) -> None:
    """Puts the tables between the marks of the documentation's pages."""
    headlines = "\n".join(_table(figures["headlines"]))
    for name, page, table in (
        (HEAD, "measurement.md", headlines),
        (PAGE, "measurement-figures.md", tables(figures)),
    ):
        path = folder / page
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = path.read_text().partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise SystemExit(f"{path} has no {begin} ... {end}")
        path.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}")


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description="Coverage and error rates against known truth.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--docs", type=Path, metavar="FOLDER", help="documentation whose tables are written anew"
    )
    parser.add_argument(
        "--figures", type=Path, metavar="FILE", help="what --json wrote, instead of a new run"
    )
    args = parser.parse_args()
    if args.figures:
        figures = judged(json.loads(args.figures.read_text()))
    else:
        figures = run(args.seed, args.repetitions, args.processes)
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
