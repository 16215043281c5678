"""Measures energy: plateaus on a board while a meter is read, wherever that is (algorithm: results.energy).

The meter is read by an agent on the machine that it hangs on: the board's own, or one started on this host
or another machine for it.  Where that is another machine than the board, the clocks of both are compared
with this one's before and after.  A plateau that cannot be used is taken again; one that is too short for
the interval that the plan wants is taken again longer; a meter that fails leaves a note, never a guess.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from devices.agent_client import AgentClient
from devices.agent_meter import MeterFacts, Spans, clock_s, run_plateau, start_meter, stop_meter
from devices.agent_replies import BoardFacts
from devices.board_agent import BoardAgent
from devices.replay import ReplayAgent
from harness import clocks
from harness.host import boot_id
from results.errors import BoardError, BoardHeld, MeterError
from results.plateau import Figures, least_plateau_s, of_plateau, trim
from results.power import ClockFit, MeterTraits, Plateau, PowerTrace
from results.records import Artifact, Option, Plan, Session, Target

ATTEMPTS = 3
"""How often a plateau is taken anew that cannot be used."""

SETTLE_S = 1.0
TIME_CONSTANTS_TO_SETTLE = 5.0
LEAST_RUNS = 10
IDLE_VALUES = 20
LONGER_BY = (1.5, 4.0)
"""How much longer the runs get at least and at most where the interval is too wide."""

SPARE_S = 60.0


NO_PLATEAU_IN_VIRTUAL_TIME = (
    "the sensors of an emulated board show a model of power, and in virtual time the host needs many minutes"
    " for a plateau; start the board with --clock wall for a modelled figure"
)


class MeterSeat:
    """Where a device's meter is read.

    Args:
        device: Name of the device.
        meter: Plug-in; empty for the meter that the board has itself.
        options: Its options.
        start: Starts the agent that reads it, and None where that is the board's own.
        how: How energy can be measured on this kind of board, for when it cannot.
    """

    def __init__(
        self,
        device: str,
        *,
        meter: str = "",
        options: Mapping[str, Option] | None = None,
        start: Callable[[], AgentClient] | None = None,
        how: str = "",
    ) -> None:
        self.device = device
        self.meter = meter
        self.options = dict(options or {})
        self.how = how
        self._start = start
        self._agent: AgentClient | None = None
        self._lock = threading.Lock()

    def reader(self, board: AgentClient) -> AgentClient:
        """The agent that reads the meter.

        Raises:
            MeterError: If somebody else reads it, or its machine cannot be reached.
        """
        if self._start is None:
            return board
        with self._lock:
            if self._agent is None:
                try:
                    self._agent = self._start()
                except BoardError as error:
                    raise self.blame(error) from error
            return self._agent

    def blame(self, error: BoardError) -> MeterError:
        """An error of the machine that reads the meter, which is not the board's fault."""
        if isinstance(error, BoardHeld):
            message = f"its meter {self.meter} is read by somebody else now: {error.message}"
            return MeterError(self.device, f"{message}; one meter cannot tell two boards apart")
        return MeterError(self.device, f"the machine that reads its meter {self.meter}: {error.message}")

    def drop(self) -> None:
        """Forgets the agent, so that the next reading starts a fresh one; may be called twice."""
        with self._lock:
            agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()


@dataclass
class Taken:
    """What has been measured of the energy of an artifact.

    Attributes:
        plateaus: Raw, in order; traces and clocks carry their numbers.
        note: Why there is no (more) energy.
        dropped: Why plateaus were thrown away.
    """

    plateaus: list[Plateau] = field(default_factory=list)
    traces: list[PowerTrace] = field(default_factory=list)
    clocks: list[ClockFit] = field(default_factory=list)
    note: str = ""
    dropped: list[str] = field(default_factory=list)


class Wanted(Protocol):
    """An artifact whose energy is wanted, such as a :class:`harness.measure.Job`."""

    artifact: Artifact
    target: Target
    plan: Plan
    sessions: list[Session]
    energy: Taken


@dataclass(frozen=True)
class Recorded:
    """One plateau with everything that belongs to it."""

    plateau: Plateau
    traces: tuple[PowerTrace, ...]
    clocks: tuple[ClockFit, ...]

    @property
    def figures(self) -> Figures:
        """What it gives."""
        return of_plateau(self.plateau, self.traces[0], self.clocks)


class TooSlow(Exception):
    """A meter that would need longer runs than the plan allows."""


def least_s(plan: Plan) -> float:
    """Time that a plan spends on the energy of one artifact where nothing is taken again [s]."""
    each_s = plan.plateau_s[0] + 2 * plan.idle_s + 3 * SETTLE_S + plan.warmup_s
    return plan.agents * each_s if plan.energy else 0.0


def take(
    agent: BoardAgent, seat: MeterSeat, job: Wanted, facts: BoardFacts, *, number: int, seed: int
) -> None:
    """Measures one plateau of an artifact; what comes of it stays in ``job.energy``.

    Args:
        agent: On the board; the artifact is there.
        seat: Where its meter is read.
        job: What is wanted.
        facts: What the board is.
        number: Of the freshly started agent.
        seed: Of the random inputs and moments.

    Raises:
        CandidateError: If the artifact does not run.
        ConfigError: If the meter does not have an option.
        BoardError: If the board is lost.
    """
    taken = job.energy
    if taken.note:
        return
    if isinstance(agent, ReplayAgent):
        _replay(agent, job, number)
    elif facts.emulated.endswith("virtual-time"):
        taken.note = NO_PLATEAU_IN_VIRTUAL_TIME
    elif not seat.meter and not facts.meters:
        problems = "; ".join(f"{name}: {problem}" for name, problem in facts.meter_problems.items())
        taken.note = problems or f"no power meter: {seat.how or 'name one in the lab file'}"
    else:
        with agent.at_work() as client:
            if client is None:
                taken.note = "only an agent on a machine can read a power meter"
            else:
                _attempt(client, seat, job, number=number, seed=seed)


def _replay(agent: ReplayAgent, job: Wanted, number: int) -> None:
    """What was measured then, as it was."""
    found = agent.power(job.artifact, job.target, job.plan, agent=number)
    if isinstance(found, str):
        job.energy.note = found
        return
    plateau, traces, fits = found
    index = len(job.energy.plateaus)
    job.energy.plateaus.append(plateau)
    job.energy.traces.extend(replace(trace, plateau=index) for trace in traces)
    job.energy.clocks.extend(replace(fit, plateau=index) for fit in fits)


def _attempt(agent: AgentClient, seat: MeterSeat, job: Wanted, *, number: int, seed: int) -> None:
    least_s, greatest_s = job.plan.plateau_s
    active_s, failed, best = least_s, 0, None
    while failed < ATTEMPTS:
        index = len(job.energy.plateaus)
        try:
            recorded = _record(agent, seat, job, active_s, (number, index, seed + failed))
            figures = recorded.figures
        except TooSlow as error:
            job.energy.note = str(error)
            return
        except MeterError as error:
            seat.drop()
            failed += 1
            job.energy.dropped.append(error.message)
            continue
        if figures.problems:
            failed += 1
            job.energy.dropped.extend(figures.problems)
            continue
        best = recorded
        ran_s = recorded.plateau.active_s[1] - recorded.plateau.active_s[0]
        if figures.half_width <= job.plan.half_width or ran_s >= greatest_s:
            break
        active_s = min(greatest_s, ran_s * _longer(figures.half_width / job.plan.half_width))
    if best is None:
        job.energy.note = job.energy.dropped[-1]
        return
    job.energy.plateaus.append(best.plateau)
    job.energy.traces.extend(best.traces)
    job.energy.clocks.extend(best.clocks)


def _longer(excess: float) -> float:
    """Runs that take k times as long give an interval narrower by the root of k."""
    return min(max(1.1 * excess**2, LONGER_BY[0]), LONGER_BY[1])


def _record(
    agent: AgentClient, seat: MeterSeat, job: Wanted, active_s: float, numbers: tuple[int, int, int]
) -> Recorded:
    number, index, seed = numbers
    reader = seat.reader(agent)
    machines = _machines(agent, reader)
    limit_s = SPARE_S + 3 * (job.plan.plateau_s[1] + job.plan.warmup_s + 2 * job.plan.idle_s)
    with _blaming(seat, reader is not agent):
        facts = start_meter(reader, seat.meter, seat.options, seed=seed, limit_s=limit_s)
    before = _probes(seat, machines, reader)
    spans = _spans(job, facts, active_s, before)
    plateau, _ = run_plateau(
        agent, job.artifact, job.target, spans, number=number, seed=seed, min_runs=LEAST_RUNS
    )
    after = _probes(seat, machines, reader)
    with _blaming(seat, reader is not agent):
        traces = stop_meter(reader, facts, number=index)
    fits = [clocks.fit(machine, before[machine], after[machine], index) for machine in machines]
    if fits:
        fits.append(ClockFit(boot_id(), 0.0, 0.0, 0.0, index))
    return Recorded(plateau, traces, tuple(fits))


@contextmanager
def _blaming(seat: MeterSeat, elsewhere: bool) -> Iterator[None]:
    """What goes wrong on another machine than the board is the meter's fault."""
    try:
        yield
    except MeterError:
        raise
    except BoardError as error:
        if elsewhere:
            raise seat.blame(error) from error
        raise


def _machines(agent: AgentClient, reader: AgentClient) -> dict[str, AgentClient]:
    """Machines whose clocks must be compared with this one's, with who answers there."""
    if reader.hello.boot_id == agent.hello.boot_id:
        return {}
    both = {one.hello.boot_id: one for one in (agent, reader)}
    both.pop(boot_id(), None)
    return both


def _probes(
    seat: MeterSeat, machines: Mapping[str, AgentClient], reader: AgentClient
) -> dict[str, list[clocks.Probe]]:
    found = {}
    for machine, agent in machines.items():
        with _blaming(seat, agent is reader):
            found[machine] = clocks.probe(partial(clock_s, agent))
    return found


def _spans(
    job: Wanted, facts: MeterFacts, active_s: float, before: Mapping[str, Sequence[clocks.Probe]]
) -> Spans:
    """How long each part of a plateau must take.

    Raises:
        TooSlow: If that is longer than the plan allows.
    """
    error_s = sum(min(p.round_trip_s for p in probes) / 2 for probes in before.values())
    period_s = max(facts.period_s, facts.change_s)
    traits = MeterTraits(period_s=period_s, time_constant_s=facts.time_constant_s, least_s=facts.least_s)
    needs_s = least_plateau_s(traits, error_s)
    greatest_s = job.plan.plateau_s[1]
    if needs_s > greatest_s:
        raise TooSlow(
            f"{facts.source} gives a value every {period_s:.3g} s and so needs runs of {needs_s:.0f} s, but"
            f" {greatest_s:g} s is the longest that the plan {job.plan.name} allows: take a faster meter"
        )
    runs_s = LEAST_RUNS * max((sum(s.durations_s) / len(s.durations_s) for s in job.sessions), default=0.0)
    return Spans(
        idle_s=max(job.plan.idle_s, IDLE_VALUES * period_s) + 2 * trim(traits, error_s),
        settle_s=max(SETTLE_S, TIME_CONSTANTS_TO_SETTLE * facts.time_constant_s),
        active_s=max(active_s, needs_s, runs_s),
        warmup_s=job.plan.warmup_s,
    )
