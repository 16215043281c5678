"""The agent over a real SSH connection."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from devices.agent_client import AgentClient
from examples.private_sshd import PrivateSshd
from results.errors import BoardHeld, ConnectionLost, SessionTimeout
from results.records import Plan
from tests.connection_contract import gone
from tests.fixtures_agent import LITERT, ORT, QUICK, family, put, session_pid
from tests.fixtures_ssh import Connect
from tests.tiny_models import (
    artifact_of,
    onnx_convolution,
    onnx_product,
    onnx_without_end,
    tflite_convolution,
)

pytestmark = pytest.mark.ssh

Start = Callable[..., AgentClient]


@pytest.fixture
def start(connect: Connect) -> Start:
    """Starts an agent over a new connection to a server."""

    def start(server: PrivateSshd, holder: str = "anna") -> AgentClient:
        return AgentClient.start(connect(server), python=sys.executable, holder=holder, owns_connection=True)

    return start


def in_the_middle(agent: AgentClient, action: Callable[[], None]) -> Future[object]:
    """Does something to the board while a session runs there that never ends by itself."""
    data = onnx_without_end()
    artifact = put(agent, artifact_of(data, "onnx"), data)
    with ThreadPoolExecutor(1) as pool:
        future: Future[object] = pool.submit(agent.session, artifact, ORT, QUICK)
        session_pid(agent)
        action()
        future.exception(timeout=60)
    return future


def test_both_runtimes_measure(sshd: PrivateSshd, start: Start) -> None:
    with start(sshd) as agent:
        for target, data in ((ORT, onnx_convolution()), (LITERT, tflite_convolution())):
            artifact = put(agent, artifact_of(data, target.file_format), data)
            assert agent.session(artifact, target, QUICK).ran_on.threads == 1


def test_large_files_and_arrays_pass_both_ways(sshd: PrivateSshd, start: Start) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    model, weight = onnx_product()
    rows = np.random.default_rng(1).standard_normal((2000, 4)).astype(np.float32)
    with start(sshd) as agent:
        agent.put(hashlib.sha256(data).hexdigest(), data)
        artifact = put(agent, artifact_of(model, "onnx"), model)
        (got,) = agent.outputs(artifact, ORT, [rows], 60.0)
    np.testing.assert_allclose(got, rows @ weight, rtol=1e-4, atol=1e-6)


def test_two_hosts_at_one_board(sshd: PrivateSshd, start: Start) -> None:
    with start(sshd, "anna at desk 1"), pytest.raises(BoardHeld, match="anna at desk 1, since"):
        start(sshd, "ben")
    start(sshd, "ben").close()


def test_a_hang_is_a_timeout_and_the_agent_lives(sshd: PrivateSshd, start: Start) -> None:
    with start(sshd) as agent:
        data = onnx_without_end()
        artifact = put(agent, artifact_of(data, "onnx"), data)
        with pytest.raises(SessionTimeout):
            agent.session(artifact, ORT, Plan("hurried", load_limit_s=0.5))
        agent.ping()


def test_closing_leaves_no_process_behind(sshd: PrivateSshd, start: Start) -> None:
    agent, processes = start(sshd), []

    def close() -> None:
        processes.extend(family(agent.hello.pid))
        agent.close()

    with pytest.raises(ConnectionLost):
        in_the_middle(agent, close).result()
    assert len(processes) == 3
    assert gone(processes)


def test_an_agent_that_is_killed_is_lost_and_leaves_no_process_behind(
    sshd: PrivateSshd, start: Start
) -> None:
    agent, processes = start(sshd), []

    def kill() -> None:
        processes.extend(family(agent.hello.pid))
        os.kill(agent.hello.pid, signal.SIGKILL)

    with pytest.raises(ConnectionLost):
        in_the_middle(agent, kill).result()
    assert gone(processes)
    start(sshd).close()


def test_a_connection_that_is_cut_frees_the_board(own_sshd: PrivateSshd, start: Start) -> None:
    agent, processes = start(own_sshd), []

    def cut() -> None:
        processes.extend(family(agent.hello.pid))
        own_sshd.cut()

    with pytest.raises(ConnectionLost):
        in_the_middle(agent, cut).result()
    assert gone(processes, within_s=30.0)
    start(own_sshd, "ben").close()
