"""Every strategy with speed-ups around it, put in front of it as they are."""

from __future__ import annotations

from typing import Any

import pytest

from harness import plugins
from harness.speedups import accelerated
from results.fidelity import is_full, levels
from results.records import Evaluation, Trial
from search.strategy import Strategy
from tests.test_fidelity import PROBLEM, SPACE, evaluated, learns
from tests.test_speedups import FULL, named

CANDIDATES = 6
COMBINATIONS: dict[str, tuple[Any, ...]] = {
    "parent": ({"name": "lower_fidelity", "rungs": [{"epochs": 4}]}, "learning_curves", "inheritance"),
    "supernet": ({"name": "lower_fidelity", "rungs": [{"epochs": 0}]}, "learning_curves", "supernet"),
    "unassisted": ({"name": "inheritance", "nearest": 100.0},),
}


def strategy_of(name: str, combination: str) -> Strategy:
    kind = plugins.load("strategies", name).Strategy
    within: Strategy = kind(SPACE, PROBLEM, fidelity=FULL, seed=1)
    return accelerated(named(*COMBINATIONS[combination]), within, candidates=CANDIDATES)


def searched(strategy: Strategy) -> list[Evaluation]:
    """A search with two trials under way, of no more trials than candidates and their promotions can be."""
    told: list[Evaluation] = []
    asked: list[Trial] = []
    while True:
        pending = asked[len(told) :]
        if len(pending) < 2 and len(asked) < 2 * CANDIDATES:
            proposal = strategy.ask(len(asked), pending)
            if proposal is not None:
                asked.append(Trial(len(asked), proposal))
                continue
        if not pending:
            return told
        told.append(evaluated(pending[0], levels(asked)[pending[0].number], learns))
        strategy.tell(told[-1])


@pytest.mark.parametrize("combination", ["parent", "supernet"])
@pytest.mark.parametrize("name", plugins.known("strategies"))
def test_the_best_of_any_strategy_go_on_with_their_weights(name: str, combination: str) -> None:
    told = searched(strategy_of(name, combination))
    reached = levels(e.trial for e in told)
    first = [e.trial.proposal for e in told if e.trial.proposal.note["rung"] == 0]
    assert len({p.architecture for p in first}) == len(first) == CANDIDATES
    assert {reached[e.trial.number].epochs for e in told if e.trial.proposal.note["rung"] == 0} == {
        0 if combination == "supernet" else 4
    }
    if combination == "supernet":
        assert {p.weights_from for p in first} == {"supernet"}
    promoted = [e.trial for e in told if e.trial.proposal.note["rung"] == 1]
    assert 1 <= len(promoted) < CANDIDATES
    by_number = {e.trial.number: e.trial.proposal for e in told}
    for trial in promoted:
        parent = by_number[trial.proposal.weights_from]  # type: ignore[index]
        assert parent.architecture == trial.proposal.architecture
        assert is_full(reached[trial.number], FULL)


@pytest.mark.parametrize("name", plugins.known("strategies"))
def test_children_of_any_strategy_begin_with_what_a_relative_learnt(name: str) -> None:
    told = searched(strategy_of(name, "unassisted"))
    reached = levels(e.trial for e in told)
    assert all(is_full(level, FULL) for level in reached.values())
    children = [e.trial.proposal for e in told if e.trial.proposal.weights_from is not None]
    assert len(children) >= CANDIDATES
    assert {p.fidelity.epochs for p in children} == {FULL.epochs // 2}
