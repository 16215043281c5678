"""One plateau: the mean power of the runs and of both idle parts, with uncertainties and acceptance.

See :mod:`results.energy` for what is made of them.  Power is linear between samples, and constant between
the readings of a counter, so that constant and piecewise linear power gives the exact energy.

Differences from the usual rules: batches are at least three time constants of the sensor long; halves of
the runs may differ by 1 % of the power whatever their noise, since a warming board does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from results.power import ClockFit, MeterTraits, Plateau, PowerTrace

Floats = NDArray[np.float64]
Span = tuple[float, float]

CONFIDENCE = 0.95
LEAST_TRIM_S = 0.05
PERIODS_TRIMMED = 2.0
TIME_CONSTANTS_TRIMMED = 5.0
"""What is cut off at each end of a span: the sensor may still see what was before."""

ACTIVE_BATCHES, IDLE_BATCHES, LEAST_BATCHES = 20, 10, 5
TIME_CONSTANTS_PER_BATCH = 3.0
ENOUGH_CODES = 20
"""Distinct steps of the meter from which on noise averages over them."""

PERIODS_OF_A_GAP = 4.0
GAP_SHARE = 0.01
"""Gaps of three periods, and one more for the random moments of reading, may cover one percent of a span."""

CERTAIN = 0.9973
"""Confidence of three standard deviations, at which halves and idle parts must agree."""

HALVES_SHARE = 0.01
IDLE_SHARE = 0.05
RESOLVED_SIGMAS = 5.0
CPU_SHARE = 0.05

SAMPLES_WANTED = 100
TIME_CONSTANTS_WANTED = 20.0


# --------------------------------------------------------------------------- a plateau


@dataclass(frozen=True)
class Uncertainty:
    """A standard uncertainty and its degrees of freedom."""

    standard: float
    freedom: float = math.inf

    @classmethod
    def combined(cls, parts: Sequence[Uncertainty]) -> Uncertainty:
        """Of a sum of independent parts: root of the sum of squares, Welch-Satterthwaite (GUM G.2b)."""
        total = math.sqrt(sum(part.standard**2 for part in parts))
        if total == 0:
            return cls(0.0)
        weights = sum((part.standard / total) ** 4 / part.freedom for part in parts)
        return cls(total, 1 / weights if weights else math.inf)

    def scaled(self, factor: float) -> Uncertainty:
        """Of the quantity times a factor."""
        return Uncertainty(abs(factor) * self.standard, self.freedom)

    def half_width(self, confidence: float = CONFIDENCE) -> float:
        """Half the width of the interval at a confidence."""
        tail = 0.5 + confidence / 2
        finite = math.isfinite(self.freedom)
        t = special.stdtrit(self.freedom, tail) if finite else special.ndtri(tail)
        return float(t) * self.standard


@dataclass(frozen=True)
class Figures:
    """What one plateau gives.

    Attributes:
        gross_j: Energy of one inference [J], and the random part of its uncertainty.
        net_j: ... above idle.
        active_w: Mean power while it ran.
        idle_w: Mean power while it did not.
        seconds_each: Time of one inference [s].
        problems: Why it cannot be used.
        net_problem: Why there is no net.
        needs_s: How long the runs should take, where they were too short for the meter; else 0.
    """

    gross_j: float = 0.0
    gross_u: Uncertainty = Uncertainty(0.0)
    net_j: float = 0.0
    net_u: Uncertainty = Uncertainty(0.0)
    active_w: float = 0.0
    idle_w: float = 0.0
    seconds_each: float = 0.0
    problems: tuple[str, ...] = ()
    net_problem: str = ""
    needs_s: float = 0.0

    @property
    def half_width(self) -> float:
        """Relative half width of the random part of gross."""
        return self.gross_u.half_width() / self.gross_j if self.gross_j > 0 else math.inf


def of_plateau(plateau: Plateau, trace: PowerTrace, clocks: Sequence[ClockFit] = ()) -> Figures:
    """Evaluates one plateau.

    Args:
        plateau: When what ran.
        trace: The power meanwhile.
        clocks: How the clocks of trace and board map to the host's; none where they are one.
    """
    try:
        power, spans, error_s = _joined(plateau, trace, clocks)
    except ValueError as error:
        return Figures(problems=(str(error),))
    meter = trace.meter
    trim_s = trim(meter, error_s)
    wanted_s = least_plateau_s(meter, error_s)
    active, *idles = [power.within((first + trim_s, last - trim_s)) for first, last in spans]
    if any(last - first < 2 * power.period_s for first, last in (active, *idles)):
        reason = f"{trace.source} is too slow for {plateau.active_s[1] - plateau.active_s[0]:.3g} s: " + (
            f"a value every {power.period_s:.3g} s needs runs of {wanted_s:.0f} s"
        )
        return Figures(problems=(reason,), needs_s=wanted_s)
    return _evaluated(plateau, power, active, idles, meter)


def trim(meter: MeterTraits, clock_error_s: float = 0.0) -> float:
    """What is cut off at each end of a span [s]."""
    return max(
        PERIODS_TRIMMED * meter.period_s,
        TIME_CONSTANTS_TRIMMED * meter.time_constant_s,
        LEAST_TRIM_S,
        clock_error_s,
    )


def least_plateau_s(meter: MeterTraits, clock_error_s: float = 0.0) -> float:
    """Shortest time of runs that this meter can tell [s]."""
    enough_s = max(SAMPLES_WANTED * meter.period_s, TIME_CONSTANTS_WANTED * meter.time_constant_s)
    return max(enough_s + 2 * trim(meter, clock_error_s), meter.least_s)


def _evaluated(
    plateau: Plateau, power: _Power, active: Span, idles: list[Span], meter: MeterTraits
) -> Figures:
    seconds_each = (plateau.active_s[1] - plateau.active_s[0]) / plateau.runs
    active_w, active_u = power.mean(active, ACTIVE_BATCHES)
    before, after = (power.mean(span, IDLE_BATCHES) for span in idles)
    idle_w = (before[0] + after[0]) / 2
    idle_u = Uncertainty.combined([before[1].scaled(0.5), after[1].scaled(0.5)])
    step = Uncertainty(meter.resolution_w / math.sqrt(12))
    active_q = [step] if power.codes(active) < ENOUGH_CODES else []
    idle_q = [step] if min(power.codes(span) for span in idles) < ENOUGH_CODES else []
    net_u = Uncertainty.combined([active_u, idle_u, *active_q, *idle_q])
    problems = [
        _gap(power, active, "runs"),
        _halves(power, active, active_w),
        f"{plateau.throttle_events} throttle events" if plateau.throttle_events else "",
        _reader(meter, power),
    ]
    net_problems = [
        *(_gap(power, span, "idle part") for span in idles),
        _restless(before[0] - after[0], idle_u, active_w - idle_w),
        _unresolved(active_w - idle_w, net_u, meter),
    ]
    return Figures(
        gross_j=active_w * seconds_each,
        gross_u=Uncertainty.combined([active_u, *active_q]).scaled(seconds_each),
        net_j=(active_w - idle_w) * seconds_each,
        net_u=net_u.scaled(seconds_each),
        active_w=active_w,
        idle_w=idle_w,
        seconds_each=seconds_each,
        problems=tuple(filter(None, problems)),
        net_problem=next(filter(None, net_problems), ""),
    )


def _gap(power: _Power, span: Span, what: str) -> str:
    share = power.gap_share(span)
    return f"values are missing for {share:.1%} of the {what}" if share > GAP_SHARE else ""


def _halves(power: _Power, active: Span, active_w: float) -> str:
    middle = (active[0] + active[1]) / 2
    (first_w, first_u), (second_w, second_u) = (
        power.mean(half, ACTIVE_BATCHES // 2) for half in ((active[0], middle), (middle, active[1]))
    )
    noise_w = Uncertainty.combined([first_u, second_u]).half_width(CERTAIN)
    if abs(first_w - second_w) <= max(noise_w, HALVES_SHARE * abs(active_w)):
        return ""
    return f"power drifted while it ran, from {first_w:.3g} to {second_w:.3g} W"


def _reader(meter: MeterTraits, power: _Power) -> str:
    if not power.on_board or meter.cpu_share <= CPU_SHARE:
        return ""
    return f"reading the meter took {meter.cpu_share:.0%} of a CPU of the board itself"


def _restless(difference_w: float, idle_u: Uncertainty, net_w: float) -> str:
    """Both idle parts must agree; ``idle_u`` is that of their mean."""
    if abs(difference_w) <= max(2 * idle_u.half_width(CERTAIN), IDLE_SHARE * abs(net_w)):
        return ""
    return f"idle power before and after differs by {abs(difference_w):.3g} W"


def _unresolved(net_w: float, net_u: Uncertainty, meter: MeterTraits) -> str:
    if meter.least_net_w and net_w < meter.least_net_w:
        return f"{net_w:.3g} W above idle is less than the {meter.least_net_w:g} W that this meter can tell"
    if net_w < RESOLVED_SIGMAS * net_u.standard:
        return f"{net_w:.3g} W above idle, known to ±{net_u.half_width():.3g} W"
    return ""


# --------------------------------------------------------------------------- power over time


class _Power:
    """Power over time, by the host's clock.

    Args:
        times_s: Shape ``(n,)``, rising.
        powers_w: Shape ``(n,)``.
        means: Whether each power is the mean since the time before it.
        meter: What is known of the meter.
        on_board: Whether the meter hangs on the board itself.
    """

    def __init__(
        self, times_s: Floats, powers_w: Floats, *, means: bool, meter: MeterTraits, on_board: bool
    ) -> None:
        self._times, self._powers, self._means = times_s, powers_w, means
        gaps = np.diff(times_s)
        self._slopes = np.zeros(len(gaps)) if means else np.diff(powers_w) / gaps
        self._starts = powers_w[1:] if means else powers_w[:-1]
        pieces = self._starts * gaps + self._slopes * gaps**2 / 2
        self._energies = np.concatenate(([0.0], np.cumsum(pieces)))
        self.period_s = max(meter.period_s, float(np.median(gaps)))
        self._batch_s = TIME_CONSTANTS_PER_BATCH * meter.time_constant_s
        self._step_w = meter.resolution_w
        self.on_board = on_board

    @property
    def span(self) -> Span:
        """From the first to the last value."""
        return float(self._times[0]), float(self._times[-1])

    def within(self, span: Span) -> Span:
        """A span, drawn in to readings where the power between them is not known."""
        if not self._means:
            return span
        first = np.searchsorted(self._times, span[0])
        last = np.searchsorted(self._times, span[1], side="right") - 1
        if last <= first:
            return span[0], span[0]
        return float(self._times[first]), float(self._times[last])

    def mean(self, span: Span, batches: int) -> tuple[float, Uncertainty]:
        """Mean power over a span [W], with the uncertainty from the spread of batches."""
        length_s = span[1] - span[0]
        if self._batch_s:
            batches = max(LEAST_BATCHES, min(batches, int(length_s / self._batch_s)))
        edges = np.linspace(*span, batches + 1)
        energies = self._energy(edges)
        means = np.diff(energies) / np.diff(edges)
        spread = float(np.std(means, ddof=1)) / math.sqrt(batches)
        return float(energies[-1] - energies[0]) / length_s, Uncertainty(spread, batches - 1)

    def codes(self, span: Span) -> float:
        """Number of distinct steps of the meter in a span; infinite where steps do not matter."""
        if not self._step_w:
            return math.inf
        inside = (self._times >= span[0]) & (self._times <= span[1])
        return len(np.unique(np.round(self._powers[inside] / self._step_w)))

    def gap_share(self, span: Span) -> float:
        """Share of a span that lies in long gaps."""
        gaps = np.diff(self._times)
        long = gaps > PERIODS_OF_A_GAP * self.period_s
        covered = np.minimum(self._times[1:], span[1]) - np.maximum(self._times[:-1], span[0])
        return float(np.clip(covered[long], 0, None).sum() / (span[1] - span[0]))

    def _energy(self, times_s: Floats) -> Floats:
        """Energy from the first value on [J]: exact for power that is linear between values."""
        piece = np.clip(np.searchsorted(self._times, times_s, side="right") - 1, 0, len(self._starts) - 1)
        since = times_s - self._times[piece]
        energies: Floats = (
            self._energies[piece] + self._starts[piece] * since + self._slopes[piece] * since**2 / 2
        )
        return energies


def _joined(
    plateau: Plateau, trace: PowerTrace, clocks: Sequence[ClockFit]
) -> tuple[_Power, list[Span], float]:
    """Power and the spans (active, idle before, idle after) on one clock, and its greatest error [s].

    Raises:
        ValueError: If they cannot be joined; says why.
    """
    same = trace.clock == plateau.clock
    fits = {fit.machine: fit for fit in clocks}
    if same:
        fits = {plateau.clock: ClockFit(plateau.clock, 0.0, 0.0, 0.0)}
    if trace.clock not in fits or plateau.clock not in fits:
        raise ValueError("the clocks of the meter's machine and of the board were not compared")
    board_fit, meter_fit = fits[plateau.clock], fits[trace.clock]
    origin = _mapped(np.array([plateau.active_s[0]]), board_fit)[0]
    times_s = _mapped(np.array(trace.times_s), meter_fit) - origin
    spans = []
    for span in (plateau.active_s, plateau.idle_before_s, plateau.idle_after_s):
        first, last = _mapped(np.array(span), board_fit) - origin
        spans.append((float(first), float(last)))
    error_s = board_fit.bound_s + meter_fit.bound_s + trace.meter.stamp_bound_s
    powers_w = np.array(trace.powers_w)
    power = _Power(times_s, powers_w, means=trace.means, meter=trace.meter, on_board=same)
    first, last = power.span
    if first > min(s[0] for s in spans) + error_s + power.period_s:
        raise ValueError(f"{trace.source} gave no values in the beginning")
    if last < max(s[1] for s in spans) - error_s - 2 * power.period_s:
        raise ValueError(f"{trace.source} gave no values towards the end")
    return power, spans, error_s


def _mapped(times_s: Floats, fit: ClockFit) -> Floats:
    mapped: Floats = times_s + (fit.offset_s + fit.drift * times_s)
    return mapped
