"""The table of real trainings: random networks, trained once, measured on this host and on an emulated board.

::

    python -m benchmarks.real_training --limit 200 --minutes 60
    python -m benchmarks.real_training --limit 200 --minutes 60 --emulated pi4
    python -m benchmarks.real_training --again

Adds rows to ``benchmarks/data/real_training.csv`` until it has ``--limit`` networks or the minutes are over;
the same command goes on from there. Networks are drawn alternately from the spaces ``chain`` and ``cell``
(NAS-Bench-201 cells, 8 channels, 1 cell per stage), the n-th with seed n, so the table does not depend on
where it was stopped; a network drawn before is passed over. Every one is trained once on
``digits_in_photos`` by the recipe of a study, with 8 epochs and seed n, and measured with ONNX Runtime on
this host and, with ``--emulated PROFILE``, on an emulated board in virtual time. A training that fails is a
row without accuracies.

Columns: ``number``, ``space``, ``choices`` (joined by ``-``), ``macs``, ``parameters``; ``state``;
``validation_accuracy`` and ``test_accuracy`` (shares); ``curve`` (validation accuracy after each epoch);
``training_s`` (CPU time); ``host_latency_s`` with its 95 % interval and verdict; ``host``;
``emulated_latency_s`` (empty where it was not measured) and ``emulated`` (which board). Latencies are
medians of one inference [s].
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import Rows
from devices.device import DeviceEntry
from devices.emulation.board import EmulatedBoard
from harness.board import Board
from harness.config import board_of
from harness.deployment import Kind, untrained_file
from harness.export import Exported
from harness.host import Host
from harness.measure import Job, measure
from harness.profile import PROFILE_PLAN_VIRTUAL
from results.errors import TrainingError
from results.records import Architecture, Fidelity, Measurement, Plan, Target
from results.statistics import judge, latency
from search.datasets import load_task
from search.network import Network, costs, initial_weights
from search.space import SearchSpace
from search.spaces.cell import Space as CellSpace
from search.spaces.chain import Space as ChainSpace
from search.tasks import Task
from search.training import TrainingJob, TrainingResult, evaluate, train

TASK, EPOCHS, CHANNELS, CELLS = "digits_in_photos", 8, 8, 1
TABLE = Path(__file__).parent / "data" / "real_training.csv"
PLAN = Plan("table", sessions=(4, 10), half_width=0.03, session_s=0.1, warmup_s=0.05)
COLUMNS = (
    "number",
    "space",
    "choices",
    "macs",
    "parameters",
    "state",
    "validation_accuracy",
    "test_accuracy",
    "curve",
    "training_s",
    "host_latency_s",
    "host_latency_low_s",
    "host_latency_high_s",
    "host_verdict",
    "host",
    "emulated_latency_s",
    "emulated",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Adds rows to the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=int, default=200, help="rows that the table is to have (default 200)")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="after which no row is begun (default 60)"
    )
    parser.add_argument("--table", type=Path, default=TABLE, metavar="FILE")
    parser.add_argument("--emulated", metavar="PROFILE", help="measure on this emulated board, too (pi4)")
    parser.add_argument("--again", action="store_true", help="measure all rows on this host again, no more")
    args = parser.parse_args(argv)
    rows = Rows(args.table, COLUMNS)
    ends_at = time.monotonic() + 60 * args.minutes
    task = load_task(TASK)
    with ExitStack() as stack:
        boards = _boards(args, stack)
        if args.again:
            _remeasure(rows, task, boards[0])
            return 0
        for number, space, architecture in _drawn(task, rows):
            if len(rows.rows) >= args.limit or time.monotonic() > ends_at:
                break
            rows.append(_row(number, space, architecture, task, boards))
            row = rows.rows[-1]
            _say(f"{len(rows.rows)} rows: {row['space']} {row['state']} {row['test_accuracy'][:5]}")
        if len(boards) > 1:
            _fill(rows, task, boards[1], ends_at)
    print(f"{args.table}: {len(rows.rows)} of {args.limit} rows")
    return 0


def _boards(args: argparse.Namespace, stack: ExitStack) -> list[Board]:
    """This host, and the emulated board if one is asked for; closed at the end."""
    host = Host()
    entries = [DeviceEntry("this-host", "local", python=sys.executable)]
    if args.emulated:
        emulated = EmulatedBoard(f"real-training-{os.getpid()}", args.emulated, say=_say)
        stack.callback(emulated.remove)
        entries.append(emulated.start())
    boards = [board_of(entry, "benchmarks.real_training", host) for entry in entries]
    for board in boards:
        stack.callback(board.close)
    return boards


def _drawn(task: Task, rows: Rows) -> Iterator[tuple[int, SearchSpace, Architecture]]:
    """The networks after those of the table, without end."""
    spaces = spaces_of(task)
    seen = {(row["space"], row["choices"]) for row in rows.rows}
    number = max((int(row["number"]) for row in rows.rows), default=-1)
    while True:
        number += 1
        space = spaces[number % 2]
        architecture = space.sample(np.random.default_rng((2026, number)))
        if (space.name, _text(architecture)) not in seen:
            seen.add((space.name, _text(architecture)))
            yield number, space, architecture


def spaces_of(task: Task) -> list[SearchSpace]:
    """The two spaces of the table."""
    shape, classes = task.input_shape, task.classes
    return [
        ChainSpace(input_shape=shape, classes=classes),
        CellSpace(input_shape=shape, classes=classes, channels=CHANNELS, cells=CELLS),
    ]


def _fill(rows: Rows, task: Task, board: Board, ends_at: float) -> None:
    """Measures the rows that no emulated board has measured yet."""
    for place, row in enumerate(rows.rows):
        if row["emulated_latency_s"] or time.monotonic() > ends_at:
            continue
        rows.replace(place, row | _emulated(_measurement(board, _file(row, task))))
        _say(f"row {place}: {row['host_latency_s']} s here, {rows.rows[place]['emulated_latency_s']} s there")


def _remeasure(rows: Rows, task: Task, board: Board) -> None:
    """Measures all rows on this host, and then writes them: the table never has latencies of two runs."""
    found = []
    for place, row in enumerate(rows.rows):
        found.append(_on_host(_measurement(board, _file(row, task))))
        _say(f"row {place}: {row['host_latency_s']} s before, {found[-1]['host_latency_s']} s now")
    rows.replace_all([row | new for row, new in zip(rows.rows, found, strict=True)])


def _file(row: Mapping[str, str], task: Task) -> Exported:
    """What is measured of a row's network: untrained, as a study measures it."""
    space = next(space for space in spaces_of(task) if space.name == row["space"])
    network = space.build(space.architecture([int(c) for c in row["choices"].split("-")]))
    return _untrained(network)


def _untrained(network: Network) -> Exported:
    return untrained_file(network, initial_weights(network, 0), Kind("onnx", "fp32"))


def _text(architecture: Architecture) -> str:
    return "-".join(map(str, architecture.choices))


def _row(
    number: int, space: SearchSpace, architecture: Architecture, task: Task, boards: Sequence[Board]
) -> dict[str, Any]:
    network = space.build(architecture)
    cost = costs(network)
    known = {
        "number": number,
        "space": space.name,
        "choices": _text(architecture),
        "macs": cost.macs,
        "parameters": cost.parameters,
    }
    return {
        **dict.fromkeys(COLUMNS, ""),
        **known,
        **_trained(network, task, number),
        **_measured(network, boards),
    }


def _trained(network: Network, task: Task, seed: int) -> dict[str, Any]:
    try:
        result: TrainingResult = train(TrainingJob(network, TASK, {}, Fidelity(epochs=EPOCHS), seed))
    except TrainingError as error:
        _say(str(error))
        return {"state": "failed"}
    return {
        "state": "complete",
        "validation_accuracy": result.score.value,
        "test_accuracy": evaluate(network, result.weights, task, "test").value,
        "curve": " ".join(f"{score:.4f}" for score in result.curve),
        "training_s": round(result.training_s, 3),
    }


def _measured(network: Network, boards: Sequence[Board]) -> dict[str, Any]:
    file = _untrained(network)
    found = _on_host(_measurement(boards[0], file))
    if len(boards) > 1:
        found |= _emulated(_measurement(boards[1], file))
    return found


def _on_host(measurement: Measurement) -> dict[str, Any]:
    figure = latency(measurement, 0.5)
    if figure is None:
        raise ValueError(f"{measurement.artifact.sha256}: measured, but without a latency")
    return {
        "host_latency_s": figure.value,
        "host_latency_low_s": figure.low,
        "host_latency_high_s": figure.high,
        "host_verdict": judge(measurement).state,
        "host": measurement.environment.get("model"),
    }


def _emulated(measurement: Measurement) -> dict[str, Any]:
    figure = latency(measurement, 0.5)
    return {
        "emulated_latency_s": "" if figure is None else figure.value,
        "emulated": measurement.environment.get("emulated"),
    }


def _measurement(board: Board, file: Exported) -> Measurement:
    plan = PROFILE_PLAN_VIRTUAL if board.facts.emulated.endswith("virtual-time") else PLAN
    return measure(board, Job(file.artifact, file.data, Target(board.name, "onnxruntime"), plan))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
