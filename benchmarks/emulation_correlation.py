"""Whether an emulated Raspberry Pi 4 ranks networks as a physical one does.

::

    python -m benchmarks.emulation_correlation --json correlation.json

A seeded sample of the published table, stratified by the published latency (one cell from each of as many
equal groups), is built with its real topology and channel numbers (NAS-Bench-201's network for CIFAR-10: 16,
32 and 64 channels, five cells per stage), exported, and measured on an emulated board in virtual time.  None
is dropped: a cell that cannot be measured ends the benchmark.

* ``spearman``: rank correlation with the published latencies, with its 95 % interval (Fisher's z with the
  variance of Bonett and Wright 2000, (1 + r^2 / 2) / (n - 3)); ``kendall``: tau-b, likewise with interval

This is the only place where emulated and published physical figures meet, and only their ranks do: an
emulated board's milliseconds are no prediction of a real one's.

``--rows FILE`` keeps what was measured; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, spearmanr

from benchmarks.figures import print_and_write
from benchmarks.rows import Rows
from devices.emulation.board import EmulatedBoard
from harness.board import Board
from harness.config import board_of
from harness.deployment import Kind, untrained_file
from harness.host import Host
from harness.measure import Job, measure
from results.rank_correlation import kendall
from results.records import FORMATS, Plan, Target
from results.statistics import latency
from search.network import costs, initial_weights
from search.spaces.cell import Space
from tests.table_space import TABLE

PUBLISHED = "raspi4_latency_ms"
COLUMNS = ("op_codes", "published_ms", "emulated_s", "macs", "sessions", "runtime", "environment")
PLAN = Plan(
    "correlation", sessions=(1, 1), session_s=0.001, warmup_s=0.0, min_runs=2, max_runs=2, load_limit_s=1200.0
)
"""In virtual time figures repeat to a few parts in ten thousand; every run costs seconds of the host."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the sample, and prints the correlations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="keep the measurements there (CSV)")
    parser.add_argument("--cells", type=int, default=60, help="size of the sample (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", default="pi4", help="emulated board (default pi4)")
    parser.add_argument("--runtime", default="tflite", choices=sorted(FORMATS))
    parser.add_argument("--channels", type=int, default=16, help="of the first stage (published: 16)")
    parser.add_argument("--cells-per-stage", type=int, default=5, help="published: 5")
    args = parser.parse_args(argv)
    path = args.rows or Path(f"/tmp/emulation_correlation.{os.getpid()}.csv")
    rows = Rows(path, COLUMNS)
    measure_all(args, sample(args.cells, args.seed), rows)
    figures = correlations(rows, args)
    print_and_write(figures, args.json)
    return 0


def sample(count: int, seed: int) -> pd.DataFrame:
    """One cell, by chance, from each of ``count`` groups of equal size by the published latency."""
    table = pd.read_parquet(TABLE).sort_values([PUBLISHED, "op_codes"], kind="stable")
    rng = np.random.default_rng(seed)
    chosen = [group[int(rng.integers(len(group)))] for group in np.array_split(np.arange(len(table)), count)]
    return table.iloc[chosen]


def measure_all(args: argparse.Namespace, cells: pd.DataFrame, rows: Rows) -> None:
    """Measures the cells that the table does not have yet, in a random order."""
    known = {row["op_codes"] for row in rows.rows}
    left = cells[~cells["op_codes"].isin(known)].sample(frac=1.0, random_state=args.seed)
    if left.empty:
        return
    emulated = EmulatedBoard(f"correlation-{os.getpid()}", args.profile, say=_say)
    try:
        board = board_of(emulated.start(), "benchmarks.emulation_correlation", Host(), give_up_after_s=300.0)
        try:
            for number, (_, cell) in enumerate(left.iterrows(), start=1):
                started = time.monotonic()
                rows.append(_row(args, board, cell))
                _say(f"{number} of {len(left)}: {time.monotonic() - started:.1f} s")
        finally:
            board.close()
    finally:
        emulated.remove()


def _row(args: argparse.Namespace, board: Board, cell: pd.Series[Any]) -> dict[str, Any]:
    space = Space(input_shape=(3, 32, 32), classes=10, channels=args.channels, cells=args.cells_per_stage)
    network = space.build(space.architecture([int(code) for code in cell["op_codes"]]))
    kind = Kind(FORMATS[args.runtime], "fp32")
    file = untrained_file(network, initial_weights(network, args.seed), kind)
    measurement = measure(board, Job(file.artifact, file.data, Target(board.name, args.runtime), PLAN))
    figure = latency(measurement, 0.5)
    if figure is None:
        raise ValueError(f"{cell['op_codes']}: measured, but without a latency")
    return {
        "op_codes": cell["op_codes"],
        "published_ms": cell[PUBLISHED],
        "emulated_s": figure.value,
        "macs": costs(network).macs,
        "sessions": len(measurement.sessions),
        "runtime": f"{measurement.ran_on.runtime} {measurement.ran_on.version}",
        "environment": measurement.environment.get("emulated"),
    }


def correlations(rows: Rows, args: argparse.Namespace) -> dict[str, Any]:
    """The figures, from the rows alone."""
    published = [float(row["published_ms"]) for row in rows.rows]
    emulated = [float(row["emulated_s"]) for row in rows.rows]
    rank = float(spearmanr(published, emulated).statistic)
    tau = kendall(published, emulated)
    return {
        "spearman": rank,
        "spearman_interval": spearman_interval(rank, len(published)),
        "kendall": None if tau is None else tau.value,
        "kendall_interval": None if tau is None else [tau.low, tau.high],
        "spearman_of_macs": float(spearmanr(published, [float(r["macs"]) for r in rows.rows]).statistic),
        "cells": len(rows.rows),
        "dropped": 0,
        "seed": args.seed,
        "network": {"channels": args.channels, "cells_per_stage": args.cells_per_stage, "image": [3, 32, 32]},
        "emulated": sorted({f"{row['environment']}; {row['runtime']}" for row in rows.rows}),
        "published": f"{PUBLISHED} of {TABLE.name} (HW-NAS-Bench v1.0)",
        "modelled": "emulated milliseconds are no prediction of a physical board's; only ranks are compared",
    }


def spearman_interval(rank: float, count: int) -> list[float]:
    """95 % interval of Spearman's rank correlation of ``count`` pairs (Bonett and Wright 2000)."""
    if abs(rank) >= 1.0 or count < 4:
        return [rank, rank] if count >= 4 else [-1.0, 1.0]
    width = float(norm.ppf(0.975)) * math.sqrt((1 + rank**2 / 2) / (count - 3))
    return [math.tanh(math.atanh(rank) - width), math.tanh(math.atanh(rank) + width)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
