"""The part of a report on the front over all targets together."""

from __future__ import annotations

from results.across_targets import front_across_targets, spans_targets
from results.deployments_report import figure_cell
from results.evaluations import History
from results.markdown import table
from results.table import ACROSS_TARGETS_CSV
from results.units import axis_label, factor, score_title

SHOWN_MEMBERS = 12


def across_targets(known: History) -> list[str]:
    """One section where the costs of several targets are objectives of their own."""
    if not spans_targets(known.problem):
        return []
    front = front_across_targets(known)
    title = "## All targets together"
    if not front:
        return [title, "**No full training is within all limits of all targets.**"]
    nominal = [member for member in front if member.nominal]
    costs = known.problem.objectives[1:]
    scales = (1.0, *(factor(cost.name) for cost in costs))
    rows = [
        (
            m.known.trial.number,
            m.place,
            *(figure_cell(figure, scale) for figure, scale in zip(m.figures, scales, strict=True)),
            "yes" if m.confirmed else "no",
        )
        for m in nominal[:SHOWN_MEMBERS]
    ]
    columns = [" on ".join((axis_label(cost.name), *cost.targets)) for cost in costs]
    text = (
        f"By all objectives at once, {len(nominal)} candidates are on the front by the values, and "
        f"{len(front)} cannot be ruled out at 95 %; all are in [{ACROSS_TARGETS_CSV}]({ACROSS_TARGETS_CSV}). "
        "A compromise between targets may be on the front of none of them alone. *Confirmed* means on every "
        "target."
    )
    return [
        title,
        table(("trial", "front", score_title(known.problem, "validation"), *columns, "confirmed"), rows),
        text,
    ]
