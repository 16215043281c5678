"""The retry rule, against a real agent that is really killed."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from devices.agent_client import AgentClient
from devices.board_agent import BoardAgent
from devices.local import LocalConnection
from harness.board import Board, Stopped
from harness.export import Exported, export
from harness.host import Host
from harness.measure import Job, measure, measure_together
from results.errors import CandidateError, ConnectionLost, RuntimeRefused, SessionCrashed
from results.records import Artifact, Plan, Target
from search.network import initial_weights
from search.spaces.chain import Space

PLAN = Plan("screen", sessions=(3, 3), session_s=0.01, warmup_s=0.0, min_runs=10)
TARGET = Target("here", "onnxruntime")


@pytest.fixture(scope="module")
def file() -> Exported:
    space = Space(input_shape=(1, 8, 8), classes=10)
    network = space.build(space.sample(np.random.default_rng(0)))
    return export(network, initial_weights(network, 0), "onnx")


@pytest.fixture
def states() -> list[str]:
    return []


@pytest.fixture
def board(tmp_path: Path, states: list[str]) -> Iterator[Board]:
    connection = LocalConnection("here", home=tmp_path)
    board = Board(
        "here",
        lambda: AgentClient.start(connection, python=sys.executable, holder="a test"),
        connection.close,
        Host(),
        on_state=lambda name, state: states.append(state),
    )
    yield board
    board.close()


def kill(agent: BoardAgent) -> None:
    os.kill(agent.hello.pid, signal.SIGKILL)


def test_measures_on(board: Board, file: Exported) -> None:
    measurement = measure(board, Job(file.artifact, file.data, TARGET, PLAN))
    assert len(measurement.sessions) == 3
    assert measurement.origin == "measured"
    assert measurement.ran_on.runtime == "onnxruntime"
    assert measurement.environment.get("device") == "here"


def test_agent_killed_in_the_middle_costs_nothing_that_was_measured(
    board: Board, file: Exported, states: list[str]
) -> None:
    job = Job(file.artifact, file.data, TARGET, PLAN)
    killed: list[int] = []

    class KillsOnce(Job):
        def run_session(self, agent: BoardAgent, number: int, seed: int) -> None:
            if len(self.sessions) == 1 and not killed:
                killed.append(agent.hello.pid)
                kill(agent)
            super().run_session(agent, number, seed)

    measurement = measure(board, KillsOnce(job.artifact, job.data, TARGET, PLAN))
    assert killed
    assert len(measurement.sessions) == 3
    assert [state.split(":")[0] for state in states] == ["online", "offline", "online"]


def test_three_losses_convict_the_artifact(board: Board, file: Exported, states: list[str]) -> None:
    def work(agent: BoardAgent) -> None:
        kill(agent)
        agent.ping()

    with pytest.raises(SessionCrashed, match="lost 3 times") as caught:
        board.use(work, file.artifact.sha256)
    assert isinstance(caught.value, CandidateError)
    # The verdict needs a healthy return after each of the three losses.
    assert [state.split(":")[0] for state in states] == ["online", "offline"] * 3 + ["online"]


def test_a_candidates_fault_is_not_tried_again(board: Board) -> None:
    data = b"no model at all"
    artifact = Artifact("8" * 64, "8" * 64, "", "onnx", "fp32", len(data))
    calls = []

    def work(agent: BoardAgent) -> None:
        calls.append(1)
        raise RuntimeRefused(artifact.sha256, "no")

    with pytest.raises(RuntimeRefused):
        board.use(work, artifact.sha256)
    assert len(calls) == 1


def test_board_that_stays_away_is_given_up(file: Exported) -> None:
    def start() -> BoardAgent:
        raise ConnectionLost("far", "cannot be reached")

    board = Board("far", start, lambda: None, Host(), give_up_after_s=0.4)
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        measure(board, Job(file.artifact, file.data, TARGET, PLAN))


def test_stop_frees_a_thread_that_waits_for_a_board(file: Exported) -> None:
    tried = threading.Event()

    def start() -> BoardAgent:
        tried.set()
        raise ConnectionLost("far", "cannot be reached")

    board = Board("far", start, lambda: None, Host(), give_up_after_s=1e6)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            measure(board, Job(file.artifact, file.data, TARGET, PLAN))
        except Stopped as stopped:
            ended.append(stopped)

    thread = threading.Thread(target=wait)
    thread.start()
    tried.wait()
    board.stop()
    thread.join(timeout=60)
    assert ended


def test_rounds_spread_over_fresh_agents(board: Board, file: Exported) -> None:
    plan = Plan("confirm", sessions=(6, 6), agents=3, session_s=0.01, warmup_s=0.0, min_runs=10)
    jobs = [
        Job(file.artifact, file.data, TARGET, plan),
        Job(file.artifact, file.data, TARGET, plan),
    ]
    pids: set[int] = set()
    original = Job.run_session

    def watched(self: Job, agent: BoardAgent, number: int, seed: int) -> None:
        pids.add(agent.hello.pid)
        original(self, agent, number, seed)

    Job.run_session = watched  # type: ignore[method-assign]
    try:
        measure_together(board, jobs, seed=1)
    finally:
        Job.run_session = original  # type: ignore[method-assign]
    assert len(pids) == 3
    for job in jobs:
        assert [s.agent for s in job.sessions] == [0, 0, 1, 1, 2, 2]


def test_a_bad_file_among_good_ones_fails_alone(board: Board, file: Exported) -> None:
    data = b"no model at all"
    sha256 = hashlib.sha256(data).hexdigest()
    bad = Job(Artifact(sha256, sha256, "", "onnx", "fp32", len(data)), data, TARGET, PLAN)
    good = Job(file.artifact, file.data, TARGET, PLAN)
    measure_together(board, [bad, good], seed=0)
    assert isinstance(bad.error, RuntimeRefused)
    assert len(good.sessions) == 3
