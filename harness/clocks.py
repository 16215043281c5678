"""How the clock of another machine maps to this one's: two probes of least round trip.

A probe sends a question at t1, is answered with the other clock's tb, and has the answer at t4, both ends
on this clock.  The offset ``tb - (t1 + t4) / 2`` is wrong by at most half the round trip, however unequal the
two ways are; so the probe of least round trip counts (as in NTP, RFC 5905 section 10).  One before and one
after give the drift as well: with one alone, 20 ppm over two minutes put the ends wrong by 1.3 ms (rms),
with both by 0.05 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from results.errors import MeterError
from results.power import ClockFit

PROBES = 40
MOST_DRIFT = 500e-6
"""No oscillator is as far off; a time server slews by no more."""


@dataclass(frozen=True)
class Probe:
    """A question and its answer: sent and received by this clock, answered by the other [s]."""

    sent_s: float
    there_s: float
    received_s: float

    @property
    def round_trip_s(self) -> float:
        """Time from question to answer."""
        return self.received_s - self.sent_s

    @property
    def middle_s(self) -> float:
        """Middle between question and answer."""
        return (self.sent_s + self.received_s) / 2


def now_s() -> float:
    """This machine's raw monotonic clock, which agents use as well."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) / 1e9


def probe(there_s: Callable[[], float], count: int = PROBES) -> list[Probe]:
    """Compares the clocks a number of times.

    Args:
        there_s: Asks the other machine for its clock.
        count: How often.
    """
    probes = []
    for _ in range(count):
        sent_s = now_s()
        there = there_s()
        probes.append(Probe(sent_s, there, now_s()))
    return probes


def fit(machine: str, before: Sequence[Probe], after: Sequence[Probe], number: int) -> ClockFit:
    """The mapping of the other clock to this one between two sets of probes.

    Args:
        machine: Boot id of the other machine.
        before: Probes before.
        after: Probes after.
        number: Of the plateau in between.

    Raises:
        MeterError: If no clock could have gone like this: it was set, or its machine slept.
    """
    first, last = (min(probes, key=lambda one: one.round_trip_s) for probes in (before, after))
    ours, theirs = last.middle_s - first.middle_s, last.there_s - first.there_s
    bound_s = max(first.round_trip_s, last.round_trip_s) / 2
    drift = ours / theirs - 1 if theirs > 0 else float("inf")
    if abs(drift) > MOST_DRIFT + (first.round_trip_s + last.round_trip_s) / 2 / ours:
        raise MeterError(machine, f"its clock went on by {theirs:.6g} s in {ours:.6g} s; it jumped")
    return ClockFit(machine, first.middle_s - first.there_s * (1 + drift), drift, bound_s, number)
