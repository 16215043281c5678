"""Boards that rest: an emulated board runs only while something is asked of it.

An idle board in virtual time keeps 40 % of a core of the host busy, a paused one none.  And no more boards
run at once than the host has cores: the others wait for their turn, which takes none of their own time.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from devices.agent_client import AgentClient
from devices.agent_replies import BoardFacts
from devices.board_agent import BoardAgent, SessionResult
from devices.emulation.board import EmulatedBoard
from devices.emulation.places import emulation_folder
from results.errors import BoardError
from results.records import Artifact, Plan, Target

_POLL_S = 0.02


@contextmanager
def turn(say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """One of the host's cores for a board to run on; waits for one, and says so.

    The kernel gives it back when its holder ends, however it ends.
    """
    folder = emulation_folder() / "turns"
    folder.mkdir(parents=True, exist_ok=True)
    said = False
    while (lock := _free(folder)) is None:
        if not said:
            say(f"as many emulated boards run as this host has cores ({os.cpu_count()}); waiting for a turn")
            said = True
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        os.close(lock)


class RestingAgent(BoardAgent):
    """An agent on an emulated board that is paused whenever the agent has nothing to do.

    Args:
        agent: The agent.
        board: Its board.
        say: Told when the board has to wait for its turn.
    """

    def __init__(
        self, agent: BoardAgent, board: EmulatedBoard, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self._agent = agent
        self._board = board
        self._say = say
        self.hello = agent.hello
        self.origin = agent.origin
        board.pause()

    def probe(self) -> BoardFacts:
        """See :meth:`BoardAgent.probe`."""
        with self._awake():
            return self._agent.probe()

    def missing(self, sha256s: Sequence[str]) -> list[str]:
        """See :meth:`BoardAgent.missing`."""
        with self._awake():
            return self._agent.missing(sha256s)

    def put(self, sha256: str, data: bytes) -> None:
        """See :meth:`BoardAgent.put`."""
        with self._awake():
            self._agent.put(sha256, data)

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
        with self._awake():
            return self._agent.session(artifact, target, plan, role=role, agent=agent, seed=seed)

    def outputs(
        self, artifact: Artifact, target: Target, inputs: Sequence[NDArray[Any]], limit_s: float
    ) -> list[NDArray[Any]]:
        """See :meth:`BoardAgent.outputs`."""
        with self._awake():
            return self._agent.outputs(artifact, target, inputs, limit_s)

    @contextmanager
    def at_work(self) -> Iterator[AgentClient | None]:
        """See :meth:`BoardAgent.at_work`."""
        with self._awake(), self._agent.at_work() as agent:
            yield agent

    def ping(self) -> None:
        """See :meth:`BoardAgent.ping`."""
        with self._awake():
            self._agent.ping()

    def close(self) -> None:
        """See :meth:`BoardAgent.close`."""
        # A board that has gone need not be woken; its connection says so itself.
        with suppress(BoardError):
            self._board.resume()
        self._agent.close()
        with suppress(BoardError):
            self._board.pause()

    @contextmanager
    def _awake(self) -> Iterator[None]:
        with turn(self._say):
            self._board.resume()
            try:
                yield
            finally:
                # Whatever happened is told by what is raised; that QEMU has gone is no news then.
                with suppress(BoardError):
                    self._board.trim()
                    self._board.pause()


def _free(folder: Path) -> int | None:
    for number in range(os.cpu_count() or 1):
        lock = os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return lock
    return None
