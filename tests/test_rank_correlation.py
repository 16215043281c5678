"""Kendall's tau and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from results.rank_correlation import kendall


def test_known_answers() -> None:
    # 10 pairs, of which one is turned: (10 - 2) / 10
    found = kendall([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])
    assert found is not None
    assert found.value == pytest.approx(0.8)
    assert found.low < 0 < found.high < 1
    # n = 40, tau 0: tanh(1.96 sqrt(0.437 / 36))
    half = np.tanh(1.959964 * np.sqrt(0.437 / 36))
    rng = np.random.default_rng(0)
    found = kendall(list(range(40)), rng.permutation(40).tolist())
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_perfect_agreement_keeps_a_width() -> None:
    found = kendall([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    assert found is not None
    assert found.value == found.high == pytest.approx(1.0)
    assert found.low < 0.95


@pytest.mark.parametrize("scores", [[1, 2, 3, 4], [1, 1, 1, 1, 1, 1]])
def test_nothing_is_stated_of_too_few_or_equal_scores(scores: list[float]) -> None:
    assert kendall(scores, list(range(len(scores)))) is None


def test_the_interval_covers_the_truth() -> None:
    """Normal pairs with correlation r have tau = 2/pi asin(r); 12 candidates, 400 repetitions.

    At a true coverage of 95 % the test fails by chance with probability below 1e-4 (binomial, <= 357).
    """
    rng = np.random.default_rng(1)
    r = 0.7
    truth = 2 / np.pi * np.arcsin(r)
    covered = 0
    for _ in range(400):
        a = rng.normal(size=12)
        found = kendall(a.tolist(), (r * a + np.sqrt(1 - r * r) * rng.normal(size=12)).tolist())
        assert found is not None
        covered += found.low <= truth <= found.high
    assert covered > 357
