"""Time to load a file and time of its first run, and whether they say anything.

On a board in virtual time they do not: its clock counts instructions, and both wait for the host's disk and
cache besides, so the same load has taken from 0.8 to 16.9 s.  They are shown as not valid there; the raw
figures stay in the sessions as they were measured.
"""

from __future__ import annotations

import statistics

from results.records import Environment, Measurement
from results.statistics import model_sessions

NOT_VALID = "load and first run not valid: virtual time does not count what the disk takes"


def in_virtual_time(environment: Environment) -> bool:
    """Whether the board's clock counted instructions, by the label of its emulation."""
    return environment.get("emulated", "").endswith("virtual-time")


def load_s(measurement: Measurement) -> float | None:
    """Median time to load the file [s]; None where it is not valid."""
    return _median(measurement, [session.load_s for session in model_sessions(measurement)])


def cold_s(measurement: Measurement) -> float | None:
    """Median time of the first run [s]; None where it is not valid."""
    return _median(measurement, [session.cold_s for session in model_sessions(measurement)])


def note(measurement: Measurement) -> str:
    """Why there are no such times; empty where there are."""
    return NOT_VALID if in_virtual_time(measurement.environment) else ""


def _median(measurement: Measurement, times_s: list[float]) -> float | None:
    if in_virtual_time(measurement.environment) or not times_s:
        return None
    return statistics.median(times_s)
