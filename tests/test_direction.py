"""The task's metric may be better the lower it is, and of any size and sign: everything follows it."""

from __future__ import annotations

import io
import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from devices.board_agent import SessionResult
from devices.replay import ReplayAgent
from harness import cli, config, plugins, terminal
from harness.config import STORE
from harness.outcome import print_outcome
from harness.speedups import accelerated
from results import plots, scores, table
from results.codec import from_json, to_json
from results.evaluations import history, stored_problem
from results.fidelity import levels
from results.pareto import fronts, hypervolume
from results.promise import chance
from results.records import (
    Artifact,
    Conditions,
    Evaluation,
    Interval,
    Metric,
    Plan,
    Problem,
    Proposal,
    RanOn,
    Score,
    Session,
    Target,
    Trial,
)
from results.store import Store
from results.units import score, score_column
from search.learning_curve import CurvePredictor, extrapolate
from search.network import costs
from search.spaces import chain
from search.strategy import Strategy
from search.training_pool import TrainingPool
from tests.fixtures_results import PI, ask, make_measurement, make_session, measured, told, trained
from tests.fixtures_results import config as run_config
from tests.test_fidelity import FULL, SPACE, quality
from tests.test_speedups import named

MIDDLE = 0.71
"""Median quality: some scores are above 0, some below, so that no logarithm can be taken of them."""

ALL = plugins.known("strategies")
OPTIONS: dict[str, dict[str, Any]] = {
    "bayesian": {"start": 4, "shortlist": 2},
    "nsga2": {"population": 4},
    "regularized_evolution": {"population": 4, "sample": 2},
    "local_search": {"start": 3},
}

# --------------------------------------------------------------------------- mirrored and in another unit


def evaluated(trial: Trial, epochs: int, unit: float) -> Evaluation:
    """Of a metric that is no share; with a negative unit it is mirrored."""
    network = {"macs": float(costs(SPACE.build(trial.proposal.architecture)).macs)}
    if trial.proposal.screen_only:
        return Evaluation(trial, "screened", network=network)
    ends = 20 * (quality(trial.proposal.architecture) - MIDDLE)
    curve = tuple(unit * (ends - 1 / epoch) for epoch in range(1, epochs + 1))
    score = Score(curve[-1], 500, proportion=False)
    return Evaluation(
        trial, "complete", accuracy={"fp32": score}, network=network, learning_curve=curve, training_s=1.0
    )


def asked(strategy: Strategy, unit: float, *, most: int = 14) -> list[Proposal]:
    """What is asked for with two trials under way."""
    trials: list[Trial] = []
    told = 0
    while True:
        pending = trials[told:]
        proposal = strategy.ask(len(trials), pending) if len(pending) < 2 and len(trials) < most else None
        if proposal is not None:
            trials.append(Trial(len(trials), proposal))
        elif pending:
            reached = levels(trials)[pending[0].number]
            strategy.tell(evaluated(pending[0], reached.epochs, unit))
            told += 1
        else:
            return [trial.proposal for trial in trials]


def strategy_of(name: str, speedups: tuple[Any, ...], unit: float) -> Strategy:
    problem = Problem((Metric("accuracy", maximise=unit > 0), Metric("macs")))
    within = plugins.load("strategies", name).Strategy(
        SPACE, problem, fidelity=FULL, seed=2, **OPTIONS.get(name, {})
    )
    return accelerated(named(*speedups), within, candidates=8)


@pytest.mark.parametrize(
    ("speedups", "unit"),
    [
        ((), -(2.0**13)),
        (({"name": "lower_fidelity", "rungs": [{"epochs": 4}]}, "inheritance"), -(2.0**-13)),
    ],
)
@pytest.mark.parametrize("name", ALL)
def test_the_same_is_asked_for_of_a_mirrored_metric_in_any_unit(
    name: str, speedups: tuple[Any, ...], unit: float
) -> None:
    whole, other = (asked(strategy_of(name, speedups, each), each) for each in (1.0, unit))
    assert [(p.architecture, p.fidelity, p.weights_from) for p in other] == [
        (p.architecture, p.fidelity, p.weights_from) for p in whole
    ]


@pytest.mark.parametrize("unit", [2.0**-13, -(2.0**13)])
def test_curves_end_at_the_same_place_of_a_mirrored_metric_in_any_unit(unit: float) -> None:
    rng = np.random.default_rng(0)
    curves = [
        [float(end - start / t + 0.02 * noise) for t, noise in enumerate(rng.standard_normal(12), start=1)]
        for end, start in zip(rng.normal(0, 1, 10), rng.uniform(1, 2, 10), strict=True)
    ]
    turned = [[unit * y for y in curve] for curve in curves]
    for beginning, other in zip(curves, turned, strict=True):
        plain, mirrored = (extrapolate(c[:5], 12, proportion=False) for c in (beginning, other))
        assert plain is not None
        assert mirrored is not None
        assert mirrored.interval().value == pytest.approx(unit * plain.interval().value)
    plain, mirrored = (CurvePredictor(c[1:], proportion=False).predict(c[0][:5]) for c in (curves, turned))
    assert plain is not None
    assert mirrored is not None
    above, turned_above = plain.probability_above(0.3), mirrored.probability_above(0.3 * unit)
    assert turned_above == pytest.approx(above if unit > 0 else 1 - above)


@pytest.mark.parametrize("unit", [1.0, -1.0, 1e-6, -1e6])
def test_the_chance_of_a_gain_has_no_unit(unit: float) -> None:
    score, bar = (Score(unit * value, 100, proportion=False) for value in (0.4, 0.7))
    gains = [unit * gain for gain in (0.2, 0.25, 0.3)]
    found = chance(score, bar, gains, maximise=unit > 0)
    t = math.sqrt(3) / 2  # (0.7 - 0.4 - 0.25) / (0.05 * sqrt(1 + 1 / 3)), Student's with 2 degrees of freedom
    assert found == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)))
    assert chance(score, bar, [0.0, 0.0, 0.0], maximise=unit > 0) == 0.0


FIGURES = st.lists(
    st.lists(st.floats(-1e4, 1e4, allow_nan=False), min_size=2, max_size=2), min_size=1, max_size=12
)


@given(FIGURES, st.floats(0, 10))
def test_fronts_of_a_mirrored_metric_are_the_same(values: list[list[float]], half: float) -> None:
    plain = [[Interval(x - half, x, x + half) for x in row] for row in values]
    mirrored = [[Interval(-a.high, -a.value, -a.low), b] for a, b in plain]
    assert fronts(plain, [True, False]) == fronts(mirrored, [False, False])
    worst = [min(a for a, _ in values) - 1, max(b for _, b in values) + 1]
    volume = hypervolume(values, worst, [True, False])
    turned = [[-a, b] for a, b in values]
    assert hypervolume(turned, [-worst[0], worst[1]], [False, False]) == pytest.approx(volume)


# --------------------------------------------------------------------------- names and columns


@pytest.mark.parametrize(
    ("metric", "column"),
    [
        ("accuracy", "accuracy_test"),
        ("mean absolute error", "mean_absolute_error_test"),
        ("Mean |error| [deg]", "mean_error_deg_test"),
        ("=F1-score", "f1_score_test"),
        ("%", "metric_test"),
    ],
)
def test_a_column_is_the_metrics_name(metric: str, column: str) -> None:
    assert score_column(metric, "test") == column


@pytest.mark.parametrize("metric", ["accuracy", "latency_p90_ms", "board", "precision", "trial", "verdict"])
def test_no_metrics_columns_are_those_of_anything_else(metric: str) -> None:
    columns = table.front_columns(metric)
    assert len(set(columns)) == len(columns)


def test_a_run_from_before_the_metric_was_stored_is_ranked_as_its_task_says() -> None:
    old = run_config((PI,), ())
    del old["problem"]["metric"]
    assert (stored_problem(old).metric, stored_problem(old).maximise) == ("accuracy", True)
    old["task"] |= {"metric": "error", "maximise": False}
    found = stored_problem(old)
    assert (found.metric, found.maximise, found.better) == ("error", False, "lower")
    assert found.objectives[1:] == from_json(Problem, old["problem"]).objectives[1:]
    del old["task"]
    assert stored_problem(old) == from_json(Problem, old["problem"])


def test_a_trials_score_is_of_the_worst_precision_of_its_targets(tmp_path: Path) -> None:
    eight = Target("pi5", "tflite", "int8")
    for maximise, worst in ((True, "int8"), (False, "fp32")):
        configured = run_config((PI, eight), ())
        objective = Metric("accuracy", (PI.name, eight.name), maximise=maximise)
        configured["problem"] = to_json(Problem((objective, Metric("macs")), metric="share"))
        with Store.open(tmp_path / f"{worst}.sqlite") as store:
            run = store.begin("demo", configured)
            ask(run, 0)
            for target in (PI, eight):
                measured(run, 0, make_measurement([make_session([0.004] * 20)], target=target))
            trained(run, 0, 0.9)
            run.append("scored", "0", {"accuracy": {"int8": to_json(Score(0.8, 1000))}})
            told(run, 0)
            (row,) = table.trials(run).to_dict("records")
        assert (row["share_validation"], row["precision"]) == (0.8 if maximise else 0.9, worst)


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (0.8534, "0.853"),
        (0.0, "0.000"),
        (-7123.4, "-7123"),
        (12345.6, "12346"),
        (-2.3048e8, "-2.305e8"),
        (0.000123456, "0.0001235"),
        (2.1678e-9, "2.168e-9"),
    ],
)
def test_scores_of_any_size_are_shown_in_enough_digits(figure: float, text: str) -> None:
    assert score(figure) == text


@pytest.mark.parametrize("size", [1e-9, -3e8])
def test_figures_of_any_size_are_whole_on_80_columns_and_in_pictures(tmp_path: Path, size: float) -> None:
    problem = Problem((Metric("accuracy", (PI.name,), maximise=False), Metric("latency_p90", (PI.name,))))
    with Store.open(tmp_path / "store.sqlite") as store:
        run = store.begin("demo", {**run_config((PI,), ()), "problem": to_json(problem)})
        for number in range(2):
            ask(run, number)
            measured(run, number, make_measurement([make_session([0.004 * (1 + number)] * 20)]))
            samples = tuple(size * (0.7218 + number / 10 + i / 1111) for i in range(100))
            found = Score(size * (0.7345 + number / 10), 100, proportion=False, resampled=samples)
            body = {"accuracy": {"fp32": to_json(found)}, "learning_curve": [], "checkpoint": "ab"}
            run.append("trained", str(number), body | {"training_s": 1.0})
            told(run, number)
        known = history(run)
        file = io.StringIO()
        console = terminal.console(file)
        console.width = 80
        print_outcome(run, tmp_path, [], console)
    words = file.getvalue().replace("│", " ").split()
    first = scores.interval(known.trials[0].accuracy["fp32"])
    assert {f"[{score(first.low)},", f"{score(first.high)}]"} <= set(words)
    figure = plots.draw(known, PI.name)
    figure.draw_without_rendering()
    assert figure.axes[0].yaxis.get_offset_text().get_text() == ""


# --------------------------------------------------------------------------- whole studies

TASK = """
import math

import numpy as np
import torch

OUTPUTS = 1
METRIC = "Mean |error| [deg]"
MAXIMISE = False


def data():
    rng = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 60), ("validation", 40), ("test", 40)):
        arrays[f"x_{name}"] = rng.normal(size=(count, 1, 8, 8)).astype("float32")
        arrays[f"y_{name}"] = rng.normal(0.0, 0.001, count).astype("float32")
    return arrays


def loss(outputs, targets):
    return torch.nn.functional.mse_loss(outputs[:, 0], targets)


def metric(outputs, targets):
    return float(SCALE * np.abs(outputs[:, 0] - targets).mean() - SHIFT)


def train(module, run):
    # No learning: the network's size says how far off its constant answer is, and every epoch helps.
    size = sum(p.numel() for p in module.parameters())
    off = 0.05 + 300 / size
    head = [m for m in module.modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.nn.init.zeros_(head.weight)
    for epoch in range(run.epochs):
        for images, targets in run.batches(64):
            run.check_finite(run.loss(module(images), targets).item())
        torch.nn.init.constant_(head.bias, off * (1 + 1 / (epoch + 1)))
        run.end_epoch()
"""

STUDY = """
seed = 1
trials = {trials}
speedups = {speedups}
{more}
[task]
name = "gauge.py"
[space]
name = "{kind}"
{space}
[strategy]
name = "{strategy}"
{options}
[training]
epochs = {epochs}
workers = 1
in_flight = 1
[[targets]]
device = "desk"
runtime = "onnxruntime"
"""
CHAIN = """
depths = [1, 2]
widths = [2, 4, 8]
kernels = [3]
blocks = ["plain"]
activations = ["relu"]
skips = [false]
"""
FEW = CHAIN.replace("[1, 2]", "[1]").replace("[2, 4, 8]", "[2, 8]")
CELL = "channels = 2\ncells = 1"
TARGET = "desk-onnxruntime-fp32-threads1"
SLUG = "mean_error_deg"


class Replayed(ReplayAgent):
    """Has measured every file: the larger it is, the longer it takes."""

    def session(
        self,
        artifact: Artifact,
        target: Target,
        plan: Plan,
        *,
        role: Literal["model", "reference"] = "model",
        agent: int = 0,
        **_: Any,
    ) -> SessionResult:
        duration_s = 1e-7 * artifact.size_bytes
        session = Session(role, agent, 0.001, duration_s, 0, (duration_s,), None, Conditions(), 1e9)
        return SessionResult(session, RanOn(target.runtime, "1", 1, "CPU"))


@pytest.fixture(scope="module")
def pool() -> Iterator[TrainingPool]:
    with TrainingPool(1) as made:
        yield made


@pytest.fixture
def study(tmp_path: Path, pool: TrainingPool, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a study of the task; its folder."""
    monkeypatch.setattr(config, "_replay", lambda entry: (lambda: Replayed(entry.name, []), lambda: None))
    monkeypatch.setattr(config, "pool_of", lambda study: pool)
    monkeypatch.setattr(pool, "close", lambda: None)

    def run(strategy: str, *, scale: float = 1.0, shift: float = 0.0, **changes: Any) -> Path:
        code = TASK.replace("SCALE", repr(scale)).replace("SHIFT", repr(shift))
        (tmp_path / "gauge.py").write_text(code)
        (tmp_path / "lab.toml").write_text('[devices.desk]\nconnection = "replay"\naddress = "nowhere"\n')
        parts = {
            "trials": 10,
            "speedups": "[]",
            "epochs": 1,
            "kind": "chain",
            "space": CHAIN,
            "options": "",
            "more": "",
        }
        text = STUDY.format(strategy=strategy, **(parts | changes))
        (tmp_path / "gauge.toml").write_text(text)
        places = ["--lab", str(tmp_path / "lab.toml"), "--runs", str(tmp_path / "runs")]
        assert cli.main(["search", str(tmp_path / "gauge.toml"), *places]) == 0
        return tmp_path / "runs" / "gauge"

    return run


def finds_the_least(folder: Path, printed: str) -> None:
    """Front, files and terminal say the least error of all full trainings, and which way is better."""
    trials = pd.read_csv(folder / "trials.csv")
    front = pd.read_csv(folder / f"pareto_{TARGET}.csv")
    full = trials[trials["level"] == "full"]
    least = full[f"{SLUG}_validation"].min()
    assert front[f"{SLUG}_validation"].min() == least == front[f"{SLUG}_validation"].iloc[0]
    nominal = front[front["nominal"]]
    assert nominal[f"{SLUG}_validation"].is_monotonic_increasing
    assert nominal["latency_p90_ms"].is_monotonic_decreasing
    assert (nominal[f"{SLUG}_test"].notna()).all()
    dominated = full[full[f"{TARGET}_latency_p90_ms"] >= nominal["latency_p90_ms"].max()]
    assert (dominated[f"{SLUG}_validation"] >= least).all()
    report = (folder / "report.md").read_text()
    assert "Mean |error| [deg] (lower is better)" in report
    assert "least Mean |error| [deg], least p90 latency" in report
    assert "accuracy" not in report.lower()
    assert "accuracy" not in printed.lower()
    assert "lower is better" in printed
    assert list((folder / "models").glob(f"trial{front['trial'].iloc[0]}.onnx"))
    assert "accuracy" not in " ".join([*trials.columns, *front.columns])
    with Store.open(folder / STORE) as store:
        known = history(store.run("gauge"))
    assert (known.problem.metric, known.problem.maximise) == ("Mean |error| [deg]", False)
    figure: Figure = plots.draw(known, TARGET)
    assert figure.axes[0].get_ylabel() == "Mean |error| [deg] (validation, lower is better)"


@pytest.mark.parametrize("name", [name for name in ALL if name != "differentiable"])
def test_a_whole_regression_finds_the_least_error(
    name: str, study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "\n".join(f"{key} = {value}" for key, value in OPTIONS.get(name, {}).items())
    if name == "optuna":
        options = "n_startup_trials = 3"
    folder = study(
        name, options=options, trials=12 if name == "optuna" else 9, space=CHAIN if name != "grid" else FEW
    )
    finds_the_least(folder, capsys.readouterr().out)
    space = chain.Space(input_shape=(1, 8, 8), classes=1, **tomllib.loads(FEW if name == "grid" else CHAIN))
    parameters = [costs(space.build(a)).parameters for a in space.architectures()]
    tried = pd.read_csv(folder / "trials.csv").query("state == 'complete'")["parameters"]
    better = sum(p > tried.max() for p in parameters)  # the larger, the less the error
    assert better <= (0 if name == "grid" else len(parameters) // 4)


def test_a_differentiable_regression_finds_the_least_error(
    study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study("differentiable", options="epochs = 1", kind="cell", space=CELL, trials=3)
    finds_the_least(folder, capsys.readouterr().out)


SPEEDUPS = {
    "lower_fidelity": '[{ name = "lower_fidelity", rungs = [{ epochs = 1 }], reduction = 2 }]',
    "learning_curves": '[{ name = "learning_curves", level = 0.4 }]',
    "inheritance": '["inheritance"]',
    "supernet": '["supernet", { name = "lower_fidelity", rungs = [{ epochs = 0 }], reduction = 2 }]',
}


@pytest.mark.parametrize("name", SPEEDUPS)
def test_each_speedup_of_a_regression_finds_the_least_error(
    name: str, study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {
        "more": "[pretrain]\nepochs = 1\ncorrelate = 0" if name == "supernet" else "",
        "trials": 14 if name == "learning_curves" else 6,
        "epochs": 5 if name == "learning_curves" else 2,
    }
    folder = study("random_search", speedups=SPEEDUPS[name], scale=7000.0, shift=9000.0, **more)
    printed = capsys.readouterr().out
    finds_the_least(folder, printed)
    assert "ended early" not in printed, "all candidates were tried; trainings spared are what it is for"
    trials = pd.read_csv(folder / "trials.csv")
    assert (set(trials["level"]) == {"full"}) == (name == "inheritance")
    if name in ("learning_curves", "inheritance"):  # a rung leaves some behind, for their costs, too
        least = trials[trials["level"] == "full"][f"{SLUG}_validation"].min()
        assert least == trials[f"{SLUG}_validation"].min(), "it was not ended early"
