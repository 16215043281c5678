"""Whether the latency of an untrained file is that of the trained one.

``python -m benchmarks.untrained [--on DEVICE] [--json FILE]`` trains samples of the chain space for a few
epochs, writes each with initial and with trained weights (int8: with plausible and with calibrated ranges)
in every format and precision, and measures the two in turns over fresh agents.  Equivalent means: the 95 %
interval of the ratio trained to untrained lies inside +-3 %.  That is what lets a search measure before it
trains; where it does not hold, the front's members are measured again with trained weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from devices.device import DeviceEntry
from devices.registry import Lab
from harness import config
from harness.deployment import Kind, TrainedFiles, untrained_file
from harness.host import Host
from harness.measure import Job, measure_together
from harness.quantization import CalibrationPlan
from harness.study import BENCH
from results.comparison import compare
from results.records import FORMATS, Fidelity, Interval, Target
from results.untrained import equivalence
from search.datasets import load_task
from search.network import Network, costs, initial_weights
from search.spaces.chain import Space
from search.training import TrainingJob, train

TASK = "digits_in_photos"
KINDS = tuple(Kind(f, p) for f in ("onnx", "tflite") for p in ("fp32", "fp16", "int8"))


@dataclass(frozen=True)
class Row:
    """One network in one kind of file.

    Attributes:
        network: Number of the sample.
        kind: Format and precision.
        latency_ms: Of the untrained file.
        ratio: Time of the trained file over that of the untrained one.
        verdict: ``equivalent``, ``different`` or ``unclear``.
        noisy: Whether the board was judged noisy.
    """

    network: int
    kind: str
    latency_ms: float
    ratio: Interval
    verdict: str
    noisy: bool


def networks(count: int, least_macs: float) -> list[Network]:
    """Samples of the chain space that are large enough to be told apart from calling them."""
    space = Space(input_shape=(3, 32, 32), classes=10)
    rng, found = np.random.default_rng(0), []
    while len(found) < count:
        network = space.build(space.sample(rng))
        if least_macs <= costs(network).macs <= 10 * least_macs:
            found.append(network)
    return found


def rows_of(number: int, network: Network, arguments: argparse.Namespace, entry: DeviceEntry) -> list[Row]:
    """All kinds of one network, measured in turns."""
    task = load_task(TASK)
    weights = train(TrainingJob(network, TASK, {}, Fidelity(arguments.epochs, 0.5), number)).weights
    trained = TrainedFiles(network, weights, task, CalibrationPlan())
    first = initial_weights(network, number)
    agents = arguments.agents
    plan = replace(BENCH, name="untrained", agents=agents, sessions=(2 * agents, 2 * agents), session_s=0.2)
    jobs: dict[Kind, tuple[Job, Job]] = {}
    for kind in (Kind(*name.split("-")) for name in arguments.kinds):
        target = Target(
            entry.name, next(r for r, f in FORMATS.items() if f == kind.file_format), kind.precision
        )
        pair = [untrained_file(network, first, kind), trained.file(kind)]
        jobs[kind] = tuple(Job(file.artifact, file.data, target, plan) for file in pair)  # type: ignore[assignment]
    board = config.board_of(entry, "benchmarks.untrained", Host(), give_up_after_s=30.0)
    try:
        measure_together(board, [job for pair in jobs.values() for job in pair], seed=number)
        measured = {k: [j.measurement(board.facts, board.origin) for j in pair] for k, pair in jobs.items()}
    finally:
        board.close()
    found = []
    for kind, (before, after) in measured.items():
        comparison = compare(before, after, arguments.quantile)
        sessions = [s.durations_s for s in before.sessions if s.role == "model"]
        latency_ms = 1e3 * float(np.median([np.quantile(runs, arguments.quantile) for runs in sessions]))
        ratio = comparison.ratio
        found.append(Row(number, kind.name, latency_ms, ratio, equivalence(ratio), bool(comparison.reasons)))
    return found


def show(rows: Sequence[Row]) -> None:
    """Prints the rows and what they add up to."""
    for row in rows:
        low, value, high = (100 * (x - 1) for x in (row.ratio.low, row.ratio.value, row.ratio.high))
        print(
            f"network {row.network}  {row.kind:12} {row.latency_ms:8.3f} ms  trained {value:+.1f} % "
            f"[{low:+.1f}, {high:+.1f}]  {row.verdict}{' (noisy)' if row.noisy else ''}"
        )
    for name in ("equivalent", "unclear", "different"):
        print(f"{name}: {sum(row.verdict == name for row in rows)} of {len(rows)}")


def main() -> None:
    """Prints one line per network and kind of file; with --json they go into a file as well."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--on", metavar="DEVICE", help="device of the lab file; this machine if none is named"
    )
    parser.add_argument("--lab", type=Path, default=None)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--least-macs", type=float, default=1e6)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--agents", type=int, default=8)
    names = [kind.name for kind in KINDS]
    parser.add_argument(
        "--kinds", nargs="+", choices=names, default=names, metavar="KIND", help=" ".join(names)
    )
    parser.add_argument(
        "--quantile", type=float, default=0.5, help="of a session's runs; a low one for a busy machine"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    here = DeviceEntry("here", connection="local", python=sys.executable)
    entry = Lab.load(arguments.lab).entry(arguments.on) if arguments.on else here
    rows: list[Row] = []
    for number, network in enumerate(networks(arguments.networks, arguments.least_macs)):
        rows += rows_of(number, network, arguments, entry)
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
