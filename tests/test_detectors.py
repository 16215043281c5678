"""What runs say against a session: known answers, and error rates on seeded draws.

The draws are seeded; the rates behind each bound are those of ``benchmarks.trust``.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from results.detectors import drift, has_settled, regimes, remarks, settled, trend_p, warmup_cut
from results.statistics import judge, latency
from tests.fixtures_results import make_measurement, make_session


def timed(logs: np.ndarray) -> tuple[float, ...]:
    """Runs of about 10 ms."""
    return tuple((0.01 * np.exp(logs)).tolist())


def test_a_perfect_trend_has_the_statistic_and_slope_of_its_definition() -> None:
    found = drift(timed(np.linspace(0.0, 0.039, 160)))  # 40 blocks of 4
    assert found is not None
    assert found.statistic == 40 * 39 / 2
    assert found.total == pytest.approx(0.039 * 156 / 159)  # from the first block's middle to the last one's
    assert found.p < 1e-6


def test_the_p_value_is_that_of_kendalls_test() -> None:
    """On medians with lag 1 below zero it is scipy's asymptotic p, but for the continuity correction."""
    values = np.tile([0.0, 1.0], 20) + np.linspace(0, 0.3, 40)
    found = drift(timed(np.repeat(0.01 * values, 4)))
    assert found is not None
    tau = stats.kendalltau(np.arange(40), values, method="asymptotic")
    assert found.statistic == pytest.approx(tau.statistic * 40 * 39 / 2, abs=1)
    assert found.variance == pytest.approx(40 * 39 * 85 / 18)
    assert found.p == pytest.approx(tau.pvalue, abs=0.02)


def test_constant_runs_and_too_few_runs_say_nothing() -> None:
    flat = drift((0.01,) * 100)
    assert flat is not None
    assert flat.p == 1.0
    assert drift((0.01,) * 39) is None
    assert regimes((0.01,) * 100) is None
    assert regimes((0.01,) * 49) is None
    assert warmup_cut((0.01,) * 100) == 0
    assert trend_p(10.0, 0.0) == 1.0


def test_autocorrelated_runs_are_given_less_evidence() -> None:
    rng = np.random.default_rng(1)
    slow = np.repeat(rng.normal(0, 0.02, 8), 25)
    fast = rng.permutation(slow)
    kept, mixed = drift(timed(slow)), drift(timed(fast))
    assert kept is not None
    assert mixed is not None
    assert kept.variance > 1.5 * mixed.variance


def test_the_two_regimes_are_given_back() -> None:
    rng = np.random.default_rng(2)
    slow = rng.random(400) < 0.2
    found = regimes(timed(rng.normal(0, 0.005, 400) + np.where(slow, math.log(1.1), 0.0)))
    assert found is not None
    assert found.fast_s == pytest.approx(0.01, rel=0.002)
    assert found.slow_s == pytest.approx(0.011, rel=0.002)
    assert found.slow_share == pytest.approx(slow.mean())


@pytest.mark.parametrize("tau", [5, 20, 60])
def test_a_warm_up_that_ends_is_cut_off(tau: int) -> None:
    rng = np.random.default_rng(3)
    runs = timed(np.log1p(np.exp(-np.arange(1000) / tau)) + rng.normal(0, 0.03, 1000))
    assert 0 < warmup_cut(runs) <= 500
    assert has_settled(runs)
    assert np.median(settled([runs])[0]) == pytest.approx(0.01, rel=0.005)
    # The figure of the session is that of what is left.
    figure = latency(make_measurement([make_session(runs)]), 0.5)
    assert figure is not None
    assert figure.value == pytest.approx(np.median(settled([runs])[0]))


def test_a_slow_start_of_a_few_sessions_is_kept() -> None:
    level = (0.01, 0.0101) * 50
    slow = (*(1.2 * run for run in level[:20]), *level[20:])
    assert warmup_cut(slow) == 20
    assert settled([slow, level]) == [slow, level]
    assert settled([slow, slow, level]) == [slow[20:], slow[20:], level]


def test_a_warm_up_that_does_not_end_is_refused() -> None:
    rng = np.random.default_rng(4)
    rows = [
        make_session(timed(np.log1p(np.exp(-np.arange(1000) / 500)) + rng.normal(0, 0.03, 1000)))
        for _ in range(3)
    ]
    assert not has_settled(rows[0].durations_s)
    assert settled([rows[0].durations_s]) == [rows[0].durations_s]
    verdict = judge(make_measurement(rows))
    assert verdict.state == "invalid"
    assert "warm-up had not ended (3 of 3 sessions)" in verdict.reasons


def test_drift_is_told_of_one_session_and_of_all_together() -> None:
    rng = np.random.default_rng(5)
    calm = [make_session(timed(rng.normal(0, 0.01, 200))) for _ in range(5)]
    one = make_session(timed(rng.normal(0, 0.01, 200) + np.linspace(0, 0.04, 200)))
    assert [r.text for r in remarks([*calm, one])] == ["drift of up to +4.1% (1 of 6 sessions)"]
    # 1.5 % under 3 % of noise is in no single session, but in ten of them.
    weak = [make_session(timed(rng.normal(0, 0.03, 200) + np.linspace(0, 0.02, 200))) for _ in range(10)]
    (text,) = (r.text for r in remarks(weak))
    assert text.endswith("in the sessions")


def test_regimes_need_some_sessions_and_their_least_weight_in_all() -> None:
    rng = np.random.default_rng(6)

    def session(weight: float) -> object:
        slow = np.where(rng.random(400) < weight, math.log(1.2), 0.0)
        return make_session(timed(rng.normal(0, 0.005, 400) + slow))

    assert "two regimes, 10 ms and for 3" in remarks([session(0.3) for _ in range(5)])[0].text  # type: ignore[misc]
    assert remarks([session(0.3), *(session(0.0) for _ in range(9))]) == []  # type: ignore[list-item]
    assert remarks([session(0.02) for _ in range(10)]) == []  # type: ignore[misc]


def test_quiet_sessions_of_usual_noise_are_valid() -> None:
    """200 measurements of 5 sessions, 3 %: below 1 % false alarms; P(more than 8 of 200 | 0.01) = 2e-4."""
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(200):
        alarms += bool(remarks([make_session(timed(rng.normal(0, 0.03, 200))) for _ in range(5)]))
    assert alarms <= 8
