"""Nightly verdicts: known answers, and what each rule does by hand-made histories."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from results.regression import (
    History,
    Watch,
    baseline,
    benjamini_hochberg,
    change_points,
    confirmed,
    examine,
    slow_change,
)

CALM = (0.004, -0.004) * 7


def watch(*segments: tuple[float, ...]) -> Watch:
    return Watch(history=History(segments or (CALM,)))


def test_a_night_is_tested_as_one_new_observation() -> None:
    found = examine({"a": watch()}, {"a": 0.03})["a"]
    t = 0.03 / (np.std(CALM, ddof=1) * math.sqrt(1 + 1 / 14))
    assert found.p == pytest.approx(stats.t.sf(t, 13))
    assert found.shift == pytest.approx(math.expm1(0.03))
    assert (found.state, found.nights) == ("candidate", 14)


@pytest.mark.parametrize(("z", "state"), [(0.019, "fine"), (0.021, "candidate"), (-0.5, "fine")])
def test_only_a_shift_that_matters_and_is_clear_is_a_candidate(z: float, state: str) -> None:
    assert examine({"a": watch((0.0005, -0.0005) * 7)}, {"a": z})["a"].state == state


def test_a_history_that_hardly_varies_is_given_some_spread() -> None:
    base = baseline(History(((0.0,) * 14,)))
    assert base is not None
    assert base.spread == 0.002


def test_nine_nights_are_learning_and_ten_are_not() -> None:
    assert examine({"a": watch(CALM[:9])}, {"a": 1.0})["a"].state == "learning"
    assert examine({"a": watch(CALM[:10])}, {"a": 1.0})["a"].state == "candidate"
    assert examine({"a": watch(())}, {"a": 1.0})["a"].state == "learning"


def test_energy_has_a_wider_threshold_and_a_series_may_have_its_own() -> None:
    history = History(((0.001, -0.001) * 7,))
    assert examine({"e": Watch("energy", history)}, {"e": 0.04})["e"].state == "fine"
    assert examine({"e": Watch("latency_p50", history)}, {"e": 0.04})["e"].state == "candidate"
    assert examine({"e": Watch("latency_p50", history, threshold=0.1)}, {"e": 0.04})["e"].state == "fine"


def test_a_candidate_is_confirmed_by_the_mean_of_both_looks() -> None:
    assert confirmed({"a": watch()}, {"a": 0.03}, {"a": 0.028}) == {"a"}
    assert confirmed({"a": watch()}, {"a": 0.03}, {"a": 0.0}) == set()
    assert confirmed({"a": watch()}, {"a": 0.03}, {}) == set()


def test_many_series_at_once_need_more_evidence_each() -> None:
    """One p of 0.004 alone is a discovery; among 99 others of about a half it is not (0.004 > 0.05 / 100)."""
    fleet = {f"s{i}": Watch(history=History((CALM,)), threshold=0.005) for i in range(100)}
    z = 0.0129 * math.sqrt(1 + 1 / 14)
    tonight = dict.fromkeys(fleet, 0.0) | {"s0": z}
    assert 0.0005 < examine(fleet, tonight)["s0"].p < 0.005
    assert examine(fleet, tonight)["s0"].state == "candidate"
    assert confirmed({"s0": fleet["s0"]}, {"s0": z}, {"s0": z}) == {"s0"}
    assert confirmed(fleet, tonight, {"s0": z}) == set()


def test_an_accepted_step_has_its_own_mean_and_the_old_spread() -> None:
    stepped = History((CALM,)).accept().add(0.1)
    base = baseline(stepped)
    assert base is not None
    assert (base.mean, base.nights, base.freedom) == (0.1, 1, 13)
    assert base.spread == pytest.approx(np.std(CALM, ddof=1))
    assert examine({"a": Watch(history=stepped)}, {"a": 0.101})["a"].state == "fine"
    assert examine({"a": Watch(history=stepped)}, {"a": 0.14})["a"].state == "candidate"
    assert History((CALM, ())).accept() == History((CALM, ()))


def test_benjamini_and_hochberg_reject_what_their_paper_rejects() -> None:
    """Benjamini & Hochberg 1995, section 3.2: of these 15 the four smallest are rejected at 0.05."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert benjamini_hochberg(p, 0.05) == [True] * 4 + [False] * 11
    assert benjamini_hochberg(p[::-1], 0.05) == [False] * 11 + [True] * 4
    assert benjamini_hochberg([], 0.05) == []


def brute_force(z: np.ndarray, penalty: float) -> float:
    """Least cost of any segmentation into parts of at least two."""

    def cost(part: np.ndarray) -> float:
        return float(((part - part.mean()) ** 2).sum())

    def best(rest: np.ndarray) -> float:
        cuts = range(2, len(rest) - 1)
        return min([cost(rest), *(cost(rest[:c]) + penalty + best(rest[c:]) for c in cuts)])

    return best(z)


def test_change_points_are_the_best_of_all_segmentations() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        z = rng.normal(0, 1, 11) + np.repeat([0, 4 * seed, 2], [4, 4, 3])
        scale = 1.4826 * np.median(np.abs(np.diff(z) - np.median(np.diff(z)))) / math.sqrt(2)
        scaled = z / scale
        starts = change_points(z, 3.0)
        parts = np.split(scaled, starts)
        cost = sum(float(((p - p.mean()) ** 2).sum()) for p in parts) + 3.0 * len(starts)
        assert cost == pytest.approx(brute_force(scaled, 3.0))


def test_a_level_that_crept_up_is_found_although_no_night_stood_out() -> None:
    """A seeded creep of 0.1 % a night under 0.4 % of noise; the benchmark says how often it is found."""
    rng = np.random.default_rng(3)
    nights = tuple(0.001 * np.arange(40) + rng.normal(0, 0.004, 40))
    found = slow_change(watch(nights[:-1]), nights[-1])
    assert found is not None
    assert found.shift > 0.02
    assert slow_change(watch(tuple(rng.normal(0, 0.004, 40))), 0.0) is None
    assert slow_change(watch(CALM[:5]), 0.0) is None
