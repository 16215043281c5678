"""Searches of the speed-up benchmark: how trials are asked for, trained and scored.

See :mod:`benchmarks.speedups`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from benchmarks import speedups_cache as cache
from results.errors import TrainingError
from results.fidelity import is_full, levels
from results.pareto import hypervolume
from results.records import (
    Architecture,
    Evaluation,
    Fidelity,
    Interval,
    Limit,
    Metric,
    Problem,
    Proposal,
    Score,
    Trial,
)
from results.statistics import value
from search.datasets import load_task
from search.learning_curve_stopping import StopsEarly
from search.morphism import map_weights
from search.morphism_norms import settle
from search.network import Network
from search.strategy import Strategy
from search.supernet import Supernet
from search.supernet_training import path_weights
from search.training import TrainingResult, Weights, evaluate, repeatable
from search.training_images import training_images
from search.training_pool import TrainingPool

FULL = Fidelity(cache.EPOCHS)
LATENCY = Metric("latency_p90", (cache.TARGET.name,))
PROBLEM = Problem((Metric("accuracy", maximise=True), LATENCY), (Limit(Metric("macs"), cache.MOST_MACS),))
EXAMPLES = 500
IN_FLIGHT = 2
"""Trials under way at once, however many workers there are: figures do not depend on them."""
LONG = 12
"""Epochs of a training from which on it tells the pace of the machine."""


@dataclass(frozen=True)
class Step:
    """A trial that was told: what it cost so far, and what was found so far.

    Attributes:
        trained_s: CPU seconds of all trainings so far.
        epochs_s: Their epochs at what an epoch of the network took in its cached full training.
        volume: Hypervolume of the front.
    """

    trained_s: float
    epochs_s: float
    volume: float


@dataclass
class Outcome:
    """One search.

    Attributes:
        evaluations: Trials in the order of the tells.
        tests: Test accuracies of full trainings by number of the trial.
        ends: Where those that were ended early would have ended (90 %, modelled), by number.
        before_s: CPU seconds before the first trial: a supernet's.
        wall_s: How long it took.
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    tests: dict[int, float] = field(default_factory=dict)
    ends: dict[int, Interval] = field(default_factory=dict)
    before_s: float = 0.0
    wall_s: float = 0.0


class Table:
    """The cached full trainings and latencies."""

    def __init__(self, seed: int = 0) -> None:
        known = cache.fulls()
        self.fulls = {a.choices: known[a.choices, seed] for a in cache.candidates()}
        self.measurements = cache.latencies()
        self.space = cache.space()
        self.latency_s = {choices: self._latency(choices) for choices in self.measurements}
        points = np.array([[1 - full.test, self.latency_s[c]] for c, full in self.fulls.items()])
        slowest = max(points[i, 1] for i in nondominated(points))
        self.reference = np.array([points[:, 0].max(), math.log(1.1 * slowest)])

    def _latency(self, choices: tuple[int, ...]) -> float:
        trial = Trial(0, Proposal(Architecture(self.space.fingerprint, choices), FULL))
        figure = value(
            Evaluation(trial, "complete", {cache.TARGET.name: self.measurements[choices]}), LATENCY
        )
        if figure is None:
            raise ValueError(f"{choices}: the latency is not known")
        return figure.value

    def epoch_s(self, choices: tuple[int, ...]) -> float:
        """CPU seconds of an epoch in the cached full training."""
        full = self.fulls[choices]
        return full.training_s / len(full.curve)

    def steps(self, outcome: Outcome) -> list[Step]:
        """What a search had spent and found after each training."""
        reached = levels(e.trial for e in outcome.evaluations)
        spent_s = epochs_s = outcome.before_s
        chosen: list[tuple[float, float, float]] = []
        found = []
        for evaluation in outcome.evaluations:
            if evaluation.state not in ("complete", "failed"):
                continue
            number, choices = evaluation.trial.number, evaluation.trial.proposal.architecture.choices
            if number in outcome.tests and is_full(reached[number], FULL):
                error = 1 - evaluation.accuracy["fp32"].value
                chosen.append((error, self.latency_s[choices], outcome.tests[number]))
            spent_s += evaluation.training_s
            epochs_s += own_epochs(evaluation) * self.epoch_s(choices)
            found.append(Step(spent_s, epochs_s, self.volume(chosen)))
        return found

    def volume(self, chosen: Sequence[tuple[float, float, float]]) -> float:
        """Hypervolume on the test split of the front that the validation split chooses.

        Args:
            chosen: Validation error, latency and test accuracy of every full training, ``(n, 3)``.
        """
        points = np.array(chosen).reshape(-1, 3)
        kept = [(1 - points[i, 2], math.log(points[i, 1])) for i in nondominated(points[:, :2])]
        inside = [p for p in kept if (np.array(p) < self.reference).all()]
        return hypervolume(np.array(inside).reshape(-1, 2), self.reference, [False, False])

    def pace(self, outcome: Outcome) -> float:
        """Seconds of an epoch now over those in the cached trainings; 1 where nothing long was trained now.

        Median over the long trainings of a search: short ones have a larger share of what is not epochs.
        """
        long = [e for e in outcome.evaluations if own_epochs(e) >= LONG]
        ratios = [
            e.training_s / own_epochs(e) / self.epoch_s(e.trial.proposal.architecture.choices) for e in long
        ]
        return statistics.median(ratios) if ratios else 1.0


def own_epochs(evaluation: Evaluation) -> int:
    """Epochs that a trial was trained itself; 0 where only shared weights were scored.

    All that it was to have where it diverged: the most that it can have cost.
    """
    asked = evaluation.trial.proposal.fidelity.epochs
    return asked if evaluation.state == "failed" else min(len(evaluation.learning_curve), asked)


def full_trainings(outcome: Outcome) -> list[Evaluation]:
    """Trials that came to the end of a full training."""
    reached = levels(e.trial for e in outcome.evaluations)
    return [
        e
        for e in outcome.evaluations
        if e.state == "complete" and not e.stopped and is_full(reached[e.trial.number], FULL)
    ]


def nondominated(points: np.ndarray[Any, Any]) -> list[int]:
    """Rows of ``(n, m)``, less being better, that no other row dominates."""
    return [
        i for i, p in enumerate(points) if not ((points <= p).all(axis=1) & (points < p).any(axis=1)).any()
    ]


# --------------------------------------------------------------------------- one search


class Trainer(Protocol):
    """How a search trains."""

    def start(self, trial: Trial, evaluation: Evaluation) -> Future[TrainingResult]:
        """Begins the training of a trial that was measured."""

    def ended(self, trial: Trial, result: TrainingResult) -> tuple[float, float | None]:
        """CPU seconds of a training with those for its first weights; test accuracy if it was a full one."""


class Search:
    """One search, with :data:`IN_FLIGHT` trials under way at once."""

    def __init__(self, table: Table, strategy: Strategy, trainer: Trainer) -> None:
        self.table, self.strategy, self.trainer = table, strategy, trainer
        self.outcome = Outcome()
        self._asked = 0

    def run(self) -> Outcome:
        """Runs to the end of the strategy."""
        began = time.monotonic()
        pending: dict[int, tuple[Evaluation, Future[TrainingResult] | None]] = {}
        while True:
            while len(pending) < IN_FLIGHT and (evaluation := self._ask(pending)) is not None:
                complete = evaluation.state == "complete"
                training = self.trainer.start(evaluation.trial, evaluation) if complete else None
                pending[evaluation.trial.number] = evaluation, training
            if not pending:
                self.outcome.wall_s = time.monotonic() - began
                return self.outcome
            self._tell(*pending.pop(min(pending)))

    def _ask(self, pending: dict[int, tuple[Evaluation, Future[TrainingResult] | None]]) -> Evaluation | None:
        """The next trial, measured; infeasible if it breaks the limit, so that it is not trained."""
        proposal = self.strategy.ask(self._asked, [known.trial for known, _ in pending.values()])
        if proposal is None:
            return None
        trial, choices = Trial(self._asked, proposal), proposal.architecture.choices
        self._asked += 1
        macs = cache.macs_of(choices)
        state: Any = "complete" if macs <= cache.MOST_MACS else "infeasible"
        measured = {cache.TARGET.name: self.table.measurements[choices]}
        return Evaluation(trial, state, measured, network={"macs": float(macs)})

    def _tell(self, known: Evaluation, training: Future[TrainingResult] | None) -> None:
        evaluation = known if training is None else self._trained(known, training)
        self.outcome.evaluations.append(evaluation)
        self.strategy.tell(evaluation)

    def _trained(self, known: Evaluation, training: Future[TrainingResult]) -> Evaluation:
        """What came of a training; one that diverged has failed, and its epochs count as if all were done."""
        number, choices = known.trial.number, known.trial.proposal.architecture.choices
        try:
            result = training.result()
        except TrainingError as error:
            whole_s = known.trial.proposal.fidelity.epochs * self.table.epoch_s(choices)
            return replace(known, state="failed", training_s=whole_s, error=str(error))
        training_s, test = self.trainer.ended(known.trial, result)
        if test is not None:
            self.outcome.tests[number] = test
        if result.stopped and isinstance(self.strategy, StopsEarly):
            forecast = self.strategy.forecast(known, result.curve)
            if forecast is not None:
                self.outcome.ends[number] = forecast.ends
        return replace(
            known,
            accuracy={"fp32": result.score},
            learning_curve=result.curve,
            training_s=training_s,
            stopped=result.stopped,
        )


# --------------------------------------------------------------------------- how a trial is trained


class Cached:
    """Full trainings from fresh weights, out of the table."""

    def __init__(self, table: Table, stopping: StopsEarly | None = None) -> None:
        self.table, self.stopping = table, stopping

    def start(self, trial: Trial, evaluation: Evaluation) -> Future[TrainingResult]:
        full = self.table.fulls[trial.proposal.architecture.choices]
        epochs = len(full.curve)
        if self.stopping is not None:
            ends = (n for n in range(1, epochs) if self.stopping.hopeless(evaluation, full.curve[:n]))
            epochs = next(ends, epochs)
        curve, stopped = full.curve[:epochs], epochs < len(full.curve)
        training_s = self.table.epoch_s(full.choices) * epochs
        future: Future[TrainingResult] = Future()
        future.set_result(TrainingResult(Score(curve[-1], EXAMPLES), curve, {}, training_s, 0, stopped))
        return future

    def ended(self, trial: Trial, result: TrainingResult) -> tuple[float, float | None]:
        full = self.table.fulls[trial.proposal.architecture.choices]
        return result.training_s, None if result.stopped else full.test


class Live:
    """Trainings in worker processes, from the weights that a proposal names.

    Args:
        pool: Where.
        seed: Of the search; fresh weights and the order of the images follow from it.
        stopping: Ends hopeless trainings.
        supernet: Whose weights a proposal may name.
    """

    def __init__(
        self,
        pool: TrainingPool,
        seed: int,
        *,
        stopping: StopsEarly | None = None,
        supernet: Supernet | None = None,
    ) -> None:
        self.pool, self.seed, self.stopping, self.supernet = pool, seed, stopping, supernet
        self._weights: dict[int, Weights] = {}
        self._trials: dict[int, Trial] = {}
        self._prepared_s: dict[int, float] = {}
        self._task = load_task(cache.TASK)

    def start(self, trial: Trial, evaluation: Evaluation) -> Future[TrainingResult]:
        self._trials[trial.number] = trial
        proposal, seed = trial.proposal, 1000 * self.seed + trial.number
        plain = cache.job_of(proposal.architecture, proposal.fidelity, seed)
        began_s = time.process_time()
        weights = self._start(trial, plain.network)
        self._prepared_s[trial.number] = time.process_time() - began_s
        stopping, curve = self.stopping, list[float]()

        def on_epoch(epoch: int, score: float) -> bool:
            curve.append(score)
            return stopping is not None and stopping.hopeless(evaluation, curve) is not None

        job = replace(plain, weights=weights)
        if weights is not None and proposal.fidelity.epochs == 0:
            return self._scored(job.network, weights)
        return self.pool.submit(job, on_epoch, may_stop=stopping is not None)

    def _scored(self, network: Network, weights: Weights) -> Future[TrainingResult]:
        """Weights that are there, with their score; not trained."""
        began_s = time.process_time()
        score = evaluate(network, weights, self._task, "validation")
        seconds = time.process_time() - began_s
        done: Future[TrainingResult] = Future()
        done.set_result(TrainingResult(score, (score.value,), weights, seconds, 0))
        return done

    def ended(self, trial: Trial, result: TrainingResult) -> tuple[float, float | None]:
        self._weights[trial.number] = result.weights
        training_s = result.training_s + self._prepared_s[trial.number]
        if result.stopped or not is_full(levels(self._trials.values())[trial.number], FULL):
            return training_s, None
        network = cache.space().build(trial.proposal.architecture)
        return training_s, evaluate(network, result.weights, self._task, "test").value

    def _start(self, trial: Trial, network: Network) -> Weights | None:
        """The weights that a trial begins with: fresh, its own, a relative's or the supernet's."""
        source = trial.proposal.weights_from
        if source is None:
            return None
        if isinstance(source, str):
            if self.supernet is None:
                raise ValueError(f"trial {trial.number} wants weights of {source!r}, which there is not")
            return path_weights(self.supernet, network, self._task)
        parent = cache.space().build(self._trials[source].proposal.architecture)
        made = map_weights(parent, self._weights[source], network, seed=trial.number)
        if not made.adjusted:
            return made.weights
        with repeatable(0):
            images = training_images(self._task, network, 256)
            return settle(network, made.weights, made.adjusted, images)
