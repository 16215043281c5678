"""What the harness costs per candidate, over a real SSH connection on loopback.

``python -m benchmarks.overhead --json FILE``

*Overhead* of a candidate = wall time of all its steps (build, export, ship, screen, train, prove, store)
minus its training and minus the agent's own timed work (load, first run, warm-up, timed runs).  Beside it,
candidate by candidate in the same run, the *naive* way with the same file: a fresh paramiko connection, an
sftp put and a fresh ``python3`` that imports onnxruntime and runs it.  Every artifact is new to the board
and between 100 kB and 2 MB.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import paramiko

from benchmarks.figures import print_and_write
from devices.agent_client import AgentClient
from devices.device import connect
from devices.registry import Lab
from examples.private_sshd import PrivateSshd
from harness import cli, config, evaluate, verify
from harness.evaluate import Evaluator
from harness.export import export
from harness.prepare import prepare
from harness.progress import Watcher
from harness.rig import Rig
from harness.study import study_of
from results.records import Architecture, Evaluation, Proposal, Trial
from results.store import Run, Store
from search.network import initial_weights

T = TypeVar("T")

DEVICE = "loopback"
SMALLEST_BYTES, LARGEST_BYTES = 100_000, 2_000_000
STUDY: dict[str, Any] = {
    "name": "overhead",
    "trials": 1,
    "task": {"name": "digits"},
    "space": {"name": "chain", "widths": [24, 32, 48, 64]},
    "strategy": {"name": "random_search"},
    "training": {"epochs": 1, "workers": 1},
    "targets": [{"device": DEVICE, "runtime": "onnxruntime"}],
}
NAIVE = """
import os; os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import sys, numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feed = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
session.run(None, feed)
"""
PARTS = ("export", "ship", "agent", "store", "prove", "rest")


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--candidates", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as text, PrivateSshd(Path(text) / "sshd") as server:
        lab = _register(server, Path(text))
        figures = _command(lab) | _candidates(server, lab, Path(text), args.candidates) | _help()
    print_and_write(figures, args.json)
    return 0


def _register(server: PrivateSshd, folder: Path) -> Lab:
    path = folder / "lab.toml"
    (folder / "known_hosts").write_text(server.known_hosts.read_text())
    command = ["devices", "add", DEVICE, server.address, "--identity-file", str(server.identity_file)]
    # A directory of its own, so that no artifact is there from an earlier run.
    command += [
        "--python",
        sys.executable,
        "--directory",
        str(folder / "board"),
        "--lab",
        str(path),
        "--json",
    ]
    if cli.main(command):
        sys.exit(1)
    return Lab.load(path)


def _command(lab: Lab, repetitions: int = 200) -> dict[str, float]:
    with connect(lab.entry(DEVICE)) as connection:
        connection.run(["true"])
        times_s = [_timed(lambda: connection.run(["true"]))[0] for _ in range(repetitions)]
    return {"command_ms_median": 1e3 * statistics.median(times_s)}


def _candidates(server: PrivateSshd, lab: Lab, folder: Path, number: int) -> dict[str, Any]:
    study = study_of(STUDY, Path("overhead"))
    rows: list[dict[str, float]] = []
    with Store.open(folder / "store.sqlite") as store:
        run = store.begin("overhead", {"study": STUDY})
        with config.open_rig(study, lab, run, Watcher()) as rig, _watched() as spent:
            prepare(rig)
            evaluator = Evaluator(rig)
            for trial, data in _trials(rig, number + 1):
                spent.clear()
                wall_s, evaluation = _timed(lambda trial=trial: _evaluate(evaluator, run, trial))  # type: ignore[misc]
                if evaluation.state != "complete":
                    sys.exit(f"a candidate did not complete: {evaluation.error}")
                row = _row(run, trial, wall_s, spent)
                row["naive"] = _timed(lambda data=data: _naive(server, data))[0]  # type: ignore[misc]
                row["bytes"] = len(data)
                rows.append(row)
    return _summary(rows[1:])  # the first warms caches and loads the runtime


def _evaluate(evaluator: Evaluator, run: Run, trial: Trial) -> Evaluation:
    """All steps of a trial, until everything of it is durable."""
    evaluation = evaluator.evaluate(trial)
    run.append("told", str(trial.number), {"state": evaluation.state, "error": evaluation.error})
    return evaluation


def _trials(rig: Rig, number: int) -> Iterator[tuple[Trial, bytes]]:
    """Random architectures whose ONNX file has the size wanted, all different."""
    rng = np.random.default_rng(1)
    seen: set[Architecture] = set()
    while len(seen) < number:
        architecture = rig.space.sample(rng)
        network = rig.space.build(architecture)
        file = export(network, initial_weights(network, 1), "onnx")
        if architecture not in seen and SMALLEST_BYTES <= file.artifact.size_bytes <= LARGEST_BYTES:
            seen.add(architecture)
            yield Trial(len(seen) - 1, Proposal(architecture, rig.study.fidelity)), file.data


def _row(run: Run, trial: Trial, wall_s: float, spent: dict[str, float]) -> dict[str, float]:
    training_s = run.get("trained", str(trial.number))["wall_s"]  # type: ignore[index]
    overhead_s = wall_s - training_s - spent["worked"]
    row = {"overhead": overhead_s, "training": training_s, "worked": spent["worked"]}
    row |= {"export": spent["export"], "ship": spent["ship"], "store": spent["store"]}
    row["agent"] = spent["session"] - spent["worked"]
    row["prove"] = spent["prove"]
    row["rest"] = overhead_s - sum(row[part] for part in ("export", "ship", "store", "agent", "prove"))
    return row


@contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """Sums the time spent in each part, by standing in front of what does it; nothing is left out."""
    spent: dict[str, float] = defaultdict(float)
    with ExitStack() as stack:

        def watch(owner: Any, name: str, part: str) -> None:
            inner = getattr(owner, name)

            def timed(*args: Any, **kwargs: Any) -> Any:
                seconds, result = _timed(lambda: inner(*args, **kwargs))
                spent[part] += seconds
                spent["worked"] += getattr(result, "worked_s", 0.0)
                return result

            setattr(owner, name, timed)
            stack.callback(setattr, owner, name, inner)

        watch(evaluate.Evaluator, "_untrained_files", "export")
        watch(verify.Prover, "prove", "prove")
        watch(AgentClient, "missing", "ship")
        watch(AgentClient, "put", "ship")
        watch(AgentClient, "session", "session")
        watch(Run, "append", "store")
        watch(Store, "put_blob", "store")
        watch(Store, "blob", "store")
        yield spent


def _naive(server: PrivateSshd, data: bytes) -> None:
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(server.known_hosts))
        client.connect(
            "127.0.0.1", server.port, server.user, key_filename=str(server.identity_file), allow_agent=False
        )
        with client.open_sftp() as sftp:
            path = f"{server.folder}/naive.onnx"
            with sftp.open(path, "wb") as file:
                file.write(data)
            with sftp.open(f"{server.folder}/naive.py", "w") as file:
                file.write(NAIVE)
        _, stdout, stderr = client.exec_command(f"{sys.executable} {server.folder}/naive.py {path}")
        if stdout.channel.recv_exit_status():
            sys.exit(f"the naive way failed: {stderr.read().decode()}")


def _summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    def median_ms(part: str) -> float:
        return 1e3 * statistics.median(row[part] for row in rows)

    overhead_ms, naive_ms = median_ms("overhead"), median_ms("naive")
    return {
        "candidates": len(rows),
        "bytes_least": min(row["bytes"] for row in rows),
        "bytes_greatest": max(row["bytes"] for row in rows),
        "overhead_ms_median": overhead_ms,
        "overhead_ms_greatest": 1e3 * max(row["overhead"] for row in rows),
        "naive_ms_median": naive_ms,
        "naive_over_ours": naive_ms / overhead_ms,
        "split_ms_median": {part: median_ms(part) for part in PARTS},
        "worked_ms_median": median_ms("worked"),
        "training_ms_median": median_ms("training"),
    }


def _help(repetitions: int = 10) -> dict[str, float]:
    argv = [str(Path(sys.executable).with_name("boardwise")), "--help"]
    times_s = [
        _timed(lambda: subprocess.run(argv, check=True, capture_output=True))[0] for _ in range(repetitions)
    ]
    return {"help_s_median": statistics.median(times_s)}


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    sys.exit(main())
