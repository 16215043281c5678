"""Rounds with a reference, sessions thrown away, and what ran each node: on real agents and on a liar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from devices.agent_client import AgentClient
from devices.board_agent import BoardAgent
from devices.local import LocalConnection
from harness.board import Board
from harness.export import Exported, export
from harness.host import Host
from harness.measure import Job, measure, measure_together, require_quiet
from harness.reference import reference, reference_network
from results.errors import BoardBusy
from results.records import Conditions, Plan, RanOn, Session, Target
from results.statistics import judge, latency_ratio
from search.network import costs, initial_weights
from search.spaces.chain import Space
from tests.fixtures_results import make_measurement, make_session

TARGET = Target("here", "onnxruntime")
PLAN = Plan(
    "confirm", sessions=(6, 6), agents=3, session_s=0.01, warmup_s=0.0, min_runs=20, strict=True, retries=0
)


@pytest.fixture(scope="module")
def file() -> Exported:
    space = Space(input_shape=(1, 8, 8), classes=10)
    network = space.build(space.sample(np.random.default_rng(0)))
    return export(network, initial_weights(network, 0), "onnx")


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    connection = LocalConnection("here", home=tmp_path)
    board = Board(
        "here",
        lambda: AgentClient.start(connection, python=sys.executable, holder="a test"),
        connection.close,
        Host(),
    )
    yield board
    board.close()


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_the_reference_is_small_and_always_the_same(file_format: str) -> None:
    again = export(reference_network(), initial_weights(reference_network(), 2026), file_format)
    assert reference(file_format).artifact == again.artifact
    assert costs(reference_network()).macs < 3e6
    assert len(again.data) < 100_000


def test_the_reference_takes_turns_in_every_agent(board: Board, file: Exported) -> None:
    jobs = [Job(file.artifact, file.data, TARGET, PLAN, reference=reference("onnx")) for _ in range(2)]
    measure_together(board, jobs, seed=0)
    for job in jobs:
        measured = job.measurement(board.facts, board.origin)
        assert [s.agent for s in measured.sessions if s.role == "model"] == [0, 0, 1, 1, 2, 2]
        assert [s.agent for s in measured.sessions if s.role == "reference"] == [0, 0, 1, 1, 2, 2]
        assert latency_ratio(measured) is not None
    # One reference for both, not one each.
    assert jobs[0].references == jobs[1].references
    times = [s.started_at for job in jobs for s in (*job.sessions, *job.references)]
    assert len(set(times)) == 3 * 6


@pytest.mark.parametrize(
    ("runtime", "provider"), [("onnxruntime", "CPUExecutionProvider"), ("tflite", "XNNPACK")]
)
def test_the_board_says_what_ran_each_node_and_which_file(board: Board, runtime: str, provider: str) -> None:
    target = Target("here", runtime)
    beside = reference(target.file_format)
    job = Job(beside.artifact, beside.data, target, replace(PLAN, sessions=(1, 1), agents=1))
    measure_together(board, [job], seed=0)
    ran_on = job.measurement(board.facts, board.origin).ran_on
    assert ran_on.sha256 == beside.artifact.sha256
    assert dict(ran_on.nodes)[provider] > 0


@pytest.mark.parametrize(
    ("options", "nodes", "state"),
    [
        ((("provider", "CUDAExecutionProvider"),), (("CUDAExecutionProvider", 9),), "valid"),
        (
            (("provider", "CUDAExecutionProvider"),),
            (("CPUExecutionProvider", 2), ("CUDAExecutionProvider", 7)),
            "invalid",
        ),
        ((("xnnpack", True),), (("built-in kernels", 9),), "invalid"),
        ((("xnnpack", True),), (("XNNPACK", 9),), "valid"),
        ((("threads", 1),), (("XNNPACK", 2), ("built-in kernels", 7)), "valid"),
        ((("provider", "CUDAExecutionProvider"),), (), "valid"),  # nobody could be asked
    ],
)
def test_a_silent_fall_back_is_invalid(
    options: tuple[tuple[str, str | bool | int], ...], nodes: tuple[tuple[str, int], ...], state: str
) -> None:
    measured = make_measurement(
        [make_session([0.01] * 40)] * 3,
        target=Target("jetson", "onnxruntime", options=options),
        ran_on=RanOn("onnxruntime", "1.20", 1, "x", nodes=nodes),
    )
    verdict = judge(measured)
    assert verdict.state == state
    if state == "invalid":
        assert "ran elsewhere" in verdict.reasons[0]


class Spoilt(AgentClient):
    """A real agent whose sessions were throttled, for the first few."""

    throttled = 2
    busy = False

    def session(self, *args: object, **keywords: object) -> object:  # type: ignore[override]
        result = super().session(*args, **keywords)  # type: ignore[arg-type]
        state = Conditions(cpu_pressure=0.5 if self.busy else 0.0)
        if self.throttled:
            self.throttled -= 1
            state = Conditions(throttle_events=1)
        return replace(result, session=replace(result.session, conditions=state))


def spoilt_board(folder: Path, *, throttled: int, busy: bool = False) -> Board:
    connection = LocalConnection("here", home=folder)

    def start() -> BoardAgent:
        agent = Spoilt.start(connection, python=sys.executable, holder="a test")
        agent.throttled, agent.busy = throttled, busy
        return agent

    return Board("here", start, connection.close, Host())


@pytest.mark.parametrize(("throttled", "state", "dropped"), [(2, "valid", 2), (9, "invalid", 3)])
def test_throttled_sessions_are_taken_again_a_few_times(
    tmp_path: Path, file: Exported, throttled: int, state: str, dropped: int
) -> None:
    plan = Plan("screen", sessions=(3, 3), session_s=0.01, warmup_s=0.0, min_runs=20, half_width=1.0)
    board = spoilt_board(tmp_path, throttled=throttled)
    measured = measure(board, Job(file.artifact, file.data, TARGET, plan))
    board.close()
    assert len(measured.sessions) == 3
    assert measured.dropped == ("throttled",) * dropped
    assert judge(measured).state == state


def test_a_screen_keeps_noisy_sessions_and_a_strict_plan_does_not(tmp_path: Path, file: Exported) -> None:
    plan = Plan(
        "screen", sessions=(2, 2), session_s=0.01, warmup_s=0.0, min_runs=20, half_width=1.0, retries=2
    )
    board = spoilt_board(tmp_path, throttled=0, busy=True)
    screened = measure(board, Job(file.artifact, file.data, TARGET, plan))
    strict = measure(board, Job(file.artifact, file.data, TARGET, replace(plan, strict=True)))
    board.close()
    assert not any("CPU pressure" in reason for reason in screened.dropped)
    # A machine that is busy while this runs may add reasons of its own.
    assert len(strict.dropped) == 2
    assert all("CPU pressure over 1%" in reason for reason in strict.dropped)
    assert judge(screened).state == judge(strict).state == "noisy"


def test_a_busy_board_is_refused_with_the_remedy(tmp_path: Path) -> None:
    board = spoilt_board(tmp_path, throttled=0, busy=True)
    with pytest.raises(BoardBusy, match=r"busy with other work \(CPU pressure.*--accept-noisy"):
        require_quiet(board, [TARGET], wait_s=0.0)
    board.close()
    quiet = spoilt_board(tmp_path, throttled=0)
    require_quiet(quiet, [TARGET], wait_s=0.0)
    quiet.close()


def test_a_session_waits_until_the_board_is_cool(tmp_path: Path, file: Exported) -> None:
    """The zone of a file tree stays hot, so the session waits for as long as its plan says, and no longer."""
    zone = tmp_path / "root" / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("60000\n")
    connection = LocalConnection("here", home=tmp_path)
    agent = AgentClient.start(connection, python=sys.executable, holder="a test", root=str(tmp_path / "root"))
    agent.put(file.artifact.sha256, file.data)
    plan = Plan("confirm", session_s=0.01, warmup_s=0.0, cooldown_s=0.6, start_below_c=50.0)

    def wait_s(session: Session, asked_at: float) -> float:
        return asked_at - session.started_at

    import time

    hot = agent.session(file.artifact, TARGET, plan).session
    hot_s = wait_s(hot, time.time())
    cool = agent.session(file.artifact, TARGET, replace(plan, start_below_c=70.0)).session
    assert hot_s > 0.6
    assert hot.conditions.temperature_before_c == cool.conditions.temperature_before_c == 60.0
    agent.close()
    connection.close()
