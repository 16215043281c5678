"""Whether a search keeps its busiest part busy: wall time against that of training or of the devices alone.

``python -m benchmarks.pipeline --json FILE``

Training is real, in its worker processes.  The devices stand for other machines: agents that sleep for as
long as a session would take, one thing at a time each.  ``ratio`` is the wall time of the search over the
busier of (training seconds / workers, device seconds of the busiest device).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from benchmarks.figures import print_and_write
from devices.agent_replies import BoardFacts, Hello
from devices.board_agent import BoardAgent, SessionResult
from devices.device import DeviceEntry
from devices.registry import Lab
from harness import config, stages
from harness.board import Board
from harness.prepare import prepare
from harness.progress import Watcher
from harness.study import Study, study_of
from results.codec import to_json
from results.records import Artifact, Conditions, Plan, RanOn, Session, Target
from results.store import Store

WORKERS = 2
STUDY: dict[str, Any] = {
    "name": "pipeline",
    "task": {"name": "digits"},
    "space": {"name": "chain"},
    "strategy": {"name": "random_search"},
    "training": {"epochs": 24, "workers": WORKERS},
    "measurement": {"check_outputs": "none"},
    "targets": [{"device": f"board{i}", "runtime": r} for i, r in enumerate(("onnxruntime", "tflite"))],
}


class SleepingAgent(BoardAgent):
    """Sleeps instead of measuring; its figures are made up and go nowhere but this benchmark."""

    origin = "modelled"

    def __init__(self, session_s: float, busy_s: dict[str, float], device: str) -> None:
        self.hello = Hello("sleeps", "3.11", "none", "another machine", 1)
        self._session_s = session_s
        self._busy_s = busy_s
        self._device = device

    def probe(self) -> BoardFacts:
        text = dict.fromkeys(
            ("model", "machine", "unit", "kernel", "os", "libc", "python", "governor"), "none"
        )
        return BoardFacts(
            **text,
            cpus=4,
            clusters=(),
            memory_bytes=0,
            runtimes={},
            meters=(),
            boot_id="x",
            disk_free_bytes=0,
        )

    def missing(self, sha256s: Sequence[str]) -> list[str]:
        return list(sha256s)

    def put(self, sha256: str, data: bytes) -> None:
        self._sleep(len(data) / 10e6)

    def session(
        self,
        artifact: Artifact,
        target: Target,
        plan: Plan,
        *,
        role: Literal["model", "reference"] = "model",
        agent: int = 0,
        seed: int = 0,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> SessionResult:
        self._sleep(self._session_s)
        durations_s = tuple(1e-3 * (1 + 0.001 * ((seed + i) % 7)) for i in range(20))
        session = Session(role, agent, 0.01, 1e-3, 3, durations_s, None, Conditions(), time.time())
        return SessionResult(session, RanOn(target.runtime, "0", 1, "none"), worked_s=self._session_s)

    def outputs(
        self, artifact: Artifact, target: Target, inputs: Sequence[NDArray[Any]], limit_s: float
    ) -> list[NDArray[Any]]:
        raise NotImplementedError("nothing is computed here")

    def ping(self) -> None:
        return None

    def close(self) -> None:
        return None

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self._busy_s[self._device] += seconds


def _config(study: Study) -> dict[str, Any]:
    return {
        "study": STUDY,
        "targets": to_json(study.targets),
        "problem": to_json(study.problem("accuracy", maximise=True)),
    }


def run(session_s: float, trials: int) -> dict[str, float]:
    """One search; figures as in the module's docstring."""
    study = study_of(STUDY | {"trials": trials}, Path("pipeline"))
    busy_s: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as text, Store.open(Path(text) / "store.sqlite") as store:
        entries = {t.device: DeviceEntry(t.device, "local") for t in study.targets}
        record = store.begin("pipeline", _config(study))
        with config.open_rig(study, Lab(Path(text) / "lab.toml", entries), record, Watcher()) as rig:
            rig.boards = {
                name: Board(name, lambda n=name: SleepingAgent(session_s, busy_s, n), lambda: None, rig.host)  # type: ignore[misc]
                for name in entries
            }
            prepare(rig)
            busy_s.clear()
            began = time.monotonic()
            stages.search(rig, config.strategy_of(study, rig.space, rig.problem))
            wall_s = time.monotonic() - began
        training_s = sum(r.body["wall_s"] for r in record.records("trained"))
        cpu_s = sum(r.body["training_s"] for r in record.records("trained"))
    busier_s = max(cpu_s / WORKERS, *busy_s.values())
    return {
        "trials": trials,
        "wall_s": wall_s,
        "training_cpu_s": cpu_s,
        "training_wait_s": training_s,
        "busiest_device_s": max(busy_s.values()),
        "ratio": wall_s / busier_s,
    }


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--trials", type=int, default=30)
    args = parser.parse_args()
    run(0.01, 4)  # starts the fork server and warms caches
    figures: dict[str, Any] = {
        "training_bound": run(0.05, args.trials),
        "device_bound": run(1.0, args.trials),
    }
    status = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    figures["peak_memory_bytes"] = next(1024 * int(x.split()[1]) for x in status if x.startswith("VmHWM"))
    print_and_write(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
