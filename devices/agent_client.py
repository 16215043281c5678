"""Starts the agent on a board over a connection, and asks it to run files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeVar

from devices.agent import arrays, messages
from devices.agent_archive import archive
from devices.agent_conversation import Answer, Conversation, Deadline
from devices.agent_replies import (
    Answered,
    BoardFacts,
    Hello,
    LoadedFile,
    LoadedRuntime,
    Measured,
    MissingFiles,
    Nothing,
    clipped,
    read,
)
from devices.board_agent import Array, BoardAgent, SessionResult
from devices.connection import Connection
from results.codec import to_json
from results.errors import BoardHeld, PreflightError, ProtocolError, RuntimeMissing, SessionTimeout
from results.records import Artifact, Plan, RanOn, Session, Target

T = TypeVar("T")

LAYOUT = "1"
"""Number of the folder layout on the board, the only thing there that outlives an agent."""

LEAST_PYTHON = (3, 8)
ANSWER_LIMIT_S = 60.0
RUNTIME_LIMIT_S = 600.0
SLOWEST_LINK_BYTES_PER_S = 50_000.0
CACHE_BYTES = 2 << 30
GREATEST_STRETCH = 100.0

# Runs under any Python, so that an old one can be told from none.
CHECK = """
import sys
print("boardwise %d.%d" % sys.version_info[:2])
try:
    import hashlib
    print("boardwise " + hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
except Exception:
    print("boardwise missing")
"""


class AgentClient(BoardAgent):
    """The agent at the other end of a connection; made by :meth:`start`."""

    def __init__(self, device: str, conversation: Conversation, hello: Hello) -> None:
        self.device = device
        self.hello = hello
        self._conversation = conversation
        self._runtimes: dict[tuple[str, str], LoadedRuntime] = {}
        self._owned: Connection | None = None

    @classmethod
    def start(
        cls,
        connection: Connection,
        *,
        python: str = "python3",
        directory: str = ".cache/boardwise",
        holder: str,
        root: str = "/",
        cache_bytes: int = CACHE_BYTES,
        owns_connection: bool = False,
        steady: bool = False,
    ) -> Self:
        """Brings the agent to the board if it is not there, and starts it.

        Args:
            connection: The way to the board.
            python: Python on the board.
            directory: Where the agent keeps its files, relative to the login's home.
            holder: Who measures, for others who find the board taken.
            root: Where the board's file tree starts, for what is read from ``/proc`` and ``/sys``.
            cache_bytes: Most that the model files on the board may take.
            owns_connection: Whether closing the agent closes the connection.
            steady: Whether the board's frequency governor is set to ``performance`` while the agent lives.

        Raises:
            BoardHeld: If somebody else measures there.
            PreflightError: If the board has no Python, or one that is too old.
            ConnectionLost, AuthenticationError, HostKeyError: As :meth:`Connection.run`.
        """
        folder = f"{directory}/{LAYOUT}"
        path = f"{folder}/{archive().name}"
        if _agent_at(connection, python, path) != archive().sha256:
            connection.put(archive().data, path)
        settings = {
            "agent": archive().sha256,
            "directory": folder,
            "root": root,
            "holder": f"{holder}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
            "cache_bytes": cache_bytes,
            "steady": steady,
        }
        channel = connection.open([python, path, json.dumps(settings)])
        conversation = Conversation(connection.device, channel)
        try:
            client = cls(connection.device, conversation, _greet(conversation, connection.device))
        except BaseException:
            channel.close()
            raise
        client._owned = connection if owns_connection else None
        return client

    def probe(self) -> BoardFacts:
        """See :meth:`BoardAgent.probe`."""
        return self._ask(BoardFacts, {"do": "probe"})

    def missing(self, sha256s: Sequence[str]) -> list[str]:
        """See :meth:`BoardAgent.missing`."""
        gone = set(self._ask(MissingFiles, {"do": "missing", "sha256s": list(sha256s)}).missing)
        return [name for name in sha256s if name in gone]

    def put(self, sha256: str, data: bytes) -> None:
        """See :meth:`BoardAgent.put`."""
        limit_s = ANSWER_LIMIT_S + len(data) / SLOWEST_LINK_BYTES_PER_S
        self._ask(Nothing, {"do": "put", "sha256": sha256}, data, limit_s=limit_s)

    def session(
        self,
        artifact: Artifact,
        target: Target,
        plan: Plan,
        *,
        role: Literal["model", "reference"] = "model",
        agent: int = 0,
        seed: int = 0,
    ) -> SessionResult:
        """See :meth:`BoardAgent.session`."""
        runtime = self.load(target)
        question = _question("session", artifact, target) | {"seed": seed, "plan": _times(plan)}
        started_at = time.time()
        loaded: list[LoadedFile] = []

        def on_event(header: messages.Header, deadline: Deadline) -> None:
            if loaded or set(header) != {"id", "loaded"}:
                raise ProtocolError(self.device, "the agent interrupted itself")
            loaded.append(read(LoadedFile, header["loaded"], self.device))
            deadline.limit_s = deadline.elapsed_s + _rest_limit_s(plan, loaded[0], deadline.elapsed_s)

        limit_s = plan.load_limit_s + plan.cooldown_s
        answer = self._conversation.ask(question, limit_s=limit_s, cancel=True, on_event=on_event)
        if answer.refusal is not None and answer.timed_out:
            limit = f"did not load and run once within {plan.load_limit_s:g} s"
            raise SessionTimeout(artifact.sha256, "did not finish its runs in time" if loaded else limit)
        measured = self.checked(Measured, answer, artifact.sha256)
        if not plan.min_runs <= len(measured.samples_ns) <= plan.max_runs:
            raise ProtocolError(
                self.device, f"the agent sent {len(measured.samples_ns)} runs, not what was asked"
            )
        return _result(measured, runtime, target, role=role, agent=agent, started_at=started_at)

    def outputs(
        self,
        artifact: Artifact,
        target: Target,
        inputs: Sequence[Array],
        limit_s: float,
    ) -> list[Array]:
        """See :meth:`BoardAgent.outputs`."""
        self.load(target)
        described, payload = arrays.pack(inputs)
        question = _question("outputs", artifact, target) | {"arrays": described}
        answer = self._conversation.ask(question, payload, limit_s=limit_s, cancel=True)
        if answer.refusal is not None and answer.timed_out:
            raise SessionTimeout(artifact.sha256, f"did not answer within {limit_s:g} s")
        tensors = to_json(self.checked(Answered, answer, artifact.sha256, payload=True).arrays)
        try:
            return arrays.unpack(tensors, answer.payload)
        except ValueError as error:
            raise ProtocolError(self.device, f"the agent sent arrays that are none: {error}") from error

    @contextmanager
    def at_work(self) -> Iterator[AgentClient | None]:
        """See :meth:`BoardAgent.at_work`."""
        yield self

    def ping(self) -> None:
        """See :meth:`BoardAgent.ping`."""
        self._ask(Nothing, {"do": "ping"})

    def close(self) -> None:
        """See :meth:`BoardAgent.close`."""
        self._conversation.end("the agent was closed")
        if self._owned is not None:
            self._owned.close()

    def load(self, target: Target) -> LoadedRuntime:
        """The runtime of a target, loaded once in an agent's life; only the first time takes a question.

        Raises:
            RuntimeMissing: If the board does not have it, or cannot import it.
        """
        name, package = target.runtime, str(dict(target.options).get("package", ""))
        if (name, package) not in self._runtimes:
            question = {"do": "load", "runtime": name, "package": package}
            answer = self._conversation.ask(question, limit_s=RUNTIME_LIMIT_S, cancel=True)
            if answer.refusal is not None and answer.timed_out:
                raise RuntimeMissing(self.device, f"{name} could not be imported in {RUNTIME_LIMIT_S:g} s")
            self._runtimes[name, package] = self.checked(LoadedRuntime, answer, None)
        return self._runtimes[name, package]

    def run(
        self, what: str, artifact: Artifact, target: Target, question: Mapping[str, Any], limit_s: float
    ) -> tuple[LoadedRuntime, Answer]:
        """Has a file run in a fresh process; the answer is not judged yet, see :meth:`checked`."""
        runtime = self.load(target)
        asked = _question(what, artifact, target) | dict(question)
        answer = self._conversation.ask(asked, limit_s=limit_s, cancel=True, on_event=lambda *_: None)
        return runtime, answer

    def ask(self, question: Mapping[str, Any], *, limit_s: float = ANSWER_LIMIT_S) -> Answer:
        """Asks what this class has no method for; the answer is not judged yet, see :meth:`checked`."""
        return self._conversation.ask(question, limit_s=limit_s)

    def _ask(
        self,
        kind: type[T],
        question: Mapping[str, Any],
        payload: bytes = b"",
        *,
        limit_s: float = ANSWER_LIMIT_S,
    ) -> T:
        return self.checked(kind, self._conversation.ask(question, payload, limit_s=limit_s), None)

    def checked(self, kind: type[T], answer: Answer, artifact: str | None, *, payload: bool = False) -> T:
        """The validated answer; what it was refused for is raised.

        Args:
            kind: What it has to be.
            answer: What came.
            artifact: Whom a failure may convict.
            payload: Whether bytes may come with it.
        """
        if answer.refusal is not None:
            if answer.refusal.kind == "lost":
                self._runtimes.clear()
            raise answer.refusal.error(self.device, artifact)
        if answer.payload and not payload:
            raise ProtocolError(self.device, "the agent sent bytes that were not asked for")
        return read(kind, answer.ok, self.device)


def _agent_at(connection: Connection, python: str, path: str) -> str:
    """Hash of the agent that is on the board, ``missing`` if there is none; checks the Python there."""
    done = connection.run([python, "-c", CHECK, path])
    words = [
        line[10:] for line in done.stdout.decode(errors="replace").splitlines() if line[:10] == "boardwise "
    ]
    remedy = "not supported: Boardwise needs Python >= 3.8 on a board"
    if done.returncode in (126, 127):
        raise PreflightError(connection.device, f"{remedy}, and there is no {python!r}")
    if len(words) != 2:
        said = clipped(done.stderr.decode(errors="replace").strip())
        raise PreflightError(connection.device, f"{python!r} does not work there: {said or done.returncode}")
    version = [int(part) if part.isdigit() else 0 for part in words[0].split(".")]
    if version < list(LEAST_PYTHON):
        raise PreflightError(connection.device, f"{remedy}, and {python!r} is {clipped(words[0])}")
    return words[1]


def _greet(conversation: Conversation, device: str) -> Hello:
    header = conversation.greeting(ANSWER_LIMIT_S)
    if set(header) == {"held"}:
        raise BoardHeld(device, f"held by {clipped(str(header['held']))}")
    if set(header) != {"hello"}:
        raise ProtocolError(device, "the agent did not greet")
    hello = read(Hello, header["hello"], device)
    if hello.agent != archive().sha256:
        raise ProtocolError(device, "another agent answers than the one that was started")
    return hello


def _question(what: str, artifact: Artifact, target: Target) -> dict[str, Any]:
    options = dict(target.options)
    return {
        "do": what,
        "sha256": artifact.sha256,
        "runtime": target.runtime,
        "package": str(options.pop("package", "")),
        "options": options,
    }


_SESSION_KEYS = ("warmup_s", "session_s", "min_runs", "max_runs", "cooldown_s", "start_below_c")


def _times(plan: Plan) -> dict[str, float | None]:
    return {name: getattr(plan, name) for name in _SESSION_KEYS}


def _rest_limit_s(plan: Plan, loaded: LoadedFile, waited_s: float) -> float:
    """How long the rest of a session may take on this host's clock.

    A board in virtual time takes many of our seconds for one of its own; how many, the loading has shown.
    """
    stretch = min(max(1.0, waited_s / max(loaded.elapsed_s, 1e-3)), GREATEST_STRETCH)
    run_s = min(loaded.cold_s * stretch, waited_s)
    return plan.load_limit_s + 2 * (stretch * (plan.warmup_s + plan.session_s) + run_s * (plan.min_runs + 5))


def _result(
    measured: Measured,
    runtime: LoadedRuntime,
    target: Target,
    *,
    role: Literal["model", "reference"],
    agent: int,
    started_at: float,
) -> SessionResult:
    durations_s = tuple(ns / 1e9 / measured.runs_per_sample for ns in measured.samples_ns)
    session = Session(
        role=role,
        agent=agent,
        load_s=measured.load_s,
        cold_s=measured.cold_s,
        warmup_runs=measured.warmup_runs,
        durations_s=durations_s,
        peak_memory_bytes=measured.peak_memory_bytes,
        conditions=measured.conditions,
        started_at=started_at,
        runs_per_sample=measured.runs_per_sample,
    )
    named = target.runtime if runtime.package == target.runtime else f"{target.runtime} ({runtime.package})"
    ran_on = RanOn(named, runtime.version, measured.threads, measured.provider, measured.cpus)
    worked_s = measured.load_s + measured.cold_s + measured.warmup_s + sum(measured.samples_ns) / 1e9
    return SessionResult(session, ran_on, measured.inputs, worked_s)
