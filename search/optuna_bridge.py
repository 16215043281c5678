"""Our spaces and trials as Optuna sees them (Akiba et al. 2019), for its samplers and for its tools.

:func:`suggest` makes an objective of Optuna's draw from one of our spaces; :func:`study_of` gives what was
told as a study of Optuna's, to go on with there or to look at with its plots and its dashboard.  Optuna is an
extra: ``pip install boardwise[optuna]``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from results.errors import ConfigError, unknown_name
from results.records import Architecture, Problem
from search.history import History, Outcome
from search.space import SearchSpace

LIMITS = "limits"
"""Name of the constraint: the sum of relative overshoots of all limits; at most 0 is feasible."""

LARGEST_VIOLATION = 1e6
"""Stands for a violation that has no number: Optuna's constraints are finite."""

ATTRIBUTES = "optuna"
"""Key in a proposal's note: what the sampler wrote to the trial (its generation, of a genetic one)."""


def sampler(name: str, *, seed: int, **options: Any) -> optuna.samplers.BaseSampler:
    """A sampler by the name of its class; it refuses options with TypeError or ValueError.

    Raises:
        ConfigError: If Optuna has none of that name, with the nearest that it has.
    """
    known = [each for each in optuna.samplers.__all__ if each.endswith("Sampler") and each[:4] != "Base"]
    if name not in known:
        raise ConfigError(unknown_name("sampler of Optuna", name, known))
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it announces every study
    with quietly():
        made: optuna.samplers.BaseSampler = getattr(optuna.samplers, name)(seed=seed, **options)
    return made


@contextmanager
def quietly() -> Iterator[None]:
    """Without Optuna's notices that some of its arguments are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def suggest(trial: optuna.trial.BaseTrial, space: SearchSpace) -> Architecture:
    """What a trial of Optuna's draws: one categorical parameter per decision that applies."""
    choices: list[int] = []
    for index, decision in enumerate(space.decisions):
        choice = 0
        if space.applies(index, choices):
            choice = decision.options.index(trial.suggest_categorical(decision.name, decision.options))
        choices.append(choice)
    return space.architecture(choices)


def study_of(history: History, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """What was told as a study in memory: objectives in the same order, the limits as one constraint.

    A trial that broke a limit was not trained; it counts as complete with the worst accuracy seen, and its
    constraint tells that it is not feasible.  Failed trials fail there, too; what was only screened, or what
    the board lost, is left out.
    """
    problem = history.problem
    study = optuna.create_study(
        sampler=sampler,
        directions=["maximize" if metric.maximise else "minimize" for metric in problem.objectives],
    )
    worst = _worst(problem, history.outcomes)
    study.add_trials(
        _told(history.space, problem, outcome, worst)
        for outcome in history.outcomes
        if outcome.state not in ("screened", "unmeasured")
    )
    return study


def running(space: SearchSpace, architecture: Architecture) -> FrozenTrial:
    """A trial that is under way."""
    params, distributions = _parameters(space, architecture)
    return optuna.create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)


def _told(space: SearchSpace, problem: Problem, outcome: Outcome, worst: dict[Any, float]) -> FrozenTrial:
    params, distributions = _parameters(space, outcome.architecture)
    known = worst | dict(outcome.figures)
    complete = outcome.state != "failed" and all(metric in known for metric in problem.objectives)
    attributes = outcome.note.get(ATTRIBUTES)
    return optuna.create_trial(
        state=TrialState.COMPLETE if complete else TrialState.FAIL,
        values=[known[metric] for metric in problem.objectives] if complete else None,
        params=params,
        distributions=distributions,
        system_attrs=dict(attributes) if isinstance(attributes, dict) else None,
        constraints={LIMITS: min(outcome.violation, LARGEST_VIOLATION)} if problem.limits else None,
    )


def _parameters(
    space: SearchSpace, architecture: Architecture
) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    params = dict(space.describe(architecture))
    options = {decision.name: decision.options for decision in space.decisions}
    return params, {name: CategoricalDistribution(options[name]) for name in params}


def _worst(problem: Problem, outcomes: Iterable[Outcome]) -> dict[Any, float]:
    """The worst value seen of every objective."""
    worst: dict[Any, float] = {}
    for metric in problem.objectives:
        seen = [outcome.figures[metric] for outcome in outcomes if metric in outcome.figures]
        if seen:
            worst[metric] = min(seen) if metric.maximise else max(seen)
    return worst
