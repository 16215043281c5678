"""Pictures of fronts (PNG), drawn without a display and without pyplot's global state.

The vertical axis is the score by which the front was chosen (validation split), for all points alike.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from results.evaluations import History, history
from results.front import Candidate, Member, candidates, front, limits_of, objectives, within
from results.limits import broken, exceeded
from results.output import write_whole
from results.printable import printable
from results.records import Interval, Limit, Measurement, Metric, Target
from results.statistics import value
from results.store import Run
from results.units import axis_label, factor, score_title, show, words

SIZE_IN = (8.0, 5.4)
DPI = 144
LOG_FROM_RATIO = 8.0
"""Range of costs from which on their axis is logarithmic."""

LONGEST_TEXT = 160
WIDE_IN, HIGH_IN = 6.8, 4.2
"""Room for a text along an axis, which is made as small as that takes."""

FAR = 1.5
"""Ruled-out trials are drawn up to so many times the limit."""

# Okabe & Ito 2008: told apart with every kind of colour vision.
CERTAIN, POSSIBLE, LIMIT, STEP, DIMMED = "#0072B2", "#E69F00", "#D55E00", "#444444", "#B0B0B0"


OTHER_LIMITS = ("#009E73", "#CC79A7", "#56B4E9")
"""Of trials that another limit than the one drawn ruled out."""


def front_picture(run: Run, target_name: str, path: Path) -> None:
    """Draws a target's front: the task's metric against its cost, with 95 % intervals, as a PNG file.

    Raises:
        StoreError: If the run has no such target, or the file cannot be written.
    """
    known = history(run)
    known.target(target_name)
    picture = io.BytesIO()
    draw(known, target_name).savefig(picture, format="png", dpi=DPI)
    write_whole(path, picture.getvalue())


@mpl.rc_context({"text.parse_math": False})
def draw(known: History, target: str) -> Figure:
    """The picture as a figure, from records that were read already."""
    figure = Figure(figsize=SIZE_IN, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    cost = _cost(known, target)
    members = [m for m in front(known, target) if m.place != "other environment"]
    shown = _comparable(candidates(known, target), members)
    scale = factor(cost.name)
    kept = limits_of(known.problem, known.target(target))
    limits = [x.upper * scale for x in kept if x.metric.name == cost.name]
    upper = min(limits, default=None)
    ruled_out = _ruled_out(known, cost, known.target(target))
    screened = [x for xs in ruled_out.values() for x in xs]
    _set_axes(axes, known, cost)
    _set_range(axes, [_place(c, scale)[0] for c in shown], upper, screened)
    _draw_background(axes, _others(shown, members), kept, scale, cost)
    _draw_rug(axes, ruled_out)
    if upper is not None:
        _draw_limit(axes, cost, upper)
    _draw_front(axes, members, scale, upper)
    _draw_titles(axes, known, target, shown, members)
    _draw_legend(figure, axes)
    for text, room_in in ((axes.xaxis.label, WIDE_IN), (axes.yaxis.label, HIGH_IN)):
        _fit(text, room_in)
    _label(axes, [m for m in members if m.nominal], scale)
    return figure


def _cost(known: History, target: str) -> Metric:
    """The metric on the horizontal axis: the first cost objective, or else the 90th percentile of latency."""
    costs = objectives(known.problem, target)[1:]
    return costs[0] if costs else Metric("latency_p90", (target,))


def _comparable(found: list[Candidate], members: list[Member]) -> list[Candidate]:
    """Candidates of the front's environment; of the newest where there is no front."""
    if not found:
        return []
    newest = max(found, key=lambda c: max(s.started_at for s in c.measurement.sessions))
    environment = members[0].candidate.environment if members else newest.environment
    return [c for c in found if c.environment == environment]


def _ruled_out(known: History, cost: Metric, target: Target) -> dict[str, list[float]]:
    """Costs (as shown) of the trials that a limit ruled out before training, by what broke.

    Those that broke a limit of the cost itself come first, under an empty name.
    """
    found: dict[str, list[float]] = {"": []}
    for trial in known.trials:
        evaluation = trial.evaluation() if trial.state == "infeasible" else None
        figure = None if evaluation is None else value(evaluation, cost)
        if evaluation is not None and figure is not None:
            causes = [_cause(limit, cost, target) for limit in broken(evaluation, known.problem.limits)]
            cause = min(causes, key=bool, default="")
            found.setdefault(cause, []).append(figure.value * factor(cost.name))
    return found


def _cause(limit: Limit, cost: Metric, target: Target) -> str:
    """What a limit is of; empty for the limit that the picture draws."""
    own = limit.metric.targets in ((), (target.name,), (target.device,))
    if own and limit.metric.name == cost.name:
        return ""
    return f"{words(limit.metric.name)} limit" + ("" if own else f" on {' '.join(limit.metric.targets)}")


def _set_axes(axes: Axes, known: History, cost: Metric) -> None:
    axes.set_xlabel(_text(axis_label(cost.name)))
    axes.set_ylabel(_text(score_title(known.problem, "validation")))
    # Whole figures: a common factor such as "1e8" would stand above the axis, where the titles are.
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.9g}"))
    axes.grid(color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _set_range(axes: Axes, costs: Sequence[Interval], upper: float | None, screened: Sequence[float]) -> None:
    """Room for all candidates and the limit, and for as many ruled-out trials as do not squeeze them."""
    lows, highs = [c.low for c in costs], [c.high for c in costs]
    if upper is not None:
        highs += [upper * 1.05, *(x for x in screened if x <= FAR * upper)]
        lows += [x for x in screened if x <= FAR * upper] or [upper / FAR]
    if not highs:
        return
    low, high = min(lows), max(highs)
    if 0 < LOG_FROM_RATIO * low < high:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low / 1.1, high * 1.1)
    else:
        margin = 0.05 * (high - low) or 0.05 * high
        axes.set_xlim(low - margin, high + margin)


def _place(candidate: Candidate, scale: float) -> tuple[Interval, Interval]:
    """Cost (as shown) and score of a candidate."""
    score, *costs = candidate.figures
    cost = costs[0] if costs else score
    return Interval(cost.low * scale, cost.value * scale, cost.high * scale), score


def _others(shown: Sequence[Candidate], members: Sequence[Member]) -> list[Candidate]:
    on_front = {m.candidate.known.trial.number for m in members}
    return [c for c in shown if c.known.trial.number not in on_front]


def _draw_background(
    axes: Axes, rest: Sequence[Candidate], limits: Sequence[Limit], scale: float, cost: Metric
) -> None:
    """Candidates that are not on the front, greyed: dominated ones, and those over a limit by which it is."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in rest:
        over = [limit.metric.name for limit in exceeded(candidate.evaluation, limits)]
        name = min(over, key=lambda metric: metric != cost.name, default="")
        inside = within(candidate.evaluation, limits)
        label = "dominated" if inside else f"over {words(name)} limit" if name else "a limit unknown"
        groups.setdefault(label, []).append(candidate)
    markers = dict(zip(sorted(groups.keys() - {"dominated"}), "x+1234", strict=False))
    for label, group in groups.items():
        places = [_place(candidate, scale) for candidate in group]
        xs, ys = [x.value for x, _ in places], [y.value for _, y in places]
        marker = markers.get(label, "o")
        axes.scatter(xs, ys, s=16, marker=marker, color=DIMMED, linewidths=1.0, label=label, zorder=2)


def _draw_rug(axes: Axes, ruled_out: Mapping[str, Sequence[float]]) -> None:
    """Ticks at the foot for trials that were never trained, a row for each thing that broke; those beyond the
    right edge are only counted."""
    rows = [(cause, costs) for cause, costs in ruled_out.items() if costs]
    for number, (cause, costs) in enumerate(rows):
        over = cause or "the limit drawn"
        axes.plot(
            costs,
            [0.012 + 0.022 * number] * len(costs),
            "|",
            color=OTHER_LIMITS[number % len(OTHER_LIMITS)] if cause else DIMMED,
            markersize=7,
            label=f"not trained, over {over} ({len(costs)})",
            transform=axes.get_xaxis_transform(),
            scalex=False,
            zorder=1,
        )


def _draw_limit(axes: Axes, cost: Metric, upper: float) -> None:
    """The limit as a line, beyond which the ground is shaded."""
    label = f"limit: {words(cost.name)} ≤ {show(cost.name, upper / factor(cost.name))}"
    axes.axvline(upper, color=LIMIT, linewidth=1.2, linestyle="--", label=_text(label), zorder=2)
    axes.axvspan(upper, axes.get_xlim()[1], color=LIMIT, alpha=0.06, linewidth=0, zorder=0)


def _draw_front(axes: Axes, members: list[Member], scale: float, upper: float | None) -> None:
    for place, colour in (("possible", POSSIBLE), ("certain", CERTAIN)):
        for confirmed in (False, True):
            points = [
                _place(m.candidate, scale)
                for m in members
                if m.place == place and m.candidate.confirmed == confirmed
            ]
            if points:
                what = "confirmed" if confirmed else "not confirmed"
                _draw_points(axes, points, colour, f"{place} front, {what}", filled=confirmed)
    steps = sorted((x.value, y.value) for x, y in (_place(m.candidate, scale) for m in members if m.nominal))
    if steps:
        end = upper if upper is not None else axes.get_xlim()[1]
        xs, ys = [x for x, _ in steps] + [end], [y for _, y in steps] + [steps[-1][1]]
        axes.step(xs, ys, where="post", color=STEP, linewidth=1.0, label="front by the values", zorder=3)


def _draw_points(
    axes: Axes, points: Sequence[tuple[Interval, Interval]], colour: str, label: str, *, filled: bool
) -> None:
    axes.errorbar(
        [x.value for x, _ in points],
        [y.value for _, y in points],
        xerr=[[x.value - x.low for x, _ in points], [x.high - x.value for x, _ in points]],
        yerr=[[_reach(y, y.low) for _, y in points], [_reach(y, y.high) for _, y in points]],
        fmt="o",
        color=colour,
        markerfacecolor=colour if filled else "white",
        markersize=6.5,
        elinewidth=0.8,
        alpha=0.95,
        label=label,
        zorder=5 if filled else 4,
    )


def _draw_legend(figure: Figure, axes: Axes) -> None:
    """Below the picture: in as many columns as it has room for, and in smaller letters where one has none."""
    if not axes.get_legend_handles_labels()[0]:
        return
    for columns, size in ((3, 8), (2, 8), (1, 8), (1, 5)):
        legend = figure.legend(loc="outside lower center", ncols=columns, fontsize=size, frameon=False)
        if size == 5 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def _reach(figure: Interval, end: float) -> float:
    """Length of an error bar; NaN, of which nothing is drawn, where there is no interval."""
    return abs(figure.value - end) if figure.is_known else math.nan


def _draw_titles(
    axes: Axes, known: History, target: str, shown: list[Candidate], members: list[Member]
) -> None:
    """Whose front it is, and below it what the figures are."""
    title = f"{known.name}: front on {known.target(target).device}"
    text = "" if members else "no candidate is within all limits"
    if shown:
        measurement = shown[0].measurement
        board = measurement.environment.get("model")
        title += f" ({board})" if board != "unknown" else ""
        _fit(axes.set_title(_text(_details(measurement, members)), loc="left", fontsize=8, color="#555555"))
    else:
        text = "no full training was measured here"
    _fit(axes.text(0, 1.065, _text(title), transform=axes.transAxes, fontsize=11, fontweight="bold"))
    axes.text(0.5, 0.5, text, transform=axes.transAxes, fontsize=12, color=LIMIT, ha="center")


def _fit(text: Text, room_in: float = WIDE_IN) -> None:
    """Makes a text small enough for its room; a longer one leaves none for the axes."""
    figure = cast(Figure, text.figure)
    extent = text.get_window_extent()
    length_in = max(extent.width, extent.height) / figure.dpi
    if length_in > room_in:
        text.set_fontsize(float(text.get_fontsize()) * room_in / length_in)


def _text(text: str) -> str:
    """Foreign text on one line, and no longer than a picture is wide; never mathematics (see ``draw``)."""
    return printable(text[:LONGEST_TEXT])


def _details(measurement: Measurement, members: Sequence[Member]) -> str:
    ran_on = measurement.ran_on
    confirmed = sum(m.candidate.confirmed for m in members)
    parts = (
        f"{ran_on.runtime} {ran_on.version}, {measurement.artifact.precision}, threads: {ran_on.threads}",
        measurement.origin,
        f"{confirmed} of {len(members)} confirmed",
        "bars: 95 % intervals" if _with_intervals(members) else "no interval of the vertical axis",
    )
    return "  ·  ".join(parts)


def _with_intervals(members: Sequence[Member]) -> bool:
    return all(m.candidate.figures[0].is_known for m in members)


def _label(axes: Axes, members: list[Member], scale: float) -> None:
    """Trial numbers beside the points, each where nothing of the same kind is in the way, or not at all."""
    figure = axes.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]
    places = [_place(m.candidate, scale) for m in members]
    dots = [axes.transData.transform((x.value, y.value)) for x, y in places]
    taken = [(px - 9, py - 9, px + 9, py + 9) for px, py in dots]
    for member, (x, y) in zip(members, places, strict=True):
        for offset in ((6, 7), (-6, 7), (6, -13), (-6, -13)):
            text = axes.annotate(
                str(member.candidate.known.trial.number),
                (x.value, y.value),
                offset,
                textcoords="offset points",
                fontsize=8,
                color="#222222",
                zorder=6,
                ha="left" if offset[0] > 0 else "right",
            )
            box = _box(axes, text)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _box(axes: Axes, text: Annotation) -> tuple[float, float, float, float]:
    canvas = axes.figure.canvas
    extents = text.get_window_extent(canvas.get_renderer())  # type: ignore[attr-defined]
    return extents.x0, extents.y0, extents.x1, extents.y1


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
