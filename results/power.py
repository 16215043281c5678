"""Records of power: traces of meters, plateaus of runs, and how the clocks of machines map.

Part of the vocabulary of :mod:`results.records`: frozen, plain values, SI units, raw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from results.errors import StoreError


@dataclass(frozen=True)
class MeterTraits:
    """What is known of a power meter; 0 where nothing is.

    Attributes:
        period_s: Time after which it may give another value.
        time_constant_s: That of an average inside the sensor.
        resolution_w: Step of its figure.
        gain: Relative standard uncertainty of its factor.
        offset_w: Standard uncertainty of its zero.
        least_s: Shortest run that it can tell.
        least_net_w: Smallest power above idle that it can tell.
        stamp_bound_s: Greatest error of the times, from how long a reading took.
        cpu_share: Share of a CPU that reading it took, on the machine that it hangs on.
        leaves_out: What the figure does not include.
    """

    period_s: float = 0.0
    time_constant_s: float = 0.0
    resolution_w: float = 0.0
    gain: float = 0.0
    offset_w: float = 0.0
    least_s: float = 0.0
    least_net_w: float = 0.0
    stamp_bound_s: float = 0.0
    cpu_share: float = 0.0
    leaves_out: str = ""


@dataclass(frozen=True)
class PowerTrace:
    """Power over time as a meter gave it.

    Attributes:
        source: Meter and rail.
        coverage: What the figure includes: ``module``, ``package``, ``rails``, ``battery`` or ``wall``;
            ``part`` for a rail that was read as well and is part of the figure.
        clock: Machine whose raw monotonic clock ``times_s`` is in.
        times_s: Times of the samples, shape ``(n,)``, rising.
        powers_w: Power, shape ``(n,)``.
        plateau: Number of the plateau that it belongs to.
        means: Whether each power is the mean since the time before it (from a counter of energy), rather
            than that of one moment; the first one is then no figure.
        meter: What is known of the meter.
    """

    source: str
    coverage: str
    clock: str
    times_s: tuple[float, ...]
    powers_w: tuple[float, ...]
    plateau: int = 0
    means: bool = False
    meter: MeterTraits = field(default_factory=MeterTraits)

    def __post_init__(self) -> None:
        if len(self.times_s) != len(self.powers_w) or not all(map(math.isfinite, self.powers_w)):
            raise StoreError(f"{self.source}: a power trace needs one finite power per time")


@dataclass(frozen=True)
class ClockFit:
    """How a machine's monotonic clock maps to the host's: t + offset_s + drift * t, within bound_s.

    Attributes:
        machine: Its boot id.
        offset_s: Offset at its time 0.
        drift: Seconds gained per second.
        bound_s: Greatest error of the mapping, half the shortest round trip of the probes.
        plateau: Number of the plateau around which it was taken.
    """

    machine: str
    offset_s: float
    drift: float
    bound_s: float
    plateau: int = 0


@dataclass(frozen=True)
class Plateau:
    """One fresh process that was idle, ran a file back to back, and was idle again: raw.

    Spans are begin and end on the board's raw monotonic clock [s].

    Attributes:
        agent: Number of the freshly started agent it belongs to.
        clock: The board's boot id.
        runs: Number of runs in the active span.
        idle_before_s: Idle before the runs.
        active_s: From the start of the first run to the end of the last.
        idle_after_s: Idle after them.
        throttle_events: Number of throttle indications that appeared, None where the board does not tell.
    """

    agent: int
    clock: str
    runs: int
    idle_before_s: tuple[float, float]
    active_s: tuple[float, float]
    idle_after_s: tuple[float, float]
    throttle_events: int | None = None

    def __post_init__(self) -> None:
        spans = (self.idle_before_s, self.active_s, self.idle_after_s)
        if self.runs < 1 or any(not first < last for first, last in spans):
            raise StoreError("a plateau needs runs, and spans that begin before they end")
