"""Deployment and training as decisions: of a space, of a study, and in a whole run on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from devices.registry import Lab
from harness import cli
from harness.config import STORE
from harness.study import Study, study_of
from results.deployments import board_front, same_network
from results.errors import ConfigError
from results.evaluations import History, history
from results.records import Fidelity, Limit, Metric, Problem, Target
from results.store import Store
from search.joint import JointSpace, recipe_of, targets_of
from search.novelty import every_architecture
from search.recipe import RECIPE, check_recipe
from search.space import SearchSpace
from search.spaces import cell, chain
from search.strategies import bayesian
from search.training import TrainingJob, train
from tests.fixtures_results import make_evaluation, make_measurement, make_session

TARGETS = tuple(
    Target("pi5", runtime, precision, (("threads", threads),))
    for runtime in ("onnxruntime", "tflite")
    for precision in ("fp32", "int8")
    for threads in (1, 4)
)
OTHER = Target("nano", "tflite")
SMALL = {"depths": [1, 2], "widths": [8], "kernels": [3], "blocks": ["plain"], "skips": [False]}


def inner_space() -> SearchSpace:
    return chain.Space(input_shape=(1, 16, 16), classes=4, **SMALL)


def joint_space(inner: SearchSpace | None = None) -> JointSpace:
    training = {"learning_rate": [1e-3, 3e-3, 1e-2], "weight_decay": [0.0, 0.1]}
    return JointSpace(inner or inner_space(), deployments={"pi5": TARGETS}, training=training)


# --------------------------------------------------------------------------- the space


def test_a_point_is_a_network_a_target_and_a_recipe() -> None:
    space = joint_space()
    rng = np.random.default_rng(0)
    for _ in range(50):
        point = space.sample(rng)
        options = space.describe(point)
        assert space.from_options(options) == point
        assert space.build(point) == space.inner.build(space.network_part(point))
        chosen = space.deployment(point)["pi5"]
        assert options["deployment.pi5"] == chosen.name.removeprefix("pi5-")
        assert targets_of(space, point, (*TARGETS, OTHER)) == (chosen, OTHER)
        assert recipe_of(space, point).keys() == {"learning_rate", "weight_decay"}
    assert targets_of(space.inner, space.network_part(point), TARGETS) == TARGETS
    assert recipe_of(space.inner, space.network_part(point)) == {}


def test_every_combination_is_there_once() -> None:
    space = joint_space()
    everything = every_architecture(space)
    assert len(everything) == len(every_architecture(space.inner)) * len(TARGETS) * 3 * 2
    assert {space.deployment(point)["pi5"] for point in everything} == set(TARGETS)


def test_neighbours_change_the_network_or_the_rest() -> None:
    space = joint_space()
    point = space.sample(np.random.default_rng(1))
    near = list(space.neighbours(point))
    inner = set(space.inner.neighbours(space.network_part(point)))
    assert len(near) == len(set(near)) == len(inner) + (len(TARGETS) - 1) + 2 + 1
    for other in near:
        space.check(other)
        same_rest = other.choices[-3:] == point.choices[-3:]
        assert same_rest == (space.network_part(other) in inner)


def test_networks_that_are_the_same_stay_the_same() -> None:
    inner = cell.Space(input_shape=(3, 32, 32), classes=10)
    space = joint_space(inner)
    rng = np.random.default_rng(2)
    for _ in range(30):
        choices = [int(rng.integers(len(d.options))) for d in space.decisions]
        point = space.architecture(choices)
        space.check(point)
        assert space.network_part(point) == inner.architecture(choices[: len(inner.decisions)])
        assert all(space.architecture(c) == point for c in space.equivalents(point.choices)[:20])


def test_a_model_sees_what_deployments_share() -> None:
    space = joint_space()
    rows = {}
    for target in TARGETS:
        options = space.describe(space.sample(np.random.default_rng(3)))
        options["deployment.pi5"] = target.name.removeprefix("pi5-")
        rows[target] = space.features(space.from_options(options))
    a, b = TARGETS[0], TARGETS[1]  # they differ in the threads alone
    far = next(t for t in TARGETS if (t.runtime, t.precision) == ("tflite", "int8"))
    assert len({row.shape for row in rows.values()}) == 1
    differing = [int((rows[a] != rows[other]).sum()) for other in (b, far)]
    assert differing[0] < differing[1]


def test_a_strategy_finds_the_best_deployment_without_knowing_of_any() -> None:
    """A board on which one deployment is twice as fast as all others: most later trials take it."""
    space = joint_space()
    problem = Problem((Metric("accuracy", maximise=True), Metric("latency_p90", ("pi5",))))
    strategy = bayesian.Strategy(space, problem, fidelity=Fidelity(1), seed=0)
    best = TARGETS[5]
    taken = []
    for number in range(20):
        proposal = strategy.ask(number, [])
        assert proposal is not None
        target = space.deployment(proposal.architecture)["pi5"]
        taken.append(target == best)
        macs = 1 + sum(proposal.architecture.choices[:-3])
        seconds = 1e-3 * macs * (1 if target == best else 2)
        measurement = make_measurement([make_session([seconds] * 20)], target=target, origin="replayed")
        evaluation = make_evaluation(number, measurements={target.name: measurement})
        trial = type(evaluation.trial)(number, proposal)
        strategy.tell(type(evaluation)(trial, "complete", evaluation.measurements, evaluation.accuracy))
    assert sum(taken[12:]) >= 4, "by chance alone it would be 1 of 8"


# --------------------------------------------------------------------------- the study


def study_text(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "joint",
        "task": {"name": "digits"},
        "space": {
            "name": "chain",
            **SMALL,
            "deployment": {"pi5": {"limits": ["latency_p90 <= 8 ms"]}},
            "training": {"learning_rate": [1e-3, 6e-3]},
        },
        "strategy": {"name": "random_search"},
        "targets": [
            {
                "device": "pi5",
                "runtime": ["onnxruntime", "tflite"],
                "precision": ["fp32", "int8"],
                "options": {"threads": [1, 4]},
            },
            {"device": "nano", "runtime": "tflite", "limits": ["latency_p90 <= 20 ms"]},
        ],
    }
    return values | changes


def read(**changes: Any) -> Study:
    return study_of(study_text(**changes), Path("study.toml"))


def test_lists_in_a_target_are_all_combinations_and_a_device_chooses() -> None:
    study = read()
    assert study.targets == (*TARGETS, OTHER)
    assert study.choices.devices == ("pi5",)
    assert study.space.options == SMALL
    assert study.limits == (
        Limit(Metric("latency_p90", (OTHER.name,)), 0.02),
        Limit(Metric("latency_p90", ("pi5",)), 0.008),
    )
    accuracy, cost = study.problem("accuracy", maximise=True).objectives
    assert accuracy.targets == ("pi5", OTHER.name), "at the precision of whatever was chosen"
    assert cost == Metric("latency_p90", ("pi5", OTHER.name), (0.008, 0.02))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"deployment": {"pi6": {}}}, "did you mean 'pi5'"),
        ({"deployment": {"nano": {}}}, "nano has one target only"),
        ({"deployment": {"pi5": {"limit": []}}}, "did you mean 'limits'"),
        ({"deployment": {"pi5": {"limits": ["macs <= 1 M"]}}}, "belongs to no target"),
        ({"deployment": {"pi5": {"limits": [8]}}}, "must be a list of texts"),
        ({"training": {"learning_rate": 0.1}}, "must be a list"),
        ({"training": {"learning_rate": []}}, "list of values"),
        ({"training": {"learning_rate": [0.1, 0.1]}}, "twice"),
        ({"training": {"learning_rate": [0.1, -1.0]}}, "cannot be -1.0"),
        ({"training": {"batch_size": [0.5]}}, "whole number"),
    ],
)
def test_refuses_choices_that_are_none(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(space={"name": "chain", **space})


def test_refuses_limits_of_single_targets_where_one_is_chosen() -> None:
    targets = study_text()["targets"]
    targets[0]["limits"] = ["latency_p90 <= 8 ms"]
    with pytest.raises(ConfigError, match="limits of its own"):
        read(targets=targets)


@pytest.mark.parametrize("options", [{"threads": []}, {"threads": [1, 1]}])
def test_refuses_lists_without_a_choice(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"empty list|named twice"):
        read(targets=[{"device": "pi5", "runtime": "tflite", "options": options}])


# --------------------------------------------------------------------------- the recipe


def test_the_recipe_is_checked() -> None:
    assert check_recipe({}) == RECIPE
    assert check_recipe({"learning_rate": 0.1})["learning_rate"] == 0.1
    for bad in (
        {"rate": 1},
        {"learning_rate": 0},
        {"weight_decay": -1},
        {"batch_size": 1.5},
        {"batch_size": 0},
    ):
        with pytest.raises(ConfigError):
            check_recipe(bad)
    for bad in ({"label_smoothing": 1.0}, {"learning_rate": True}, {"learning_rate": "fast"}):
        with pytest.raises(ConfigError):
            check_recipe(bad)


def test_settings_change_the_training_and_their_defaults_do_not() -> None:
    network = chain.Space(input_shape=(1, 8, 8), classes=10, **SMALL)
    network = network.build(network.sample(np.random.default_rng(0)))
    plain, named, other = (
        train(TrainingJob(network, "digits", {}, Fidelity(1, 0.3), 0, settings=settings)).weights
        for settings in ({}, dict(RECIPE), {"learning_rate": 1e-3, "batch_size": 16, "label_smoothing": 0.0})
    )
    assert all(np.array_equal(plain[name], named[name]) for name in plain)
    assert any(not np.array_equal(plain[name], other[name]) for name in plain)


# --------------------------------------------------------------------------- a whole run

RUN = """
name = "joint"
seed = 3
trials = 9
[task]
name = "digits"
[space]
name = "chain"
depths = [1]
widths = [8]
kernels = [3]
blocks = ["plain"]
expansions = [2]
activations = ["relu"]
skips = [false]
stem_strides = [1]
max_downsamplings = 1
[space.deployment.here]
limits = ["latency_p90 <= 500 ms"]
[space.training]
learning_rate = [0.002, 0.006]
[strategy]
name = "random_search"
[training]
epochs = 1
subset = 0.3
workers = 2
[measurement]
accept_noisy = true
screen = { sessions = [1, 1], session_s = 0.01, warmup_s = 0.002, min_runs = 20 }
confirm = { sessions = [2, 2], agents = 2, session_s = 0.01, warmup_s = 0.002, min_runs = 20 }
[[targets]]
device = "here"
runtime = "onnxruntime"
precision = "int8"
[[targets]]
device = "here"
runtime = "tflite"
precision = ["fp32", "int8"]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run on this machine."""
    folder = tmp_path_factory.mktemp("joint")
    lab, study = folder / "lab.toml", folder / "study.toml"
    lab.write_text(f'[devices.here]\nconnection = "local"\npython = "{sys.executable}"\n')
    assert Lab.load(lab).entry("here").connection == "local"
    study.write_text(RUN)
    assert cli.main(["search", str(study), "--lab", str(lab), "--runs", str(folder / "runs")]) == 0
    return folder / "runs" / "joint"


def test_dry_run_counts_a_candidate_once_where_it_chooses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, study = tmp_path / "lab.toml", tmp_path / "study.toml"
    lab.write_text("".join(f'[devices.{name}]\nconnection = "local"\n' for name in ("here", "there")))
    longer = RUN.replace("session_s = 0.01, warmup_s = 0.002", "session_s = 59.0, warmup_s = 1.0")
    other = '[[targets]]\ndevice = "there"\nruntime = "tflite"\nprecision = ["fp32", "int8"]\n'
    study.write_text(longer + other)
    assert cli.main(["search", str(study), "--lab", str(lab), "--dry-run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    # One network and two recipes: six candidates are two trainings, measured once on each target.
    assert (rows["networks_in_space"], rows["candidates_at_most"], rows["trainings_at_most"]) == (1, 6, 2)
    here, there = rows["boards"]["here"], rows["boards"]["there"]
    assert (here["measurements_at_most"], there["measurements_at_most"]) == (3, 2)
    prepare_s = 1.8
    # A screen of 1 session and a confirmation of 2 sessions for each of so many, a minute each.
    assert here["board_s_at_most"] == pytest.approx(60 * (3 + 2 * 3) + 3 * prepare_s)
    assert there["board_s_at_most"] == pytest.approx(60 * (2 + 2 * 2) + 2 * prepare_s)


def test_dry_run_counts_rungs_and_models_the_time_of_trainings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, study = tmp_path / "lab.toml", tmp_path / "study.toml"
    lab.write_text('[devices.here]\nconnection = "local"\n')
    alone = (
        RUN.split("[space.deployment")[0].replace("widths = [8]", "widths = [8, 16, 24]")
        + RUN[RUN.index("[strategy]") :]
    )
    study.write_text(
        alone.replace("trials = 9", 'trials = 9\nspeedups = ["lower_fidelity"]')
        .replace("epochs = 1", "epochs = 6")
        .replace("random_search", "bayesian")
    )
    assert cli.main(["search", str(study), "--lab", str(lab), "--dry-run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert (rows["networks_in_space"], rows["candidates_at_most"]) == (9, 9)
    # Rungs of 2 and 6 epochs: nine networks at the first, three promoted, or all of them at the most.
    assert (rows["trainings_at_most"], rows["epochs_at_most"]) == (18, 9 * 2 + 9 * 4)
    assert (rows["trainings_expected"], rows["epochs_expected"]) == (12, 9 * 2 + 3 * 4)
    assert rows["boards"]["here"]["measurements_at_most"] == 27
    least, most = rows["training_cpu_s_modelled_least"], rows["training_cpu_s_modelled_greatest"]
    assert 0 < least <= rows["training_cpu_s_modelled"] <= most
    assert rows["training_networks_timed"] == 3


@pytest.fixture
def known(finished: Path) -> History:
    with Store.open(finished / STORE) as store:
        return history(store.run("joint"))


def test_a_trial_is_measured_on_what_it_chose_alone(known: History) -> None:
    names = {t.name for t in known.targets}
    assert len(names) == 3
    for trial in known.trials:
        assert trial.state == "complete"
        (name,) = trial.measurements
        assert name == f"here-{trial.options['deployment.here']}"
        precision = trial.measurements[name].target.precision
        assert set(trial.exported) == {f"{known.target(name).file_format}-{precision}"}
        assert precision in trial.accuracy
    assert len({t.options["deployment.here"] for t in known.trials}) > 1


def test_one_network_with_one_recipe_is_trained_once(known: History) -> None:
    by_training: dict[tuple[Any, ...], list[Any]] = {}
    for trial in known.trials:
        key = tuple(v for k, v in trial.options.items() if not k.startswith("deployment."))
        by_training.setdefault(key, []).append(trial)
    assert max(map(len, by_training.values())) > 1, "the space is so small that trials share networks"
    for trials in by_training.values():
        assert len({t.checkpoint for t in trials}) == 1
        assert sum(t.training_s > 0 for t in trials) == 1
    assert len({trials[0].checkpoint for trials in by_training.values()}) == len(by_training)


def test_fronts_stay_per_target_and_the_report_says_which_deployment(finished: Path, known: History) -> None:
    text = (finished / "report.md").read_text()
    assert "## Which deployment on here" in text
    assert "For one and the same network, " in text
    assert set(same_network(known, "here")) == set(known.targets)
    front = board_front(known, "here")
    assert front
    for target in known.targets:
        table = pd.read_csv(finished / f"pareto_{target.name}.csv")
        chose = {t.trial.number for t in known.trials if target.name in t.measurements}
        assert set(table["trial"]) <= chose
        here = {m.candidate.known.trial.number for m in front if m.target == target}
        assert here <= set(table["trial"]), "what leads on the board leads on its target"
    models = {path.name for path in (finished / "models").iterdir()}
    assert any("-int8" in name for name in models)
