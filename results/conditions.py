"""What a board's state around a session says about the session: thresholds and their reasons.

Each constant says where it comes from.  A state that the board does not tell gives no remark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from results.records import Conditions, Environment, Measurement, Session

Severity = Literal["noisy", "invalid"]

LOAD_PER_CPU = 0.2
LOAD_FLOOR = 0.2
"""Other work on up to ``0.2 * cpus + 0.2`` CPUs is a quiet board; the floor is for its daemons.  Where the
kernel does not count CPU time, the one-minute load average stands for it, with the session's own threads on
top, since the average remembers the sessions before."""

CPU_PRESSURE = 0.01
"""Share of time in which some task waited for a CPU (PSI ``some``): the width that intervals aim at."""

RUNS_PER_SWITCH = 20
"""One involuntary switch in 20 runs touches at most 5 % of them, which leaves the 90th percentile alone.
A board with one CPU has no other place for its kernel's threads, which take microseconds of many runs: there
the time that they take decides (CPU pressure), where the kernel tells it."""

LOW_CLOCK = 0.01
"""Share of a session below the greatest clock that is still a constant clock."""

CLOCK_DROP = 0.04
"""Least step between operating points of common boards: 100 MHz of 2.4 GHz."""


@dataclass(frozen=True)
class Remark:
    """A reason not to trust a session."""

    severity: Severity
    text: str


def remarks(measurement: Measurement, sessions: Sequence[Session]) -> list[Remark]:
    """Reasons not to trust some of the sessions, each once, with how many sessions it holds for."""
    cpus = known_cpus(measurement.environment)
    found: dict[Remark, int] = {}
    for session in sessions:
        for remark in session_remarks(session, cpus, measurement.ran_on.threads):
            found[remark] = found.get(remark, 0) + 1
    shown = [Remark(r.severity, f"{r.text} ({n} of {len(sessions)} sessions)") for r, n in found.items()]
    return [*shown, *_fallback(measurement)]


def known_cpus(environment: Environment) -> int | None:
    """Number of CPUs of the board, where its environment tells."""
    number = environment.get("cpus", "")
    return int(number) if number.isdecimal() else None


def session_remarks(session: Session, cpus: int | None, threads: int) -> list[Remark]:
    """Reasons in the board's state not to trust one session.

    Args:
        session: The session.
        cpus: Number of CPUs of the board, where known.
        threads: Threads that the runtime was given.
    """
    state = session.conditions
    return [*_of_clock(state), *busy_remarks(session, cpus, threads), *_of_memory(state)]


def busy_remarks(session: Session, cpus: int | None, threads: int) -> list[Remark]:
    """As :func:`session_remarks`, as far as other work on the board is the reason."""
    return list(_of_load(session, cpus, threads))


def _of_clock(state: Conditions) -> Iterator[Remark]:
    if state.throttle_events:
        yield Remark("invalid", "throttled")
    if _clock_fell(state):
        yield Remark("noisy", "CPU clock fell")
    if (state.clock_low_share or 0.0) > LOW_CLOCK:
        yield Remark("noisy", "CPU below its greatest clock")


def _of_load(session: Session, cpus: int | None, threads: int) -> Iterator[Remark]:
    state = session.conditions
    if cpus is not None and _is_loaded(state, cpus, threads):
        yield Remark(
            "noisy", "load average too high" if state.others_cpus is None else "others used the CPUs"
        )
    if (state.cpu_pressure or 0.0) > CPU_PRESSURE:
        yield Remark("noisy", f"CPU pressure over {CPU_PRESSURE:.0%}")
    runs = 1 + session.warmup_runs + len(session.durations_s) * session.runs_per_sample
    told_by_time = cpus == 1 and state.cpu_pressure is not None
    if not told_by_time and (state.involuntary_switches or 0) * RUNS_PER_SWITCH > runs:
        yield Remark("noisy", f"involuntary switches over 1 in {RUNS_PER_SWITCH} runs")


def _of_memory(state: Conditions) -> Iterator[Remark]:
    if state.major_faults:
        yield Remark("noisy", "page faults to disk")
    if state.swapped_pages:
        yield Remark("noisy", "swapping")


def _is_loaded(state: Conditions, cpus: int, threads: int) -> bool:
    quiet = LOAD_PER_CPU * cpus + LOAD_FLOOR
    if state.others_cpus is not None:
        return state.others_cpus > quiet
    return (state.load_average or 0.0) > quiet + threads


def _fallback(measurement: Measurement) -> Iterator[Remark]:
    """A provider or delegate was asked for by name, and nodes ran elsewhere without a word."""
    options, nodes = dict(measurement.target.options), dict(measurement.ran_on.nodes)
    asked = str(options.get("provider") or options.get("delegate") or "")
    if options.get("xnnpack") is True:
        asked = "XNNPACK"
    elsewhere = sum(n for name, n in nodes.items() if name.lower() != asked.lower())
    if asked and nodes and elsewhere:
        shown = ", ".join(f"{name} {n}" for name, n in nodes.items())
        yield Remark(
            "invalid",
            f"asked for {asked}, {elsewhere} of {sum(nodes.values())} nodes ran elsewhere ({shown})",
        )


def _clock_fell(state: Conditions) -> bool:
    before, after = state.clock_before_hz, state.clock_after_hz
    return before is not None and after is not None and after < before * (1 - CLOCK_DROP)


def summary(measurement: Measurement) -> str:
    """Governor, temperature and pressure in a few words; what the board does not tell is left out."""
    states = [s.conditions for s in measurement.sessions if s.role == "model"]
    temperatures = _known(s.temperature_before_c for s in states) + _known(
        s.temperature_after_c for s in states
    )
    pressures = _known(s.cpu_pressure for s in states)
    clocks = _known(s.clock_after_hz for s in states)
    parts = []
    if (governor := measurement.environment.get("governor")) != "unknown":
        parts.append(f"governor {governor}")
    if temperatures:
        parts.append(f"{min(temperatures):.0f}-{max(temperatures):.0f} °C")
    if clocks:
        parts.append(f"{min(clocks) / 1e9:.2f}-{max(clocks) / 1e9:.2f} GHz")
    if pressures:
        parts.append(f"CPU pressure up to {max(pressures):.1%}")
    if measurement.dropped:
        parts.append(f"{len(measurement.dropped)} sessions dropped and repeated")
    return ", ".join(parts)


def _known(numbers: Iterator[float | None]) -> list[float]:
    return [n for n in numbers if n is not None]
