"""How figures are shown to people: the only place that leaves SI units."""

from __future__ import annotations

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


def show(metric: str, figure: float) -> str:
    """A figure in three digits with its unit."""
    if metric not in _SHOWN:
        return f"{figure:.3f}"
    scale, unit, _ = _SHOWN[metric]
    return f"{figure * scale:.3g} {unit}"
