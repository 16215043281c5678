"""Two files compared: the paired interval, and the sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from results.comparison import SAME, Comparison, agents_needed, compare, sentence
from results.errors import ConfigError
from results.records import Conditions, Interval, Measurement, Plan
from tests.fixtures_results import HOST, make_measurement, make_session

PLAN = Plan("compare", sessions=(8, 8), agents=4)


def measured(medians: list[float]) -> Measurement:
    """Two sessions in each of the agents, at these medians."""
    rows = [make_session([m] * 20, agent=agent) for agent, m in enumerate(medians) for _ in range(2)]
    return make_measurement(rows, plan=PLAN)


def test_the_ratio_is_the_paired_t_interval_over_agents() -> None:
    a, b = [0.010, 0.012, 0.011, 0.013], [0.0097, 0.0117, 0.0106, 0.0127]
    found = compare(measured(a), measured(b))
    differences = np.log(b) - np.log(a)
    test = stats.ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(0.95)
    assert found.p == pytest.approx(test.pvalue)
    assert found.ratio.value == pytest.approx(math.exp(differences.mean()))
    assert (found.ratio.low, found.ratio.high) == pytest.approx(
        (math.exp(interval.low), math.exp(interval.high))
    )
    assert found.pairs == 4


def test_what_agents_have_in_common_is_no_noise() -> None:
    """Agents differ by 30 %, the files by 3 % in each of them: seen without fail."""
    a = [0.010, 0.013, 0.011, 0.009]
    found = compare(measured(a), measured([0.97 * m * (1 + 1e-4 * i) for i, m in enumerate(a)]))
    assert found.ratio.high < 0.98
    assert found.p < 0.001


def test_the_interval_covers_and_false_alarms_are_as_stated() -> None:
    """300 pairs of equal files under an effect of 1 % per agent and file: 5 % are told apart by chance;
    P(more than 28 of 300 | 0.05) = 0.001."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(300):
        agents = rng.normal(0, 0.1, 4)
        a, b = (0.01 * np.exp(agents + rng.normal(0, 0.01, 4)) for _ in range(2))
        ratio = compare(measured(a.tolist()), measured(b.tolist())).ratio
        wrong += not ratio.low <= 1 <= ratio.high
    assert wrong <= 28


def test_only_what_was_measured_in_turns_on_one_target_compares() -> None:
    a = measured([0.01] * 4)
    with pytest.raises(ConfigError, match="one target"):
        compare(a, make_measurement(a.sessions, target=HOST, plan=PLAN))
    with pytest.raises(ConfigError, match="3 agents that measured both, got 2"):
        compare(a, measured([0.01] * 2))


@pytest.mark.parametrize(
    ("ratio", "p", "text"),
    [
        ((0.962, 0.969, 0.976), 1e-5, "B is 3.1 % [2.4, 3.8] faster than A; p < 0.001"),
        ((1.02, 1.05, 1.08), 0.004, "B is 5.0 % [2.0, 8.0] slower than A; p = 0.004"),
        (
            (0.99, 1.0, 1.01),
            0.42,
            "no difference of more than 2 % between A and B: "
            "B takes from 1.0 % less time to 1.0 % more time (95 %); p = 0.42",
        ),
        ((4.0, 5.0, 6.3), 0.0002, "B takes 5 [4, 6.3] times as long as A; p < 0.001"),
    ],
)
def test_the_sentence(ratio: tuple[float, float, float], p: float, text: str) -> None:
    assert sentence(Comparison(Interval(*ratio), p, 8)) == text


def test_a_wide_interval_cannot_tell_and_says_what_would() -> None:
    """Agents vary by 4 %: 8 of them tell 3.4 %, and 1 % takes t(n - 1) * 4 % / sqrt(n) <= 0.99 %: n = 66."""
    spread = 0.04 / np.std([-1, 1] * 4, ddof=1) * np.array([-1, 1] * 4)
    found = compare(measured([0.01] * 8), measured((0.01 * np.exp(spread)).tolist()))
    assert (found.verdict, agents_needed(found)) == ("cannot tell", 66)
    text = sentence(found)
    assert text.startswith(
        "cannot tell A and B apart, nor call them equal: B takes from 3.3 % less time to 3.4 % more time"
    )
    assert "it needs about 66 agents (--agents 66), or a quieter board" in text
    assert "varies by 4 % between agents, and 8 of them allow for 1.2 % (estimated)" in text


def test_an_interval_that_says_nothing_is_put_in_words() -> None:
    text = sentence(Comparison(Interval(0.425, 1.77, 7.344), 0.37, 8, spread=1.7))
    assert "B takes from 57.5 % less time to 7.3 times as much (95 %); p = 0.37" in text
    assert "it needs more than 100 agents, or a quieter board" in text


def test_files_are_called_equal_within_the_band_only() -> None:
    """With as many agents as are said to be needed, one of the two is always told.

    A third of 200 pairs differ by more than the band; at the most 2.5 % of those are called the same, more
    than 7 of 67 once in 2,000 times.
    """
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(200):
        true, agents = rng.uniform(-0.03, 0.03), rng.normal(0, 0.1, 8)
        a, b = 0.01 * np.exp(agents), 0.01 * np.exp(agents + true + rng.normal(0, 0.01, 8))
        found = compare(measured(a.tolist()), measured(b.tolist()))
        needed = agents_needed(found)
        assert needed is not None
        if needed <= 8:
            assert found.verdict != "cannot tell"
        wrong += found.verdict == "same" and abs(true) > math.log(1 + SAME)
    assert wrong <= 7


def test_invalid_figures_tell_nothing() -> None:
    throttled = Conditions(throttle_events=3)
    rows = [make_session([0.02] * 20, agent=k, conditions=throttled) for k in range(4) for _ in range(2)]
    found = compare(measured([0.01] * 4), make_measurement(rows, plan=PLAN))
    assert (found.verdict, found.invalid) == ("cannot tell", True)
    assert "invalid" in sentence(found)
