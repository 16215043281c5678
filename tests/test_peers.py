"""What peers of the benchmark are answered, and that nothing else needs their libraries."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest

from benchmarks import bananas_peer, peers
from tests.table_space import Table

COLUMN = "raspi4_latency_ms"


@pytest.fixture(scope="module")
def table() -> Table:
    costs = Table([COLUMN]).costs[:, 0]
    return Table([COLUMN], limits={COLUMN: float(np.quantile(costs, 0.3))})


def test_what_breaks_a_limit_or_is_measured_alone_is_no_training(table: Table) -> None:
    limit = table.limits[0].upper
    within = [a for a in table.frame.index[:2000] if table.costs[table.row(a), 0] <= limit][:3]
    beyond = next(a for a in table.frame.index if table.costs[table.row(a), 0] > limit)
    replay = peers.Replay(table, table.problem(cost_objectives=False), 2)
    replay.took(1.0)
    assert replay.train(beyond).state == "infeasible"
    replay.took(0.5)
    assert replay.measure(within[0]).state == "screened"
    assert (replay.left, replay.over) == (2, False)
    for architecture in within:
        replay.train(architecture)
    run = replay.run()
    assert run.rows == [table.row(a) for a in within[:2]]
    assert (run.screened, run.ask_s[:2]) == (4, [1.5, 0.0])
    assert replay.over


def test_a_peer_that_measures_without_training_ends(table: Table) -> None:
    replay = peers.Replay(table, table.problem(), 1)
    for architecture in table.frame.index[:8]:
        assert not replay.over
        replay.measure(architecture)
    assert replay.over


def test_the_benchmark_loads_without_the_libraries_of_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("botorch", "gpytorch", "pymoo"):
        monkeypatch.setitem(sys.modules, library, None)  # importing it raises ImportError
    assert set(importlib.reload(peers).PEERS) > {"pymoo:NSGA2"}


@pytest.mark.parametrize("shortlist", [False, True])
def test_bananas_trains_its_budget_within_the_limit_and_does_so_again(
    table: Table, shortlist: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bananas_peer, "EPOCHS", 3)
    problem = table.problem()
    runs = [bananas_peer.search(table, problem, seed=3, budget=22, shortlist=shortlist) for _ in range(2)]
    assert len(set(runs[0].rows)) == 22
    assert (table.costs[runs[0].rows, 0] <= table.limits[0].upper).all()
    assert (runs[0].rows, runs[0].screened) == (runs[1].rows, runs[1].screened)
    assert (runs[0].screened > 100) == shortlist
    assert runs[0].screened <= 8 * 22


def test_bananas_draws_the_best_of_each_front_first() -> None:
    losses = np.array([[5.0, 5.0], [1.0, 2.0], [0.0, 0.0], [2.0, 1.0], [1.9, 1.1]])
    violations = np.array([0.0, 0.0, 0.1, 0.0, 0.0])
    order = bananas_peer._best_first(losses, violations)
    assert sorted(order[:2]) == [1, 3], "ends of the first front before what lies between"
    assert list(order[2:]) == [4, 0, 2], "what breaks a limit comes last"
