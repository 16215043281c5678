"""What the speed-ups save: training seconds until 98 % of the plain search's final hypervolume.

::

    python -m benchmarks.speedups --json speedups.json                  # everything
    python -m benchmarks.speedups --json s.json --only combined --seeds 0

Task ``digits_in_photos``; 68 plain chains of up to 1.5 million MACs (:mod:`benchmarks.speedups_cache`);
accuracy up, p90 latency of ONNX Runtime on this machine down, measured once.  Both searches take their
candidates in the same random order.  The plain search trains each for all epochs from fresh weights; its
trainings are read from ``benchmarks/data``.  The combined search trains live, whatever it inherits.

A search chooses its front by the validation split and is scored on the test split: hypervolume of (test
error, latency) of what it chose among its *full* trainings, reference point the median test error of all
candidates and 1.1 times the greatest latency on their true front.  Training seconds are CPU seconds of every
training, whatever became of it, parents' too.  ``normalised_ratio`` counts epochs instead, each at what an
epoch of that network took in its full training: CPU seconds on a busy machine vary by a third.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import speedups_cache as cache
from results.fidelity import agreements, describe_fidelity, is_full, levels
from results.pareto import hypervolume
from results.rank_correlation import kendall
from results.records import Architecture, Evaluation, Fidelity, Limit, Metric, Problem, Proposal, Score, Trial
from results.statistics import value
from search.datasets import load_task
from search.fidelity import SuccessiveHalving
from search.ladder import Ladder
from search.learning_curve import CurvePredictor
from search.learning_curve_stopping import StopsEarly
from search.strategies import random_search
from search.strategy import Strategy
from search.training import TrainingJob, TrainingResult, evaluate
from search.training_pool import TrainingPool

FULL = Fidelity(cache.EPOCHS)
LADDER = Ladder((Fidelity(3), Fidelity(8), FULL), reduction=3)
SHARE = 0.98
LATENCY = Metric("latency_p90", (cache.TARGET.name,))
PROBLEM = Problem((Metric("accuracy", maximise=True), LATENCY), (Limit(Metric("macs"), cache.MOST_MACS),))
EXAMPLES = 500


@dataclass(frozen=True)
class Step:
    """A trial that was told: what it cost so far, and what was found so far.

    Attributes:
        trained_s: CPU seconds of all trainings so far.
        normalised_s: Their epochs at the network's own seconds per epoch.
        volume: Hypervolume of the front.
    """

    trained_s: float
    normalised_s: float
    volume: float


@dataclass
class Outcome:
    """One search: its trials in the order of the tells, and test accuracies by number."""

    evaluations: list[Evaluation] = field(default_factory=list)
    tests: dict[int, float] = field(default_factory=dict)
    wall_s: float = 0.0


class Table:
    """The cached full trainings and latencies."""

    def __init__(self, seed: int = 0) -> None:
        self.fulls = {choices: full for (choices, s), full in cache.fulls().items() if s == seed}
        self.measurements = cache.latencies()
        self.space = cache.space()
        self.latency_s = {choices: self._latency(choices) for choices in self.measurements}
        points = np.array([[1 - full.test, self.latency_s[c]] for c, full in self.fulls.items()])
        front = [p for p in points if not ((points <= p).all(axis=1) & (points < p).any(axis=1)).any()]
        self.reference = np.array([np.median(points[:, 0]), 1.1 * max(p[1] for p in front)])

    def _latency(self, choices: tuple[int, ...]) -> float:
        trial = Trial(0, Proposal(Architecture(self.space.fingerprint, choices), FULL))
        figure = value(
            Evaluation(trial, "complete", {cache.TARGET.name: self.measurements[choices]}), LATENCY
        )
        if figure is None:
            raise ValueError(f"{choices}: the latency is not known")
        return figure.value

    def steps(self, outcome: Outcome) -> list[Step]:
        """What a search had spent and found after each training."""
        reached = levels(e.trial for e in outcome.evaluations)
        spent_s = normalised_s = 0.0
        chosen: list[tuple[float, float, float]] = []
        found = []
        for evaluation in outcome.evaluations:
            if evaluation.state != "complete":
                continue
            number, choices = evaluation.trial.number, evaluation.trial.proposal.architecture.choices
            full = self.fulls[choices]
            if is_full(reached[number], FULL) and not evaluation.stopped:
                error = 1 - evaluation.accuracy["fp32"].value
                chosen.append((error, self.latency_s[choices], outcome.tests[number]))
            spent_s += evaluation.training_s
            normalised_s += len(evaluation.learning_curve) * full.training_s / len(full.curve)
            found.append(Step(spent_s, normalised_s, self.volume(chosen)))
        return found

    def volume(self, chosen: Sequence[tuple[float, float, float]]) -> float:
        """Hypervolume on the test split of the front that the validation split chooses.

        Args:
            chosen: Validation error, latency and test accuracy of every full training, ``(n, 3)``.
        """
        points = np.array(chosen).reshape(-1, 3)
        costs = points[:, :2]
        kept = [
            (1 - test, latency)
            for (error, latency, test) in points
            if not ((costs <= (error, latency)).all(axis=1) & (costs < (error, latency)).any(axis=1)).any()
        ]
        inside = [p for p in kept if (np.array(p) < self.reference).all()]
        return hypervolume(np.array(inside).reshape(-1, 2), self.reference, [False, False])


Train = Callable[[Trial, Evaluation], Future[tuple[TrainingResult, float]]]
"""Trains a trial; gives the result and, of a full training, the test accuracy."""


class Search:
    """One search, with so many trials under way at once."""

    def __init__(self, table: Table, strategy: Strategy, train: Train, *, in_flight: int) -> None:
        self.table, self.strategy, self.train, self.in_flight = table, strategy, train, in_flight
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Runs to the end of the strategy."""
        began = time.monotonic()
        pending: dict[int, tuple[Evaluation, Future[tuple[TrainingResult, float]] | None]] = {}
        asked = 0
        while True:
            while len(pending) < self.in_flight:
                trials = [evaluation.trial for evaluation, _ in pending.values()]
                proposal = self.strategy.ask(asked, trials)
                if proposal is None:
                    break
                evaluation = self._screened(Trial(asked, proposal))
                training = (
                    self.train(evaluation.trial, evaluation) if evaluation.state == "complete" else None
                )
                pending[asked] = evaluation, training
                asked += 1
            if not pending:
                break
            self._tell(*pending.pop(min(pending)))
        self.outcome.wall_s = time.monotonic() - began
        return self.outcome

    def _screened(self, trial: Trial) -> Evaluation:
        """Measured; infeasible if it breaks the limit, so that it is not trained."""
        choices = trial.proposal.architecture.choices
        macs = cache.macs_of(choices)
        state: Any = "complete" if macs <= cache.MOST_MACS else "infeasible"
        measured = {cache.TARGET.name: self.table.measurements[choices]}
        return Evaluation(trial, state, measured, network={"macs": float(macs)})

    def _tell(self, known: Evaluation, training: Future[tuple[TrainingResult, float]] | None) -> None:
        evaluation = known
        if training is not None:
            result, test = training.result()
            evaluation = Evaluation(
                known.trial,
                "complete",
                known.measurements,
                {"fp32": result.score},
                known.network,
                result.curve,
                training_s=result.training_s,
                stopped=result.stopped,
            )
            self.outcome.tests[evaluation.trial.number] = test
        self.outcome.evaluations.append(evaluation)
        self.strategy.tell(evaluation)


# --------------------------------------------------------------------------- how a trial is trained


class Cached:
    """Full trainings from fresh weights, out of the table."""

    def __init__(self, table: Table, stopping: StopsEarly | None = None) -> None:
        self.table, self.stopping = table, stopping

    def __call__(self, trial: Trial, evaluation: Evaluation) -> Future[tuple[TrainingResult, float]]:
        full = self.table.fulls[trial.proposal.architecture.choices]
        epochs = len(full.curve)
        if self.stopping is not None:
            ends = (n for n in range(1, epochs) if self.stopping.hopeless(evaluation, full.curve[:n]))
            epochs = next(ends, epochs)
        curve = full.curve[:epochs]
        training_s = full.training_s * epochs / len(full.curve)
        score = Score(curve[-1], EXAMPLES)
        future: Future[tuple[TrainingResult, float]] = Future()
        future.set_result(
            (TrainingResult(score, curve, {}, training_s, 0, epochs < len(full.curve)), full.test)
        )
        return future


class Live:
    """Trainings in worker processes, from the weights that a proposal names."""

    def __init__(self, pool: TrainingPool, seed: int, stopping: StopsEarly | None = None) -> None:
        self.pool, self.seed, self.stopping = pool, seed, stopping
        self._weights: dict[int, Any] = {}
        self._task = load_task(cache.TASK)

    def __call__(self, trial: Trial, evaluation: Evaluation) -> Future[tuple[TrainingResult, float]]:
        proposal, stopping = trial.proposal, self.stopping
        plain = cache.job_of(proposal.architecture, proposal.fidelity, 1000 * self.seed + trial.number)
        weights = self._weights[proposal.weights_from] if isinstance(proposal.weights_from, int) else None
        job = TrainingJob(
            plain.network, plain.task_name, {}, plain.fidelity, plain.seed, weights, plain.time_limit_s
        )
        curve: list[float] = []

        def on_epoch(epoch: int, score: float) -> bool:
            curve.append(score)
            return stopping is not None and stopping.hopeless(evaluation, curve) is not None

        done: Future[tuple[TrainingResult, float]] = Future()

        def finish(training: Future[TrainingResult]) -> None:
            try:
                result = training.result()
                self._weights[trial.number] = result.weights
                test = evaluate(job.network, result.weights, self._task, "test").value
                done.set_result((result, test))
            except Exception as error:  # noqa: BLE001  goes to whoever waits
                done.set_exception(error)

        self.pool.submit(job, on_epoch, may_stop=stopping is not None).add_done_callback(finish)
        return done


# --------------------------------------------------------------------------- searches


def plain(table: Table, seed: int) -> Outcome:
    """Every candidate, all epochs."""
    return Search(table, _within(table, seed), Cached(table), in_flight=2).run()


def _within(table: Table, seed: int) -> Strategy:
    return random_search.Strategy(table.space, PROBLEM, fidelity=FULL, seed=seed)


def curves_alone(table: Table, seed: int) -> Outcome:
    """All epochs, unless the curve is hopeless."""
    stopping = StopsEarly(_within(table, seed))
    return Search(table, stopping, Cached(table, stopping), in_flight=2).run()


def _halving(table: Table, seed: int, ladder: Ladder) -> SuccessiveHalving:
    return SuccessiveHalving(
        lambda: _within(table, seed),
        table.space,
        PROBLEM,
        ladder=ladder,
        candidates=len(list(table.space.architectures())),
        seed=seed,
    )


def lower_fidelity(table: Table, seed: int, workers: int) -> Outcome:
    """Short trainings first; promoted ones go on."""
    with TrainingPool(workers, coming=(cache.TASK, {})) as pool:
        return Search(table, _halving(table, seed, LADDER), Live(pool, seed), in_flight=workers).run()


def combined(table: Table, seed: int, workers: int) -> Outcome:
    """Short trainings first, promoted ones go on, hopeless ones are ended."""
    with TrainingPool(workers, coming=(cache.TASK, {})) as pool:
        strategy = StopsEarly(_halving(table, seed, LADDER))
        return Search(table, strategy, Live(pool, seed, strategy), in_flight=workers).run()


# --------------------------------------------------------------------------- figures


def until(steps: Sequence[Step], volume: float) -> Step | None:
    """The first step that reaches a volume."""
    return next((step for step in steps if step.volume >= volume), None)


def compared(table: Table, plain_: Outcome, other: Outcome) -> dict[str, Any]:
    """A search against the plain one of the same seed."""
    before, after = table.steps(plain_), table.steps(other)
    final, end = before[-1], after[-1]
    theirs, ours = until(before, SHARE * final.volume), until(after, SHARE * final.volume)
    figures: dict[str, Any] = {
        "training_seconds_ratio": None,
        "normalised_ratio": None,
        "hypervolume_ratio": end.volume / final.volume,
        "whole_search_ratio": end.trained_s / final.trained_s,
        "whole_search_normalised_ratio": end.normalised_s / final.normalised_s,
        "plain_until_s": None if theirs is None else theirs.trained_s,
        "plain_s": final.trained_s,
        "trials": len(other.evaluations),
        "full_trainings": sum(e.learning_curve != () and not e.stopped for e in _full(other)),
        "stopped": sum(e.stopped for e in other.evaluations),
        "wall_s": other.wall_s,
        "rungs": [
            {
                "low": describe_fidelity(a.low),
                "high": describe_fidelity(a.high),
                "networks": a.networks,
                "tau": None if a.tau is None else asdict(a.tau),
            }
            for a in agreements(other.evaluations)
        ],
    }
    if theirs is not None and ours is not None:
        figures["training_seconds_ratio"] = ours.trained_s / theirs.trained_s
        figures["normalised_ratio"] = ours.normalised_s / theirs.normalised_s
    return figures


def _full(outcome: Outcome) -> list[Evaluation]:
    reached = levels(e.trial for e in outcome.evaluations)
    return [e for e in outcome.evaluations if is_full(reached[e.trial.number], FULL)]


def mean_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of the ratios; None where a search never got there."""
    keys = (
        "training_seconds_ratio",
        "normalised_ratio",
        "hypervolume_ratio",
        "whole_search_ratio",
        "whole_search_normalised_ratio",
    )
    means: dict[str, Any] = {}
    for key in keys:
        values = [row[key] for row in rows]
        means[key] = None if None in values else statistics.fmean(values)
    return means


def calibration(table: Table) -> dict[str, Any]:
    """Share of 90 % intervals that cover the end of a curve, each predicted from all others."""
    curves = [full.curve for full in table.fulls.values()]
    found = {}
    for epoch in (4, 6, 8, 12, 16, 20):
        covered, errors = [], []
        for i, curve in enumerate(curves):
            predictor = CurvePredictor([other for j, other in enumerate(curves) if j != i])
            mixture = predictor.predict(curve[:epoch])
            if mixture is not None:
                interval = mixture.interval(0.9)
                covered.append(interval.low <= curve[-1] <= interval.high)
                errors.append(abs(interval.value - curve[-1]))
        if covered:
            found[f"epoch_{epoch}"] = {
                "coverage_90": statistics.fmean(covered),
                "mean_error": statistics.fmean(errors),
            }
    return found


def levelled(table: Table) -> list[dict[str, Any]]:
    """Validation accuracy after all epochs and after twice as many, where both were trained."""
    longer = cache.fulls(2 * cache.EPOCHS)
    return [
        {"choices": choices, "at": full.curve[-1], "at_twice": longer[choices, 0].curve[-1]}
        for choices, full in table.fulls.items()
        if (choices, 0) in longer
    ]


def early_epochs(table: Table) -> dict[str, Any]:
    """Kendall's tau between an epoch of the full trainings and their end."""
    curves = [full.curve for full in table.fulls.values()]
    taus = {e: kendall([c[e - 1] for c in curves], [c[-1] for c in curves]) for e in (3, 8, 16)}
    return {f"epoch_{e}": None if tau is None else asdict(tau) for e, tau in taus.items()}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=("combined", "lower_fidelity", "learning_curves"))
    arguments = parser.parse_args()
    figures = measure(arguments.seeds, arguments.workers, arguments.only)
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


def measure(seeds: Sequence[int], workers: int, only: str | None) -> dict[str, Any]:
    """Everything, or one of the searches."""
    table = Table()
    plains = {seed: plain(table, seed) for seed in seeds}
    first = seeds[0]
    figures: dict[str, Any] = {
        "candidates": len(table.fulls),
        "plain": {
            "levelled_off": levelled(table),
            "early_epochs": early_epochs(table),
        },
        "calibration": calibration(table),
        "each": {},
    }
    if only in (None, "learning_curves"):
        figures["each"]["learning_curves"] = compared(table, plains[first], curves_alone(table, first))
    if only in (None, "lower_fidelity"):
        figures["each"]["lower_fidelity"] = compared(
            table, plains[first], lower_fidelity(table, first, workers)
        )
    if only in (None, "combined"):
        rows = [compared(table, plains[seed], combined(table, seed, workers)) for seed in seeds]
        figures["combined"] = mean_of(rows) | {"seeds": dict(zip(map(str, seeds), rows, strict=True))}
    return figures


if __name__ == "__main__":
    main()
