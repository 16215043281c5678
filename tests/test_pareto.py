"""Fronts of uncertain figures and hypervolume, against answers found by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.pareto import fronts, hypervolume
from results.records import Interval


def exact(*values: float) -> list[Interval]:
    """A point of zero width."""
    return [Interval(v, v, v) for v in values]


def test_exact_points_have_one_front() -> None:
    points = [exact(0.9, 2.0), exact(0.8, 1.0), exact(0.8, 1.5), exact(0.7, 1.0), exact(0.95, 3.0)]
    found = fronts(points, (True, False))
    assert found.certain == found.nominal == found.possible == (0, 1, 4)


def test_equal_exact_points_do_not_dominate_each_other() -> None:
    found = fronts([exact(0.9, 2.0)] * 3, (True, False))
    assert found.certain == found.nominal == found.possible == (0, 1, 2)


def test_overlapping_points_are_possible_and_not_certain() -> None:
    a = [Interval(0.90, 0.90, 0.90), Interval(1.0, 2.0, 3.0)]
    b = [Interval(0.85, 0.85, 0.85), Interval(2.0, 2.5, 4.0)]
    c = [Interval(0.80, 0.80, 0.80), Interval(3.5, 4.0, 5.0)]
    found = fronts([a, b, c], (True, False))
    assert found.certain == (0,)  # nothing is as accurate, even at best
    assert found.nominal == (0,)
    assert found.possible == (0, 1)  # c is worse than a even where a is at its worst


def test_a_wide_point_does_not_stand_in_its_own_way() -> None:
    assert fronts([[Interval(0, 1, 2), Interval(0, 1, 2)]], (True, False)).certain == (0,)


def test_no_points_have_empty_fronts() -> None:
    assert fronts([], (True, False)).possible == ()


@st.composite
def populations(draw: st.DrawFn) -> list[list[Interval]]:
    """Points with two objectives on a coarse grid, so that ties are common."""
    number = st.integers(0, 6)
    ends = st.tuples(number, number, number).map(lambda t: Interval(*sorted(t)))
    return draw(st.lists(st.lists(ends, min_size=2, max_size=2), max_size=12))


@given(populations(), st.tuples(st.booleans(), st.booleans()))
def test_certain_is_within_nominal_is_within_possible(
    points: list[list[Interval]], maximise: tuple[bool, bool]
) -> None:
    found = fronts(points, maximise)
    assert set(found.certain) <= set(found.nominal) <= set(found.possible)
    assert bool(found.nominal) == bool(points)


@given(populations(), st.data())
def test_doubtful_feasibility_keeps_the_order_of_the_fronts(
    points: list[list[Interval]], data: st.DataObject
) -> None:
    feasible = data.draw(st.lists(st.booleans(), min_size=len(points), max_size=len(points)))
    all_feasible, found = fronts(points, (True, False)), fronts(points, (True, False), feasible=feasible)
    assert set(found.certain) <= set(found.nominal) <= set(found.possible)
    assert set(found.certain) == {i for i in all_feasible.certain if feasible[i]}
    assert set(all_feasible.possible) <= set(found.possible)


def test_a_point_that_may_be_infeasible_rules_nobody_out() -> None:
    found = fronts([exact(0.9, 1.0), exact(0.8, 2.0)], (True, False), feasible=(False, True))
    assert found.certain == ()  # the first may be feasible after all, then the second is dominated
    assert found.nominal == (0,)
    assert found.possible == (0, 1)


@given(populations(), st.floats(0, 1))
def test_narrower_intervals_leave_less_open(points: list[list[Interval]], share: float) -> None:
    """Shrinking all intervals towards their values adds to the certain, takes from the possible front."""

    def shrink(i: Interval) -> Interval:
        return Interval(i.value - share * (i.value - i.low), i.value, i.value + share * (i.high - i.value))

    before, after = (
        fronts(points, (True, False)),
        fronts([[shrink(i) for i in p] for p in points], (True, False)),
    )
    assert set(before.certain) <= set(after.certain)
    assert set(after.possible) <= set(before.possible)


def test_hypervolume_by_hand() -> None:
    # Accuracy up, latency down, reference (0.5, 4): 0.2 * 3 + 0.2 * 2 + 0.05 * 1.
    points = [(0.7, 1.0), (0.9, 2.0), (0.95, 3.0)]
    assert hypervolume(points, (0.5, 4.0), (True, False)) == pytest.approx(1.05)
    assert hypervolume([*points, (0.6, 3.5)], (0.5, 4.0), (True, False)) == pytest.approx(1.05)
    assert hypervolume([(1, 1, 1)], (3, 3, 3), (False, False, False)) == pytest.approx(8.0)


def test_hypervolume_of_what_does_not_reach_the_reference_is_nothing() -> None:
    assert hypervolume([(0.4, 1.0), (0.9, 5.0)], (0.5, 4.0), (True, False)) == 0.0
    assert hypervolume([], (0.5, 4.0), (True, False)) == 0.0
