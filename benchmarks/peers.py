"""Other libraries on the same tables, by the same rules: what breaks a limit or does not run is not trained.

``pymoo:NSGA2`` is the NSGA-II of pymoo (Blank and Deb 2020) with its operators for categorical variables.
Samplers of Optuna are strategies of ours (``optuna:NSGAIISampler``) and need nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.search_quality import SCREENED_PER_TRAINING, Run
from results.records import Fidelity, Problem, Proposal, Trial
from search.history import History, Outcome
from tests.table_space import Table

POPULATION = 20
"""Of our own evolutionary strategies, too."""

OPTUNA = ("optuna:TPESampler", "optuna:NSGAIISampler", "optuna:GPSampler")


def pymoo_nsga2(table: Table, problem: Problem, *, seed: int, budget: int) -> Run:
    """NSGA-II of pymoo until ``budget`` networks are trained."""
    algorithm = _algorithm(table, problem, seed)
    history = History(table.space, problem)
    rows: list[int] = []
    asked: set[int] = set()
    while len(rows) < budget and len(asked) < SCREENED_PER_TRAINING * budget:
        population = algorithm.ask()
        if population is None or len(population) == 0:
            break
        for individual in population:
            architecture = table.space.from_options(dict(individual.X))
            trial = Trial(len(history.outcomes), Proposal(architecture, Fidelity(200)))
            outcome = history.add(table.evaluate(trial))
            individual.set("F", _losses(outcome, history))
            individual.set("G", np.array([1e6 if outcome.state == "failed" else min(outcome.violation, 1e6)]))
            asked.add(table.row(architecture))
            if outcome.state == "complete":
                rows.append(table.row(architecture))
        algorithm.tell(infills=population)
    return Run(rows[:budget], len(asked), [0.0])


def _algorithm(table: Table, problem: Problem, seed: int) -> Any:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mixed import (
        MixedVariableDuplicateElimination,
        MixedVariableMating,
        MixedVariableSampling,
    )
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.core.variable import Choice

    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=MixedVariableSampling(),
        mating=MixedVariableMating(eliminate_duplicates=MixedVariableDuplicateElimination()),
        eliminate_duplicates=MixedVariableDuplicateElimination(),
    )
    variables = {d.name: Choice(options=list(d.options)) for d in table.space.decisions}
    described = PymooProblem(vars=variables, n_obj=len(problem.objectives), n_ieq_constr=1)
    algorithm.setup(described, seed=seed, verbose=False, termination=("n_gen", 10_000))
    return algorithm


def _losses(outcome: Outcome, history: History) -> np.ndarray[Any, Any]:
    """Losses; 1 for an accuracy or a cost that was not found out: such a trial is infeasible anyway."""
    losses = []
    for metric in history.problem.objectives:
        figure = outcome.figures.get(metric)
        losses.append(1.0 if figure is None else -figure if metric.maximise else figure)
    return np.array(losses)


PEERS: dict[str, Callable[..., Run]] = {"pymoo:NSGA2": pymoo_nsga2}
"""Searches by name."""


def versions() -> dict[str, str]:
    """Of the libraries."""
    return {name: version(name) for name in ("optuna", "pymoo")}
