"""Does Boardwise measure what an independent tool measures?  One file by both, in turns, on this machine.

``python -m benchmarks.agreement [--json FILE] [--repetitions 20]``

The other tool is a plain loop in a fresh ``python`` process that knows nothing of Boardwise: onnxruntime or
the TFLite interpreter, one thread, on the same CPU, a warm-up and then single timed calls.  A repetition is
ten sessions of each in random order in pairs; its ratio is Boardwise's median over the loop's with a paired
t-interval over the logarithms.  Wanted: medians within 3 %, and the interval of the ratio contains 1 in at
least 90 % of the repetitions.  A busy machine is said, not averaged: the share of sessions on which Boardwise
remarks other work is part of the output.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from devices.agent_client import AgentClient
from devices.local import LocalConnection
from harness.export import Exported, export
from results.conditions import busy_remarks
from results.records import Plan, Session, Target
from results.statistics import latency
from search.network import initial_weights
from search.spaces.chain import Space
from tests.fixtures_results import make_measurement

PAIRS = 10
PLAN = Plan("agreement", session_s=0.3, warmup_s=0.1, min_runs=50)
LOOP = """
import json, os, sys, time
import numpy as np
path, cpus, warmup_s, session_s = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
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
while sum(times) < session_s or len(times) < 50:
    started = time.perf_counter()
    call()
    times.append(time.perf_counter() - started)
print(sorted(times)[len(times) // 2])
"""


class Both:
    """A file in the hands of both tools."""

    def __init__(self, agent: AgentClient, file: Exported, target: Target, folder: Path) -> None:
        self.agent, self.file, self.target = agent, file, target
        self.path = folder / f"model.{target.file_format}"
        self.path.write_bytes(file.data)
        if agent.missing([file.artifact.sha256]):
            agent.put(file.artifact.sha256, file.data)
        self.cpus = list(agent.session(file.artifact, target, PLAN).ran_on.cpus)
        self.sessions: list[Session] = []

    def ours_s(self, seed: int) -> float:
        """Median of a session by the product's own figure."""
        session = self.agent.session(self.file.artifact, self.target, PLAN, seed=seed).session
        self.sessions.append(session)
        figure = latency(make_measurement([session], target=self.target), 0.5)
        return figure.value if figure else math.nan

    def loop_s(self) -> float:
        """Median of the plain loop."""
        arguments = [str(self.path), json.dumps(self.cpus), str(PLAN.warmup_s), str(PLAN.session_s)]
        done = subprocess.run(
            [sys.executable, "-c", LOOP, *arguments], capture_output=True, text=True, check=True, timeout=120
        )
        return float(done.stdout.split()[-1])

    def repetition(self, rng: np.random.Generator) -> dict[str, float]:
        """Ratio of the medians of ten pairs, with its 95 % interval."""
        logs = []
        for _ in range(PAIRS):
            seed = int(rng.integers(2**31))
            if rng.random() < 0.5:
                ours_s, loop_s = self.ours_s(seed), self.loop_s()
            else:
                loop_s, ours_s = self.loop_s(), self.ours_s(seed)
            logs.append(math.log(ours_s / loop_s))
        mean, error = float(np.mean(logs)), float(np.std(logs, ddof=1)) / math.sqrt(PAIRS)
        half = float(special.stdtrit(PAIRS - 1, 0.975)) * error
        return {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}

    def busy_share(self, cpus: int) -> float:
        """Share of our sessions on which other work is remarked."""
        return sum(bool(busy_remarks(s, cpus, 1)) for s in self.sessions) / len(self.sessions)


def agreement(runtime: str, repetitions: int, seed: int) -> dict[str, Any]:
    """Figures of one runtime."""
    rng = np.random.default_rng(seed)
    space = Space(input_shape=(3, 64, 64), classes=10)
    network = space.build(space.sample(rng))
    target = Target("here", runtime)
    file = export(network, initial_weights(network, 0), target.file_format)
    with tempfile.TemporaryDirectory() as folder:
        connection = LocalConnection("here", home=Path(folder))
        with AgentClient.start(
            connection, python=sys.executable, holder="benchmarks.agreement", owns_connection=True
        ) as agent:
            both = Both(agent, file, target, Path(folder))
            found = [both.repetition(rng) for _ in range(repetitions)]
            busy = both.busy_share(agent.probe().cpus)
    ratios = [one["ratio"] for one in found]
    return {
        "median_ratio": float(np.exp(np.mean(np.log(ratios)))),
        "contains_1": float(np.mean([one["low"] <= 1 <= one["high"] for one in found])),
        "median_half_width": float(np.median([(one["high"] - one["low"]) / 2 for one in found])),
        "busy_sessions": busy,
        "repetitions": found,
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description="Boardwise against a plain loop, in turns, on this machine.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    figures = {name: agreement(name, args.repetitions, args.seed) for name in ("onnxruntime", "tflite")}
    for name, found in figures.items():
        print(
            f"{name}: Boardwise's median / the loop's: {found['median_ratio']:.4f}; interval contains 1 in "
            f"{found['contains_1']:.0%} of {args.repetitions} repetitions, half width "
            f"{found['median_half_width']:.1%}; other work in {found['busy_sessions']:.0%} of the sessions"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
