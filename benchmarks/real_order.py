"""Whether strategies stand in the same order on real trainings as on the published tables.

::

    python -m benchmarks.real_order --seeds 20 --budget 20,40 --json real_order.json
    python -m benchmarks.real_order --seeds 20 --budget 20,40 --latency emulated --json emulated.json

Searches the networks of ``benchmarks/data/real_training.csv`` (see :mod:`benchmarks.real_training`), those of
the space ``chain`` and those of ``cell`` each by themselves, as a study searches one space.  A search sees
validation accuracies and latencies on the host of the table or, with ``--latency emulated``, on its emulated
board; ``hypervolume_regret`` is 1 - hypervolume of (test accuracy,
latency) of what it trained / that of all rows, as in :mod:`benchmarks.search_quality`: mean and standard
error over seeds.  ``order`` has the strategies by their mean regret over both spaces, the best first;
``below_random`` how far each is below random search, seed by seed: mean difference and its standard error.

The table is the space: what a strategy may propose are its rows and nothing else.  A row has the features,
the structure and the encoding of its network; its neighbours are the nearest rows by the city-block distance
of the encodings, and a mutant is one of those.  In a random sample of a large space even the nearest are many
changes away, so local steps help less here than in the space itself.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import print_and_write
from benchmarks.real_training import TABLE, TASK, spaces_of
from benchmarks.search_quality import HypervolumeRegret, search
from results.records import Architecture, Evaluation, Metric, Score, Target, Trial
from search.datasets import load_task
from search.network import Network
from search.space import Decision, SearchSpace
from tests.table_space import Table

STRATEGIES = ("random_search", "regularized_evolution", "nsga2", "local_search", "bayesian")
EXAMPLES = 1_000
"""Images of the validation split."""

NEAR = 5
"""Nearest rows that are neighbours of a row."""


class RowsSpace(SearchSpace):
    """Some networks of another space: one decision, which of them.

    Args:
        whole: The space they are of.
        rows: Choices there, one network each.
    """

    def __init__(self, whole: SearchSpace, rows: Sequence[Sequence[int]]) -> None:
        super().__init__(f"{whole.name}_rows", [Decision("row", tuple(range(len(rows))))])
        self.whole = whole
        self.rows = [whole.architecture(row) for row in rows]
        self._codes = np.array([whole.encode(row) for row in self.rows])
        distances = np.abs(self._codes[:, None] - self._codes[None]).sum(axis=2)
        self._nearest = np.argsort(distances, axis=1, kind="stable")

    def of(self, architecture: Architecture) -> Architecture:
        """The network in the other space."""
        return self.rows[architecture.choices[0]]

    def build(
        self, architecture: Architecture, *, width: float = 1.0, resolution: int | None = None
    ) -> Network:
        """As in the other space."""
        self.check(architecture)
        return self.whole.build(self.of(architecture), width=width, resolution=resolution)

    def encode(self, architecture: Architecture) -> NDArray[np.float64]:
        """As in the other space."""
        return self.whole.encode(self.of(architecture))

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """As in the other space."""
        return self.whole.features(self.of(architecture))

    def structure(self, architecture: Architecture) -> NDArray[np.float64]:
        """As in the other space."""
        return self.whole.structure(self.of(architecture))

    def distance(self, a: Architecture, b: Architecture) -> float:
        """As in the other space."""
        return self.whole.distance(self.of(a), self.of(b))

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """The nearest rows, then those whose nearest it is: every step can be taken back."""
        own = architecture.choices[0]
        found = dict.fromkeys(self._near(own, NEAR))
        found |= dict.fromkeys(row for row in range(len(self.rows)) if own in self._near(row, NEAR))
        yield from (self.architecture([row]) for row in found)

    def mutate(
        self, architecture: Architecture, rng: np.random.Generator, *, changes: int = 1
    ) -> Architecture:
        """A random one of the neighbours, or of as many times more of the nearest as there are changes."""
        if changes == 1:
            near = list(self.neighbours(architecture))
        else:
            near = [self.architecture([row]) for row in self._near(architecture.choices[0], changes * NEAR)]
        return near[int(rng.integers(len(near)))] if near else architecture

    def crossover(self, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
        """The row nearest to a child of the other space."""
        child = self.whole.encode(self.whole.crossover(self.of(a), self.of(b), rng))
        return self.architecture([int(np.abs(self._codes - child).sum(axis=1).argmin())])

    def _near(self, row: int, count: int) -> list[int]:
        return [int(other) for other in self._nearest[row] if other != row][:count]


class RowsTable(Table):
    """Answers trials from rows of the table, as its base class does from published ones.

    Args:
        whole: The space that the rows are of.
        rows: Rows of the CSV file; those whose training failed are left out.
        latency: Whose latencies: ``host`` or ``emulated``.
    """

    def __init__(self, whole: SearchSpace, rows: Sequence[Mapping[str, str]], latency: str = "host") -> None:
        trained = [row for row in rows if row["state"] == "complete"]
        space = RowsSpace(whole, [[int(c) for c in row["choices"].split("-")] for row in trained])
        self.space = space  # type: ignore[assignment]  # not the published cells
        self.errors = 1.0 - np.array([float(row["test_accuracy"]) for row in trained])
        self.costs = np.array([[float(row[f"{latency}_latency_s"])] for row in trained])
        self._row = {architecture: i for i, architecture in enumerate(space.architectures())}
        self.targets = (Target(latency, "onnxruntime"),)
        self.metrics = (Metric("latency_p50", (latency,)),)
        self.limits = ()
        self._seen = [float(row["validation_accuracy"]) for row in trained]

    def evaluate(self, trial: Trial) -> Evaluation:
        """The figures of the table, with the accuracy on the validation split."""
        told = super().evaluate(trial)
        seen = Score(self._seen[self.row(trial.proposal.architecture)], EXAMPLES)
        return replace(told, accuracy={"fp32": seen}) if told.state == "complete" else told


def tables(path: Path, latency: str = "host") -> dict[str, RowsTable]:
    """The rows of a file by the name of their space.

    Raises:
        ValueError: If a row was not measured there.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if missing := sum(not row[f"{latency}_latency_s"] for row in rows):
        raise ValueError(f"{path}: {missing} rows have no {latency}_latency_s; see benchmarks.real_training")
    return {
        space.name: RowsTable(space, [row for row in rows if row["space"] == space.name], latency)
        for space in spaces_of(load_task(TASK))
    }


Regrets = dict[str, dict[str, NDArray[np.float64]]]
"""By space and strategy, shape ``(seeds, budgets)``."""


def regrets(
    known: Mapping[str, RowsTable], strategies: Sequence[str], seeds: Sequence[int], budgets: Sequence[int]
) -> Regrets:
    """Regret after each budget, of every space, strategy and seed."""
    found: Regrets = {}
    for name, table in known.items():
        regret = HypervolumeRegret(table)
        for strategy in strategies:
            rows = [
                search(strategy, table, table.problem(), seed=seed, budget=max(budgets)).rows
                for seed in seeds
            ]
            found.setdefault(name, {})[strategy] = np.array(
                [[regret(row[:budget]) for budget in budgets] for row in rows]
            )
            print(name, strategy, found[name][strategy].mean(axis=0).round(4), file=sys.stderr, flush=True)
    return found


def report(found: Regrets, budgets: Sequence[int]) -> dict[str, Any]:
    """Means and standard errors, by space and over both, and the order of the strategies."""
    strategies = list(next(iter(found.values())))
    # One seed is one search in each space: their mean is one observation.
    both = {s: np.mean([spaces[s] for spaces in found.values()], axis=0) for s in strategies}
    by_space = {name: dict(spaces) for name, spaces in found.items()} | {"both": both}
    random = both.get("random_search")
    return {
        "hypervolume_regret": {
            name: {s: _summary(values, budgets) for s, values in spaces.items()}
            for name, spaces in by_space.items()
        },
        "below_random": {}
        if random is None
        else {s: _summary(random - both[s], budgets) for s in strategies if s != "random_search"},
        "order": {
            str(budget): [strategies[i] for i in np.argsort([both[s].mean(axis=0)[at] for s in strategies])]
            for at, budget in enumerate(budgets)
        },
    }


def _summary(values: NDArray[np.float64], budgets: Sequence[int]) -> dict[str, float]:
    """Mean and standard error over seeds by budget."""
    summary: dict[str, float] = {}
    for budget, column in zip(budgets, values.T, strict=True):
        summary[str(budget)] = float(column.mean())
        if len(column) > 1:
            summary[f"{budget}_se"] = float(column.std(ddof=1) / np.sqrt(len(column)))
    return summary


def main(argv: Sequence[str] | None = None) -> int:
    """Searches the table and prints the order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--table", type=Path, default=TABLE, metavar="FILE")
    parser.add_argument("--latency", choices=("host", "emulated"), default="host", help="measured where")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=20, help="searches each (default 20)")
    parser.add_argument("--budget", default="20,40", help="trainings after which to look (default 20,40)")
    args = parser.parse_args(argv)
    budgets = [int(budget) for budget in args.budget.split(",")]
    known = tables(args.table, args.latency)
    found = regrets(known, args.strategies.split(","), range(args.seeds), budgets)
    figures = report(found, budgets) | {
        "rows": {name: len(table.errors) for name, table in known.items()},
        "seeds": args.seeds,
        "latency": args.latency,
        "command": f"--strategies {args.strategies} --seeds {args.seeds} --budget {args.budget}",
    }
    print_and_write(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
