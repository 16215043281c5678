"""Who is better: Deb's rules, non-dominated ranks and crowding, on cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from results.errors import ConfigError
from results.records import Evaluation, Fidelity, Limit, Metric, Problem, Proposal, Score, Trial
from search.feasibility import crowding_distances, nondominated_ranks, standings
from search.history import History, Outcome
from search.novelty import every_architecture, new_mutant, new_sample
from search.space import SearchSpace
from tests.table_space import TableSpace

ACCURACY = Metric("accuracy", maximise=True)
SIZE = Metric("macs")


def outcome(number: int, state: str, violation: float = 0.0, **figures: float) -> Outcome:
    architecture = TableSpace().architecture([number % 5, 1, 1, 1, 1, 1])
    metrics = {"accuracy": ACCURACY, "macs": SIZE}
    known = {metrics[name]: value for name, value in figures.items()}
    return Outcome(number, architecture, state, known, violation)  # type: ignore[arg-type]


def test_ranks_of_three_nested_fronts() -> None:
    points = np.array([[1, 3], [2, 2], [3, 1], [2, 3], [3, 3], [1, 3]], dtype=float)
    # (1, 3) twice: equal points do not dominate each other; (3, 3) waits for (2, 3), which waits for (2, 2).
    assert nondominated_ranks(points).tolist() == [0, 0, 0, 1, 2, 0]


def test_crowding_is_the_gap_between_the_neighbours() -> None:
    points = np.array([[0.0, 4.0], [1.0, 2.0], [3.0, 1.0], [4.0, 0.0]])
    expected = [np.inf, 3 / 4 + 3 / 4, 3 / 4 + 2 / 4, np.inf]
    assert crowding_distances(points).tolist() == expected


def test_feasible_before_infeasible_before_failed_and_the_unmeasured_stand_aside() -> None:
    outcomes = [
        outcome(0, "failed"),
        outcome(1, "infeasible", violation=0.5),
        outcome(2, "complete", accuracy=0.1, macs=9.0),
        outcome(3, "infeasible", violation=0.1),
        outcome(4, "unmeasured"),
        outcome(5, "complete", violation=0.2, accuracy=0.99, macs=1.0),
        outcome(6, "complete", accuracy=0.9),
    ]
    result = standings(outcomes, (ACCURACY, SIZE))
    assert result[4] is None  # the board's fault
    assert result[6] is None  # a cost that nobody knows
    order = sorted((s, i) for i, s in enumerate(result) if s is not None)
    assert [i for _, i in order] == [2, 3, 5, 1, 0]


def test_among_feasible_the_rank_decides_then_the_crowding() -> None:
    figures = [(0.9, 9.0), (0.8, 8.0), (0.79, 7.9), (0.5, 1.0), (0.7, 8.5)]
    outcomes = [outcome(i, "complete", accuracy=a, macs=m) for i, (a, m) in enumerate(figures)]
    result = standings(outcomes, (ACCURACY, SIZE))
    ranks = [s.rank for s in result if s is not None]
    assert ranks == [0, 0, 0, 0, 1]
    assert result[0] is not None
    assert result[1] is not None
    assert result[2] is not None
    assert result[0] < result[2] < result[1]  # the end first; then the one with more room around it


# --------------------------------------------------------------------------- history


def evaluation(space: SearchSpace, number: int, state: str = "complete", **changes: float) -> Evaluation:
    trial = Trial(number, Proposal(space.architecture([3, 3, 3, 3, 3, number % 5]), Fidelity(1)))
    accuracy = {"fp32": Score(changes["accuracy"], 100)} if "accuracy" in changes else {}
    network = {"macs": changes["macs"]} if "macs" in changes else {}
    return Evaluation(trial, state, accuracy=accuracy, network=network)  # type: ignore[arg-type]


def test_history_reads_what_is_known() -> None:
    space = TableSpace()
    history = History(space, Problem((ACCURACY, SIZE), (Limit(SIZE, 10.0),)))
    told = history.add(evaluation(space, 0, accuracy=0.8, macs=12.0))
    assert told.figures == {ACCURACY: 0.8, SIZE: 12.0}
    assert told.violation == pytest.approx(0.2)
    assert not told.feasible
    assert told.losses((ACCURACY, SIZE)) == (-0.8, 12.0)
    assert history.add(evaluation(space, 1, accuracy=0.8)).losses((ACCURACY, SIZE)) is None


def test_what_was_decided_to_be_infeasible_is_never_feasible() -> None:
    space = TableSpace()
    history = History(space, Problem((ACCURACY,), (Limit(SIZE, 10.0),)))
    told = history.add(evaluation(space, 0, "infeasible", macs=10.0))
    assert told.violation == math.inf


def test_history_is_unchanged_by_what_it_refuses() -> None:
    space = TableSpace()
    history = History(space, Problem((ACCURACY,)))
    history.add(evaluation(space, 0, accuracy=0.5))
    for bad in (evaluation(space, 0, accuracy=0.6), evaluation(space, 1, accuracy=math.nan)):
        with pytest.raises(ConfigError, match=f"trial {bad.trial.number}"):
            history.add(bad)
    history.add(evaluation(space, 1, accuracy=0.6))
    assert [told.number for told in history.outcomes] == [0, 1]


def test_a_problem_needs_an_objective() -> None:
    with pytest.raises(ConfigError, match="objective"):
        History(TableSpace(), Problem(()))


# --------------------------------------------------------------------------- novelty


def test_the_last_architecture_of_a_space_is_found() -> None:
    space = TableSpace()
    everything = every_architecture(space)
    assert len(everything) == 5**6
    last = everything[4321]
    taken = set(everything) - {last}
    rng = np.random.default_rng(0)
    assert new_sample(space, rng, taken) == last
    assert new_mutant(space, everything[0], rng, taken) == last
    assert new_sample(space, rng, set(everything)) is None


def test_a_mutant_is_as_near_as_possible() -> None:
    space = TableSpace()
    parent = space.architecture([1] * 6)
    rng = np.random.default_rng(0)
    near = set(space.neighbours(parent))
    assert new_mutant(space, parent, rng, {parent}) in near
    two_away = new_mutant(space, parent, rng, {parent} | near)
    assert two_away is not None
    assert space.distance(parent, two_away) == 2
