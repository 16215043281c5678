"""Measures artifacts on a board by a plan: sessions of fresh processes, raw samples, no statistics kept.

A screen uses the agent that is there.  ``confirm`` spreads its sessions over freshly started agents,
because forked sessions share one address layout and so one (un)lucky placement; within an agent all
artifacts and the reference network take turns in a fresh random order, so that slow drift of the board
falls on all of them alike (sequential measuring of equal models under 5 % drift showed a spurious gap of
4.3 %, random order 2.6 %, ratios to an interleaved reference 1.0 %).

A session that the board spoilt (throttled, warm-up not ended; for a strict plan also a busy board) is thrown
away with its reason and taken again, ``Plan.retries`` times in all.  What is then still spoilt is kept and
judged as it is.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from devices.agent_placement import Placement, placement
from devices.agent_replies import BoardFacts
from devices.board_agent import BoardAgent
from harness import energy
from harness.board import Board
from harness.export import Exported
from harness.reference import reference
from results.conditions import busy_remarks, session_remarks
from results.detectors import has_settled
from results.errors import BoardBusy, CandidateError
from results.records import Artifact, Environment, Measurement, Origin, Plan, RanOn, Session, Target
from results.statistics import half_width, latency

WARMER_C = 5.0
"""How much warmer than at its first session a board may be when another one starts."""

REFERENCE_RUNS = 200
"""Most timed runs of a session of the reference: its sessions are stored with every artifact beside it."""

QUIET_LOOK = Plan("quiet", sessions=(1, 1), session_s=0.5, warmup_s=0.1, min_runs=20)
"""One session of the reference that tells whether a board is busy."""

QUIET_EVERY_S = 5.0


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
        reference: File of the reference to be measured beside it by :func:`measure_together`, or None.
        sessions: What was measured so far, of the artifact and of the reference.
        dropped: Why sessions were thrown away.
        cpus: Number of CPUs of the board, once it is known.
        placement: What runs each node, once it was asked.
        energy: What was measured of its energy.
        error: The candidate's fault, if there was one.
    """

    artifact: Artifact
    data: bytes
    target: Target
    plan: Plan
    undecided: Callable[[Measurement], bool] = lambda measurement: False
    reference: Exported | None = None
    sessions: list[Session] = field(default_factory=list)
    references: list[Session] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    ran_on: RanOn | None = None
    cpus: int | None = None
    placement: Placement | None = None
    energy: energy.Taken = field(default_factory=energy.Taken)
    error: CandidateError | None = None

    def wants_more(self, facts: BoardFacts, origin: Origin) -> bool:
        """Whether another session is due."""
        least, greatest = self.plan.sessions
        if self.error is not None or len(self.sessions) >= greatest:
            return False
        if len(self.sessions) < least:
            return True
        measurement = self.measurement(facts, origin)
        # More sessions of one agent tell nothing more of what this agent differs by from the next.
        interval = latency(replace(measurement, plan=replace(self.plan, agent_spread=0.0)), 0.5)
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
            sessions=(*self.sessions, *self.references),
            ran_on=self.ran_on,
            origin=origin,
            dropped=(*self.dropped, *self.energy.dropped),
            traces=tuple(self.energy.traces),
            clocks=tuple(self.energy.clocks),
            plateaus=tuple(self.energy.plateaus),
            energy_note=self.energy.note,
        )

    def run_session(self, agent: BoardAgent, number: int, seed: int) -> None:
        """Runs one session, again if it was spoilt; a candidate's fault is kept, a board's is raised."""
        while True:
            try:
                result = agent.session(
                    self.artifact, self.target, self._cooled(), role="model", agent=number, seed=seed
                )
            except CandidateError as error:
                self.error = error
                return
            self.ran_on = self._placed(result.ran_on)
            reasons = (
                [] if agent.origin == "replayed" else self._spoilt(result.session, result.ran_on.threads)
            )
            if not reasons or len(self.dropped) >= self.plan.retries:
                self.sessions.append(result.session)
                return
            self.dropped.append("; ".join(reasons))

    def place(self, agent: BoardAgent) -> None:
        """Asks once what runs each node; a candidate's fault is kept."""
        if self.placement is None and self.error is None:
            try:
                self.placement = placement(agent, self.artifact, self.target, self.plan.load_limit_s)
            except CandidateError as error:
                self.error = error

    def _placed(self, ran_on: RanOn) -> RanOn:
        if self.placement is None or not self.placement.nodes:
            return ran_on
        nodes = tuple(sorted(self.placement.nodes.items()))
        return replace(ran_on, nodes=nodes, sha256=self.placement.sha256)

    def _cooled(self) -> Plan:
        """The plan with the temperature at which the board was first."""
        first_c = next((s.conditions.temperature_before_c for s in self.sessions), None)
        if first_c is None or not self.plan.cooldown_s:
            return self.plan
        return replace(self.plan, start_below_c=first_c + WARMER_C)

    def _spoilt(self, session: Session, threads: int) -> list[str]:
        """Why a session should be taken again."""
        found = session_remarks(session, self.cpus, threads)
        reasons = [r.text for r in found if self.plan.strict or r.severity == "invalid"]
        return reasons if has_settled(session.durations_s) else [*reasons, "warm-up had not ended"]


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
        **{f"setting {key}": value for key, value in facts.settings.items()},
        "runtime": ran_on.runtime,
        "runtime_version": ran_on.version,
        # Without how much of this very network it took: that is the network's, not the environment's.
        "provider": ran_on.provider.partition(" (")[0],
    }
    if facts.emulated:
        pairs["emulated"] = facts.emulated
    return Environment(tuple(sorted(pairs.items())))


def measure(board: Board, job: Job) -> Measurement:
    """Measures one artifact with the agent that is there.

    Raises:
        CandidateError: If the artifact does not run.
        BoardError: If the board stays away.
    """

    def work(agent: BoardAgent) -> Measurement:
        facts = board.facts
        job.cpus = facts.cpus
        ship(agent, [job])
        while job.wants_more(facts, board.origin):
            job.run_session(agent, 0, seed=len(job.sessions))
        if job.plan.energy and job.error is None:
            energy.take(agent, board.meter, job, facts, number=0, seed=len(job.sessions))
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
    beside = {job.target: _reference_job(job) for job in jobs if job.reference is not None}
    for number in itertools.count():
        due = [job for job in jobs if _is_due(job, number, board)]
        if not due:
            return
        board.restart_agent()
        wanted = {job.target for job in due}
        takers = [*due, *(other for target, other in beside.items() if target in wanted)]
        for _ in range(max(-(-job.plan.sessions[0] // job.plan.agents) for job in due)):
            for index in rng.permutation(len(takers)):
                _take_turn(board, takers[index], number, int(rng.integers(2**31)))
        for job in due:
            if job.plan.energy and number < job.plan.agents:
                _take_energy(board, job, number, int(rng.integers(2**31)))
            if job.target in beside:
                seen = [s for s in beside[job.target].sessions if s.agent == number]
                job.references += [replace(s, role="reference") for s in seen]


def _reference_job(job: Job) -> Job:
    """The reference as a job of its own: it never decides how many sessions there are."""
    file = job.reference
    if file is None:
        raise ValueError("the job has no reference")
    runs = max(job.plan.min_runs, min(job.plan.max_runs, REFERENCE_RUNS))
    plan = replace(job.plan, max_runs=runs, energy=False)
    return Job(file.artifact, file.data, job.target, plan)


def _is_due(job: Job, number: int, board: Board) -> bool:
    if job.error is not None:
        return False
    return number < job.plan.agents or job.wants_more(board.facts, board.origin)


def _take_turn(board: Board, job: Job, number: int, seed: int) -> None:
    def work(agent: BoardAgent) -> None:
        job.cpus = board.facts.cpus
        ship(agent, [job])
        if job.plan.strict or job.plan.name == "confirm":
            job.place(agent)
        if job.error is None:
            job.run_session(agent, number, seed)

    if job.error is None:
        try:
            board.use(work, job.artifact.sha256)
        except CandidateError as error:
            job.error = error


def _take_energy(board: Board, job: Job, number: int, seed: int) -> None:
    def work(agent: BoardAgent) -> None:
        ship(agent, [job])
        energy.take(agent, board.meter, job, board.facts, number=number, seed=seed)

    if job.error is None:
        try:
            board.use(work, job.artifact.sha256)
        except CandidateError as error:
            job.error = error


def require_quiet(
    board: Board,
    targets: Iterable[Target],
    *,
    wait_s: float,
    on_wait: Callable[[str], None] = lambda text: None,
) -> None:
    """Returns once no other work disturbs the board; looks again and again for a while.

    Args:
        board: The board.
        targets: On it.
        wait_s: How long to look again and again.
        on_wait: Called once, before it begins to wait, with what it waits for.

    Raises:
        BoardBusy: If the board is still busy after ``wait_s``; says what was seen and what to do.
        BoardError: If the board stays away.
    """
    if board.origin == "replayed":
        return
    target = next(iter(targets))
    ends_at = time.monotonic() + wait_s
    for number in itertools.count():
        reasons = _busy(board, target)
        if not reasons:
            return
        if number == 0 and wait_s > QUIET_EVERY_S:
            seen = "; ".join(reasons)
            on_wait(
                f"{board.name}: is busy with other work ({seen}); waiting up to {wait_s:.0f} s for its end"
            )
        if time.monotonic() + QUIET_EVERY_S > ends_at:
            raise BoardBusy(
                board.name,
                f"is busy with other work ({'; '.join(reasons)}), so nothing final can be measured; stop what"
                " else runs there, or take figures marked noisy: --accept-noisy",
            )
        time.sleep(QUIET_EVERY_S)


def _busy(board: Board, target: Target) -> list[str]:
    file = reference(target.file_format)
    job = Job(file.artifact, file.data, target, replace(QUIET_LOOK, retries=0))

    def work(agent: BoardAgent) -> list[str]:
        ship(agent, [job])
        result = agent.session(file.artifact, target, job.plan)
        return [r.text for r in busy_remarks(result.session, board.facts.cpus, result.ran_on.threads)]

    try:
        return board.use(work, file.artifact.sha256)
    except CandidateError:  # the target does not run the reference, which says nothing of other work
        return []


def ship(agent: BoardAgent, jobs: Sequence[Job]) -> None:
    """Puts on the board whichever files are not there yet."""
    files = {job.artifact.sha256: job.data for job in jobs}
    for sha256 in agent.missing(sorted(files)):
        agent.put(sha256, files[sha256])
