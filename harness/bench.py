"""`boardwise bench`: a file of the user's own, measured on one device; no search at all."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from devices.registry import Lab
from harness import config, terminal
from harness.deployment import require_room
from harness.exit_codes import Exit
from harness.first_look import STORE
from harness.host import Host
from harness.host_trust import ask_secret
from harness.measure import Job, measure_together
from harness.model_inputs import Input
from harness.reference import reference
from harness.sources import parse_shapes, source
from harness.study import BENCH
from results import table
from results.codec import to_json
from results.errors import UsageError
from results.records import FORMATS, Measurement, Option, Plan, Target
from results.store import Run, Store

RUN = "bench"
PATIENCE_S = 30.0
"""How long a board may stay away while somebody waits at the terminal."""


def bench(args: argparse.Namespace) -> int:
    """Measures a file over freshly started agents, stores it, prints it and writes a CSV."""
    file = source(args.model, parse_shapes(args.shape), args.format)
    lab = Lab.load(args.lab)
    entry = lab.entry(args.on)
    target = Target(args.on, _runtime(file.artifact.file_format), file.artifact.precision, options_of(args))
    board = config.board_of(
        entry, "boardwise bench", Host(), ask_secret=ask_secret(), give_up_after_s=PATIENCE_S, lab=lab
    )
    beside = reference(target.file_format)
    job = Job(
        file.artifact, file.data, target, replace(_plan(args.sessions), energy=args.energy), reference=beside
    )
    try:
        require_room(file.artifact, board.facts)
        measure_together(board, [job], seed=time.time_ns() % 2**31)
        measurement = job.measurement(board.facts, board.origin)
    finally:
        board.close()
    return _keep(args, file.inputs, measurement)


def _keep(args: argparse.Namespace, inputs: Sequence[Input], measurement: Measurement) -> int:
    folder: Path = args.out
    # With nanoseconds, so that two benches that end together keep both their figures.
    stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.{time.time_ns() % 10**9:09d}Z"
    stem = Path(args.model).stem.replace(":", "-")
    name = f"{stem}-{args.on}-{stamp}"
    body = {"file": str(args.model), "measurement": to_json(measurement)}
    with Store.open(folder / STORE) as store:
        _run(store).append("benched", name, body)
    taken = "; ".join(f"{i.name} {i.dtype} {'x'.join(map(str, i.shape))}" for i in inputs)
    batch = inputs[0].shape[0] if inputs[0].shape else 1
    row = {"file": str(args.model), "inputs": taken, "batch": batch, **table.measurement_row(measurement)}
    path = folder / f"{name}.csv"
    table.write_csv(path, [row])
    if args.json:
        terminal.write_json({**row, "csv": str(path)})
    else:
        print_row(row, path)
    return Exit.UNJUDGED if row["verdict"] == "invalid" else Exit.FINE


def _run(store: Store) -> Run:
    if RUN in store.runs():
        return store.run(RUN)
    return store.begin(RUN, {"kind": "bench"})


def print_row(row: dict[str, Any], path: Path) -> None:
    """Prints a figure; first of all, whether no board gave it."""
    from rich.table import Table

    grid = Table("what", "figure", title=f"{row['file']} on {row['device']}", title_justify="left")
    for key, value in row.items():
        if value not in (None, "") and value == value:
            grid.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    console = terminal.console()
    if warning := _no_board(row):
        console.print(warning, style="bold yellow", soft_wrap=True)
    console.print(grid)
    console.print(f"CSV: {path}", soft_wrap=True)


def _no_board(row: dict[str, Any]) -> str:
    """What must be known before the figures are read: that no board gave them."""
    if row["origin"] != "measured":
        return f"{row['origin']}: the figures come from stored measurements, nothing ran"
    if row["emulated"]:
        return f"emulated ({row['emulated']}): the figures say nothing of a real board"
    return ""


def _runtime(file_format: str) -> str:
    return next(runtime for runtime, known in FORMATS.items() if known == file_format)


def options_of(args: argparse.Namespace) -> tuple[tuple[str, Option], ...]:
    """Options of the runtime from ``--threads`` and ``--option``."""
    options: dict[str, Option] = {"threads": args.threads}
    for text in args.option:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"--option {text!r}: write it like 'xnnpack=false'")
        options[key] = _option(value)
    return tuple(options.items())


def _option(text: str) -> Option:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _plan(sessions: int | None) -> Plan:
    if sessions is None:
        return BENCH
    agents = min(BENCH.agents, sessions)
    return replace(BENCH, sessions=(sessions, max(sessions, BENCH.sessions[1])), agents=agents)
