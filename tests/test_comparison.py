"""Two files compared: the paired interval, and the sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from results.comparison import Comparison, compare, sentence
from results.errors import ConfigError
from results.records import Interval, Measurement, Plan
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
            "no difference found between A and B: B takes -1.0 to +1.0 % more time; p = 0.42",
        ),
    ],
)
def test_the_sentence(ratio: tuple[float, float, float], p: float, text: str) -> None:
    assert sentence(Comparison(Interval(*ratio), p, 8)) == text
