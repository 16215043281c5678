"""What a finished run says at its end: the fronts, and where everything lies."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import terminal
from harness.exit_codes import Exit
from harness.first_look import STORE
from harness.quantities import show
from results import plots, table
from results import report as reports
from results.across_targets import spans_targets
from results.codec import from_json
from results.confirmation import frontless, unconfirmed
from results.empty_front import closest, why_empty
from results.evaluations import History, history
from results.failures import failures
from results.front import limits_of, own_limits
from results.records import Limit, Problem, Target
from results.shapes import records
from results.store import Run, Store
from results.tracebacks import write_tracebacks

SHOWN_CLOSEST = 5


def report(args: argparse.Namespace, folder: Path) -> int:
    """Writes everything that follows from the stored records again, and changes nothing in the store."""
    with Store.open_to_read(folder / STORE) as store:
        run = store.run(folder.name)
        show_outcome(args, run, folder, write_report(run, folder))
    return Exit.FINE


def write_report(run: Run, folder: Path) -> list[Path]:
    """Writes everything that follows from stored records alone: CSVs, pictures, the report; their paths."""
    paths = table.write_csvs(run, folder)
    for target in (from_json(Target, target) for target in run.config["targets"]):
        path = folder / f"front_{target.name}.png"
        plots.front_picture(run, target.name, path)
        paths.append(path)
    return [*paths, *write_tracebacks(run, folder), reports.write_report(run, folder)]


def result_paths(folder: Path) -> list[Path]:
    """What a run's folder has for its reader: report, CSVs, pictures, models."""
    patterns = ("report.md", "tracebacks.txt", "*.csv", "*.png", "models/*")
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return [path for path in found if not path.is_symlink() and not path.parent.is_symlink()]


def show_outcome(args: argparse.Namespace, run: Run, folder: Path, paths: list[Path]) -> None:
    """Prints what a run has found, as the command line asks for it."""
    if args.json:
        terminal.write_json(outcome_json(run, folder, paths))
    else:
        print_outcome(run, folder, paths)


def outcome_json(run: Run, folder: Path, paths: list[Path]) -> dict[str, Any]:
    """The outcome as a JSON value: the rows of the CSVs, and the files."""
    known = history(run)
    tables = {t.name: table.pareto_table(known, t.name) for t in known.targets}
    if spans_targets(known.problem):
        tables["all targets"] = table.across_targets_table(known)
    fronts = {name: json.loads(front.to_json(orient="records")) for name, front in tables.items()}
    return {
        "run": run.name,
        "folder": str(folder),
        "fronts": fronts,
        "not_confirmed": unconfirmed(known),
        "ended_early": ended_early(run),
        "files": [str(p) for p in paths],
    }


def ended_early(run: Run) -> list[str]:
    """Why a search ended before its trials were done, in one sentence without a full stop; empty if not."""
    return [record.body["ended"] for record in records(run, "finished") if "ended" in record.body]


def exit_code(run: Run) -> Exit:
    """Whether every target has a front, and all of it is confirmed."""
    known = history(run)
    return Exit.UNJUDGED if frontless(known) or unconfirmed(known) else Exit.FINE


def print_outcome(run: Run, folder: Path, paths: list[Path], console: Console | None = None) -> None:
    """Prints each target's front, or the closest candidates where no limit could be met, and the files."""
    console = console or terminal.console()
    known = history(run)
    problem = known.problem
    for target in known.targets:
        front = table.pareto_table(known, target.name)
        if front.empty:
            _print_closest(known, target, console)
        else:
            console.print(_front_table(front, target, problem))
    _print_reasons(run, known, console)
    if spans_targets(problem):
        front = table.across_targets_table(known).query("nominal")
        numbers = ", ".join(map(str, front["trial"])) or "none"
        confirmed = int(front["confirmed"].sum())
        console.print(
            f"front of all targets together: trials {numbers}; {confirmed} of {len(front)} confirmed on all "
            f"({table.ACROSS_TARGETS_CSV})"
        )
    missing = unconfirmed(known)
    for name, why in missing.items():
        console.print(f"{name}: the front is not confirmed: {why}", style="bold yellow", soft_wrap=True)
    if missing:
        console.print(f"go on: boardwise resume {folder}", soft_wrap=True)
    console.print(f"files in {folder}", style="bold")
    for path in paths:
        console.print(f"  {path}", soft_wrap=True)


def _front_table(front: Any, target: Target, problem: Problem) -> Table:
    title = _words(own_limits(problem, target))
    title = f"front on {target.name}" + (f" under {title}" if title else "")
    title += "" if problem.maximise else f"; {problem.metric}: lower is better"
    # Without a frame the ends of intervals fit on 80 columns: a number cut in two reads as another one.
    grid = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in (
        "trial",
        f"{problem.metric}, validation",
        f"{problem.metric}, test",
        "p90 latency",
        "size",
        "confirmed",
        "verdict",
    ):
        grid.add_column(column, overflow="fold")
    for row in front[front["nominal"]].sort_values("latency_p90_ms").to_dict("records"):
        grid.add_row(
            str(row["trial"]),
            table.score_cell(row, problem.metric, "validation"),
            table.score_cell(row, problem.metric, "test"),
            "{latency_p90_ms:.3g} [{latency_p90_ms_low:.3g}, {latency_p90_ms_high:.3g}] ms".format(**row),
            show("size", row["size_bytes"]),
            "yes" if row["confirmed"] else "no",
            str(row["verdict"]),
        )
    return grid


def _print_reasons(run: Run, known: History, console: Console) -> None:
    """Says once why trials failed, where a front is empty, and why a search ended before its trials."""
    for failure in failures(known)[:SHOWN_CLOSEST] if frontless(known) else ():
        count = len(failure.numbers)
        console.print(f"{count} of {len(known.trials)} trials failed: {failure.example}", soft_wrap=True)
    for text in ended_early(run):
        console.print(f"the search ended early: {text}", style="bold yellow", soft_wrap=True)


def _print_closest(known: History, target: Target, console: Console) -> None:
    """Says why a front is empty, and what came closest."""
    limits = _words(limits_of(known.problem, target))
    empty = (f"{target.name}: the front is empty", "bold red")
    why = f": {why_empty(known, target)} (limits: {limits or 'none'})"
    console.print(Text.assemble(empty, why), soft_wrap=True)
    for each in closest(known, target, SHOWN_CLOSEST):
        console.print(f"  closest: trial {each.known.trial.number}: {each.breaks}", soft_wrap=True)


def _words(limits: Iterable[Limit]) -> str:
    return ", ".join(f"{x.metric.name} <= {show(x.metric.name, x.upper)}" for x in limits)
