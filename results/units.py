"""How figures are shown to people, and what their columns are called: the only place that leaves SI units.

A column of a cost ends with its unit, ``latency_p90_ms``.  One of the task's metric is the metric's name and
where it was computed, ``mean_absolute_error_validation``.  Ends of intervals add ``_low`` and ``_high``.
"""

from __future__ import annotations

import re
from typing import Literal

from results.records import Problem

Where = Literal["validation", "test", "board"]
"""Where a score was computed: on a split by this host, or on a sample of the validation split by a board."""

_SHOWN = {
    "latency_p50": (1e3, "ms", "median latency"),
    "latency_p90": (1e3, "ms", "p90 latency"),
    "latency_p99": (1e3, "ms", "p99 latency"),
    "energy": (1e3, "mJ", "energy per inference"),
    "peak_memory": (1e-6, "MB", "peak memory"),
    "size": (1e-3, "kB", "file size"),
    "macs": (1e-6, "M", "multiply-accumulates"),
    "parameters": (1e-3, "k", "parameters"),
}

_COLUMN_UNITS = {
    "latency_p50": ("_ms", 1e3),
    "latency_p90": ("_ms", 1e3),
    "latency_p99": ("_ms", 1e3),
    "energy": ("_mj", 1e3),
    "peak_memory": ("_bytes", 1.0),
    "size": ("_bytes", 1.0),
}


def factor(metric: str) -> float:
    """What a figure in SI units is multiplied by to be shown."""
    return _SHOWN.get(metric, (1.0, "", metric))[0]


def words(metric: str) -> str:
    """The name of a metric in words."""
    return _SHOWN.get(metric, (1.0, "", metric))[2]


def axis_label(metric: str) -> str:
    """Name and unit for an axis or a column."""
    unit = _SHOWN.get(metric, (1.0, "", metric))[1]
    return f"{words(metric)} [{unit}]" if unit else words(metric)


def score_title(problem: Problem, where: Where | None = None) -> str:
    """Name of the task's metric, for an axis or a column, and its direction where that is not the usual."""
    notes = [*([where] if where else []), *([] if problem.maximise else ["lower is better"])]
    return problem.metric + (f" ({', '.join(notes)})" if notes else "")


def score(figure: float) -> str:
    """A figure of a task's metric, which may be of any size: three decimals, or four to six digits."""
    if figure == 0 or 0.1 <= abs(figure) < 10:
        return f"{figure:.3f}"
    if 1e4 <= abs(figure) < 1e6:
        return f"{figure:.0f}"
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), f"{figure:.4g}")


def score_column(metric: str, where: Where) -> str:
    """Column of the task's metric on a split, or as a board computed it: ``mean_absolute_error_test``."""
    slug = re.sub(r"[\W_]+", "_", metric.lower()).strip("_")
    return f"{slug or 'metric'}_{where}"


def si_unit(metric: str) -> str:
    """Unit of a figure of a metric that is not scaled for a reader; empty for a count."""
    return {"latency": "s", "energy": "J", "peak": "bytes", "size": "bytes"}.get(metric.partition("_")[0], "")


def cost_column(metric: str) -> tuple[str, float]:
    """Column of a cost, with its unit, and what a figure in SI units is multiplied by to stand there."""
    unit, scale = _COLUMN_UNITS.get(metric, ("", 1.0))
    return metric + unit, scale


def show(metric: str, figure: float, digits: int = 3) -> str:
    """A figure in three digits, or so many, with its unit."""
    if metric not in _SHOWN:
        return f"{figure:.{digits}f}"
    scale, unit, _ = _SHOWN[metric]
    shown = figure * scale
    short = f"{shown:.{digits}g}"
    return f"{shown:.0f} {unit}" if "e+" in short else f"{short} {unit}"
