"""Figures from raw records: known answers, and what the intervals cover."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import signal, stats

from results.errors import ConfigError
from results.records import Conditions, Environment, Interval, Limit, Metric, Plan, Score
from results.scores import wilson
from results.statistics import (
    Spread,
    decide,
    half_width,
    judge,
    latency,
    latency_ratio,
    peak_memory,
    spread,
    value,
    violation,
)
from tests.fixtures_results import HOST, PI, make_evaluation, make_measurement, make_session, simulated

PLAN = Plan("search", spread=0.0, spread_sessions=0)
P50 = Metric("latency_p50", (PI.name,))
P90 = Metric("latency_p90", (PI.name,))


def test_the_interval_is_the_t_interval_over_session_medians() -> None:
    medians = [0.010, 0.0102, 0.0099, 0.0101]
    interval = latency(make_measurement([make_session([m] * 20) for m in medians]), 0.5)
    logs = np.log(medians)
    low, high = stats.t.interval(0.95, 3, logs.mean(), stats.sem(logs))
    assert interval is not None
    assert interval.value == pytest.approx(stats.gmean(medians))
    assert (interval.low, interval.high) == pytest.approx((math.exp(low), math.exp(high)))


def test_a_known_spread_is_pooled_in_with_its_degrees_of_freedom() -> None:
    # By hand: 4 degrees at 0.02, two sessions at ln = -0.01 and +0.01 (s_K^2 = 0.0002, 1 degree):
    # s^2 = (4 * 0.0004 + 0.0002) / 5 = 0.00036; t(5, 0.975) = 2.570582; half = t * sqrt(s^2 / 2).
    plan = Plan("search", spread=0.02, spread_sessions=4)
    rows = [make_session([0.01 * math.exp(d)] * 20) for d in (-0.01, 0.01)]
    interval = latency(make_measurement(rows, plan=plan), 0.5)
    half = 2.5705818356 * math.sqrt(0.00036 / 2)
    assert interval is not None
    assert interval.high == pytest.approx(0.01 * math.exp(half))
    assert interval.low == pytest.approx(0.01 * math.exp(-half))


def test_one_session_takes_its_interval_from_the_known_spread_alone() -> None:
    plan = Plan("screen", sessions=(1, 3), spread=0.01, spread_sessions=6)
    interval = latency(make_measurement([make_session([0.004] * 30)], plan=plan), 0.5)
    assert interval is not None
    assert half_width(interval) == pytest.approx(math.sinh(2.4469118511 * 0.01))  # t(6, 0.975)


def test_one_session_of_unknown_spread_decides_nothing() -> None:
    interval = latency(make_measurement([make_session([0.004] * 30)], plan=PLAN), 0.5)
    assert interval is not None
    assert (interval.low, interval.value, interval.high) == pytest.approx((0.002, 0.004, 0.008))


def test_a_single_replayed_figure_stands_for_itself_at_every_quantile() -> None:
    replayed = make_measurement([make_session([0.0042])], origin="replayed")
    assert latency(replayed, 0.5) == latency(replayed, 0.9) == Interval(0.0042, 0.0042, 0.0042)
    assert latency(make_measurement([make_session([0.0042])]), 0.9) is None


def test_sessions_of_one_agent_count_as_one_where_agents_are_spread() -> None:
    rows = [make_session([m] * 20, agent=a) for a, m in ((0, 0.010), (0, 0.012), (1, 0.011), (1, 0.013))]
    spread = make_measurement(
        rows, plan=Plan("confirm", sessions=(4, 4), agents=2, spread=0.01, spread_sessions=9)
    )
    means = [np.log([0.010, 0.012]).mean(), np.log([0.011, 0.013]).mean()]
    low, high = stats.t.interval(0.95, 1, np.mean(means), stats.sem(means))
    interval = latency(spread, 0.5)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((math.exp(low), math.exp(high)))


def test_agents_beyond_the_planned_ones_narrow_the_mean_but_not_the_spread() -> None:
    medians = [0.010, 0.0104, 0.0101, 0.0102]
    rows = [make_session([m] * 20, agent=agent) for agent, m in enumerate(medians)]
    interval = latency(make_measurement(rows, plan=Plan("confirm", sessions=(2, 4), agents=2)), 0.5)
    logs = np.log(medians)
    half = stats.t.ppf(0.975, 1) * logs[:2].std(ddof=1) / math.sqrt(4)
    assert interval is not None
    assert interval.value == pytest.approx(stats.gmean(medians))
    assert interval.high == pytest.approx(math.exp(logs.mean() + half))


@pytest.mark.parametrize(
    ("quantile", "runs", "sessions", "known"),
    [(0.9, 9, 3, False), (0.9, 10, 3, True), (0.5, 1, 3, True), (0.99, 100, 9, False), (0.99, 100, 10, True)],
)
def test_a_quantile_needs_runs_that_reach_it(quantile: float, runs: int, sessions: int, known: bool) -> None:
    measurement = make_measurement([make_session(np.linspace(0.01, 0.02, runs).tolist())] * sessions)
    assert (latency(measurement, quantile) is not None) == known


@pytest.mark.parametrize("runs", [1, 2, 3, 20, 1000])
def test_a_session_is_summarised_by_its_quantile(runs: int) -> None:
    durations = np.random.default_rng(runs).lognormal(-5, 0.3, runs)
    interval = latency(make_measurement([make_session(durations.tolist())]), 0.5)
    assert interval is not None
    assert interval.value == pytest.approx(np.median(durations))


@pytest.mark.parametrize(("runs", "parts"), [(10, 0), (19, 0), (20, 2), (35, 3), (1000, 4)])
def test_a_tail_is_the_jackknife_over_parts_that_reach_it(runs: int, parts: int) -> None:
    """By hand: Quenouille 1956, with NumPy's type 8 quantile."""
    durations = np.random.default_rng(runs).lognormal(-5, 0.3, runs)
    expected = np.log(np.quantile(durations, 0.9, method="median_unbiased"))
    if parts:
        of_parts = [
            np.log(np.quantile(part, 0.9, method="median_unbiased"))
            for part in np.array_split(durations, parts)
        ]
        expected += (expected - np.mean(of_parts)) / (parts - 1)
    interval = latency(make_measurement([make_session(durations.tolist())]), 0.9)
    assert interval is not None
    assert math.log(interval.value) == pytest.approx(expected)


def test_a_tail_is_not_beyond_the_runs() -> None:
    slow = [0.01] * 19 + [0.02] + [0.01] * 19 + [0.02] + [0.01] * 60  # parts whose tails differ
    interval = latency(make_measurement([make_session(slow[:40] * 3)]), 0.99)
    assert interval is None
    interval = latency(make_measurement([make_session(slow)]), 0.9)
    assert interval is not None
    assert 0.01 <= interval.value <= 0.02


def test_tails_of_runs_that_resemble_each_other_are_covered_too() -> None:
    """AR(1) of 0.9, eight agents with two sessions of 100 runs: nominal 0.95 over 400 trials.  P(fewer than
    368 covered | 0.95) = 0.006; without the jackknife it covers 0.90, and P(368 or more) = 0.1."""
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        noise = rng.normal(0.0, 0.03 * math.sqrt(1 - 0.81), (16, 200))
        logs = signal.lfilter([1.0], [1.0, -0.9], noise)[:, 100:] + rng.normal(0.0, 0.01, (16, 1))
        rows = [make_session((0.01 * np.exp(row)).tolist(), agent=k // 2) for k, row in enumerate(logs)]
        interval = latency(make_measurement(rows, plan=Plan("nightly", sessions=(16, 16), agents=8)), 0.9)
        assert interval is not None
        covered += interval.low <= 0.01 * math.exp(0.03 * 1.2815515655) <= interval.high
    assert covered >= 368


def test_sessions_of_the_reference_are_not_read_but_compared_with() -> None:
    rows = [make_session([0.004] * 20), make_session([0.008] * 20, role="reference")]
    measurement = make_measurement(rows)
    interval = latency(measurement, 0.5)
    assert interval is not None
    assert interval.value == pytest.approx(0.004)
    assert latency_ratio(measurement) == pytest.approx(0.5)
    assert latency_ratio(make_measurement(rows[:1])) is None
    assert latency(make_measurement(rows[1:]), 0.5) is None


@pytest.mark.parametrize(("quantile", "factor"), [(0.5, 1.0), (0.9, math.exp(0.03 * 1.2815515655))])
def test_intervals_cover_the_truth_under_differences_between_sessions(quantile: float, factor: float) -> None:
    """Nominal 0.95 over 400 trials.  P(fewer than 368 covered | 0.95) = 0.006; the p90 of 100 runs is also
    biased by 0.03 %, far below the 1 % between sessions.  Pooled runs would cover about half of the time."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        interval = latency(simulated(rng, 0.01), quantile)
        assert interval is not None
        covered += interval.low <= 0.01 * factor <= interval.high
    assert covered >= 368


def test_one_session_with_a_rightly_known_spread_covers_the_truth_too() -> None:
    """As above with K = 1; the known spread is itself an estimate from 6 sessions, drawn anew each time."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(400):
        spread = float(rng.normal(0.0, 0.01, 6).std(ddof=1))
        plan = Plan("screen", sessions=(1, 1), spread=spread, spread_sessions=5)
        interval = latency(simulated(rng, 0.01, sessions=1, plan=plan), 0.9)
        assert interval is not None
        covered += interval.low <= 0.01 * math.exp(0.03 * 1.2815515655) <= interval.high
    assert covered >= 368


def test_the_spread_between_sessions_and_its_degrees_of_freedom() -> None:
    found = spread(make_measurement([make_session([m] * 20) for m in (0.01, 0.011, 0.012)]))
    assert found.sessions == pytest.approx(np.log([0.01, 0.011, 0.012]).std(ddof=1))
    assert (found.session_freedom, found.agents, found.agent_freedom) == (2, 0.0, 0)
    assert spread(make_measurement([make_session([0.01])])) == Spread()


def test_the_spread_between_agents_is_what_is_left_over_that_between_sessions() -> None:
    """By hand: agents at ln 0, 0.02, 0.04 with sessions at -0.005 and +0.005: MSW = 0.00005, MSB = 0.0008,
    so (0.0008 - 0.00005) / 2 = 0.000375."""
    rows = [
        make_session([0.01 * math.exp(a * 0.02 + d)] * 20, agent=a) for a in range(3) for d in (-0.005, 0.005)
    ]
    found = spread(make_measurement(rows))
    assert found.sessions == pytest.approx(math.sqrt(0.00005))
    assert found.agents == pytest.approx(math.sqrt(0.000375))
    assert (found.session_freedom, found.agent_freedom) == (3, 2)


def test_what_agents_differ_by_does_not_average_out_within_one() -> None:
    """By hand: s^2 = 0.0001 with 1000 degrees, 4 sessions; agents 0.0003 with 5 degrees."""
    plan = Plan(
        "screen", spread=0.01, spread_sessions=1000, agent_spread=math.sqrt(0.0003), agent_spread_agents=5
    )
    interval = latency(make_measurement([make_session([0.01] * 20)] * 4, plan=plan), 0.5)
    of_mean = 0.0001 * 1000 / 1003 / 4
    variance = of_mean + 0.0003
    freedom = variance**2 / (of_mean**2 / 1003 + 0.0003**2 / 5)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert interval is not None
    assert interval.high == pytest.approx(0.01 * math.exp(half))


@pytest.mark.parametrize(
    ("successes", "low", "high"),
    [(81, 0.2553, 0.3662), (0, 0.0, 0.0144), (263, 0.9856, 1.0)],
)
def test_wilson_gives_the_published_values(successes: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3: n = 263, 81 -> 0.2553 to 0.3662."""
    interval = wilson(Score(successes / 263, 263))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    assert interval.low <= successes / 263 <= interval.high


def test_every_metric_of_an_evaluation() -> None:
    rows = [make_session([0.004] * 20, peak_memory_bytes=b) for b in (31_000, 30_000, None)]
    evaluation = make_evaluation(measurements={PI.name: make_measurement(rows)})
    assert value(evaluation, Metric("macs")) == Interval(1e6, 1e6, 1e6)
    assert value(evaluation, Metric("parameters", (PI.name,))) == Interval(2e4, 2e4, 2e4)
    assert value(evaluation, Metric("size")) == Interval(90_000, 90_000, 90_000)
    assert value(evaluation, Metric("size", (PI.name,))) == Interval(123_456, 123_456, 123_456)
    assert value(evaluation, Metric("peak_memory", (PI.name,))) == Interval(30_000, 31_000, 31_000)
    assert value(evaluation, Metric("energy", (PI.name,))) is None
    assert value(evaluation, Metric("latency_p50", (HOST.name,))) is None
    assert value(evaluation, Metric("accuracy", maximise=True)) == wilson(Score(0.9, 1000))
    assert value(make_evaluation(accuracy={}), Metric("accuracy", maximise=True)) is None
    assert peak_memory(make_measurement(rows[2:])) is None


def test_accuracy_is_taken_at_the_precision_of_the_target() -> None:
    scores = {"fp32": Score(0.9, 1000), "int8": Score(0.8, 1000)}
    int8 = make_measurement([make_session([0.004] * 20)], target=type(PI)("pi5", "tflite", "int8"))
    evaluation = make_evaluation(measurements={int8.target.name: int8}, accuracy=scores)
    figure = value(evaluation, Metric("accuracy", (int8.target.name,), maximise=True))
    assert figure is not None
    assert figure.value == 0.8


def test_several_targets_give_the_worst_of_figure_over_scale() -> None:
    pi, host = (
        make_measurement([make_session([m])], target=t, origin="replayed")
        for m, t in ((0.02, PI), (0.01, HOST))
    )
    both = make_evaluation(measurements={PI.name: pi, HOST.name: host})
    metric = Metric("latency_p50", (PI.name, HOST.name), scales=(0.02, 0.005))
    assert value(both, metric) == Interval(2.0, 2.0, 2.0)
    assert value(make_evaluation(measurements={PI.name: pi}), metric) is None


def test_unknown_metrics_and_missing_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'latency_p99'"):
        value(make_evaluation(), Metric("latency_p9"))
    with pytest.raises(ConfigError, match="measured on a target"):
        value(make_evaluation(), Metric("latency_p50"))


@pytest.mark.parametrize(("upper", "decision"), [(0.0102, "met"), (0.01, "unclear"), (0.0098, "broken")])
def test_a_limit_is_decided_by_the_interval(upper: float, decision: str) -> None:
    rows = [make_session([m] * 20) for m in (0.00995, 0.01, 0.01005)]
    evaluation = make_evaluation(measurements={PI.name: make_measurement(rows)})
    assert decide(evaluation, Limit(P50, upper)) == decision
    assert decide(make_evaluation(), Limit(P50, upper)) == "unknown"


def test_more_certainty_makes_a_limit_harder_to_decide() -> None:
    rows = [make_session([m] * 20) for m in (0.00995, 0.01, 0.01005)]
    evaluation = make_evaluation(measurements={PI.name: make_measurement(rows)})
    assert decide(evaluation, Limit(P50, 0.0102, certainty=0.95)) == "met"
    assert decide(evaluation, Limit(P50, 0.0102, certainty=0.999)) == "unclear"


def test_violation_sums_relative_overshoots_of_what_is_known() -> None:
    pi = make_measurement([make_session([0.02])], origin="replayed")
    evaluation = make_evaluation(measurements={PI.name: pi})
    over, under = Limit(P90, 0.01), Limit(P90, 0.03)
    other = Limit(Metric("latency_p90", (HOST.name,)), 0.01)
    small = Limit(Metric("parameters"), 1e4)
    assert violation(evaluation, ()) == 0.0
    assert violation(evaluation, (under,)) == 0.0
    assert violation(evaluation, (over, small)) == pytest.approx(1.0 + 1.0)
    assert violation(evaluation, (over, other)) == pytest.approx(1.0)
    assert violation(evaluation, (under, other)) == math.inf


QUIET = Conditions(clock_before_hz=2.4e9, clock_after_hz=2.4e9, load_average=0.9, cpu_pressure=0.001)


def judged(conditions: Conditions, **changes: Any) -> tuple[str, str]:
    """State and reasons of three equal sessions under these conditions (4 CPUs, 1 thread)."""
    rows = [make_session([0.01] * 40, conditions=conditions)] * 3
    verdict = judge(make_measurement(rows, **changes))
    return verdict.state, "; ".join(verdict.reasons)


@pytest.mark.parametrize(
    ("conditions", "state", "reason"),
    [
        (QUIET, "valid", ""),
        (Conditions(), "valid", ""),
        (Conditions(throttle_events=1), "invalid", "throttled (3 of 3 sessions)"),
        (Conditions(clock_before_hz=2.4e9, clock_after_hz=2.2e9), "noisy", "CPU clock fell"),
        (Conditions(load_average=2.1), "noisy", "load average too high"),
        (Conditions(load_average=9.0, others_cpus=0.5), "valid", ""),  # 0.2 * 4 + 0.2
        (Conditions(others_cpus=1.1), "noisy", "others used the CPUs"),
        (Conditions(clock_low_share=0.005), "valid", ""),
        (Conditions(clock_low_share=0.02), "noisy", "below its greatest clock"),
        (Conditions(cpu_pressure=0.02), "noisy", "CPU pressure over 1%"),
        (Conditions(involuntary_switches=2), "valid", ""),  # 1 + 10 + 40 runs
        (Conditions(involuntary_switches=3), "noisy", "involuntary switches"),
        (Conditions(major_faults=1), "noisy", "page faults"),
        (Conditions(swapped_pages=1), "noisy", "swapping"),
    ],
)
def test_conditions_are_judged(conditions: Conditions, state: str, reason: str) -> None:
    verdict, reasons = judged(conditions)
    assert verdict == state
    assert reason in reasons


def test_load_is_not_judged_where_the_number_of_cpus_is_unknown() -> None:
    assert judged(Conditions(load_average=50.0), environment=Environment(()))[0] == "valid"


def test_switches_on_an_only_cpu_are_judged_by_the_time_they_took() -> None:
    def state(cpus: int, **told: Any) -> str:
        many = Conditions(involuntary_switches=9, **told)
        return judged(many, environment=Environment((("cpus", str(cpus)),)))[0]

    assert state(1, cpu_pressure=0.0004) == "valid"
    assert state(1, cpu_pressure=0.02) == "noisy"
    assert state(1) == "noisy"
    assert state(4, cpu_pressure=0.0004) == "noisy"


def test_a_wide_interval_is_noisy_and_says_how_wide() -> None:
    rows = [make_session([m] * 20) for m in (0.01, 0.011, 0.012)]
    verdict = judge(make_measurement(rows))
    assert verdict.state == "noisy"
    assert "plan ±2.0%" in verdict.reasons[0]
    assert judge(make_measurement([])).state == "invalid"
