"""Whether differentiable search finds better cells than chance, at equal measured latency and little cost.

::

    python -m benchmarks.differentiable --json differentiable.json --rows rows.csv

On ``digits_in_photos`` (or ``digits``) with small networks of NAS-Bench-201 cells, or of DARTS cells
(``--kind darts``): the blocks of the space are measured on this host, architecture weights are learnt with
that table in the loss, and the cell found is trained by itself, as are 20 random cells of about the same
*measured* latency: of many random ones those that the table puts nearest are measured, and of these the
nearest are trained. All get the same training and are scored on the test split, which neither the search
nor the choice of cells has seen.

* ``found_accuracy``: mean over training seeds; ``random_median``, ``random_quartiles``; how many of the
  random cells it ``beats``
* ``search_s``: CPU time of the search with its selection, and ``profile_s``, the wall time of measuring the
  blocks (in another process); ``search_in_trainings``: both over the mean CPU time of a training
* ``sum_of_blocks_s`` and ``found_latency_s``: modelled by the table, and measured end to end

``--rows FILE`` keeps finished trainings; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import print_and_write
from benchmarks.rows import Rows
from devices.device import DeviceEntry
from harness.board import Board
from harness.config import board_of
from harness.host import Host
from harness.measure import Job, measure
from harness.profile import block_file, measure_block
from harness.relaxation import latency_term
from results.records import Architecture, Fidelity, Measurement, Plan, Target
from results.statistics import latency
from search.datasets import load_task
from search.differentiable import METHODS, SELECTIONS, Found, SearchPlan, plan_of, search_cells
from search.differentiable_blocks import Block, Blocks
from search.differentiable_spaces import blocks_of
from search.spaces.cell import Space
from search.tasks import Task
from search.training import TrainingJob, evaluate, train

TARGET = Target("this-host", "onnxruntime")
PLAN = Plan("differentiable", sessions=(4, 8), half_width=0.03, session_s=0.1, warmup_s=0.03)
DRAWN, NEAR = 2000, 40
"""Random cells whose sums are looked at, and how many of them are measured."""

CELLS = {"nas_bench_201": 1, "darts": 3}
"""Cells per stage, of ``darts`` in all."""

COLUMNS = ("task", "cell", "seed", "epochs", "channels", "cells", "accuracy", "training_s")


def main(argv: Sequence[str] | None = None) -> int:
    """Searches, trains, and prints the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="keep the trainings there (CSV)")
    parser.add_argument("--task", default="digits_in_photos", choices=("digits", "digits_in_photos"))
    parser.add_argument("--method", choices=METHODS, default=SearchPlan.method)
    parser.add_argument("--seed", type=int, default=0, help="of the search and of the random cells")
    parser.add_argument("--random", type=int, default=20, help="random cells to train (default 20)")
    parser.add_argument(
        "--training-seeds", type=int, default=2, help="trainings of the cell found (default 2)"
    )
    parser.add_argument("--epochs", type=int, default=8, help="of each training (default 8)")
    parser.add_argument("--search-epochs", type=int, help="of the search (default by method)")
    parser.add_argument("--warmup", type=int, help="of these the first (default half)")
    parser.add_argument("--latency-weight", type=float, help="in the loss of the search (default by method)")
    parser.add_argument("--selection", choices=SELECTIONS, help="of the cell (default by method)")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--kind", choices=sorted(CELLS), default="nas_bench_201", help="of the cells")
    parser.add_argument("--cells", type=int, help="per stage (default 1), of darts in all (default 3)")
    args = parser.parse_args(argv)
    args.cells = args.cells or CELLS[args.kind]
    plan = plan_of(args.method, args.search_epochs, args.latency_weight, args.selection)
    args.search_epochs, args.latency_weight, args.selection = plan.epochs, plan.latency_weight, plan.selection
    figures = compare(args)
    print_and_write(figures, args.json)
    return 0


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    task = load_task(args.task)
    space = Space(
        input_shape=task.input_shape,
        classes=task.classes,
        kind=args.kind,
        channels=args.channels,
        cells=args.cells,
    )
    board = board_of(DeviceEntry(TARGET.device, "local", python=sys.executable), "a benchmark", Host())
    try:
        started_s = time.monotonic()
        times_s = _profile(board, blocks_of(space))
        profile_s = time.monotonic() - started_s
        found = _search(args, task, blocks_of(space), times_s)
        selected = space.architecture(found.choices)
        selected_s = _latency_s(board, space, selected)
        others = _same_latency(args, board, space, selected, times_s)
    finally:
        board.close()
    trainings = _Trainings(args, task, space)
    own = [trainings.run(selected, seed) for seed in range(args.training_seeds)]
    random = [trainings.run(architecture, 0) for architecture in others]
    training_s = float(np.mean([seconds for _, seconds in own + random]))
    accuracies = [accuracy for accuracy, _ in random]
    mean = float(np.mean([accuracy for accuracy, _ in own]))
    return {
        "found_accuracy": mean,
        "found_accuracies": [accuracy for accuracy, _ in own],
        "random_median": float(np.median(accuracies)),
        "random_quartiles": np.quantile(accuracies, [0.25, 0.75]).tolist(),
        "random_accuracies": accuracies,
        "beats": sum(mean > accuracy for accuracy in accuracies),
        "beats_the_median": mean > float(np.median(accuracies)),
        "search_s": found.search_s,
        "profile_s": profile_s,
        "training_s": training_s,
        "search_in_trainings": (found.search_s + profile_s) / training_s,
        "found_cell": space.describe(selected),
        "found_latency_s": selected_s,
        "random_latency_s": sorted(others.values()),
        "sum_of_blocks_s": blocks_of(space).total_s(selected, times_s),
        "stopped": found.stopped,
        "options": {k: v for k, v in vars(args).items() if k not in ("json", "rows")},
    }


def _profile(board: Board, blocks: Blocks) -> dict[str, float]:
    _say("profile")
    return {name: _profiled_s(board, name, block) for name, block in blocks.table.items()}


def _profiled_s(board: Board, name: str, block: Block) -> float:
    return _median_s(measure_block(board, TARGET, name, block_file(block, TARGET, seed=0)))


def _median_s(measurement: Measurement) -> float:
    figure = latency(measurement, 0.5)
    if figure is None:
        raise ValueError(f"{measurement.artifact.sha256}: measured, but without a latency")
    return figure.value


def _search(args: argparse.Namespace, task: Task, blocks: Blocks, times_s: dict[str, float]) -> Found:
    plan = SearchPlan(
        method=args.method,
        epochs=args.search_epochs,
        warmup=args.warmup,
        latency_weight=args.latency_weight,
        selection=args.selection,
    )
    return search_cells(
        blocks,
        task,
        plan,
        seed=args.seed,
        latency=latency_term(blocks, plan, {TARGET.name: times_s}),
        on_epoch=lambda number, epoch: _say(
            f"search epoch {number} of {plan.epochs}: loss {epoch.weight_loss:.3f}, skips {epoch.skips}"
        ),
    )


def _latency_s(board: Board, space: Space, architecture: Architecture) -> float:
    file = block_file(Block(space.build(architecture)), TARGET, seed=0)
    return _median_s(measure(board, Job(file.artifact, file.data, TARGET, PLAN)))


def _same_latency(
    args: argparse.Namespace, board: Board, space: Space, selected: Architecture, times_s: dict[str, float]
) -> dict[Architecture, float]:
    """Random cells with their measured latency [s], those nearest to that of the selected one."""
    rng = np.random.default_rng((args.seed, 1))
    blocks = blocks_of(space)
    drawn = dict.fromkeys(a for a in (space.sample(rng) for _ in range(DRAWN)) if a != selected)
    wanted_s = blocks.total_s(selected, times_s)
    near = sorted(drawn, key=lambda a: abs(blocks.total_s(a, times_s) - wanted_s))[: max(NEAR, args.random)]
    _say(f"measuring {len(near)} random cells")
    measured_s = {a: _latency_s(board, space, a) for a in near}
    # Next to them, so that all were measured under the same load of this host.
    selected_s = _latency_s(board, space, selected)
    chosen = sorted(near, key=lambda a: abs(measured_s[a] - selected_s))[: args.random]
    return {a: measured_s[a] for a in chosen}


class _Trainings:
    """Trainings, of which those done before are read from the file."""

    def __init__(self, args: argparse.Namespace, task: Task, space: Space) -> None:
        self._args, self._task, self._space = args, task, space
        self._rows = Rows(args.rows or Path(f"/tmp/differentiable.{os.getpid()}.csv"), COLUMNS)

    def run(self, architecture: Architecture, seed: int) -> tuple[float, float]:
        """Accuracy on the test split, and CPU time [s]."""
        cell = "".join(map(str, architecture.choices))
        key = dict(
            zip(
                COLUMNS,
                (self._task.name, cell, seed, self._args.epochs, self._args.channels, self._args.cells),
                strict=False,
            )
        )
        for row in self._rows.rows:
            if all(row[name] == str(value) for name, value in key.items()):
                return float(row["accuracy"]), float(row["training_s"])
        network = self._space.build(architecture)
        result = train(TrainingJob(network, self._task.name, {}, Fidelity(epochs=self._args.epochs), seed))
        accuracy = evaluate(network, result.weights, self._task, "test").value
        _say(f"cell {cell}, seed {seed}: {accuracy:.3f} in {result.training_s:.1f} s")
        self._rows.append({**key, "accuracy": accuracy, "training_s": result.training_s})
        return accuracy, result.training_s


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
