"""Other libraries on the same tables, by the same rules: what breaks a limit or does not run is not trained.

``pymoo:NSGA2`` is the NSGA-II of pymoo (Blank and Deb 2020) with its operators for categorical variables;
``botorch:qLogNEHVI``, alone and with our shortlist, is :mod:`benchmarks.botorch_peer`;
``bananas``, alone and with it, is :mod:`benchmarks.bananas_peer`.  Samplers of Optuna are strategies of ours
(``optuna:NSGAIISampler``) and need nothing here.

Not among them: archai.  Its last release is of 2023 and has its own loop instead of ask and tell; beside our
pins it would bring some forty packages, TensorBoard and Jupyter's widgets among them.  Its search that models
accuracy, MO-BANANAS, is what ``bananas`` is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.search_quality import SCREENED_PER_TRAINING, Run
from results.records import Architecture, Fidelity, Problem, Proposal, Trial
from search.history import History, Outcome
from search.novelty import new_sample
from tests.table_space import Table

POPULATION = 20
"""Of our own evolutionary strategies, too."""

OPTUNA = ("optuna:TPESampler", "optuna:NSGAIISampler", "optuna:GPSampler")


class Replay:
    """Answers a peer from a table and keeps account as :func:`benchmarks.search_quality.search` does.

    Args:
        table: The answers.
        problem: Objectives and limits.
        budget: Trainings.

    Attributes:
        history: What was answered.
        rows: Rows that were trained, in order.
    """

    def __init__(self, table: Table, problem: Problem, budget: int) -> None:
        self.table = table
        self.problem = problem
        self.budget = budget
        self.history = History(table.space, problem)
        self.rows: list[int] = []
        self._asked: set[int] = set()
        self._ask_s: list[float] = []
        self._waiting_s = 0.0

    @property
    def left(self) -> int:
        """Trainings left."""
        return max(0, self.budget - len(self.rows))

    @property
    def screenings_left(self) -> int:
        """Different networks that may still be measured, those to train among them."""
        return SCREENED_PER_TRAINING * self.budget - len(self._asked)

    @property
    def over(self) -> bool:
        """Whether the budget, or the screenings that it allows, are used up."""
        return self.left == 0 or self.screenings_left <= 0

    def train(self, architecture: Architecture) -> Outcome:
        """Measures and, if the board runs it within the limits, trains."""
        outcome = self._answer(Proposal(architecture, Fidelity(200)))
        if outcome.state == "complete":
            self.rows.append(self.table.row(architecture))
            self._ask_s.append(self._waiting_s)
            self._waiting_s = 0.0
        return outcome

    def measure(self, architecture: Architecture) -> Outcome:
        """Measures only."""
        return self._answer(Proposal(architecture, Fidelity(200), screen_only=True))

    def took(self, seconds: float) -> None:
        """CPU time that the next training's choice took, or the choice of a batch that starts with it [s]."""
        self._waiting_s += seconds

    def search(
        self, choose: Callable[[], list[Architecture]], rng: np.random.Generator, *, start: int
    ) -> Run:
        """Random networks until ``start`` are trained, then what is chosen, a batch at a time."""
        while not self.over:
            began_s = time.process_time()
            chosen = self._random(rng) if len(self.rows) < start else []
            chosen = chosen or choose()
            spent_s = time.process_time() - began_s
            self.took(0.0 if chosen else spent_s)
            for architecture in chosen:
                self.took(spent_s / len(chosen))
                self.train(architecture)
        return self.run()

    def _random(self, rng: np.random.Generator) -> list[Architecture]:
        found = new_sample(self.table.space, rng, self.history.taken(()))
        return [] if found is None else [found]

    def run(self) -> Run:
        """The account."""
        return Run(self.rows[: self.budget], len(self._asked), self._ask_s or [0.0])

    def _answer(self, proposal: Proposal) -> Outcome:
        self._asked.add(self.table.row(proposal.architecture))
        return self.history.add(self.table.evaluate(Trial(len(self.history.outcomes), proposal)))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's own generator, which weights and samples are drawn from."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def pymoo_nsga2(table: Table, problem: Problem, *, seed: int, budget: int) -> Run:
    """NSGA-II of pymoo until ``budget`` networks are trained."""
    algorithm = _algorithm(table, problem, seed)
    replay = Replay(table, problem, budget)
    while not replay.over:
        population = algorithm.ask()
        if population is None or len(population) == 0:
            break
        for individual in population:
            outcome = replay.train(table.space.from_options(dict(individual.X)))
            individual.set("F", _losses(outcome, problem))
            individual.set("G", np.array([1e6 if outcome.state == "failed" else min(outcome.violation, 1e6)]))
        algorithm.tell(infills=population)
    return replay.run()


def botorch_search(table: Table, problem: Problem, *, seed: int, budget: int) -> Run:
    """qLogNEHVI of BoTorch until ``budget`` networks are trained."""
    from benchmarks import botorch_peer

    return botorch_peer.search(table, problem, seed=seed, budget=budget)


def botorch_shortlist(table: Table, problem: Problem, *, seed: int, budget: int) -> Run:
    """The same with eight candidates measured before one is trained."""
    from benchmarks import botorch_peer

    return botorch_peer.search(table, problem, seed=seed, budget=budget, shortlist=True)


def bananas(table: Table, problem: Problem, *, seed: int, budget: int) -> Run:
    """BANANAS until ``budget`` networks are trained."""
    from benchmarks import bananas_peer

    return bananas_peer.search(table, problem, seed=seed, budget=budget)


def bananas_shortlist(table: Table, problem: Problem, *, seed: int, budget: int) -> Run:
    """The same with eight candidates measured per training."""
    from benchmarks import bananas_peer

    return bananas_peer.search(table, problem, seed=seed, budget=budget, shortlist=True)


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


def _losses(outcome: Outcome, problem: Problem) -> np.ndarray[Any, Any]:
    """Losses; 1 for an accuracy or a cost that was not found out: such a trial is infeasible anyway."""
    losses = []
    for metric in problem.objectives:
        figure = outcome.figures.get(metric)
        losses.append(1.0 if figure is None else -figure if metric.maximise else figure)
    return np.array(losses)


PEERS: dict[str, Callable[..., Run]] = {
    "pymoo:NSGA2": pymoo_nsga2,
    "botorch:qLogNEHVI": botorch_search,
    "botorch:qLogNEHVI+shortlist": botorch_shortlist,
    "bananas": bananas,
    "bananas+shortlist": bananas_shortlist,
}
"""Searches by name."""


def versions() -> dict[str, str]:
    """Of the libraries, with the options that differ from their defaults."""
    from benchmarks import bananas_peer, botorch_peer

    found = {name: version(name) for name in ("botorch", "gpytorch", "optuna", "pymoo", "torch")}
    options = {
        "botorch": botorch_peer.OPTIONS,
        "pymoo": f"pop_size={POPULATION}",
        "torch": f"bananas {bananas_peer.OPTIONS}",
    }
    return {name: f"{number} {options.get(name, '')}".strip() for name, number in found.items()}
