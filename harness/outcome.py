"""What a finished run says at its end: the fronts, and where everything lies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import terminal
from harness.quantities import QUANTITIES, show
from results import table
from results.across_targets import spans_targets
from results.codec import from_json
from results.evaluations import evaluations, history, stored_problem
from results.front import limits_of, own_limits
from results.records import Limit, Problem, Target
from results.store import Run
from results.units import score_title

SHOWN_CLOSEST = 5
METRICS = tuple(QUANTITIES)


def outcome_json(run: Run, folder: Path, paths: list[Path]) -> dict[str, Any]:
    """The outcome as a JSON value: the rows of the CSVs, and the files."""
    targets = [from_json(Target, target) for target in run.config["targets"]]
    fronts = {t.name: json.loads(table.pareto(run, t.name).to_json(orient="records")) for t in targets}
    if spans_targets(stored_problem(run.config)):
        together = table.across_targets_table(history(run))
        fronts["all targets"] = json.loads(together.to_json(orient="records"))
    return {"run": run.name, "folder": str(folder), "fronts": fronts, "files": [str(p) for p in paths]}


def print_outcome(run: Run, folder: Path, paths: list[Path], console: Console | None = None) -> None:
    """Prints each target's front, or the closest candidates where no limit could be met, and the files."""
    console = console or terminal.console()
    problem = stored_problem(run.config)
    for target in (from_json(Target, t) for t in run.config["targets"]):
        front = table.pareto(run, target.name)
        if front.empty:
            _print_closest(run, target, problem, console)
        else:
            console.print(_front_table(front, target, problem))
    if spans_targets(problem):
        front = table.across_targets_table(history(run)).query("nominal")
        numbers = ", ".join(map(str, front["trial"])) or "none"
        confirmed = int(front["confirmed"].sum())
        console.print(
            f"front of all targets together: trials {numbers}; {confirmed} of {len(front)} confirmed on all "
            f"({table.ACROSS_TARGETS_CSV})"
        )
    console.print(f"files in {folder}", style="bold")
    for path in paths:
        console.print(f"  {path}", soft_wrap=True)


def _front_table(front: Any, target: Target, problem: Problem) -> Table:
    title = _words(own_limits(problem, target))
    grid = Table(title=f"front on {target.name}" + (f" under {title}" if title else ""), title_justify="left")
    for column in (
        "trial",
        score_title(problem, "test"),
        "p90 latency",
        "size",
        "parameters",
        "confirmed",
        "verdict",
    ):
        grid.add_column(column, overflow="fold")
    for row in front[front["nominal"]].sort_values("latency_p90_ms").to_dict("records"):
        grid.add_row(
            str(row["trial"]),
            table.score_cell(row, problem.metric).removesuffix(" (test)"),
            "{latency_p90_ms:.3g} [{latency_p90_ms_low:.3g}, {latency_p90_ms_high:.3g}] ms".format(**row),
            show("size", row["size_bytes"]),
            show("parameters", row["parameters"]),
            "yes" if row["confirmed"] else "no",
            str(row["verdict"]),
        )
    return grid


def _print_closest(run: Run, target: Target, problem: Problem, console: Console) -> None:
    """Says why a front is empty, and what came closest."""
    limits = _words(limits_of(problem, target))
    states = Counter(e.state for e in evaluations(run))
    counted = ", ".join(f"{number} {state}" for state, number in states.most_common()) or "no trial has ended"
    empty = (f"{target.name}: the front is empty", "bold red")
    console.print(Text.assemble(empty, f" ({counted}; limits: {limits or 'none'})"))
    for error in sorted({e.error for e in evaluations(run) if e.error})[:SHOWN_CLOSEST]:
        console.print(f"  failed: {error}")
    for row in table.closest(run, SHOWN_CLOSEST).to_dict("records"):
        figures = [_figure(str(name), row.get(name)) for name in row if str(name).startswith(METRICS)]
        shown = ", ".join(figure for figure in figures if figure)
        console.print(f"  closest: trial {row['trial']}: {shown or 'nothing measured'}")


def _words(limits: Iterable[Limit]) -> str:
    return ", ".join(f"{x.metric.name} <= {show(x.metric.name, x.upper)}" for x in limits)


def _figure(column: str, figure: Any) -> str:
    if figure is None or figure != figure:
        return ""
    metric, _, target = column.partition(" ")
    return f"{metric} {show(metric, figure)}" + (f" on {target}" if target else "")
