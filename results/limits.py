"""What broke a limit, with its figure: one sentence for the terminal, the report and the CSVs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from results.records import Evaluation, Limit
from results.statistics import decide, value
from results.units import show

MOST_DIGITS = 9


def broken(evaluation: Evaluation, limits: Iterable[Limit]) -> list[Limit]:
    """The limits that are broken for certain, in their order: why a trial was never trained."""
    return [limit for limit in limits if decide(evaluation, limit) == "broken"]


def exceeded(evaluation: Evaluation, limits: Iterable[Limit]) -> list[Limit]:
    """The limits that a trial is over by its values, for certain or not: why it is on no front."""
    figures = [(limit, value(evaluation, limit.metric)) for limit in limits]
    return [limit for limit, figure in figures if figure is not None and figure.value > limit.upper]


def sentence(evaluation: Evaluation, limit: Limit) -> str:
    """A figure beside its limit, such as ``size 61.2 kB > 50 kB on pi5-tflite-fp32-threads1``."""
    where = f" on {' '.join(limit.metric.targets)}" if limit.metric.targets else ""
    figure = value(evaluation, limit.metric)
    if figure is None:
        return f"{limit.metric.name} unknown{where}"
    sign = ">" if figure.value > limit.upper else "<="
    shown, upper = _told_apart(limit.metric.name, figure.value, limit.upper)
    return f"{limit.metric.name} {shown} {sign} {upper}{where}"


def sentences(evaluation: Evaluation, limits: Sequence[Limit]) -> str:
    """All of them, separated by semicolons."""
    return "; ".join(sentence(evaluation, limit) for limit in limits)


def _told_apart(metric: str, figure: float, upper: float) -> tuple[str, str]:
    """Both in three digits, or in as many more as show that they differ."""
    for digits in range(3, MOST_DIGITS):
        shown = show(metric, figure, digits), show(metric, upper, digits)
        if figure == upper or shown[0] != shown[1]:
            break
    return shown
