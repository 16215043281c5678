"""What a person sees while a study runs: a line per finished trial, and where things stand."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness.quantities import show
from results.pareto import fronts
from results.records import Evaluation, Interval, Measurement, Problem, Target, Trial
from results.statistics import decide, judge, value


class Watcher:
    """Is told what happens during a run.  This one says nothing."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def asked(self, trial: Trial) -> None:
        """A trial was asked for."""

    def measured(self, trial: Trial, measurement: Measurement) -> None:
        """A trial was measured on a target."""

    def epoch(self, trial: Trial, epoch: int, score: float) -> None:
        """A trial was trained for another epoch; ``epoch`` counts from 1."""

    def told(self, evaluation: Evaluation) -> None:
        """A trial is in its final state."""

    def board(self, name: str, state: str) -> None:
        """A board went offline or came back."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def close(self) -> None:
        """The run has ended."""


class LiveWatcher(Watcher):
    """Prints a line per trial, with a moving bar below where the output is a terminal.

    Args:
        problem: For objectives and limits.
        targets: In the order of the columns.
        trials: Number of trials of the study.
        console: Where to print.
    """

    def __init__(
        self, problem: Problem, targets: tuple[Target, ...], trials: int, console: Console | None = None
    ) -> None:
        self._problem = problem
        self._targets = targets
        self._console = console or Console()
        self._cost = problem.objectives[1].name
        self._complete: list[Evaluation] = []
        self._told = 0
        self._trials = trials
        self._began: float | None = None
        self._began_with = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            console=self._console,
            refresh_per_second=2,
            transient=True,
        )
        self._task: TaskID | None = None

    def stage(self, name: str) -> None:
        self._console.print(f"[bold]{name}[/bold]", highlight=False)
        if name.startswith("search"):
            self._began, self._began_with = time.monotonic(), self._told
            self._console.print(self._header(), style="dim", highlight=False)
            self._task = self._bar.add_task("search", total=self._trials, completed=self._told, left="?")
            self._bar.start()
        elif self._task is not None:
            self._bar.stop()

    def epoch(self, trial: Trial, epoch: int, score: float) -> None:
        self._describe(f"trial {trial.number}: epoch {epoch}, {self._problem.objectives[0].name} {score:.3f}")

    def measured(self, trial: Trial, measurement: Measurement) -> None:
        self._describe(f"trial {trial.number}: measured on {measurement.target.name}")

    def _describe(self, text: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, description=text)

    def told(self, evaluation: Evaluation) -> None:
        self._told += 1
        if evaluation.state == "complete":
            self._complete.append(evaluation)
        self._console.print(self._line(evaluation), highlight=False)
        if self._task is not None:
            self._bar.update(self._task, completed=self._told, left=self._left())

    def board(self, name: str, state: str) -> None:
        if state != "online":
            self.note(f"[yellow]{name} {state}[/yellow]")

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def close(self) -> None:
        self._bar.stop()

    def _header(self) -> str:
        columns = "".join(f"  {self._cost + ' on ' + t.name:<44}" for t in self._targets)
        return f"{'trial':>7}  {'accuracy':<21}{columns}  front so far"

    def _line(self, evaluation: Evaluation) -> str:
        number = f"{evaluation.trial.number + 1}/{self._trials}"
        accuracy = value(evaluation, self._problem.objectives[0])
        shown = _interval("accuracy", accuracy) if accuracy else _why_untrained(evaluation)
        columns = "".join(f"  {self._target_cell(evaluation, t):<44}" for t in self._targets)
        return f"{number:>7}  {shown:<21}{columns}  {self._front()}"

    def _target_cell(self, evaluation: Evaluation, target: Target) -> str:
        measurement = evaluation.measurements.get(target.name)
        if measurement is None:
            return "-"
        metric = next(
            (x.metric for x in self._problem.limits if x.metric.targets == (target.name,)),
            None,
        )
        name = metric.name if metric else self._cost
        figure = value(evaluation, metric) if metric else None
        cell = _interval(name, figure) if figure else "measured"
        verdict = judge(measurement).state
        limits = [x for x in self._problem.limits if x.metric.targets == (target.name,)]
        states = {decide(evaluation, limit) for limit in limits}
        word = next((w for w in ("broken", "unclear", "met") if w in states), "")
        return " ".join(
            part for part in (cell, _limit_word(word), verdict if verdict != "valid" else "") if part
        )

    def _front(self) -> str:
        objectives = self._problem.objectives
        feasible = [e for e in self._complete if all(decide(e, x) != "broken" for x in self._problem.limits)]
        points = [[value(e, m) for m in objectives] for e in feasible]
        known = [p for p in points if all(p)]
        if not known:
            return "empty"
        found = fronts(known, [m.maximise for m in objectives])  # type: ignore[arg-type]
        best = max(p[0].value for p in known if p[0])
        return f"{len(found.nominal)} points, best {best:.3f}"

    def _left(self) -> str:
        done = self._told - self._began_with
        if self._began is None or done < 2:
            return "?"
        left_s = (time.monotonic() - self._began) / done * (self._trials - self._told)
        return f"{int(left_s // 60)}:{int(left_s % 60):02d}"


def _interval(metric: str, figure: Interval) -> str:
    return f"{show(metric, figure.value)} [{show(metric, figure.low)}, {show(metric, figure.high)}]"


def _why_untrained(evaluation: Evaluation) -> str:
    return {"infeasible": "not trained", "failed": "failed", "unmeasured": "unmeasured"}.get(
        evaluation.state, "?"
    )


def _limit_word(state: str) -> str:
    return {
        "met": "[green]met[/green]",
        "broken": "[red]broken[/red]",
        "unclear": "[yellow]unclear[/yellow]",
    }.get(state, "")
