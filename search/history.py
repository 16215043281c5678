"""What a strategy was told: every trial's figures, read once, in the order of the tells.

All strategies keep one :class:`History` and nothing else that tells change, so that their state is a
function of the evaluations told.  Figures come from :mod:`results.statistics` alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from results.errors import ArchitectureError, ConfigError
from results.records import Architecture, Evaluation, Metric, Problem, State, Trial
from results.statistics import value, violation
from search.space import SearchSpace


@dataclass(frozen=True)
class Outcome:
    """A told trial, reduced to what strategies read.

    Attributes:
        number: Number of the trial.
        architecture: What was tried.
        state: As told.
        figures: Nominal values of the problem's metrics, SI; those that are not known are missing.
        violation: Sum of the relative overshoots of the limits; 0 only for a trial that meets all of them.
        note: What the strategy wrote into the proposal.
    """

    number: int
    architecture: Architecture
    state: State
    figures: Mapping[Metric, float]
    violation: float
    note: Mapping[str, Any] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """Whether it was trained and meets every limit by its nominal figures."""
        return self.state == "complete" and self.violation == 0.0

    def losses(self, objectives: Sequence[Metric]) -> tuple[float, ...] | None:
        """Objectives turned so that less is better, shape ``(m,)``; None if one is not known."""
        if any(metric not in self.figures for metric in objectives):
            return None
        return tuple(-self.figures[m] if m.maximise else self.figures[m] for m in objectives)


class History:
    """Outcomes in the order of the tells.

    Args:
        space: Where the architectures come from.
        problem: Whose metrics are read.

    Attributes:
        outcomes: As told.
        screened: What is measured, meets the limits, and is not trained, by architecture.
        latest: The outcome of the greatest number; None before the first tell.
        known: Metrics of which anything is known.
    """

    def __init__(self, space: SearchSpace, problem: Problem) -> None:
        if not problem.objectives:
            raise ConfigError("a search needs at least one objective; the first is the task's metric")
        self.space = space
        self.problem = problem
        self.metrics = tuple(
            dict.fromkeys((*problem.objectives, *(limit.metric for limit in problem.limits)))
        )
        self.outcomes: list[Outcome] = []
        self.screened: dict[Architecture, Outcome] = {}
        self.latest: Outcome | None = None
        self.known: set[Metric] = set()
        self._numbers: set[int] = set()
        self._told: set[Architecture] = set()
        self._taken: set[Architecture] = set()

    def add(self, evaluation: Evaluation) -> Outcome:
        """Takes in an evaluation; nothing changes if it is refused.

        Raises:
            ConfigError: If its architecture is not of the space, its trial was told before, or its
                score is not a finite number.
        """
        trial = evaluation.trial
        if trial.number in self._numbers:
            raise ConfigError(
                f"trial {trial.number} was told before; a trial is told once, in its final state"
            )
        try:
            self.space.check(trial.proposal.architecture)
        except ArchitectureError as error:
            raise ConfigError(f"trial {trial.number}: {error}") from error
        for precision, score in evaluation.accuracy.items():
            if not math.isfinite(score.value):
                raise ConfigError(
                    f"trial {trial.number}: {self.problem.metric} in {precision} is {score.value}; "
                    "a training that gives no number is told as failed"
                )
        outcome = self._read(evaluation)
        self._numbers.add(trial.number)
        self._keep(outcome)
        return outcome

    def _keep(self, outcome: Outcome) -> None:
        architecture = outcome.architecture
        self.outcomes.append(outcome)
        self._told.add(architecture)
        self.known |= outcome.figures.keys()
        if self.latest is None or outcome.number > self.latest.number:
            self.latest = outcome
        if outcome.state != "screened":
            self._taken.add(architecture)
            self.screened.pop(architecture, None)
        elif outcome.violation == 0.0 and architecture not in self._taken:
            self.screened[architecture] = outcome

    def _read(self, evaluation: Evaluation) -> Outcome:
        figures = {metric: value(evaluation, metric) for metric in self.metrics}
        over = violation(evaluation, self.problem.limits)
        if evaluation.state == "infeasible" and over == 0.0:
            over = math.inf  # decided on an interval whose nominal value is within: at least not feasible
        return Outcome(
            evaluation.trial.number,
            evaluation.trial.proposal.architecture,
            evaluation.state,
            {metric: figure.value for metric, figure in figures.items() if figure is not None},
            over,
            evaluation.trial.proposal.note,
        )

    def taken(self, pending: Iterable[Trial]) -> set[Architecture]:
        """Architectures that were told or are pending; those that were only screened can still be trained."""
        return self._taken | {trial.proposal.architecture for trial in pending}

    def tried(self, pending: Iterable[Trial]) -> set[Architecture]:
        """Architectures that were told or are pending, those that were only screened among them."""
        return self._told | {trial.proposal.architecture for trial in pending}
