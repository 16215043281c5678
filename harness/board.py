"""A board in use: one agent kept for as long as it lives, started again when it is lost.

The one retry rule of the program is here.  An error is the board's or the candidate's
(:mod:`results.errors`): the candidate's goes straight up; after one of the board's the board is
offline and tried again with growing pauses.  Three losses on one artifact, each followed by a healthy
reconnect, convict the artifact.  A board away for longer than ``give_up_after_s`` ends the run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from devices.agent_replies import BoardFacts
from devices.board_agent import BoardAgent
from harness.energy import MeterSeat
from harness.host import Host, boot_id
from results.errors import (
    AuthenticationError,
    BoardDiskFull,
    BoardError,
    HostKeyError,
    ProvisionError,
    RuntimeMissing,
    SessionCrashed,
)
from results.records import Origin

T = TypeVar("T")

FINAL = (AuthenticationError, BoardDiskFull, HostKeyError, ProvisionError, RuntimeMissing)
"""Board errors that waiting does not mend."""

CONVICTING_LOSSES = 3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0


class Stopped(Exception):
    """The run was asked to stop; nothing is wrong with board or candidate."""


class Board:
    """One device while a run uses it.  Does one thing at a time, whoever asks.

    Args:
        name: Name in the lab file.
        start: Starts a fresh agent, over a connection that is made where there is none.
        disconnect: Closes that connection for good.
        host: This machine, which is shared if the device is this machine.
        give_up_after_s: How long it may stay away.
        on_state: Called with a short text whenever the board goes offline or comes back.
        meter: Where its power meter is read; the board's own by default.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], BoardAgent],
        disconnect: Callable[[], None],
        host: Host,
        *,
        give_up_after_s: float = 600.0,
        on_state: Callable[[str, str], None] = lambda name, state: None,
        meter: MeterSeat | None = None,
    ) -> None:
        self.name = name
        self.meter = meter or MeterSeat(name)
        self._start = start
        self._disconnect = disconnect
        self._host = host
        self._give_up_after_s = give_up_after_s
        self._on_state = on_state
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._agent: BoardAgent | None = None
        self._facts: BoardFacts | None = None

    @property
    def facts(self) -> BoardFacts:
        """What the board is, asked once per connection."""
        with self._lock:
            agent = self._online()
            if self._facts is None:
                self._facts = agent.probe()
            return self._facts

    @property
    def origin(self) -> Origin:
        """Whether its answers are measured, or replayed from stored measurements."""
        with self._lock:
            return self._online().origin

    def use(self, work: Callable[[BoardAgent], T], artifact: str) -> T:
        """Runs ``work`` with the board to itself, again after a loss of the board.

        Args:
            work: May be called several times; keeps what it has by itself.
            artifact: Whom to convict after repeated losses.

        Raises:
            CandidateError: What ``work`` raised, or the verdict after three losses.
            BoardError: If waiting does not help, or was in vain.
        """
        losses = 0
        while True:
            with self._lock:
                agent = self._online()
                if losses >= CONVICTING_LOSSES:
                    raise SessionCrashed(
                        artifact,
                        f"{self.name} was lost {losses} times while it ran this file, and came back",
                    )
                try:
                    with self._alone(agent):
                        return work(agent)
                except FINAL:
                    raise
                except BoardError as error:
                    self._drop(str(error))
                    losses += 1

    def restart_agent(self) -> BoardAgent:
        """A freshly started agent in place of the present one, for use inside ``use``."""
        with self._lock:
            self._close_agent()
            return self._online()

    def stop(self) -> None:
        """Ends what runs on the board; threads that use or await it give up with :class:`Stopped`."""
        self._stopping.set()
        self._disconnect()

    def close(self) -> None:
        """Ends the agent and the connection; may be called twice."""
        self.stop()
        self._close_agent()
        self.meter.drop()

    @contextmanager
    def _alone(self, agent: BoardAgent) -> Iterator[None]:
        is_this_host = agent.hello.boot_id == boot_id()
        with self._host.quiet() if is_this_host else nullcontext():
            yield

    def _online(self) -> BoardAgent:
        if self._agent is not None:
            return self._agent
        away_since, pause_s = time.monotonic(), FIRST_PAUSE_S
        while True:
            self._raise_if_stopping()
            try:
                self._agent = self._start()
                self._agent.ping()
            except FINAL:
                raise
            except BoardError as error:
                self._drop(str(error))
                if time.monotonic() - away_since + pause_s > self._give_up_after_s:
                    raise
            else:
                self._on_state(self.name, "online")
                return self._agent
            self._stopping.wait(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def _drop(self, reason: str) -> None:
        self._raise_if_stopping()
        self._on_state(self.name, f"offline: {reason}")
        self._close_agent()

    def _close_agent(self) -> None:
        agent, self._agent, self._facts = self._agent, None, None
        if agent is not None:
            agent.close()

    def _raise_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise Stopped(self.name)
