"""Full trainings and measured latencies of the speed-up benchmark's space, made once and kept.

::

    python -m benchmarks.speedups_cache curves --seed 0     # appends to benchmarks/data/speedups_curves.jsonl
    python -m benchmarks.speedups_cache latency             # writes benchmarks/data/speedups_latency.json

Every architecture of the space is trained as the plain search trains it, ``EPOCHS`` epochs from fresh
weights, and scored on the validation split after each and on the test split at the end.  Lines that are there
are not made again, so that an interrupted run goes on.  Latencies are measured on this machine by a plan with
three sessions, untrained, as a study measures them; the whole measurements are kept.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from devices.device import DeviceEntry
from harness import config
from harness.deployment import Kind, untrained_file
from harness.host import Host
from harness.measure import Job, measure
from harness.study import SCREEN
from results.codec import from_json, to_json
from results.records import Architecture, Fidelity, Measurement, Plan, Target
from search.datasets import load_task
from search.network import costs, initial_weights
from search.spaces.chain import Space
from search.training import TrainingJob, TrainingResult, evaluate, train

TASK = "digits_in_photos"
EPOCHS = 48
MOST_MACS = 1.5e6
"""The hard limit of the search: 68 of the 84 architectures keep it; what breaks it is never trained."""
CURVES = Path(__file__).parent / "data" / "speedups_curves.jsonl"
LATENCY = Path(__file__).parent / "data" / "speedups_latency.json"
TARGET = Target("here", "onnxruntime")
PLAN = Plan(
    "screen",
    sessions=(3, 3),
    half_width=SCREEN.half_width,
    session_s=0.05,
    warmup_s=0.03,
    min_runs=20,
    max_runs=40,
)


def space() -> Space:
    """84 plain chains of one to three stages: 1 or 2 blocks each, narrow or wide."""
    return Space(
        input_shape=(3, 32, 32),
        classes=10,
        stem_strides=[2],
        max_downsamplings=3,
        depths=[1, 2],
        widths=[4, 8],
        kernels=[3],
        blocks=["plain"],
        activations=["relu"],
        skips=[False],
    )


@dataclass(frozen=True)
class Full:
    """A full training.

    Attributes:
        choices: Of the architecture.
        seed: Of the training.
        curve: Validation accuracy after each epoch.
        test: Test accuracy of the trained weights.
        training_s: CPU time, validation after each epoch included.
        macs: Of the network.
        parameters: Of the network.
    """

    choices: tuple[int, ...]
    seed: int
    curve: tuple[float, ...]
    test: float
    training_s: float
    macs: int
    parameters: int


def fulls(epochs: int = EPOCHS) -> dict[tuple[tuple[int, ...], int], Full]:
    """Everything that was trained for that many epochs, by choices and seed."""
    rows = CURVES.read_text().splitlines() if CURVES.exists() else []
    found = [from_json(Full, json.loads(row)) for row in rows]
    return {(full.choices, full.seed): full for full in found if len(full.curve) == epochs}


def latencies() -> dict[tuple[int, ...], Measurement]:
    """Measurement by choices."""
    rows = json.loads(LATENCY.read_text())["measurements"]
    return {tuple(row["choices"]): from_json(Measurement, row["measurement"]) for row in rows}


def job_of(architecture: Architecture, fidelity: Fidelity, seed: int) -> TrainingJob:
    """A training of the benchmark from fresh weights."""
    network = space().build(architecture, width=fidelity.width, resolution=fidelity.resolution)
    return TrainingJob(network, TASK, {}, fidelity, seed)


def full_of(architecture: Architecture, seed: int, result: TrainingResult) -> Full:
    """The line of a training that has ended."""
    network = space().build(architecture)
    cost, task = costs(network), load_task(TASK)
    test = evaluate(network, result.weights, task, "test").value
    return Full(architecture.choices, seed, result.curve, test, result.training_s, cost.macs, cost.parameters)


@functools.cache
def macs_of(choices: tuple[int, ...]) -> int:
    """Multiply-accumulates of an architecture."""
    whole = space()
    return costs(whole.build(Architecture(whole.fingerprint, choices))).macs


def candidates() -> list[Architecture]:
    """The architectures that keep the limit, in the order of the space."""
    return [a for a in space().architectures() if macs_of(a.choices) <= MOST_MACS]


def _curves(seed: int, epochs: int, every: int) -> Iterator[Full]:
    for architecture in candidates()[::every]:
        if (architecture.choices, seed) not in fulls(epochs):
            yield full_of(architecture, seed, train(job_of(architecture, Fidelity(epochs), seed)))


def train_all(seed: int, epochs: int, every: int) -> None:
    """Appends a line per architecture that has none of this seed and number of epochs yet."""
    for full in _curves(seed, epochs, every):
        with CURVES.open("a") as file:
            file.write(json.dumps(asdict(full)) + "\n")
        print(full.choices, f"{full.curve[-1]:.3f} {full.test:.3f} {full.training_s:.1f} s", flush=True)


def measure_all() -> None:
    """Measures every architecture on this machine."""
    entry = DeviceEntry("here", connection="local", python=sys.executable)
    board = config.board_of(entry, "benchmarks.speedups_cache", Host(), give_up_after_s=30.0)
    rows = []
    try:
        for architecture in space().architectures():
            network = space().build(architecture)
            file = untrained_file(network, initial_weights(network, 0), Kind("onnx", "fp32"))
            measurement = measure(board, Job(file.artifact, file.data, TARGET, PLAN))
            rows.append({"choices": architecture.choices, "measurement": to_json(measurement)})
    finally:
        board.close()
    command = "python -m benchmarks.speedups_cache latency"
    LATENCY.write_text(json.dumps({"command": command, "measurements": rows}) + "\n")


def main() -> None:
    """Makes what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("curves", "latency"))
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--every", type=int, default=1, help="train only every n-th architecture")
    arguments = parser.parse_args()
    if arguments.what == "latency":
        measure_all()
    else:
        train_all(arguments.seed, arguments.epochs, arguments.every)


if __name__ == "__main__":
    main()
