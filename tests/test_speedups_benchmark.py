"""The speed-up benchmark's own arithmetic: what counts as spent, found, risked and lost."""

from __future__ import annotations

import math
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import speedups_cache as cache
from benchmarks.speedups_plain import between_seeds, gain, levelled
from benchmarks.speedups_risk import plain_front, risk, screening
from benchmarks.speedups_search import FULL, PROBLEM, Cached, Outcome, Search, Table, own_epochs
from results.errors import TrainingError
from results.records import Evaluation, Fidelity, Proposal, Trial
from search.network import weight_shapes
from search.strategies import grid
from search.training import TrainingResult, train

Choices = tuple[int, ...]


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


@pytest.fixture(scope="module")
def whole(table: Table) -> Outcome:
    """The plain search in the order of the space."""
    return Search(table, grid.Strategy(table.space, PROBLEM, fidelity=FULL, seed=0), Cached(table)).run()


class Diverges(Cached):
    """Trainings out of the table, but for one network whose loss is no number."""

    def __init__(self, table: Table, choices: Choices) -> None:
        super().__init__(table)
        self._choices = choices

    def start(self, trial: Trial, evaluation: Evaluation) -> Future[TrainingResult]:
        if trial.proposal.architecture.choices != self._choices:
            return super().start(trial, evaluation)
        future: Future[TrainingResult] = Future()
        future.set_exception(TrainingError("network", "diverged: the loss is nan in epoch 1"))
        return future


def test_a_training_that_diverges_fails_and_is_counted_whole(table: Table, whole: Outcome) -> None:
    choices = sorted(plain_front(table))[0]
    strategy = grid.Strategy(table.space, PROBLEM, fidelity=FULL, seed=0)
    outcome = Search(table, strategy, Diverges(table, choices)).run()
    (failed,) = [e for e in outcome.evaluations if e.state == "failed"]
    assert failed.error is not None
    assert "the loss is nan" in failed.error
    assert own_epochs(failed) == cache.EPOCHS
    spent, plain = table.steps(outcome)[-1], table.steps(whole)[-1]
    assert spent.trained_s == pytest.approx(plain.trained_s)
    assert spent.volume < plain.volume
    assert risk(table, outcome)["not_trained"] == 1


def test_the_plain_search_trains_as_it_says_and_gives_up_what_diverges() -> None:
    """The very job of the table, with weights that give no number."""
    smallest = min(cache.candidates(), key=lambda a: cache.macs_of(a.choices))
    job = cache.job_of(smallest, Fidelity(cache.EPOCHS), 0)
    bad = {n: np.full(s, np.nan, np.float32) for n, s in weight_shapes(job.network).items()}
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1"):
        train(replace(job, weights=bad))


def test_a_whole_search_risks_and_loses_nothing(table: Table, whole: Outcome) -> None:
    found = risk(table, whole)
    assert found["estimated"] == {}
    assert (found["not_trained_to_the_end"], found["not_trained"], found["better"]) == (0, 0, 0)
    assert screening(table, whole) is None
    assert table.pace(whole) == pytest.approx(1.0)


def rung(number: int, full: Evaluation) -> Evaluation:
    """A short training whose accuracy is that of the full one, a fixed gain lower in log odds."""
    proposal = Proposal(full.trial.proposal.architecture, Fidelity(3), note={"rung": 0})
    odds = math.log(full.accuracy["fp32"].value / (1 - full.accuracy["fp32"].value)) - 1.0
    score = replace(full.accuracy["fp32"], value=1 / (1 + math.exp(-odds)))
    return replace(full, trial=Trial(number, proposal), accuracy={"fp32": score}, training_s=1.0)


def test_what_was_left_below_is_lost_if_it_belongs_to_the_front(table: Table, whole: Outcome) -> None:
    full = [e for e in whole.evaluations if e.state == "complete"]
    short = [rung(i, e) for i, e in enumerate(full)]
    best = plain_front(table)
    promoted = [e for e in full if e.trial.proposal.architecture.choices in best]
    again = [replace(e, trial=replace(e.trial, number=1000 + i)) for i, e in enumerate(promoted)]
    outcome = Outcome(evaluations=[*short, *again], tests={e.trial.number: 0.9 for e in again})
    found, first = risk(table, outcome), screening(table, outcome)
    assert found["not_trained"] == 0
    assert found["not_trained_to_the_end"] == len(full) - len(promoted)
    estimated = found["estimated"]["lower_fidelity"]
    assert estimated["expected"] < 0.5  # all gain alike: only near ties are in doubt
    assert 0 < estimated["near_ties"] < 2
    assert found["better"] == 0
    assert first is not None
    assert (first["networks"], first["tau"]["value"]) == (len(full), pytest.approx(1.0))
    fewer = Outcome(evaluations=[*short, *again[:2]], tests=outcome.tests)
    assert risk(table, fewer)["estimated"] is None  # two gains tell no spread
    assert risk(table, fewer)["not_trained"] == len(best) - 2
    assert 0 < risk(table, fewer)["better"] <= len(best) - 2


def test_whether_trainings_have_levelled_off_is_told_by_size(table: Table) -> None:
    found = levelled(table)
    noise, pairs = between_seeds(table)
    assert pairs >= 5
    assert (found["noise"], found["noise_pairs"]) == (noise, pairs)
    assert 0 < noise < 1
    rows = found["networks"]
    assert sum(t["networks"] for t in found["terciles"]) == len(rows)
    assert sum(t["level"] for t in found["terciles"]) == sum(r["level"] for r in rows)
    smallest = rows[0]
    assert gain(smallest["at"], smallest["at_twice"]) > gain(rows[-1]["at"], rows[-1]["at_twice"])
    assert found["volume_ratio"] > 1 > found["volume_ratio_half"] > 0.5
