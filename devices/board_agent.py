"""What runs files on a board, whichever way: an agent that was started there, stored figures, a stand-in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from numpy.typing import NDArray

from devices.agent_replies import BoardFacts, Hello, InputTensor
from results.records import Artifact, Origin, Plan, RanOn, Session, Target

if TYPE_CHECKING:
    from devices.agent_client import AgentClient

Array = NDArray[Any]


@dataclass(frozen=True)
class SessionResult:
    """A session and what ran it.

    Attributes:
        session: Raw figures.
        ran_on: What really ran it.
        inputs: What it was run with.
        worked_s: Time of the work itself by the board's clock: load, first run, warm-up, timed runs.
    """

    session: Session
    ran_on: RanOn
    inputs: tuple[InputTensor, ...] = ()
    worked_s: float = 0.0


class BoardAgent(ABC):
    """Somebody on a board who runs files there.  Safe to use from several threads: one request at a time."""

    hello: Hello
    """Who answers."""

    origin: Origin = "measured"
    """How its figures come about."""

    @abstractmethod
    def probe(self) -> BoardFacts:
        """What the board is."""

    @abstractmethod
    def missing(self, sha256s: Sequence[str]) -> list[str]:
        """Those files that the board does not have, or not whole, in the order given."""

    @abstractmethod
    def put(self, sha256: str, data: bytes) -> None:
        """Brings a file to the board.

        Raises:
            BoardDiskFull: If there is no room for it.
        """

    @abstractmethod
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
        """Loads and times a file in a fresh process.

        Args:
            artifact: A file that is on the board.
            target: How it is run.
            plan: How long, how often.
            role: Kept in the session.
            agent: Kept in the session.
            seed: Of the random inputs.

        Raises:
            CandidateError: If the file is to blame; which one says how.
            RuntimeMissing: If the board does not have the runtime, or cannot import it.
            PreflightError: If the file is not there any more.
            ConfigError: For an option that the runtime does not have.
        """

    @abstractmethod
    def outputs(
        self, artifact: Artifact, target: Target, inputs: Sequence[Array], limit_s: float
    ) -> list[Array]:
        """What a file answers to given inputs, in a fresh process.

        Args:
            artifact: A file that is on the board.
            target: How it is run.
            inputs: One array per input of the file, of the type and shape that it declares; where all hold
                k times as much along the first axis, it is run k times and the outputs are joined.
            limit_s: Longest time that it may take.

        Raises:
            CandidateError: As in :meth:`session`.
        """

    @contextmanager
    def at_work(self) -> Iterator[AgentClient | None]:
        """The agent on the machine, which runs meanwhile; None where nothing runs, as in a replay.

        For what only a machine can tell: what runs each node, and its power.
        """
        yield None

    @abstractmethod
    def ping(self) -> None:
        """Returns if the agent answers; only asked for between steps."""

    @abstractmethod
    def close(self) -> None:
        """Ends the agent and everything it started; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
