"""Does Boardwise measure what an independent tool measures?  One file by both, in turns, on one machine.

``python -m benchmarks.agreement [--json FILE] [--repetitions 20] [--runtime NAME] [--emulated pi4]``

The other tool is a plain loop in a fresh ``python`` process that knows nothing of Boardwise: onnxruntime or
the TFLite interpreter, one thread, on the same CPU, a warm-up and then single timed calls.  A repetition is
some pairs of both in random order, and in each pair Boardwise starts an agent anew as its strict plans do,
since sessions of one agent share an address layout and so one error; the ratio of a repetition and its
interval are those of the product's own comparison.  Wanted: medians within 3 %, and an interval that contains
1 in at least 90 % of the repetitions.  A busy machine is said, not averaged: the share of sessions on which
Boardwise remarks other work is part of the output.

``--emulated`` does the same on an emulated board in virtual time, where nothing but the tools themselves can
make a difference; wanted: within 0.5 %.

TFLite's own ``benchmark_model`` is in no package of the index: ``litert-cli`` fetches it from elsewhere when
it is first used.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from devices.agent_client import AgentClient
from devices.connection import Connection
from devices.device import DeviceEntry, connect
from devices.emulation.board import EmulatedBoard
from devices.local import LocalConnection
from harness.export import Exported, export
from results.comparison import compare
from results.conditions import busy_remarks
from results.records import Interval, Plan, Session, Target
from results.statistics import half_width
from search.network import initial_weights
from search.spaces.chain import Space
from tests.fixtures_results import make_measurement, make_session

INPUT = (3, 224, 224)
"""Some milliseconds.  In Python the loop's own call takes 0.7 us longer than ours (a lambda, and names of
outputs that ONNX Runtime looks up anew): 0.25 % of a network of 0.27 ms, which this comparison resolves."""

EMULATED_INPUT = (3, 64, 64)
"""Some 20 ms of a board whose milliseconds take 30 of the host's; fewer runs, which differ by 0.05 %."""

PAIRS = 5
PLAN = Plan("agreement", sessions=(PAIRS, PAIRS), agents=PAIRS, session_s=0.2, warmup_s=0.1, min_runs=50)
EMULATED_PLAN = replace(PLAN, session_s=0.001, warmup_s=0.0, min_runs=10, load_limit_s=600.0)
PACKAGES = {"onnxruntime": "onnxruntime-", "tflite": "ai-edge-litert-"}
LOOP = """
import json, os, sys, time
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
path, cpus, warmup_s, session_s, least = sys.argv[1], *map(json.loads, sys.argv[2:6])
package = sys.argv[6]
if package:
    sys.path.insert(0, package)
import numpy as np
os.sched_setaffinity(0, cpus)
if path.endswith(".onnx"):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {i.name: np.random.rand(*i.shape).astype(np.float32) for i in session.get_inputs()}
    call = lambda: session.run(None, feed)
else:
    from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    for i in interpreter.get_input_details():
        interpreter.set_tensor(i["index"], np.random.rand(*i["shape"]).astype(np.float32))
    call = interpreter.invoke
end = time.perf_counter() + warmup_s
while time.perf_counter() < end:
    call()
times = []
while sum(times) < session_s or len(times) < least:
    started = time.perf_counter()
    call()
    times.append(time.perf_counter() - started)
print(json.dumps(times))
"""


class Both:
    """A file in the hands of both tools, through one connection.

    Args:
        connection: To the machine.
        entry: The device.
        file: What both run.
        target: How Boardwise runs it.
        plan: How much of it.
    """

    def __init__(
        self, connection: Connection, entry: DeviceEntry, file: Exported, target: Target, plan: Plan
    ) -> None:
        self.connection, self.entry, self.file, self.target = connection, entry, file, target
        self.plan = plan
        self.path = f"agreement.{target.file_format}"
        self.remarked: list[bool] = []
        with self.agent() as agent:
            agent.put(file.artifact.sha256, file.data)
            self.cpus = agent.session(file.artifact, target, plan).ran_on.cpus
            self.facts = agent.probe()
        connection.put(file.data, self.path)
        self.package = self._package()

    def agent(self) -> AgentClient:
        """A freshly started agent."""
        return AgentClient.start(
            self.connection,
            python=self.entry.python,
            directory=self.entry.directory,
            holder="benchmarks.agreement",
        )

    def _package(self) -> str:
        """Folder of the runtime where the machine's own Python has none."""
        folder = f"{self.entry.directory}/1/runtimes"
        names = self.connection.run(["ls", folder]).stdout.decode().split()
        wanted = {"onnxruntime": ("onnxruntime",), "tflite": ("ai_edge_litert", "tflite")}[
            self.target.runtime
        ]
        found = [name for name in names if name.replace("-", "_").startswith(wanted)]
        return f"{folder}/{found[0]}" if found else ""

    def ours(self, number: int, seed: int) -> Session:
        """A session of a fresh agent."""
        with self.agent() as agent:
            result = agent.session(self.file.artifact, self.target, self.plan, agent=number, seed=seed)
        self.remarked.append(bool(busy_remarks(result.session, self.facts.cpus, 1)))
        return result.session

    def loop(self, number: int) -> Session:
        """What the plain loop timed, as a record."""
        plan = self.plan
        numbers = map(json.dumps, (self.cpus, plan.warmup_s, plan.session_s, plan.min_runs))
        command = [self.entry.python, "-c", LOOP, self.path, *numbers, self.package]
        done = self.connection.run(command, limit_s=600.0)
        if done.returncode:
            raise SystemExit(done.stderr.decode(errors="replace"))
        return make_session(json.loads(done.stdout.splitlines()[-1]), agent=number)

    def repetition(self, rng: np.random.Generator) -> Interval:
        """Boardwise's median over the loop's."""
        ours, loops = [], []
        for number in range(PAIRS):
            seed = int(rng.integers(2**31))
            if rng.random() < 0.5:
                ours.append(self.ours(number, seed))
                loops.append(self.loop(number))
            else:
                loops.append(self.loop(number))
                ours.append(self.ours(number, seed))
        measured, looped = (
            make_measurement(each, target=self.target, plan=self.plan) for each in (ours, loops)
        )
        return compare(looped, measured).ratio


@contextmanager
def machine(emulated: str) -> Iterator[tuple[Connection, DeviceEntry]]:
    """This machine, or an emulated board of a profile, with a connection."""
    if not emulated:
        with tempfile.TemporaryDirectory() as folder:
            entry = DeviceEntry("here", "local", python=sys.executable)
            with LocalConnection("here", home=Path(folder)) as connection:
                yield connection, entry
        return
    board = EmulatedBoard(f"agreement-{os.getpid()}", emulated, say=lambda text: print(text, file=sys.stderr))
    try:
        entry = board.start("state")
        with connect(entry) as connection:
            yield connection, entry
    finally:
        board.remove()


def agreement(runtime: str, repetitions: int, seed: int, emulated: str) -> dict[str, Any]:
    """Figures of one runtime."""
    rng = np.random.default_rng(seed)
    space = Space(input_shape=EMULATED_INPUT if emulated else INPUT, classes=10)
    network = space.build(space.sample(rng))
    target = Target("here", runtime)
    file = export(network, initial_weights(network, 0), target.file_format)
    with machine(emulated) as (connection, entry):
        both = Both(connection, entry, file, target, EMULATED_PLAN if emulated else PLAN)
        found = [both.repetition(rng) for _ in range(repetitions)]
    return {
        "ratio": float(np.exp(np.mean([math.log(one.value) for one in found]))),
        "contains_1": float(np.mean([one.low <= 1 <= one.high for one in found])),
        "median_half_width": float(np.median([half_width(one) for one in found])),
        "busy_sessions": float(np.mean(both.remarked)),
        "repetitions": [vars(one) for one in found],
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description="Boardwise against a plain loop, in turns, on this machine.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--emulated", default="", metavar="PROFILE", help="on an emulated board instead")
    parser.add_argument("--runtime", action="append", choices=("onnxruntime", "tflite"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    runtimes = args.runtime or ["onnxruntime", "tflite"]
    figures = {name: agreement(name, args.repetitions, args.seed, args.emulated) for name in runtimes}
    for name, found in figures.items():
        print(
            f"{name}: Boardwise's median / the loop's: {found['ratio']:.4f}; interval contains 1 in "
            f"{found['contains_1']:.0%} of {args.repetitions} repetitions, half width "
            f"{found['median_half_width']:.1%}; other work in {found['busy_sessions']:.0%} of the sessions"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
