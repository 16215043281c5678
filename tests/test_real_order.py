"""The space and the answers of the table of real trainings, and the order that a report gives."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks import real_order
from benchmarks.real_order import NEAR, RowsTable, report, tables
from benchmarks.real_training import TABLE
from benchmarks.search_quality import HypervolumeRegret, search
from results.records import Fidelity, Metric, Proposal, Trial
from results.statistics import value


@pytest.fixture(scope="module")
def known() -> dict[str, RowsTable]:
    return tables(TABLE)


def test_every_row_was_measured_on_the_host_and_on_the_emulated_board(
    known: dict[str, RowsTable], tmp_path: Path
) -> None:
    emulated = tables(TABLE, "emulated")
    assert sum(len(table.errors) for table in emulated.values()) == 200
    for name, table in emulated.items():
        assert (table.costs > known[name].costs).all(), "an emulated board's time is no time of this host"
    lines = TABLE.read_text().splitlines(keepends=True)
    last = lines[-1].rsplit(",", 4)
    (tmp_path / "rows.csv").write_text("".join(lines[:-1]) + ",".join([last[0], "", ""]) + "\n")
    with pytest.raises(ValueError, match=r"1 rows have no emulated_latency_s; see benchmarks\.real_training"):
        tables(tmp_path / "rows.csv", "emulated")


def test_the_space_is_the_rows(known: dict[str, RowsTable]) -> None:
    with TABLE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
    assert sum(len(table.errors) for table in known.values()) == len(rows)
    for name, table in known.items():
        first = next(row for row in rows if row["space"] == name)
        architecture = table.space.architecture([0])
        assert table.space.size() == len(list(table.space.architectures())) == len(table.errors)
        assert sum(node.layer is not None for node in table.space.build(architecture).nodes)
        told = table.evaluate(Trial(0, Proposal(architecture, Fidelity(8))))
        accuracy = value(told, Metric("accuracy", maximise=True))
        cost = value(told, table.metrics[0])
        assert accuracy is not None
        assert cost is not None
        assert accuracy.value == float(first["validation_accuracy"])
        assert cost.value == float(first["host_latency_s"])


def test_neighbours_are_near_and_steps_can_be_taken_back(known: dict[str, RowsTable]) -> None:
    rng = np.random.default_rng(0)
    for table in known.values():
        space = table.space
        for architecture in list(space.architectures())[:6]:
            near = list(space.neighbours(architecture))
            assert architecture not in near
            assert len(near) >= NEAR
            assert all(architecture in space.neighbours(other) for other in near)
            assert space.mutate(architecture, rng) in near
            assert space.mutate(architecture, rng, changes=3) != architecture
            assert space.crossover(architecture, architecture, rng) == architecture


@pytest.mark.parametrize("strategy", real_order.STRATEGIES)
def test_a_search_trains_different_rows(known: dict[str, RowsTable], strategy: str) -> None:
    table = known["cell"]
    first, again = (search(strategy, table, table.problem(), seed=1, budget=16).rows for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first) == 16


def test_all_rows_have_no_regret(known: dict[str, RowsTable]) -> None:
    table = known["chain"]
    assert HypervolumeRegret(table)(list(range(len(table.errors)))) == 0.0


def test_order_and_distance_from_random_search() -> None:
    """Two seeds, two budgets, by hand."""
    found = {
        "chain": {
            "random_search": np.array([[0.4, 0.2], [0.6, 0.2]]),
            "nsga2": np.array([[0.3, 0.2], [0.3, 0.3]]),
        },
        "cell": {
            "random_search": np.array([[0.2, 0.0], [0.2, 0.0]]),
            "nsga2": np.array([[0.1, 0.2], [0.1, 0.3]]),
        },
    }
    figures = report(found, (10, 20))
    assert figures["order"] == {"10": ["nsga2", "random_search"], "20": ["random_search", "nsga2"]}
    assert figures["hypervolume_regret"]["both"]["random_search"]["10"] == pytest.approx(0.35)
    below = figures["below_random"]["nsga2"]
    assert below["10"] == pytest.approx(((0.3 - 0.2) + (0.4 - 0.2)) / 2)
    assert below["10_se"] == pytest.approx(0.05)
