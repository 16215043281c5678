"""Limits as people write them, ``latency_p90 <= 8 ms``, and figures as people read them."""

from __future__ import annotations

import re

from results.errors import ConfigError, unknown_name

UNITS: dict[str, dict[str, float]] = {
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6},
    "energy": {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6},
    "bytes": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "count": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9},
}
QUANTITIES = {
    "latency_p50": "latency",
    "latency_p90": "latency",
    "latency_p99": "latency",
    "energy": "energy",
    "peak_memory": "bytes",
    "size": "bytes",
    "macs": "count",
    "parameters": "count",
}
"""Metrics that can be costs or have a limit, with their quantity."""

PER_TARGET = ("latency_p50", "latency_p90", "latency_p99", "energy", "peak_memory", "size")
"""Metrics that belong to a target; the others belong to the network."""

_LIMIT = re.compile(r"\s*(\w+)\s*<=\s*([0-9.eE+-]+)\s*([A-Za-zµ]*)\s*")


def parse_limit(text: str, where: str) -> tuple[str, float]:
    """Metric and greatest value (SI) of a limit such as ``latency_p90 <= 8 ms``.

    Raises:
        ConfigError: If it cannot be understood; the message shows how to write it.
    """
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{where}: cannot read the limit {text!r}; write it like 'latency_p90 <= 8 ms'")
    metric, number, unit = match.groups()
    if metric not in QUANTITIES:
        raise ConfigError(f"{where}: {unknown_name('metric', metric, QUANTITIES)}")
    units = UNITS[QUANTITIES[metric]]
    if unit not in units:
        raise ConfigError(f"{where}: {text!r}: {metric} is given in {', '.join(u or 'plain' for u in units)}")
    try:
        upper = float(number) * units[unit]
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r}: {number!r} is not a number") from error
    if not 0 < upper < float("inf"):
        raise ConfigError(f"{where}: {text!r}: a limit must be positive and finite")
    return metric, upper


def show(metric: str, value: float) -> str:
    """A figure with three digits and a unit that suits it: ms, mJ, kB ..."""
    quantity = QUANTITIES.get(metric, "count")
    if quantity == "latency":
        return f"{value * 1e3:.3g} ms"
    if quantity == "energy":
        return f"{value * 1e3:.3g} mJ"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}{'B' if quantity == 'bytes' else ''}"
    return f"{value:.3g}{' B' if quantity == 'bytes' else ''}"
