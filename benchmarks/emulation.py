"""How well emulated boards repeat, start and rest: `python -m benchmarks.emulation [--json FILE]`.

Figures (the larger of onnxruntime's and TFLite's where both are meant):

* ``cv_idle``, ``cv_loaded``: coefficient of variation of the sessions' medians, fresh sessions spread over
  cold boots with address randomisation on; loaded: two busy loops beside it
* ``ratio_shift``: change, by the load, of the ratio of two networks' latencies (about 1 : 2 MACs)
* ``order_is_identical``: whether random candidates come out in the same order twice, idle and loaded, by the
  median of a session in each boot
* ``boot_s``: cold, to the first command; ``start_s``: from the saved state, to the first command
* ``resident_bytes``: of QEMU after all sessions; ``idle_share``: of a core that a paused board takes
* ``retaken``: sessions that the board's own state spoke against (other work in it), taken again as by the
  product's strict plans; what they had measured, and why
* ``image_bytes``, ``build_s``: of the image; ``build_s`` is what its build took when it was built, or with
  ``--build`` what another one takes now, in a cache of its own

A virtual millisecond costs 20 to 40 ms of the host's time, so the networks take 10 and 20 ms (below, the
kernel's timer tick shows) and sessions have few runs: what varies is between sessions, not within them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import print_and_write
from devices.agent_client import AgentClient
from devices.device import connect
from devices.emulation.board import EmulatedBoard, Start
from devices.emulation.places import CACHE
from devices.emulation.resting import RestingAgent
from harness.export import Exported, export
from results.conditions import session_remarks
from results.records import Plan, Session, Target
from search.network import Network, costs, initial_weights
from search.spaces.chain import Space

FORMATS = {"onnxruntime": "onnx", "tflite": "tflite"}
BUSY_LOOPS = 2
RETRIES = 3
INPUT, CLASSES = (3, 64, 64), 10
Medians = dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures everything and prints it; the figures' names are those above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--profile", default="pi4")
    parser.add_argument("--boots", type=int, default=3, help="cold boots per state of the host (default 3)")
    parser.add_argument("--sessions", type=int, default=10, help="sessions per network in all (default 10)")
    parser.add_argument("--candidates", type=int, default=20, help="random candidates to rank (default 20)")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of a session (default 3)")
    parser.add_argument("--build", action="store_true", help="time the building of the image, too")
    args = parser.parse_args(argv)
    figures = measure(args)
    print_and_write(figures, args.json)
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    board = EmulatedBoard(f"benchmark-{os.getpid()}", args.profile, say=_say)
    figures: dict[str, Any] = {
        "profile": args.profile,
        "host_load_average": os.getloadavg()[0],
        "retaken": [],
    }
    started = time.monotonic()
    try:
        image = board.image()
        figures["build_s"] = _build_s(args.profile) if args.build else image.build_s
        figures["image_bytes"] = sum(p.stat().st_size for p in image.folder.iterdir())
        figures |= _starts(board)
        idle, idle_candidates = _medians(board, args, figures)
        with _busy():
            loaded, loaded_candidates = _medians(board, args, figures)
    finally:
        board.remove()
    networks = {name: {"idle_s": idle[name], "loaded_s": loaded[name]} for name in idle}
    return figures | {
        "cv_idle": max(_cv(v) for v in idle.values()),
        "cv_loaded": max(_cv(v) for v in loaded.values()),
        "ratio_shift": max(abs(_ratio(loaded, r) / _ratio(idle, r) - 1) for r in FORMATS),
        "order_is_identical": _order(idle_candidates) == _order(loaded_candidates),
        "sessions": args.sessions,
        "cold_boots": args.boots,
        "runs": args.runs,
        "wall_s": time.monotonic() - started,
        "medians": networks,
        "candidates": {
            n: {"idle_s": v, "loaded_s": loaded_candidates[n]} for n, v in idle_candidates.items()
        },
    }


def networks(count: int) -> dict[str, Exported]:
    """Two networks of about 1 : 2 MACs per runtime, and random candidates for ONNX Runtime."""
    drawn = sorted(_drawn(INPUT, 20), key=lambda network: costs(network).macs)
    small = drawn[len(drawn) // 2]
    double = min(drawn, key=lambda n: abs(costs(n).macs / costs(small).macs - 2))
    files = {}
    for runtime, file_format in FORMATS.items():
        files[f"{runtime} 1x"] = export(small, initial_weights(small, 0), file_format)
        files[f"{runtime} 2x"] = export(double, initial_weights(double, 0), file_format)
    candidates = {
        f"candidate {i}": export(n, initial_weights(n, 0), "onnx") for i, n in enumerate(_drawn(INPUT, count))
    }
    return files | candidates


def _drawn(input_shape: tuple[int, int, int], count: int) -> list[Network]:
    space, rng = Space(input_shape=input_shape, classes=CLASSES), np.random.default_rng(7)
    return [space.build(space.sample(rng)) for _ in range(count)]


def _medians(
    board: EmulatedBoard, args: argparse.Namespace, figures: dict[str, Any]
) -> tuple[Medians, Medians]:
    """Medians of sessions per network and per candidate; every boot is a cold one."""
    files = networks(args.candidates)
    medians: Medians = {name: [] for name in files if not name.startswith("candidate")}
    candidates: Medians = {name: [] for name in files if name.startswith("candidate")}
    for boot in range(args.boots):
        board.stop()
        board.start("cold")
        with _agent(board) as agent:
            sessions = _Sessions(agent, args.runs, figures["retaken"])
            for number in range(boot, args.sessions, args.boots):
                for name in medians:
                    medians[name].append(sessions.median_s(name, files[name], number))
                _say(f"boot {boot + 1} of {args.boots}: session {number + 1} of {args.sessions} of each")
            for name, values in candidates.items():
                values.append(sessions.median_s(name, files[name], boot))
            _say(f"boot {boot + 1} of {args.boots}: {len(candidates)} candidates")
    figures |= _resources(board)
    for name, values in medians.items():
        _say(f"{name}: coefficient of variation {_cv(values):.6f} of {values}")
    return medians, candidates


def _order(candidates: Medians) -> list[str]:
    return sorted(candidates, key=lambda name: statistics.median(candidates[name]))


@dataclass(frozen=True)
class _Sessions:
    """Fresh sessions of one agent; a disturbed one is taken again, as by the product's strict plans."""

    agent: RestingAgent
    runs: int
    retaken: list[dict[str, Any]]

    def median_s(self, name: str, file: Exported, seed: int) -> float:
        """Median of the first session that the board's state says nothing against, or of the last [s]."""
        if self.agent.missing([file.artifact.sha256]):
            self.agent.put(file.artifact.sha256, file.data)
        left = RETRIES
        while True:
            session = self._session(file, seed)
            median_s = statistics.median(session.durations_s)
            remarks = [remark.text for remark in session_remarks(session, cpus=1, threads=1)]
            if not remarks or not left:
                return median_s
            self.retaken.append({"name": name, "median_s": median_s, "remarks": remarks})
            left -= 1

    def _session(self, file: Exported, seed: int) -> Session:
        runtime = next(r for r, file_format in FORMATS.items() if file_format == file.artifact.file_format)
        plan = Plan(
            "benchmark", sessions=(1, 1), session_s=0.001, warmup_s=0.0, min_runs=self.runs,
            max_runs=self.runs, load_limit_s=600.0,
        )  # fmt: skip
        return self.agent.session(file.artifact, Target("benchmark", runtime), plan, seed=seed).session


@contextmanager
def _agent(board: EmulatedBoard) -> Iterator[RestingAgent]:
    entry = board.entry
    with connect(entry) as connection:
        agent = RestingAgent(
            AgentClient.start(connection, directory=entry.directory, holder="benchmark", root=entry.root),
            board,
        )
        try:
            yield agent
        finally:
            agent.close()
            board.resume()  # the connection says good-bye


def _starts(board: EmulatedBoard) -> dict[str, float]:
    board.start("state")  # the state is made now, which is not to be timed
    return {
        "start_s": _least(lambda: _first_command_s(board, "state")),
        "boot_s": _first_command_s(board, "cold"),
    }


def _first_command_s(board: EmulatedBoard, how: Start) -> float:
    board.stop()
    started = time.monotonic()
    entry = board.start(how)
    with connect(entry) as connection:
        connection.run(["true"], limit_s=120.0)
    return time.monotonic() - started


def _least(action: Callable[[], float]) -> float:
    return min(action() for _ in range(3))


def _resources(board: EmulatedBoard) -> dict[str, float]:
    """What QEMU takes, paused, as the kernel tells (proc(5))."""
    process = Path(f"/proc/{board.machine.pid}")
    lines = (process / "status").read_text().splitlines()
    resident = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    board.pause()
    before_s = _cpu_s(process)
    time.sleep(5.0)
    return {"resident_bytes": resident, "idle_share": (_cpu_s(process) - before_s) / 5.0}


def _cpu_s(process: Path) -> float:
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _build_s(profile: str) -> float:
    with tempfile.TemporaryDirectory(prefix="boardwise-") as folder:
        before, os.environ[CACHE] = os.environ.get(CACHE), folder
        try:
            started = time.monotonic()
            EmulatedBoard("benchmark", profile, say=_say).image()
            return time.monotonic() - started
        finally:
            os.environ.pop(CACHE)
            if before is not None:
                os.environ[CACHE] = before


@contextmanager
def _busy() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY_LOOPS)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _cv(values: Sequence[float]) -> float:
    return statistics.stdev(values) / statistics.mean(values) if len(values) > 1 else 0.0


def _ratio(medians: Medians, runtime: str) -> float:
    return statistics.mean(medians[f"{runtime} 2x"]) / statistics.mean(medians[f"{runtime} 1x"])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
