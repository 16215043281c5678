"""What the tests of the agent share: agents on this machine, their processes, stand-ins for Python."""

from __future__ import annotations

import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from devices.agent_client import AgentClient
from devices.local import LocalConnection
from results.records import Artifact, Plan, Target

QUICK = Plan("quick", session_s=0.005, warmup_s=0.002, min_runs=5, max_runs=500, load_limit_s=60.0)
ORT = Target("desk", "onnxruntime")
LITERT = Target("desk", "tflite")
TFLITE_RUNTIME = Target("desk", "tflite", options=(("package", "tflite-runtime"), ("threads", 1)))


def start(home: Path, *, python: str | Path = sys.executable, **options: object) -> AgentClient:
    """An agent of this machine whose files lie under ``home``."""
    home.mkdir(exist_ok=True)
    connection = LocalConnection("desk", home=home)
    options = {"holder": "anna at tests", "owns_connection": True} | options
    return AgentClient.start(connection, python=str(python), **options)  # type: ignore[arg-type]


def put(agent: AgentClient, artifact: Artifact, data: bytes) -> Artifact:
    """Brings a file to the board if it is not there."""
    if agent.missing([artifact.sha256]):
        agent.put(artifact.sha256, data)
    return artifact


def script(path: Path, *lines: str) -> Path:
    """An executable shell script."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def bare_python(folder: Path) -> Path:
    """This Python without its site-packages, as on a board without any runtime."""
    return script(folder / "bare-python", f'exec "{sys.executable}" -S "$@"')


def children(pid: int) -> list[int]:
    """Numbers of the processes that a process started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def session_pid(agent: AgentClient) -> int:
    """Number of the process of the session that runs; waits until there is one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for grandchild in _grandchildren(agent.hello.pid):
            if works(grandchild):
                return grandchild
        time.sleep(0.005)
    raise AssertionError("no session has started")


def works(pid: int) -> bool:
    """Whether a fork server's child was asked for a session; until then it sleeps."""
    return Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"


def _grandchildren(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield from children(child)


def family(pid: int) -> Sequence[int]:
    """A process and everything below it."""
    return [pid, *(one for child in children(pid) for one in family(child))]
