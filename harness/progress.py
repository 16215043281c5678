"""What a person sees while a study runs: a line per finished trial, and where things stand."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from harness import terminal
from harness.quantities import show
from results.front import own_limits
from results.limits import sentences
from results.pareto import fronts
from results.records import Evaluation, Interval, Measurement, Metric, Problem, Target, Trial
from results.statistics import decide, half_width, judge, value
from results.units import score as show_score

CELL = 24
"""Width of a target's column."""

SCORE = 24
"""Greatest width of that of the scores; a metric's name may be long."""


class Watcher:
    """Is told what happens during a run.  This one says nothing but warnings."""

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

    def warn(self, text: str) -> None:
        """Something that the user must not miss, even where nothing else is said."""
        terminal.say(f"boardwise: {text}")

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
        self._columns = columns(problem, targets)
        self._console = console or terminal.console()
        self._score_title = problem.metric[:SCORE].ljust(12)
        self._cost = problem.objectives[1].name
        self._complete: list[Evaluation] = []
        self._told = 0
        self._trials = trials
        self._began: float | None = None
        self._began_with = 0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}", markup=False),
            console=self._console,
            refresh_per_second=2,
            transient=True,
        )
        self._task: TaskID | None = None

    def stage(self, name: str) -> None:
        self._console.print(name, style="bold")
        if name.startswith("search"):
            self._began, self._began_with = time.monotonic(), self._told
            self._console.print(self._header(), style="dim", soft_wrap=True)
            self._task = self._bar.add_task("search", total=self._trials, completed=self._told, left="?")
            self._bar.start()
        elif self._task is not None:
            self._bar.stop()

    def epoch(self, trial: Trial, epoch: int, score: float) -> None:
        self._describe(f"trial {trial.number}: epoch {epoch}, {self._problem.metric} {show_score(score)}")

    def measured(self, trial: Trial, measurement: Measurement) -> None:
        self._describe(f"trial {trial.number}: measured on {measurement.target.name}")

    def _describe(self, text: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, description=text)

    def told(self, evaluation: Evaluation) -> None:
        if evaluation.trial.proposal.screen_only:
            self._describe(f"candidate {evaluation.trial.number}: {evaluation.state}")
            return
        self._told += 1
        if evaluation.state == "complete":
            self._complete.append(evaluation)
        self._console.print(self._line(evaluation), soft_wrap=True)
        if self._task is not None:
            self._bar.update(self._task, completed=self._told, left=self._left())

    def board(self, name: str, state: str) -> None:
        if state != "online":
            self._console.print(f"{name} {state}", style="yellow")

    def note(self, text: str) -> None:
        self._console.print(text)

    def warn(self, text: str) -> None:
        self._console.print(text, style="bold yellow")

    def close(self) -> None:
        self._bar.stop()

    def _header(self) -> str:
        columns = "".join(f"  {title:<{CELL}}" for title in self._columns)
        cost = self._cost.replace("latency_", "") + " with its 95 % interval; ~ noisy, ! invalid"
        lower = "" if self._problem.maximise else "lower is better; "
        title = f"{'trial':>5} {'done':>7}  {self._score_title}{columns}  front so far, time left"
        return f"{title}   ({self._problem.metric}: of the validation split; {lower}{cost})"

    def _line(self, evaluation: Evaluation) -> Text:
        line = Text(f"{evaluation.trial.number:>5} " + f"{self._told}/{self._trials}".rjust(7))
        line.append("  " + self._score_cell(evaluation).ljust(len(self._score_title)))
        for targets in self._columns.values():
            line.append("  ").append_text(self._column_cell(evaluation, targets))
        for word, style in (("broken", "red"), ("unclear", "yellow")):
            named = [x for x in self._problem.limits if decide(evaluation, x) == word]
            if named:
                line.append(f"  {word}: {sentences(evaluation, named)}", style=style)
        line.append(f"  {self._front()}, {self._left()} left")
        if evaluation.error:
            line.append(f"\n         {evaluation.error}", style="red")
        return line

    def _score_cell(self, evaluation: Evaluation) -> str:
        score = value(evaluation, self._problem.objectives[0])
        if evaluation.state == "infeasible":
            return "not trained"
        if evaluation.state != "complete" or score is None:
            return evaluation.state
        half = f"{(score.high - score.low) / 2:.2g}" if score.is_known else "?"
        return f"{show_score(score.value)} ±{half}"

    def _column_cell(self, evaluation: Evaluation, targets: Sequence[Target]) -> Text:
        measured = [t for t in targets if t.name in evaluation.measurements]
        cell = self._target_cell(evaluation, (measured or targets)[0])
        if len(targets) > 1 and measured:
            chosen = labels(targets)[targets.index(measured[0])]
            cell = Text(f"{chosen}: ").append_text(cell)
        return cell

    def _target_cell(self, evaluation: Evaluation, target: Target) -> Text:
        measurement = evaluation.measurements.get(target.name)
        if measurement is None:
            return Text("not measured".ljust(CELL), style="dim")
        limits = own_limits(self._problem, target)
        metric = limits[0].metric if limits else Metric(self._cost, (target.name,))
        figure = value(evaluation, metric)
        mark = {"valid": "", "noisy": "~", "invalid": "!"}[judge(measurement).state]
        shown = f"{mark}{_with_half_width(metric.name, figure)}" if figure else "measured"
        # Of this figure alone: which other limits are broken is said with their figures behind the columns.
        states = {decide(evaluation, limit) for limit in limits if limit.metric == metric}
        word = next((w for w in ("broken", "unclear", "met") if w in states), "")
        style = {"broken": "red", "unclear": "yellow", "met": "green"}.get(word, "")
        return Text(f"{shown} {word}".ljust(CELL), style=style)

    def _front(self) -> str:
        objectives = self._problem.objectives
        feasible = [e for e in self._complete if all(decide(e, x) != "broken" for x in self._problem.limits)]
        points = [[value(e, m) for m in objectives] for e in feasible]
        known = [p for p in points if all(p)]
        if not known:
            return "empty"
        found = fronts(known, [m.maximise for m in objectives])  # type: ignore[arg-type]
        best = max if self._problem.maximise else min
        figure = best(p[0].value for p in known if p[0])
        return f"{len(found.nominal)} (best {show_score(figure)})"

    def _left(self) -> str:
        done = self._told - self._began_with
        if self._began is None or done < 2:
            return "?"
        left_s = (time.monotonic() - self._began) / done * (self._trials - self._told)
        return f"{int(left_s // 60)}:{int(left_s % 60):02d}"


def _with_half_width(metric: str, figure: Interval) -> str:
    return f"{show(metric, figure.value)} ±{100 * half_width(figure):.0f}%"


def columns(problem: Problem, targets: Sequence[Target]) -> dict[str, list[Target]]:
    """Targets by the title of their column: one each, but a common one where a device's target is chosen."""
    metrics = (*problem.objectives, *(limit.metric for limit in problem.limits))
    chosen = {place for metric in metrics for place in metric.targets}
    found: dict[str, list[Target]] = {}
    for target, title in zip(targets, labels(targets), strict=True):
        found.setdefault(target.device if target.device in chosen else title, []).append(target)
    return found


def labels(targets: Sequence[Target]) -> list[str]:
    """Short names of targets: only those of their parts that tell them apart."""
    parts = [(t.device, t.runtime, t.precision, *(f"{k}{v}" for k, v in t.options)) for t in targets]
    differing = [len(set(column)) > 1 for column in zip(*parts, strict=False)]
    found = [" ".join(p for p, d in zip(row, differing, strict=False) if d) for row in parts]
    return found if len(set(found)) == len(targets) and all(found) else [t.name for t in targets]
