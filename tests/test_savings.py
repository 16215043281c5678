"""What a study's speed-ups saved and risked, from stored records: modelled figures stay out of fronts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.progress import Watcher
from harness.training_watch import TrainingWatch
from results import table
from results.codec import to_json
from results.evaluations import fully_trained, history
from results.records import Architecture, Fidelity, Proposal, Score, Trial
from results.report import write_report
from results.speedups import savings
from results.store import Run, Store
from search.learning_curve_stopping import StopsEarly
from search.training import TrainingResult
from tests.fixtures_results import PI, ask, config, make_measurement, make_session, measured, trained
from tests.fixtures_results import told as end
from tests.test_learning_curve import EPOCHS, stops_early
from tests.test_learning_curve import told as evaluated

FORECAST = {"bar": 0.9, "ends": {"low": 0.7, "value": 0.8, "high": 0.85}, "origin": "modelled"}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Store.open(tmp_path / "store.sqlite") as store:
        yield store.begin("demo", config((PI,), ()))


def train(run: Run, number: int, accuracy: float, latency_s: float) -> None:
    """A whole training of a network that was measured."""
    ask(run, number)
    measured(run, number, make_measurement([make_session([latency_s] * 30)] * 3))
    trained(run, number, accuracy)


def end_early(run: Run, number: int, latency_s: float, *, probability: float, saved_s: float) -> None:
    """A training that was ended after two of ten epochs."""
    ask(run, number)
    measured(run, number, make_measurement([make_session([latency_s] * 30)] * 3))
    body = {
        "accuracy": {"fp32": to_json(Score(0.999, 1000))},
        "learning_curve": [0.5, 0.999],
        "checkpoint": "cd" * 32,
        "training_s": 2.0,
        "wall_s": 2.0,
        "stopped": {**FORECAST, "of": 10, "probability": probability, "saved_s": saved_s},
    }
    run.append("trained", str(number), body)
    end(run, number)


def test_what_was_ended_early_is_modelled_and_on_no_front(run: Run, tmp_path: Path) -> None:
    train(run, 0, 0.9, 0.004)
    end(run, 0)
    end_early(run, 1, 0.005, probability=0.04, saved_s=8.0)
    end_early(run, 2, 0.006, probability=0.02, saved_s=7.0)
    known = history(run)
    assert fully_trained(known) == {0}
    assert list(table.pareto_table(known, PI.name)["trial"]) == [0]
    (saving,) = savings(known)
    assert (saving.name, saving.trainings, saving.saved_s) == ("learning_curves", 2, 15.0)
    assert saving.risk is not None
    assert saving.risk.any < 0.01  # within the intervals of 0.9, which 0.85 hardly reaches
    text = write_report(run, tmp_path).read_text()
    assert "2 trainings were ended early" in text
    assert "**modelled**; they are in no front and no table of figures" in text
    assert re.search(r"expected; at least one with probability \d+%; near ties", text)
    assert "A better candidate would have been on the front" in text
    assert "took 16 s of CPU time; without the speed-ups about 32 s" in " ".join(text.split())


def test_a_supernet_s_seconds_count_and_are_no_saving(run: Run, tmp_path: Path) -> None:
    trial = Trial(0, Proposal(Architecture("space", (0,)), Fidelity(10), "supernet"))
    run.append("asked", "0", {"trial": to_json(trial), "options": {}})
    run.append("built", "0", {"network": {"macs": 1e6, "parameters": 1e5}, "graph": "graph"})
    trained(run, 0, 0.9)
    end(run, 0)
    plan = {"epochs": 20, "sampling": "uniform"}
    body = {"plan": plan, "losses": [2.0], "training_s": 30.0, "batch_size": 64, "notes": []}
    run.append("pretrained", "supernet", body)
    (saving,) = savings(history(run), [body])
    assert (saving.name, saving.trainings, saving.saved_s, saving.risk) == ("supernet", 1, -30.0, None)
    text = " ".join(write_report(run, tmp_path).read_text().split())
    assert "took 42 s of CPU time; without the speed-ups about 12 s" in text
    assert "| supernet | 1 | -30 s | not known |" in text


def test_a_plain_search_saved_nothing(run: Run) -> None:
    train(run, 0, 0.9, 0.004)
    end(run, 0)
    assert savings(history(run)) == []


@pytest.fixture(scope="module")
def experienced() -> StopsEarly:
    strategy = stops_early()
    for number in range(12):
        strategy.tell(evaluated(number, 0.6 + 0.02 * number))
    return strategy


def test_what_is_stored_of_an_ended_training_is_called_modelled(experienced: StopsEarly) -> None:
    hopeless = evaluated(20, 0.62, seen=12, macs=200.0)
    watch = TrainingWatch(hopeless, Watcher(), experienced)
    epochs = next(i for i, y in enumerate(hopeless.learning_curve, 1) if watch(i, y))
    result = TrainingResult(Score(0.5, 1000), hopeless.learning_curve[:epochs], {}, 4.0, 0, stopped=True)
    stored = watch.record(result)["stopped"]
    assert stored["origin"] == "modelled"
    assert stored["of"] == EPOCHS
    assert stored["probability"] < 0.05
    assert stored["saved_s"] == pytest.approx(4.0 * (EPOCHS / epochs - 1))
    assert watch.record(TrainingResult(Score(0.5, 1000), (0.5,), {}, 4.0, 0)) == {}


def test_a_training_that_gives_no_number_is_watched_to_its_end(experienced: StopsEarly) -> None:
    hopeless = evaluated(20, 0.62, seen=12, macs=200.0)
    watch = TrainingWatch(hopeless, Watcher(), experienced)
    assert not any(watch(epoch, math.nan) for epoch in range(1, 9))
