"""Is a board in a state in which it may be measured?  Looks, in order, and says what would mend it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace

from devices import smoke
from devices.agent_replies import BoardFacts
from devices.board_agent import BoardAgent
from devices.board_models import board_models
from devices.connection import Connection
from devices.device import DeviceEntry
from devices.interpreter import is_supported, look
from devices.preflight_checks import CHECKS, Check, CheckResult, Examined, MeterLook, State
from results.errors import BoardHeld, CandidateError, ConfigError, PreflightError, ProtocolError, unknown_name
from results.records import FORMATS, Artifact, Conditions, Plan, Target

LOAD = Plan("preflight", sessions=(1, 1), session_s=0.2, warmup_s=0.1, min_runs=10, load_limit_s=300.0)
"""One short session of the smallest model per runtime."""

_STATE = r"""
import json, time
text = open("/proc/meminfo").read()
kilobytes = [line.split()[1] for line in text.splitlines() if line.startswith("MemAvailable:")]
available = 1024 * int(kilobytes[0]) if kilobytes else None
print("\n" + json.dumps({"time": time.time(), "available_bytes": available}))
"""


def examine(
    connection: Connection,
    entry: DeviceEntry,
    start_agent: Callable[[Connection], BoardAgent],
    try_meter: Callable[[BoardAgent, BoardFacts], MeterLook] | None = None,
) -> Examined:
    """Looks at a board through a connection: its Python, its state, a short session per runtime, its meter.

    Args:
        connection: The way to the board; stays open.
        entry: The device.
        start_agent: Starts an agent over the connection.
        try_meter: Reads the board's power meter, wherever that hangs; None to leave that out.

    Raises:
        PreflightError: If there is no Python at all.
        BoardError: As connection and agent raise it; a board held by others is a finding, no error.
    """
    if entry.board not in board_models():
        raise ConfigError(
            f"[devices.{entry.name}] board: {unknown_name('board', entry.board, board_models())}"
        )
    board = board_models()[entry.board]
    interpreter = look(connection, entry.python)
    ahead_s, available_bytes = _state(connection, entry.python)
    looked = Examined(entry, board, interpreter, ahead_s, available_bytes)
    if not is_supported(interpreter):
        return looked
    try:
        agent = start_agent(connection)
    except BoardHeld as error:
        return replace(looked, holder=error.message)
    try:
        facts = agent.probe()
        ran = {runtime: _run(agent, entry.name, runtime) for runtime in facts.runtimes if runtime in FORMATS}
        meter = None if try_meter is None else try_meter(agent, facts)
    finally:
        agent.close()
    return replace(looked, facts=facts, ran=ran, meter=meter)


def check(examined: Examined) -> list[CheckResult]:
    """All checks on what was looked at, in order."""
    return [_result(examined.entry.name, each, *each.look(examined)) for each in CHECKS]


def refuse(device: str, results: list[CheckResult]) -> None:
    """Raises for the checks that no measurement may ignore.

    Raises:
        PreflightError: Naming each with its remedy.
    """
    bad = [f"{r.name}: {r.found}, wanted {r.wanted}; {r.remedy}" for r in results if r.state == "refused"]
    if bad:
        raise PreflightError(device, ". ".join(bad))


def _result(device: str, one: Check, found: str, fine: bool | None, remedy: str = "") -> CheckResult:
    state: State = "unknown" if fine is None else "ok" if fine else one.severity
    remedy = remedy or one.remedy.replace("NAME", device)
    return CheckResult(one.name, state, found, one.wanted, remedy if fine is False else "")


def _state(connection: Connection, python: str) -> tuple[float, int | None]:
    before_s = time.time()
    done = connection.run([python, "-c", _STATE])
    middle_s = (before_s + time.time()) / 2
    try:
        answer = json.loads(done.stdout.decode().strip().splitlines()[-1])
        available = answer["available_bytes"]
        return float(answer["time"]) - middle_s, None if available is None else int(available)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        said = done.stderr[-300:].decode(errors="replace").strip()
        raise ProtocolError(connection.device, f"cannot read the board's state: {said or error}") from error


def _run(agent: BoardAgent, device: str, runtime: str) -> Conditions | str:
    data = smoke.model(FORMATS[runtime])
    sha256 = hashlib.sha256(data).hexdigest()
    artifact = Artifact(sha256, sha256, sha256, FORMATS[runtime], "fp32", len(data))
    if agent.missing([sha256]):
        agent.put(sha256, data)
    try:
        result = agent.session(artifact, Target(device, runtime), LOAD, role="model", agent=0, seed=0)
    except (CandidateError, PreflightError) as error:
        return str(error)
    return result.session.conditions
