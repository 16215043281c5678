"""Energy per inference from power traces: joules, gross and net, with a GUM budget.

**Plateau with bracketed idle.**  A fresh process is idle, runs a file N times back to back within a time T,
and is idle again.  With P the mean of the power over the runs, ends cut off, and P_idle that of both idle
parts::

    gross = P * T / N            net = (P - P_idle) * T / N

T and N are exact, and P hardly depends on where its ends are, so an error of the clocks (bounded by two
fits of least round trip) moves nothing.  Idle on both sides cancels a drift that is linear.

How one plateau is evaluated: :mod:`results.plateau`.

**Budget** (GUM, JCGM 100:2008).  Random: the spread of 20 batches of the runs and 10 of each idle part
(batch means, Law & Kelton), and half a step of the meter (``step / sqrt(12)``) where the noise is too small
to average over its steps; degrees of freedom by Welch-Satterthwaite (GUM G.4.1).  Systematic: the meter's
factor, and its zero, which cancels in net.  Rankings on one board with one meter need the random part
alone; that is what the intervals are.  The systematic part is given beside it.

**Several plateaus**, one per freshly started agent: the t-interval over them, and never less than what
their own random parts give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from results.plateau import CONFIDENCE, Figures, Uncertainty, of_plateau
from results.power import PowerTrace
from results.records import Interval, Measurement

PART = "part"
NOT_READ = "not measured: no power meter was read"


# --------------------------------------------------------------------------- a measurement


@dataclass(frozen=True)
class Energy:
    """Energy of one inference.

    Attributes:
        gross: All that the meter saw [J]; random part of the uncertainty.
        net: Above idle [J]; None where it cannot be told from nothing.
        systematic_j: Half width of the systematic part of ``gross`` (95 %) [J].
        net_systematic_j: ... of ``net``.
        active_w: Mean power while it ran.
        idle_w: Mean power while it did not.
        source: Meter and rails.
        coverage: What the figure includes.
        leaves_out: What it does not.
        plateaus: Number of plateaus behind it.
        net_problem: Why there is no net.
    """

    gross: Interval
    net: Interval | None
    systematic_j: float
    net_systematic_j: float
    active_w: float
    idle_w: float
    source: str
    coverage: str
    leaves_out: str
    plateaus: int
    net_problem: str = ""

    @property
    def read_from(self) -> str:
        """Meter, and what its figure includes and does not."""
        without = f", without {self.leaves_out}" if self.leaves_out else ""
        return f"{self.source} ({self.coverage}{without})"


def energy(measurement: Measurement, confidence: float = CONFIDENCE) -> Energy | None:
    """Energy of one inference from the plateaus that can be used; None where there is none."""
    found = [(trace, figures) for trace, figures in _figures(measurement) if not figures.problems]
    if not found:
        return None
    figures = [one for _, one in found]
    trace = found[0][0]
    gross = _combined([f.gross_j for f in figures], [f.gross_u for f in figures], confidence)
    net_problem = next((f.net_problem for f in figures if f.net_problem), "")
    net = None
    if not net_problem:
        net = _combined([f.net_j for f in figures], [f.net_u for f in figures], confidence)
    second_each = float(np.mean([f.seconds_each for f in figures]))
    gain, offset_j = trace.meter.gain, trace.meter.offset_w * second_each
    coverage_factor = float(special.ndtri(0.5 + CONFIDENCE / 2))
    return Energy(
        gross=gross,
        net=net,
        systematic_j=coverage_factor * math.hypot(gain * gross.value, offset_j),
        net_systematic_j=coverage_factor * gain * (net.value if net else 0.0),
        active_w=float(np.mean([f.active_w for f in figures])),
        idle_w=float(np.mean([f.idle_w for f in figures])),
        source=trace.source,
        coverage=trace.coverage,
        leaves_out=trace.meter.leaves_out,
        plateaus=len(figures),
        net_problem=net_problem,
    )


def interval(measurement: Measurement, confidence: float = CONFIDENCE) -> Interval | None:
    """Gross energy of one inference [J] with the random part of its uncertainty; None if not known."""
    found = energy(measurement, confidence)
    return None if found is None else found.gross


def meter_of(measurement: Measurement) -> str:
    """Meter, rails and coverage of the figure; measurements of different ones are never ranked together."""
    sources = {f"{t.source} ({t.coverage})": None for t in measurement.traces if t.coverage != PART}
    return " and ".join(sources)


def note(measurement: Measurement) -> str:
    """Where the figure comes from and what it leaves out, or why there is none and how there could be one."""
    found = energy(measurement)
    if found is None:
        problems = dict.fromkeys(p for _, figures in _figures(measurement) for p in figures.problems)
        return "; ".join(filter(None, (measurement.energy_note, *problems))) or NOT_READ
    share = found.systematic_j / found.gross.value
    # An emulated board's sensors show a model of power; nothing there draws any.
    emulated = measurement.environment.get("emulated", "")
    modelled = "modelled, not measured (emulated board): " if emulated else ""
    text = (
        f"{modelled}{found.read_from}; active {found.active_w:.3g} W,"
        f" idle {found.idle_w:.3g} W; plateaus: {found.plateaus}; systematic ±{share:.1%}"
    )
    return f"{text}; net not resolvable: {found.net_problem}" if found.net_problem else text


def summary(measurements: Sequence[Measurement]) -> str:
    """Where the energy figures of a run come from, or why there are none, in a sentence or two."""
    found = {e.source: e for e in map(energy, measurements) if e is not None}
    if not found:
        return "; ".join(dict.fromkeys(map(note, measurements))) or NOT_READ
    return (
        f"gross per inference, read from {' and '.join(e.read_from for e in found.values())}; net is what"
        " lies above idle; intervals are the random part, the systematic one stands in `energy_note`"
    )


def _figures(measurement: Measurement) -> list[tuple[PowerTrace, Figures]]:
    found = []
    for number, plateau in enumerate(measurement.plateaus):
        traces = [t for t in measurement.traces if t.plateau == number and t.coverage != PART]
        clocks = [c for c in measurement.clocks if c.plateau == number]
        found += [(trace, of_plateau(plateau, trace, clocks)) for trace in traces]
    return found


def _combined(values: Sequence[float], uncertainties: Sequence[Uncertainty], confidence: float) -> Interval:
    """Mean of plateaus ``(K,)`` with its interval."""
    k, mean = len(values), float(np.mean(values))
    within = Uncertainty.combined([u.scaled(1 / k) for u in uncertainties])
    half = within.half_width(confidence)
    if k > 1:
        between = Uncertainty(float(np.std(values, ddof=1)) / math.sqrt(k), k - 1)
        half = max(half, between.half_width(confidence))
    return Interval(mean - half, mean, mean + half)
