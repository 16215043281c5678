"""Intervals of metrics that are no share of examples: their coverage, and what has none."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from harness import cli
from harness.config import STORE
from results import scores, table
from results.codec import from_json, to_json
from results.errors import TrainingError
from results.evaluations import history
from results.front import front
from results.pareto import fronts
from results.plots import draw
from results.records import Interval, Score
from results.report import report
from results.store import Store
from search import bootstrap
from search.tasks import Normalisation, Split, Splits, Task
from search.training import scored
from tests.fixtures_results import PI, ask, config, make_measurement, make_session, measured, told

Floats = NDArray[np.float32]


def mean_absolute_error(outputs: Floats, targets: NDArray[Any]) -> float:
    return float(np.abs(outputs[:, 0] - targets).mean())


def score_of(
    errors: NDArray[Any],
    measure: Callable[[Floats, NDArray[Any]], float] = mean_absolute_error,
    *,
    variants: int = 1,
    whole_split: bool = False,
) -> Score:
    """Score of outputs that are off by these errors."""
    pixels = np.zeros((len(errors), 1, 1, 1), np.uint8)
    split = Split(pixels, np.zeros(len(errors)), Normalisation((0.0,), (1.0,)), variants)
    task = Task("own", 1, Splits(split, split, split), measure=measure, whole_split=whole_split)
    return task.score(errors[:, None].astype(np.float32), split)


def coverage(rng: np.random.Generator, examples: int, variants: int = 1) -> float:
    """How often the interval of a mean absolute error contains the true one, sqrt(2 / pi)."""
    hits = 0
    for _ in range(STUDIES):
        errors = np.tile(rng.normal(size=examples), variants)
        interval = scores.interval(score_of(errors, variants=variants))
        hits += interval.low <= math.sqrt(2 / math.pi) <= interval.high
    return hits / STUDIES


STUDIES = 150


@pytest.mark.parametrize("variants", [1, 2])
def test_the_interval_of_a_mean_absolute_error_covers_the_truth(variants: int) -> None:
    """Intervals of 94.5 % fail this once in 1,000 times.

    If the images of an example were drawn one by one, those of two variants would cover 83 %.
    """
    assert 0.88 <= coverage(np.random.default_rng(variants), 150, variants) <= 0.995


def test_samples_are_the_same_to_the_bit_and_outlast_the_store() -> None:
    errors = np.random.default_rng(0).exponential(size=200)
    score = score_of(errors)
    assert score == score_of(errors)
    assert len(score.resampled) == bootstrap.SAMPLES
    interval = scores.interval(score)
    assert interval.low < score.value < interval.high
    assert scores.interval(from_json(Score, to_json(score))) == interval
    assert scores.interval(score, 0.5).low > interval.low


def test_a_metric_that_changes_its_arguments_spoils_neither_interval_nor_data() -> None:
    def in_place(outputs: Floats, targets: NDArray[Any]) -> float:
        outputs -= targets[:, None]
        np.abs(outputs, out=outputs)
        targets += 1
        return float(outputs.mean())

    errors = np.random.default_rng(0).normal(size=50)
    changed, plain = score_of(errors, in_place), score_of(errors)
    assert changed.value == pytest.approx(plain.value, rel=1e-5)
    assert changed.resampled == pytest.approx(plain.resampled, rel=1e-5)
    assert changed.left_out == pytest.approx(plain.left_out, rel=1e-5)


def test_bca_of_a_skewed_mean_reaches_further_to_the_long_side() -> None:
    interval = scores.interval(score_of(np.random.default_rng(3).exponential(size=100)))
    assert interval.high - interval.value > 1.1 * (interval.value - interval.low)


def test_what_has_no_interval_says_why() -> None:
    errors = np.linspace(0, 1, 100)

    def fragile(outputs: Floats, targets: NDArray[Any]) -> float:
        if len(np.unique(outputs)) < 65:
            raise ValueError("too few values")
        return mean_absolute_error(outputs, targets)

    for score, reason in (
        (score_of(errors, whole_split=True), "whole split"),
        (score_of(errors[:10]), "less than 20 examples"),
        (score_of(errors, fragile), "undefined on more than 5%"),
        (score_of(np.zeros(100)), "same value"),
        (Score(0.5, 100, proportion=False), "nothing was stored"),
    ):
        assert scores.interval(score) == Interval(-math.inf, score.value, math.inf)
        assert reason in scores.why_no_interval(score)


def test_a_metric_that_is_undefined_on_few_samples_keeps_its_interval() -> None:
    def fragile(outputs: Floats, targets: NDArray[Any]) -> float:
        return mean_absolute_error(outputs, targets) if len(np.unique(outputs)) > 56 else math.nan

    score = score_of(np.linspace(0, 1, 100), fragile)
    assert 0.95 * bootstrap.SAMPLES <= len(score.resampled) < bootstrap.SAMPLES
    assert scores.why_no_interval(score) == ""


def test_a_slow_metric_has_no_interval_rather_than_to_hold_up_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "LIMIT_S", 0.0)
    score = score_of(np.linspace(0, 1, 100))
    assert score.resampled == ()
    assert "samples of examples take it more than" in scores.why_no_interval(score)


def test_a_score_that_is_not_a_number_is_the_candidates_fault() -> None:
    split = Split(np.zeros((30, 1, 1, 1), np.uint8), np.zeros(30), Normalisation((0.0,), (1.0,)))
    task = Task("own", 1, Splits(split, split, split), measure=lambda outputs, targets: math.nan)
    with pytest.raises(TrainingError, match="'accuracy' gave nan"):
        scored(task, np.zeros((30, 1), np.float32), split, "candidate")


def test_a_point_without_interval_is_never_certain() -> None:
    known = [Interval(0.1, 0.2, 0.3), Interval(2.0, 2.0, 2.0)]
    unknown = [Interval(-math.inf, 0.1, math.inf), Interval(1.0, 1.0, 1.0)]
    found = fronts([known, unknown], (False, False))
    assert found.certain == ()  # better by its value in everything, and yet not for certain
    assert found.nominal == (1,)
    assert found.possible == (0, 1)


def test_a_stored_score_of_earlier_versions_opens_without_an_interval(tmp_path: Path) -> None:
    """It is told in the table, the report and the picture, and nothing is certain by it."""
    with Store.open(tmp_path / "store.sqlite") as store:
        run = store.begin("old", config((PI,), ()))
        for number in range(2):
            ask(run, number)
            session = make_session([0.004 + number / 1000])
            measured(run, number, make_measurement([session], origin="replayed"))
            score = {"value": 0.9 - number / 10, "examples": 100, "proportion": False}
            body = {"accuracy": {"fp32": score}, "learning_curve": [], "checkpoint": "ab", "training_s": 1}
            run.append("trained", str(number), body)
            told(run, number)
        known = history(run)
        found = table.pareto(run, PI.name)
    assert list(found["front"]) == ["possible", "possible"]
    assert list(found["nominal"]) == [True, False]
    assert found["accuracy_validation_low"].isna().all()
    assert found["accuracy_validation_high"].isna().all()
    text = report(known)
    assert "0.900 [no interval]" in text
    assert "No interval of the score of trials 0, 1: nothing was stored to derive one from." in text
    assert "no interval of the vertical axis" in draw(known, PI.name).axes[0].get_title(loc="left")


# --------------------------------------------------------------------------- a whole study

TASK = """
import numpy as np
import torch.nn.functional as F

OUTPUTS = 1
METRIC = "balanced error"
MAXIMISE = False

def data():
    rng = np.random.default_rng(0)
    y = (np.arange(240) % 2).astype(np.float32)
    x = rng.normal(size=(240, 1, 8, 8)) + y[:, None, None, None]
    splits = {"train": slice(0, 120), "validation": slice(120, 180), "test": slice(180, 240)}
    found = {}
    for name, rows in splits.items():
        found[f"x_{name}"], found[f"y_{name}"] = x[rows].astype(np.float32), y[rows]
    found["y_test"] = np.ones(60, np.float32)  # one class only
    return found

def loss(outputs, targets):
    return F.mse_loss(outputs[:, 0], targets)

def metric(outputs, targets):
    if len(set(targets)) < 2:
        raise ValueError("only one class here")
    wrong = (outputs[:, 0] > 0.5) != targets
    return float(np.mean([wrong[targets == c].mean() for c in (0, 1)]))
"""
STUDY = """
name = "own"
seed = 5
trials = 3
[task]
name = "{task}"
[space]
name = "chain"
[strategy]
name = "random_search"
[training]
epochs = 2
workers = 2
[measurement]
accept_noisy = true
screen = {{ sessions = [1, 1], session_s = 0.005, warmup_s = 0.0, min_runs = 10 }}
confirm = {{ sessions = [2, 2], agents = 2, session_s = 0.005, warmup_s = 0.0, min_runs = 10 }}
[[targets]]
device = "desk"
runtime = "onnxruntime"
precision = ["fp32", "int8"]
"""


def test_a_metric_that_is_undefined_on_the_test_split_leaves_the_front_on_validation(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "study.toml").write_text(STUDY.format(task=tmp_path / "task.py"))
    board = f'connection = "local"\npython = "{sys.executable}"\ndirectory = "{tmp_path}/board"\n'
    (tmp_path / "lab.toml").write_text(f"[devices.desk]\n{board}")
    runs = ["--lab", str(tmp_path / "lab.toml"), "--runs", str(tmp_path / "runs")]
    assert cli.main(["search", str(tmp_path / "study.toml"), *runs]) == 0
    folder = tmp_path / "runs" / "own"
    assert cli.main(["resume", str(folder), "--lab", str(tmp_path / "lab.toml")]) == 0
    assert list((folder / "models").glob("*.onnx"))
    csv = pd.read_csv(folder / "pareto_desk-onnxruntime-fp32-threads1.csv")
    assert csv["balanced_error_test"].isna().all()
    assert csv["balanced_error_validation"].notna().all()
    text = (folder / "report.md").read_text()
    assert "No test score of trial" in text
    assert "only one class here" in text
    with Store.open(folder / STORE) as store:
        run = store.run("own")
        for record in run.records("tested"):
            assert record.body["accuracy"] == {}
            assert set(record.body["undefined"]) == {"fp32", "int8"}
        for member in front(history(run), "desk-onnxruntime-int8-threads1"):
            assert member.candidate.known.accuracy[
                "int8"
            ].resampled or "every sample" in scores.why_no_interval(member.candidate.known.accuracy["int8"])
            assert "desk-onnxruntime-int8-threads1" in member.candidate.known.on_board
