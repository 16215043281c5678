"""A board whose truth is known: sessions drawn from a model of what real ones do.

The product's own loop measures on it (agents, adaptive stopping, sessions thrown away), so that what
``benchmarks.trust`` says of the intervals is said of what a study does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from devices.agent_replies import BoardFacts, Hello
from devices.board_agent import BoardAgent, SessionResult
from harness.board import Board
from harness.host import Host
from results.errors import RuntimeRefused
from results.records import Artifact, Conditions, Plan, RanOn, Session, Target

Floats = NDArray[np.float64]
Within = Callable[[np.random.Generator, int], Floats]
"""Logarithms of the times of runs around the session's own level, in order."""

MEDIAN_S = 0.0025
TARGET = Target("simulated", "onnxruntime")
ARTIFACT = Artifact("ab" * 32, "graph", "", "onnx", "fp32", 1000)
FACTS = BoardFacts(
    model="simulated",
    machine="simulated",
    unit="",
    kernel="",
    os="",
    libc="",
    python="",
    cpus=4,
    clusters=(),
    memory_bytes=0,
    governor="performance",
    runtimes={},
    meters=(),
    boot_id="simulated",
    disk_free_bytes=0,
)


def normal(spread: float) -> Within:
    """Independent runs."""
    return lambda rng, n: rng.normal(0.0, spread, n)


def autoregressive(spread: float, rho: float) -> Within:
    """Runs of which each resembles the one before."""

    def draw(rng: np.random.Generator, n: int) -> Floats:
        noise = rng.normal(0.0, spread * math.sqrt(1 - rho**2), n + 100)
        found: Floats = signal.lfilter([1.0], [1.0, -rho], noise)[100:]
        return found

    return draw


def student(scale: float) -> Within:
    """Heavy tails on both sides: Student's t with 3 degrees of freedom."""
    return lambda rng, n: scale * rng.standard_t(3, n)


def exponential(scale: float) -> Within:
    """A sharp lower edge and a tail upwards, as timings often have."""
    return lambda rng, n: np.log1p(rng.exponential(scale, n))


def spikes(spread: float, share: float, height: float) -> Within:
    """Some runs take longer by a fixed share."""
    return lambda rng, n: (
        rng.normal(0.0, spread, n) + np.where(rng.random(n) < share, math.log1p(height), 0.0)
    )


def pareto(scale: float) -> Within:
    """A tail with infinite variance upwards."""
    return lambda rng, n: np.log1p(scale * rng.pareto(2.0, n))


@dataclass(frozen=True)
class Truth:
    """How the times of a file come about.

    Attributes:
        name: In the tables.
        within: Runs within a session.
        sessions: Standard deviation of what a session adds (logarithm).
        agents: ... and of what an agent adds.
        runs: Timed runs in a session.
    """

    name: str
    within: Within
    sessions: float = 0.0
    agents: float = 0.0
    runs: int = 100

    def quantile(self, quantile: float) -> float:
        """The true quantile of a run [s], by a draw of two million."""
        draws = self.within(np.random.default_rng(0), 2_000_000)
        return MEDIAN_S * math.exp(float(np.quantile(draws, quantile)))


class SimulatedAgent(BoardAgent):
    """Draws sessions; every agent has an effect of its own, drawn when its number first comes up."""

    def __init__(self, truth: Truth, rng: np.random.Generator) -> None:
        self.hello = Hello("simulated", "3", "simulated", "simulated", 1)
        self._truth = truth
        self._rng = rng
        self._effect = float(rng.normal(0.0, truth.agents))

    def probe(self) -> BoardFacts:
        """See :meth:`BoardAgent.probe`."""
        return FACTS

    def missing(self, sha256s: Sequence[str]) -> list[str]:
        """See :meth:`BoardAgent.missing`."""
        return []

    def put(self, sha256: str, data: bytes) -> None:
        """See :meth:`BoardAgent.put`."""

    def session(
        self,
        artifact: Artifact,
        target: Target,
        plan: Plan,
        *,
        role: Literal["model", "reference"] = "model",
        agent: int = 0,
        seed: int = 0,
        **others: Any,
    ) -> SessionResult:
        """A session drawn from the truth."""
        level = self._effect + self._rng.normal(0.0, self._truth.sessions)
        session = drawn(self._truth.within(self._rng, self._truth.runs) + level, agent=agent)
        return SessionResult(session, RanOn("simulated", "1", 1, "simulated"))

    def outputs(
        self, artifact: Artifact, target: Target, inputs: Sequence[NDArray[Any]], limit_s: float
    ) -> list[NDArray[Any]]:
        """Refused: nothing is computed."""
        raise RuntimeRefused(artifact.sha256, "a simulated board computes nothing")

    def ping(self) -> None:
        """See :meth:`BoardAgent.ping`."""

    def close(self) -> None:
        """See :meth:`BoardAgent.close`."""


def drawn(logs: Floats, *, agent: int = 0, conditions: Conditions | None = None) -> Session:
    """A session whose runs take ``MEDIAN_S * exp(logs)``."""
    return Session(
        role="model",
        agent=agent,
        load_s=0.01,
        cold_s=0.01,
        warmup_runs=10,
        durations_s=tuple((MEDIAN_S * np.exp(logs)).tolist()),
        peak_memory_bytes=None,
        conditions=conditions or Conditions(),
        started_at=0.0,
    )


@dataclass
class SimulatedDevice:
    """A truth as a :class:`harness.board.Board`: each restart gives an agent with a new effect."""

    truth: Truth
    rng: np.random.Generator
    board: Board = field(init=False)

    def __post_init__(self) -> None:
        self.board = Board("simulated", lambda: SimulatedAgent(self.truth, self.rng), lambda: None, Host())
