"""How good the strategies are on published tables of measured cells.

::

    python -m benchmarks.search_quality --seeds 20 --budget 200 --json quality.json --processes 2
    python -m benchmarks.search_quality --peers --strategies bayesian,bayesian:shortlist=0 --seeds 100-109

Mean and standard error over seeds after 50, 100 and 200 trainings (``--budget``):

* ``hypervolume_regret``: 1 - hypervolume of (accuracy, costs) of what was trained / that of the table's
  true front; reference point: median accuracy, 1.1 x the worst cost on the true front.
* ``constrained_regret``: points of accuracy below the best network within the 30th percentile of the first
  cost, which is the study's hard limit; accuracy is the only objective.

A candidate is measured before it is trained, as in a study: one that breaks the limit or does not run costs
no training.  ``screened_per_training`` says how many different networks were measured for each that was
trained; ``ask_s``, how much CPU time choosing one training took, its screenings included (median of 20).

A strategy is named as in a study, with options if wished: ``bayesian``, ``bayesian:shortlist=0``,
``optuna:TPESampler``.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from harness import plugins
from results.pareto import hypervolume
from results.records import Fidelity, Problem, Trial
from search.strategy import Strategy
from tests.table_space import TABLE, Table

TABLES = {
    "raspi4": ("raspi4_latency_ms",),
    "edgegpu": ("edgegpu_latency_ms",),
    "edgetpu": ("edgetpu_latency_ms",),
    "pixel3": ("pixel3_latency_ms",),
    "edgegpu_energy": ("edgegpu_latency_ms", "edgegpu_energy_mj"),
}
ACCURACY = "cifar10_test_acc_200ep"
PERCENTILE = 30
LOOKS = (50, 100, 200)
"""Trainings after which to look."""

STRATEGIES = (
    "random_search",
    "regularized_evolution",
    "nsga2",
    "local_search",
    "reinforce",
    "bayesian",
    "bayesian:shortlist=0",
)
SCREENED_PER_TRAINING = 8
"""Candidates that a strategy may have measured per training; then the search ends."""


@dataclass(frozen=True)
class Source:
    """Columns of a table file."""

    file: Path
    accuracy: str
    costs: tuple[str, ...]

    @functools.cached_property
    def plain(self) -> Table:
        """Accuracy and costs as objectives, no limit."""
        return Table(self.costs, accuracy=self.accuracy, file=self.file)

    @functools.cached_property
    def limited(self) -> Table:
        """With the first cost limited to its 30th percentile."""
        upper = float(np.nanpercentile(self.plain.costs[:, 0], PERCENTILE))
        return Table(self.costs, accuracy=self.accuracy, limits={self.costs[0]: upper}, file=self.file)


@dataclass(frozen=True)
class Run:
    """Rows of the table that were trained, in order, and what choosing them took."""

    rows: list[int]
    screened: int
    ask_s: list[float]


def strategy_of(name: str, table: Table, problem: Problem, seed: int) -> Strategy:
    """A strategy by its name and options: ``bayesian:shortlist=0,start=6``, ``optuna:TPESampler``."""
    plugin, _, rest = name.partition(":")
    options: dict[str, Any] = {}
    for part in rest.split(",") if rest else ():
        key, equals, text = part.partition("=")
        options |= {key: json.loads(text)} if equals else {"sampler": part}
    kind = plugins.load("strategies", plugin).Strategy
    strategy: Strategy = kind(table.space, problem, fidelity=Fidelity(200), seed=seed, **options)
    return strategy


def search(name: str, table: Table, problem: Problem, *, seed: int, budget: int) -> Run:
    """One search of ``budget`` trainings (fewer if the strategy ends or screens too much)."""
    strategy = strategy_of(name, table, problem, seed)
    rows: list[int] = []
    ask_s: list[float] = [0.0]
    screened: set[int] = set()
    asked = 0
    while len(rows) < budget and len(screened) < SCREENED_PER_TRAINING * budget:
        start = time.process_time()
        proposal = strategy.ask(asked, ())
        ask_s[-1] += time.process_time() - start
        if proposal is None:
            break
        evaluation = table.evaluate(Trial(asked, proposal))
        strategy.tell(evaluation)
        asked += 1
        screened.add(table.row(proposal.architecture))
        if evaluation.state == "complete":
            rows.append(table.row(proposal.architecture))
            ask_s.append(0.0)
    return Run(rows, len(screened), ask_s[:-1] or ask_s)


# --------------------------------------------------------------------------- regrets


class HypervolumeRegret:
    """Regret of the front of rows of a table."""

    def __init__(self, table: Table) -> None:
        points = self._points(table)
        ran = np.isfinite(points).all(axis=1)
        self.points = points
        worst = points[ran][_front(points[ran])].max(axis=0)
        self.reference = np.array([np.median(table.errors), *(1.1 * worst[1:])])
        self.best = self._volume(np.flatnonzero(ran))

    @staticmethod
    def _points(table: Table) -> NDArray[np.float64]:
        return np.column_stack([table.errors, table.costs])

    def _volume(self, rows: Sequence[int] | NDArray[np.int64]) -> float:
        chosen = self.points[list(rows)]
        return hypervolume(
            chosen[(chosen < self.reference).all(axis=1)], self.reference, [False] * chosen.shape[1]
        )

    def __call__(self, rows: Sequence[int]) -> float:
        """1 - hypervolume / that of the true front; 0 is best."""
        return 1.0 - self._volume(rows) / self.best


def _front(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the non-dominated rows of ``(n, m)``, less being better, by a sweep in order of the sum."""
    front: list[int] = []
    for i in np.argsort(points.sum(axis=1), kind="stable"):
        held = points[front]
        if not ((held <= points[i]).all(axis=1) & (held < points[i]).any(axis=1)).any():
            front.append(int(i))
    return np.array(front)


def constrained_regret(table: Table, rows: Sequence[int]) -> float:
    """Points of accuracy between the best trained row and the best of the table, within the limit."""
    within = table.costs[:, 0] <= table.limits[0].upper
    met = [table.errors[row] for row in rows if within[row]]
    return 100.0 * float((min(met) if met else 1.0) - table.errors[within].min())


# --------------------------------------------------------------------------- report


Scores = list[tuple[str, int, float]]
"""Measure, budget, value."""


def scores_of(source: Source, strategy: str, seed: int, budgets: Sequence[int]) -> Scores:
    """Regrets after each budget, seconds per ask, and screened candidates per training, of one seed."""
    from benchmarks.peers import PEERS

    searched = PEERS.get(strategy) or functools.partial(search, strategy)
    table, regret = source.plain, HypervolumeRegret(source.plain)
    run = searched(table, table.problem(), seed=seed, budget=max(budgets))
    scores = [("screened_per_training", max(budgets), run.screened / max(1, len(run.rows)))]
    for budget in budgets:
        scores.append(("hypervolume_regret", budget, regret(run.rows[:budget])))
        scores.append(("ask_s", budget, float(np.median(run.ask_s[max(0, budget - 20) : budget] or [0.0]))))
    limited = source.limited
    run = searched(limited, limited.problem(cost_objectives=False), seed=seed, budget=max(budgets))
    scores.append(("constrained_screened_per_training", max(budgets), run.screened / max(1, len(run.rows))))
    for budget in budgets:
        scores.append(("constrained_regret", budget, constrained_regret(limited, run.rows[:budget])))
    return scores


def measure(
    sources: dict[str, Source],
    strategies: Sequence[str],
    seeds: Sequence[int],
    budgets: Sequence[int],
    processes: int = 1,
) -> Iterator[dict[str, Any]]:
    """``{measure: {table: {strategy: {budget: mean, "<budget>_se": standard error}}}}``, after every seed.

    All tables and strategies are searched with one seed, then with the next: so a report that was
    interrupted covers all of them by the same seeds, which it names under ``seeds``.

    Args:
        sources: Tables by name.
        strategies: Names.
        seeds: One search each.
        budgets: Trainings after which to look.
        processes: Searches at a time, one core each.
    """
    cells = [(table, strategy) for table in sources for strategy in strategies]
    values: dict[tuple[str, str, str, int], list[float]] = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_one_core) as pool:
        found = {
            (seed, table, strategy): pool.submit(scores_of, sources[table], strategy, seed, budgets)
            for seed in seeds
            for table, strategy in cells
        }
        for done, seed in enumerate(seeds, 1):
            for table, strategy in cells:
                for name, budget, score in found[seed, table, strategy].result():
                    values.setdefault((name, table, strategy, budget), []).append(score)
            report = _report(values) | {"seeds": list(seeds[:done])}
            print(f"seeds so far: {done}", *(_line(*cell, report) for cell in cells), sep="\n", flush=True)
            yield report


def _report(values: dict[tuple[str, str, str, int], list[float]]) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for (name, table, strategy, budget), scores in values.items():
        cell = report.setdefault(name, {}).setdefault(table, {}).setdefault(strategy, {})
        cell[str(budget)] = float(np.mean(scores))
        if len(scores) > 1:
            cell[f"{budget}_se"] = float(np.std(scores, ddof=1) / np.sqrt(len(scores)))
    return report


def _one_core() -> None:
    threadpoolctl.threadpool_limits(1)


def _line(table: str, strategy: str, report: dict[str, Any]) -> str:
    parts = [f"{table:<15} {strategy:<24}"]
    for name in ("hypervolume_regret", "constrained_regret", "ask_s"):
        cells = report[name][table][strategy]
        parts.append(f"{name} " + " ".join(f"{v:.4f}" for k, v in cells.items() if not k.endswith("_se")))
    return "  ".join(parts)


def _seeds(text: str) -> list[int]:
    """``"20"`` is that many, from 0; ``"7,9"`` and ``"100-119"`` name them."""
    if text.isdecimal():
        return list(range(int(text)))
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def _budgets(text: str) -> list[int]:
    """``"200"`` looks after 50, 100 and 200 trainings; ``"10,20"`` names other looks."""
    if text.isdecimal():
        return [*(look for look in LOOKS if look < int(text)), int(text)]
    return [int(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="search_quality", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the report goes")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="as in a study; ; or , between")
    parser.add_argument("--peers", action="store_true", help="other libraries, too (extra bench)")
    parser.add_argument("--tables", default=",".join(TABLES), help="of " + ", ".join(TABLES))
    parser.add_argument(
        "--seeds", type=_seeds, default=_seeds("20"), help="a number, or such as 1,2 or 100-119"
    )
    parser.add_argument("--budget", type=_budgets, default=list(LOOKS), help="trainings")
    parser.add_argument("--processes", type=int, default=1, help="searches at a time")
    parser.add_argument("--table-file", type=Path, help="another table of the same form, with --costs")
    parser.add_argument("--accuracy", default=ACCURACY, metavar="COLUMN")
    parser.add_argument("--costs", metavar="COLUMN[,COLUMN]", help="columns of --table-file")
    return parser


def _sources(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Source]:
    if arguments.table_file:
        if not arguments.costs:
            parser.error("--table-file needs --costs")
        costs = tuple(arguments.costs.split(","))
        return {arguments.table_file.stem: Source(arguments.table_file, arguments.accuracy, costs)}
    names = arguments.tables.split(",")
    if unknown := sorted(set(names) - set(TABLES)):
        parser.error(f"unknown table {unknown[0]!r}; known: {', '.join(TABLES)}")
    return {name: Source(TABLE, arguments.accuracy, TABLES[name]) for name in names}


def main() -> None:
    """Command line."""
    from benchmarks import peers

    parser = _parser()
    arguments = parser.parse_args()
    sources = _sources(arguments, parser)
    names = re.split("[;,](?![a-z_]+=)", arguments.strategies)  # a comma before key=value is an option's
    if arguments.peers:
        names += [name for name in (*peers.OPTUNA, *peers.PEERS) if name not in names]
        print(", ".join(f"{name} {version}" for name, version in peers.versions().items()))
    started = time.monotonic()
    for report in measure(sources, names, arguments.seeds, arguments.budget, arguments.processes):
        report["wall_s"] = time.monotonic() - started
        report["versions"] = peers.versions() if arguments.peers else {}
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
