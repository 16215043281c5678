"""Measures artifacts on a board by a plan: sessions of fresh processes, raw samples, no statistics kept.

A screen uses the agent that is there.  ``confirm`` spreads its sessions over freshly started agents,
because forked sessions share one address layout and so one (un)lucky placement; within an agent all
artifacts take turns in a fresh random order, so that slow drift of the board falls on all of them
alike (sequential measuring of equal models under 5 % drift showed a spurious gap of 4.3 %, random
order 2.6 %).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from devices.agent_client import BoardAgent, BoardFacts
from harness.board import Board
from results.errors import CandidateError
from results.records import Artifact, Environment, Measurement, Origin, Plan, RanOn, Session, Target
from results.statistics import half_width, latency


@dataclass
class Job:
    """One artifact to be measured on one target; gathers its sessions.

    Attributes:
        artifact: What to run.
        data: The file.
        target: How to run it.
        plan: How much.
        undecided: Tells from a measurement whether more sessions than the plan's least are wanted,
            although its half width is reached: a limit lies within the interval.
        sessions: What was measured so far.
        error: The candidate's fault, if there was one.
    """

    artifact: Artifact
    data: bytes
    target: Target
    plan: Plan
    undecided: Callable[[Measurement], bool] = lambda measurement: False
    sessions: list[Session] = field(default_factory=list)
    ran_on: RanOn | None = None
    error: CandidateError | None = None

    def wants_more(self, facts: BoardFacts, origin: Origin) -> bool:
        """Whether another session is due."""
        least, greatest = self.plan.sessions
        if self.error is not None or len(self.sessions) >= greatest:
            return False
        if len(self.sessions) < least:
            return True
        measurement = self.measurement(facts, origin)
        interval = latency(measurement, 0.5)
        return interval is None or half_width(interval) > self.plan.half_width or self.undecided(measurement)

    def measurement(self, facts: BoardFacts, origin: Origin) -> Measurement:
        """The sessions so far as a measurement.

        Raises:
            CandidateError: If the artifact failed.
        """
        if self.error is not None or self.ran_on is None:
            raise self.error or CandidateError(self.artifact.sha256, "was not measured")
        return Measurement(
            artifact=self.artifact,
            target=self.target,
            plan=self.plan,
            environment=environment(facts, self.target, self.ran_on),
            sessions=tuple(self.sessions),
            ran_on=self.ran_on,
            origin=origin,
        )

    def run_session(self, agent: BoardAgent, number: int, seed: int) -> None:
        """Runs one session; a candidate's fault is kept, a board's is raised."""
        try:
            result = agent.session(
                self.artifact, self.target, self.plan, role="model", agent=number, seed=seed
            )
        except CandidateError as error:
            self.error = error
            return
        self.ran_on = result.ran_on
        self.sessions.append(result.session)


def environment(facts: BoardFacts, target: Target, ran_on: RanOn) -> Environment:
    """What must be equal for two measurements to be compared."""
    pairs = {
        "device": target.device,
        "model": facts.model,
        "unit": facts.unit,
        "machine": facts.machine,
        "kernel": facts.kernel,
        "os": facts.os,
        "libc": facts.libc,
        "python": facts.python,
        "cpus": str(facts.cpus),
        "governor": facts.governor or "unknown",
        "runtime": ran_on.runtime,
        "runtime_version": ran_on.version,
        # Without how much of this very network it took: that is the network's, not the environment's.
        "provider": ran_on.provider.partition(" (")[0],
    }
    return Environment(tuple(sorted(pairs.items())))


def measure(board: Board, job: Job) -> Measurement:
    """Measures one artifact with the agent that is there.

    Raises:
        CandidateError: If the artifact does not run.
        BoardError: If the board stays away.
    """

    def work(agent: BoardAgent) -> Measurement:
        facts = board.facts
        ship(agent, [job])
        while job.wants_more(facts, board.origin):
            job.run_session(agent, 0, seed=len(job.sessions))
        return job.measurement(facts, board.origin)

    return board.use(work, job.artifact.sha256)


def measure_together(board: Board, jobs: Sequence[Job], *, seed: int) -> None:
    """Measures artifacts in turns over freshly started agents; results and faults stay in the jobs.

    Args:
        board: The board; every target of the jobs is on it.
        jobs: What to measure; their plans' ``agents`` and ``sessions`` set how much.
        seed: Of the orders.

    Raises:
        BoardError: If the board stays away.
    """
    rng = np.random.default_rng(seed)
    for number in itertools.count():
        due = [job for job in jobs if _is_due(job, number, board)]
        if not due:
            return
        board.restart_agent()
        for _ in range(max(-(-job.plan.sessions[0] // job.plan.agents) for job in due)):
            for index in rng.permutation(len(due)):
                _take_turn(board, due[index], number, int(rng.integers(2**31)))


def _is_due(job: Job, number: int, board: Board) -> bool:
    if job.error is not None:
        return False
    return number < job.plan.agents or job.wants_more(board.facts, board.origin)


def _take_turn(board: Board, job: Job, number: int, seed: int) -> None:
    def work(agent: BoardAgent) -> None:
        ship(agent, [job])
        job.run_session(agent, number, seed)

    if job.error is None:
        try:
            board.use(work, job.artifact.sha256)
        except CandidateError as error:
            job.error = error


def ship(agent: BoardAgent, jobs: Sequence[Job]) -> None:
    """Puts on the board whichever files are not there yet."""
    files = {job.artifact.sha256: job.data for job in jobs}
    for sha256 in agent.missing(sorted(files)):
        agent.put(sha256, files[sha256])


def with_spread(plan: Plan, spread: float, sessions: int) -> Plan:
    """The plan, leaning on a known spread between sessions."""
    return replace(plan, spread=spread, spread_sessions=sessions)
