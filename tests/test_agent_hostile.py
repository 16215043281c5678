"""Boards that lie: whatever comes from one is refused unless it is what was asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices import agent_client, agent_conversation
from devices.agent import messages
from devices.agent_archive import archive
from devices.agent_client import AgentClient
from devices.agent_conversation import Conversation
from devices.agent_replies import Hello, LoadedFile
from devices.local import LocalConnection
from results.errors import BoardHeld, BoardwiseError, ConnectionLost, ProtocolError, SessionTimeout
from results.records import Artifact, Plan
from tests.connection_contract import gone
from tests.fixtures_agent import ORT, script

PLAN = Plan("x", min_runs=2, max_runs=4)
ARTIFACT = Artifact("a" * 64, "a" * 64, "", "onnx", "fp32", 10)
HELLO = Hello("0" * 64, "3.11.2", "x86_64", "boot", 1)

# Answers each line that comes with the next of the texts it was started with, ID replaced by its number.
LIAR = r"""
import json, sys
replies = json.loads(sys.argv[1])
for line in iter(sys.stdin.buffer.readline, b""):
    question = json.loads(line)
    sys.stdin.buffer.read(question.get("bytes", 0))
    if question["do"] == "load":
        text = '{"id":ID,"ok":{"package":"onnxruntime","version":"1","provisioned":false}}\n'
    elif replies:
        text = replies.pop(0)
    else:
        continue
    if text is None:
        break
    sys.stdout.write(text.replace("ID", str(question.get("id", "null"))))
    sys.stdout.flush()
"""

GOOD: dict[str, Any] = {
    "load_s": 0.01,
    "cold_s": 0.001,
    "warmup_runs": 3,
    "warmup_s": 0.01,
    "runs_per_sample": 1,
    "samples_ns": [1000000, 1000001],
    "peak_memory_bytes": 1 << 25,
    "conditions": {"cpu_pressure": 0.5, "temperature_before_c": None},
    "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 3]}],
    "provider": "CPUExecutionProvider",
    "threads": 1,
    "cpus": [1],
}


def ok(body: object, **more: object) -> str:
    return json.dumps({"id": "ID", "ok": body, **more}).replace('"ID"', "ID") + "\n"


def measured(**changes: object) -> str:
    return ok({**GOOD, **changes})


@pytest.fixture
def board(tmp_path: Path) -> Iterator[LocalConnection]:
    with LocalConnection("desk", home=tmp_path) as connection:
        yield connection


def liar(board: LocalConnection, *replies: str | None) -> AgentClient:
    channel = board.open([sys.executable, "-c", LIAR, json.dumps(replies)])
    return AgentClient("desk", Conversation("desk", channel), HELLO)


def test_the_stand_in_is_believed_as_long_as_it_does_not_lie(board: LocalConnection) -> None:
    loaded = '{"id":ID,"loaded":{"elapsed_s":0.01,"cold_s":0.001}}\n'
    agent = liar(board, loaded + measured(), ok({}))
    result = agent.session(ARTIFACT, ORT, PLAN)
    assert result.session.durations_s == (0.001, 0.001000001)
    agent.ping()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("nonsense\n", "no message"),
        ("[1, 2]\n", "no object"),
        ("\n", "no message"),
        ("[" * 100_000 + "\n", "no message"),
        ('{"id": ' + "9" * 5000 + "}\n", "no message"),
        (ok(GOOD, bytes=1 << 40), "a payload of"),
        (ok(GOOD, bytes=-1), "a payload of"),
        (ok(GOOD, bytes=True), "a payload of"),
        (ok(GOOD, bytes=2) + "xy", "bytes that were not asked for"),
        (ok(GOOD).replace("ID", "77"), "a question that was not asked"),
        (ok(GOOD).replace("ID", "true"), "a question that was not asked"),
        (ok(GOOD) + ok(GOOD), "without being asked"),
        ('{"id":ID}\n', "interrupted itself"),
        ('{"id":ID,"ok":{},"more":1}\n', "keys"),
        ('{"id":ID,"ok":{},"error":{}}\n', "keys"),
        ('{"id":ID,"event":1}\n' + ok(GOOD), "interrupted itself"),
        ('{"id":ID,"loaded":{"elapsed_s":-1,"cold_s":0}}\n' + ok(GOOD), "elapsed_s"),
        ('{"id":ID,"loaded":{"elapsed_s":1,"cold_s":1}}\n' * 2 + ok(GOOD), "interrupted itself"),
        (ok(None), "expected an object"),
        (ok({}), "missing"),
        (measured(more=1), "only the fields of Measured"),
        (measured(samples_ns=[]), "no timed runs"),
        (measured(samples_ns=[1]), "sent 1 runs"),
        (measured(samples_ns=[1] * 5), "sent 5 runs"),
        (measured(samples_ns=[5, 0]), "shortest_ns is 0"),
        (measured(samples_ns=[5, -5]), "shortest_ns is -5"),
        (measured(samples_ns=[5, 10**30]), "longest_ns"),
        (measured(samples_ns=[5, 1.5]), "no array of whole numbers"),
        (measured(samples_ns=[5, True]), "no array of whole numbers"),
        (measured(samples_ns="55"), "no array of whole numbers"),
        (measured(load_s=float("nan")), "NaN is no number"),
        (measured(load_s="x").replace('"x"', "1e999"), "load_s: expected a finite number"),
        (measured(load_s=10**400), "load_s: expected a finite number"),
        (measured(cold_s=-0.1), "cold_s is -0.1"),
        (measured(warmup_runs=-1), "warmup_runs"),
        (measured(runs_per_sample=0), "runs_per_sample is 0"),
        (measured(peak_memory_bytes=-1), "peak_memory_bytes is -1"),
        (measured(provider=7), "provider: expected str"),
        (measured(cpus=[-1]), "cpu -1"),
        (measured(conditions={"cpu_pressure": 7}), "cpu_pressure is 7"),
        (measured(conditions={"temperature_before_c": 1e5}), "before_c"),
        (measured(conditions={"temperature": 1}), "only the fields of Conditions"),
        (measured(inputs=[{"name": "x", "dtype": "float32", "shape": [-1]}]), "size 0 is -1"),
        ('{"id":ID,"error":{"kind":"refused"}}\n', "missing"),
        ('{"id":ID,"error":{"kind":"sunspots","message":"m"}}\n', "unknown way, 'sunspots': m"),
    ],
)
def test_lies_about_a_session_end_the_conversation(board: LocalConnection, reply: str, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason) as caught:
        liar(board, reply).session(ARTIFACT, ORT, PLAN)
    assert caught.value.device == "desk"
    assert len(str(caught.value)) < 1000


def test_a_line_without_end_is_refused(board: LocalConnection) -> None:
    channel = board.open(["head", "-c", "40000000", "/dev/zero"])
    with pytest.raises(ProtocolError, match="a header of more than 33554432 bytes"):
        AgentClient("desk", Conversation("desk", channel), HELLO).ping()


def test_after_nonsense_nothing_is_believed_and_the_process_is_ended(board: LocalConnection) -> None:
    channel = board.open([sys.executable, "-c", LIAR, json.dumps(["nonsense\n"])])
    agent = AgentClient("desk", Conversation("desk", channel), HELLO)
    with pytest.raises(ProtocolError):
        agent.ping()
    with pytest.raises(ConnectionLost, match="broke off"):
        agent.ping()
    assert gone([channel._process.pid])


@pytest.mark.parametrize("cut", ['{"id":ID,"o', ok(GOOD, bytes=100) + "abc", ""])
def test_an_answer_that_breaks_off_is_a_lost_connection(board: LocalConnection, cut: str) -> None:
    agent = liar(board, cut, None)
    agent._conversation._channel.send(b'{"do":"first"}\n{"do":"second"}\n')
    with pytest.raises((ConnectionLost, ProtocolError)):
        agent.session(ARTIFACT, ORT, PLAN)


def test_only_a_question_about_a_file_may_fail_for_the_file(board: LocalConnection) -> None:
    reply = '{"id":ID,"error":{"kind":"refused","message":"m"}}\n'
    with pytest.raises(ProtocolError, match="unknown way"):
        liar(board, reply).ping()


def test_words_from_a_board_are_cut_and_cannot_command_a_terminal(board: LocalConnection) -> None:
    reply = json.dumps({"id": "ID", "error": {"kind": "refused", "message": "\x1b[2J\x07boo" * 1000}})
    with pytest.raises(BoardwiseError) as caught:
        liar(board, reply.replace('"ID"', "ID") + "\n").session(ARTIFACT, ORT, PLAN)
    assert "boo" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2100


def test_files_that_were_not_asked_about_are_not_missing(board: LocalConnection) -> None:
    assert liar(board, ok({"missing": ["b", "../x"]})).missing(["a", "b"]) == ["b"]


@pytest.mark.parametrize(
    ("described", "payload"),
    [
        ([{"dtype": "float32", "shape": [2]}], 4),
        ([{"dtype": "float32", "shape": [1]}], 8),
        ([{"dtype": "object", "shape": [1]}], 8),
        ([{"dtype": "float32", "shape": [-1]}], 8),
        ([{"dtype": "float32", "shape": [10**30, 0]}], 8),
        ([], 4),
    ],
)
def test_arrays_that_are_none_are_refused(board: LocalConnection, described: list, payload: int) -> None:
    agent = liar(board, ok({"arrays": described}, bytes=payload) + "x" * payload)
    with pytest.raises(ProtocolError, match="arrays that are none"):
        agent.outputs(ARTIFACT, ORT, [np.zeros(1, np.float32)], 10.0)


def test_an_agent_that_does_not_answer_is_lost(
    board: LocalConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_conversation, "CANCEL_LIMIT_S", 0.2)
    with pytest.raises(ConnectionLost, match=r"did not answer 'session' within 0\.2 s"):
        liar(board).session(ARTIFACT, ORT, Plan("x", load_limit_s=0.1))


def test_an_agent_that_gives_up_when_told_to_stays(board: LocalConnection) -> None:
    loaded = '{"id":ID,"loaded":{"elapsed_s":1.0,"cold_s":0.0}}\n'
    cancelled = '{"id":3,"error":{"kind":"cancelled","message":"m"}}\n'
    agent = liar(board, ok({}), loaded, cancelled, ok({}))
    agent.ping()  # it has started
    plan = Plan("x", session_s=0.0, warmup_s=0.0, load_limit_s=1.0)
    with pytest.raises(SessionTimeout, match="did not finish its runs"):
        agent.session(ARTIFACT, ORT, plan)
    agent.ping()


def test_the_rest_of_a_session_may_take_longer_where_time_is_virtual() -> None:
    plan = Plan("x", session_s=1.0, warmup_s=0.5, load_limit_s=10.0, min_runs=20)
    real = agent_client._rest_limit_s(plan, LoadedFile(elapsed_s=0.1, cold_s=0.0), 0.1)
    virtual = agent_client._rest_limit_s(plan, LoadedFile(elapsed_s=0.1, cold_s=0.0), 2.0)
    assert real == pytest.approx(10.0 + 2 * 1.5)
    assert virtual == pytest.approx(10.0 + 2 * 20 * 1.5)
    slow = agent_client._rest_limit_s(plan, LoadedFile(elapsed_s=9.0, cold_s=8.0), 9.0)
    assert slow >= 10.0 + 20 * 8.0
    absurd = agent_client._rest_limit_s(plan, LoadedFile(elapsed_s=0.0, cold_s=1e7), 1.0)
    assert absurd < 1000


@pytest.mark.parametrize(
    ("greeting", "error", "reason"),
    [
        ({"hello": {}}, ProtocolError, "missing"),
        (
            {"hello": {"agent": "0", "python": "", "machine": "", "boot_id": "", "pid": 1}},
            ProtocolError,
            "another",
        ),
        ({"hi": 1}, ProtocolError, "did not greet"),
        ({"held": "\x1bben"}, BoardHeld, "held by  ben"),
    ],
)
def test_greetings_are_checked(tmp_path: Path, greeting: dict, error: type, reason: str) -> None:
    text = (messages.GREETING + messages.encode(greeting)).decode()
    (tmp_path / "greeting").write_text(text)
    case = f'case "$1" in -c) echo boardwise 3.9; echo boardwise {archive().sha256};; '
    stand_in = script(tmp_path / "python", case + f"*) cat '{tmp_path}/greeting'; sleep 60;; esac")
    with (
        LocalConnection("desk", home=tmp_path) as connection,
        pytest.raises(error, match=reason),
    ):
        AgentClient.start(connection, python=str(stand_in), holder="anna")
