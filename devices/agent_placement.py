"""Asks a board what ran a file: which provider each node, and which file it has under that name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from devices.agent_client import AgentClient
from devices.board_agent import BoardAgent
from results.errors import ProtocolError, SessionTimeout
from results.records import Artifact, Target


@dataclass(frozen=True)
class Placement:
    """What ran a file.

    Attributes:
        nodes: Number of nodes per provider or delegate, as the runtime itself says; empty where nobody could
            be asked.
        sha256: Hash of the file, computed on the board.
    """

    nodes: Mapping[str, int] = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        if any(count < 0 for count in self.nodes.values()):
            raise ValueError(f"no counts of nodes: {dict(self.nodes)}")


def placement(agent: BoardAgent, artifact: Artifact, target: Target, limit_s: float) -> Placement:
    """Which provider ran each node of a file.

    Args:
        agent: On the board; one that runs nothing itself (a replay) knows nothing.
        artifact: A file that is there.
        target: How it is run.
        limit_s: Longest time that it may take.

    Raises:
        CandidateError: As :meth:`BoardAgent.session`.
        ProtocolError: If the board has another file under this name.
    """
    with agent.at_work() as client:
        return Placement() if client is None else _placement(client, artifact, target, limit_s)


def _placement(agent: AgentClient, artifact: Artifact, target: Target, limit_s: float) -> Placement:
    _, answer = agent.run("placement", artifact, target, {}, limit_s)
    if answer.refusal is not None and answer.timed_out:
        raise SessionTimeout(artifact.sha256, f"did not tell within {limit_s:g} s what runs it")
    found = agent.checked(Placement, answer, artifact.sha256)
    if found.sha256 != artifact.sha256:
        raise ProtocolError(agent.device, f"has another file under the name {artifact.sha256[:12]}")
    return found
