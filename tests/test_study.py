"""Study files: what they say, and what is refused in which words."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cli
from harness.config import STORE, space_of, strategy_of, task_of
from harness.quantities import parse_limit, show
from harness.study import BENCH, CONFIRM, NIGHTLY, SCREEN, WORKERS, plan_of, read_study, study_of
from harness.training_pools import pool_of
from results.codec import from_json, to_json
from results.errors import ConfigError
from results.front import objectives
from results.records import Limit, Metric, Plan, Problem
from results.settings import Settings
from results.store import Store
from tests.affinity import on_cores

GOOD = """
name = "demo"
seed = 7
trials = 12
[task]
name = "digits"
[space]
name = "chain"
depths = [1, 2]
[strategy]
name = "bayesian"
[training]
epochs = 3
workers = 2
[[targets]]
device = "pi5"
runtime = "onnxruntime"
limits = ["latency_p90 <= 8 ms", "peak_memory <= 64 MiB"]
[[targets]]
device = "pi5"
runtime = "tflite"
options = { threads = 2 }
limits = ["latency_p90 <= 4 ms"]
"""

_TARGET = '[[targets]]\ndevice = "pi5"\nruntime = "onnxruntime"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def test_reads_everything(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, GOOD))
    ort, tflite = (target.name for target in study.targets)
    assert (ort, tflite) == ("pi5-onnxruntime-fp32-threads1", "pi5-tflite-fp32-threads2")
    assert study.space.options == {"depths": [1, 2]}
    assert study.limits == (
        Limit(Metric("latency_p90", (ort,)), 0.008),
        Limit(Metric("peak_memory", (ort,)), 64 * 2.0**20),
        Limit(Metric("latency_p90", (tflite,)), 0.004),
    )
    accuracy, cost = study.problem("accuracy", maximise=True).objectives
    assert accuracy == Metric("accuracy", maximise=True)
    assert cost == Metric("latency_p90", (ort, tflite), (0.008, 0.004))
    assert study.in_flight == 6


def test_what_is_stored_reads_back_as_the_same_study(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    study = read_study(path)
    assert study_of(study.source, path) == study


@pytest.mark.parametrize(("trials", "in_flight"), [(12, 6), (80, 10), (400, 24)])
def test_what_is_asked_for_depends_on_no_core_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int, in_flight: int
) -> None:
    unnamed = write(tmp_path, GOOD.replace("workers = 2\n", "").replace("trials = 12", f"trials = {trials}"))
    workers = {}
    for cores in (1, 2, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        study = read_study(unnamed)
        workers[cores] = study.workers
        assert study.in_flight == in_flight
        assert study.source["training"] == {"epochs": 3, "in_flight": in_flight}
        assert study_of(study.source, unnamed) == study
    assert workers == {1: 1, 2: 2, 64: in_flight}


def test_as_many_trials_are_under_way_as_there_are_named_workers(tmp_path: Path) -> None:
    assert read_study(write(tmp_path, GOOD.replace("workers = 2", "workers = 9"))).in_flight == 9
    named = read_study(write(tmp_path, GOOD.replace("workers = 2", "workers = 9\nin_flight = 4")))
    assert (named.workers, named.in_flight) == (9, 4)


@pytest.mark.parametrize("place", ['pool = "ray"', 'device = "cuda"'])
def test_cores_of_this_machine_tell_nothing_of_clusters_and_gpus(tmp_path: Path, place: str) -> None:
    with on_cores(1):
        assert read_study(write(tmp_path, GOOD.replace("workers = 2", place))).workers == WORKERS


def test_a_run_is_stored_with_its_number_of_trials_under_way(tmp_path: Path) -> None:
    study = write(tmp_path, GOOD.replace("workers = 2\n", ""))
    (tmp_path / "lab.toml").write_text('[devices.pi5]\nconnection = "local"\npython = "/no/such/python"\n')
    places = ["--lab", str(tmp_path / "lab.toml"), "--runs", str(tmp_path / "runs")]
    assert cli.main(["search", str(study), *places]) == 1  # begun and stored, but the board is not fit
    with Store.open(tmp_path / "runs" / "demo" / STORE) as store:
        stored = store.run("demo").config["study"]
    assert stored["training"]["in_flight"] == 6


@pytest.mark.parametrize(("line", "in_flight"), [("", 6), ("workers = 1\n", 3), ("workers = 5\n", 15)])
def test_a_run_that_an_earlier_version_stored_keeps_three_trials_per_worker(
    tmp_path: Path, line: str, in_flight: int
) -> None:
    stored = tomllib.loads(GOOD.replace("workers = 2\n", line))
    with on_cores(1):
        assert study_of(stored, tmp_path / "study.toml").in_flight == in_flight


def test_paths_of_tasks_are_stored_absolute(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, GOOD.replace('"digits"', '"mine.py"')))
    assert study.task.name == str(tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("trials = 12", "trails = 12", ["study.toml", "'trails'", "'trials'"]),
        ("trials = 12", "trials = 0", ["trials", "at least 1", "0"]),
        ("trials = 12", "trials = '12'", ["trials", "whole number", "'12'"]),
        ("epochs = 3", "epoch = 3", ["[training]", "'epoch'", "'epochs'"]),
        ('runtime = "tflite"', 'runtime = "tflight"', ["[[targets]] number 2", "'tflight'", "'tflite'"]),
        ("latency_p90 <= 4 ms", "latency_p90 <= 4 mJ", ["number 2", "4 mJ", "ms"]),
        ("latency_p90 <= 4 ms", "latency_p95 <= 4 ms", ["'latency_p95'", "'latency_p90'"]),
        ("latency_p90 <= 4 ms", "latency_p90 < 4 ms", ["latency_p90 < 4 ms", "write it like"]),
        ("latency_p90 <= 4 ms", "latency_p90 <= 0 ms", ["positive"]),
        ("latency_p90 <= 4 ms", "macs <= 4 M", ["macs", "at the top"]),
        ('name = "demo"', 'name = "a b"', ["name", "'a b'"]),
        ("seed = 7", 'limits = ["latency_p90 <= 4 ms"]', ["needs a target"]),
        (
            "[[targets]]",
            "[measurement.screen]\nmin_runs = 9\n[[targets]]",
            ["[screen]", "min_runs = 9", "latency_p90 needs 10 runs", "raise it"],
        ),
        (
            "[[targets]]",
            "[measurement.confirm]\nmax_runs = 30\n[[targets]]",
            ["[confirm]", "max_runs", "at least 50"],
        ),
        ("options = { threads = 2 }", 'precision = "int4"', ["precision", "'int4'"]),
        (
            "[[targets]]",
            "[measurement]\nconfirm = { sessions = [2, 4], agents = 5 }\n[[targets]]",
            ["[measurement] [confirm]", "agents = 5", "no more than 2", "sessions = [5, ...]"],
        ),
        (
            "[[targets]]",
            "[measurement.screen]\nagents = 2\n[[targets]]",
            ["[screen]", "agents = 2", "no more than 1", "sessions = [2, ...]"],
        ),
        ("[[targets]]", "[measurement.screen]\nsessions = [4, 2]\n[[targets]]", ["sessions", "[4, 2]"]),
        ("[[targets]]", "[measurement.screen]\nsessions = [0, 2]\n[[targets]]", ["sessions", "[0, 2]"]),
        ("[[targets]]", "[measurement.screen]\nsessions = [true, 2]\n[[targets]]", ["sessions", "[True, 2]"]),
        ("[[targets]]", "[measurement.screen]\nsession_s = inf\n[[targets]]", ["session_s", "finite", "inf"]),
        ("[[targets]]", "[measurement.screen]\nplateau_s = [1, inf]\n[[targets]]", ["plateau_s", "inf"]),
        ("epochs = 3", "time_limit_s = inf", ["[training]", "time_limit_s", "finite"]),
    ],
)
def test_bad_values_name_file_key_value_and_remedy(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        read_study(write(tmp_path, GOOD.replace(old, new, 1)))
    for word in [str(tmp_path), *words]:
        assert word in str(caught.value)


def test_where_a_study_trains(tmp_path: Path) -> None:
    study = read_study(
        write(tmp_path, GOOD.replace("workers = 2", 'workers = 2\npool = "ray"\ndevice = "cuda"'))
    )
    assert (study.pool, study.device) == ("ray", "cuda")
    with pytest.raises(ConfigError, match="trains on CPUs alone"):
        pool_of(study)


def test_sessions_have_the_runs_that_the_figures_asked_for_need(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, GOOD))
    assert (study.screen.min_runs, study.confirm.min_runs) == (20, 50)
    tail = read_study(write(tmp_path, GOOD.replace("seed = 7", 'seed = 7\nobjective = "latency_p99"')))
    assert tail.screen.sessions[0] * tail.screen.min_runs >= 1000
    assert tail.confirm.sessions[0] * tail.confirm.min_runs >= 1000
    assert tail.screen.max_runs >= tail.screen.min_runs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ('name = "regularized_evolution"\npopulation = "4"', "population must be a whole number, got '4'"),
        ('name = "regularized_evolution"\ninherit = 1', "inherit must be true or false, got 1"),
        ('name = "nsga2"\ncrossover = [0.5]', r"crossover must be a number, got \[0.5\]"),
        ('name = "differentiable"\nepochs = 2.5', "epochs must be a whole number, got 2.5"),
    ],
)
def test_options_of_another_type_are_named(tmp_path: Path, options: str, words: str) -> None:
    study = read_study(write(tmp_path, GOOD.replace('name = "bayesian"', options)))
    with pytest.raises(ConfigError, match=rf"study.toml: \[strategy\]: strategy '\w+': {words}"):
        strategy_of(study, space_of(study, task_of(study)), Problem(()))


def test_fewer_sessions_are_spread_over_fewer_agents(tmp_path: Path) -> None:
    few = GOOD.replace("[[targets]]", "[measurement]\nconfirm = { sessions = [2, 2] }\n[[targets]]", 1)
    assert read_study(write(tmp_path, few)).confirm == replace(CONFIRM, sessions=(2, 2), agents=2)


numbers = st.one_of(st.integers(-2, 40), st.floats(width=16), st.booleans())


@given(
    st.dictionaries(
        st.sampled_from([field.name for field in fields(Plan)]),
        st.one_of(numbers, st.lists(numbers, max_size=3)),
        max_size=4,
    )
)
def test_a_plan_is_usable_or_refused_by_table_and_key(values: dict[str, object]) -> None:
    for default in (SCREEN, CONFIRM, BENCH, NIGHTLY):
        try:
            plan = plan_of(Settings(values, "study.toml [measurement] [plan]"), default)
        except ConfigError as error:
            said = str(error)
            assert said.startswith("study.toml [measurement] [plan]: ")
            assert any(key in said for key in values), said
            assert "Plan(" not in said
        else:
            assert from_json(Plan, to_json(plan)) == plan


def test_no_target_and_the_same_target_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"add \[\[targets\]\]"):
        read_study(write(tmp_path, GOOD.split("[[targets]]")[0]))
    twice = GOOD.replace('runtime = "tflite"\noptions = { threads = 2 }', 'runtime = "onnxruntime"')
    with pytest.raises(ConfigError, match="named twice"):
        read_study(write(tmp_path, twice))


def test_no_toml_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_study(write(tmp_path, "name = "))
    with pytest.raises(ConfigError, match="no such file"):
        read_study(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency_p50 <= 8ms", ("latency_p50", 8e-3)),
        ("energy<=20 mJ", ("energy", 20e-3)),
        ("size <= 1.5 MB", ("size", 1.5e6)),
        ("macs <= 3M", ("macs", 3e6)),
        ("parameters <= 1e5", ("parameters", 1e5)),
    ],
)
def test_limits(text: str, expected: tuple[str, float]) -> None:
    assert parse_limit(text, "here") == expected


def test_figures_are_shown_with_units() -> None:
    assert show("latency_p90", 0.00812) == "8.12 ms"
    assert show("size", 375_000) == "375 kB"
    assert show("macs", 3.6e6) == "3.6 M"
    assert show("accuracy", 0.97231) == "0.972"


def problem_of(folder: Path, line: str) -> Problem:
    study = read_study(write(folder, GOOD.replace("seed = 7", f"seed = 7\n{line}")))
    return study.problem("accuracy", maximise=True)


def test_costs_of_each_target_and_several_costs(tmp_path: Path) -> None:
    ort, tflite = "pi5-onnxruntime-fp32-threads1", "pi5-tflite-fp32-threads2"
    accuracy = Metric("accuracy", maximise=True)
    each = problem_of(tmp_path, 'across_targets = "each"')
    assert each.objectives == (accuracy, Metric("latency_p90", (ort,)), Metric("latency_p90", (tflite,)))
    assert each.limits == problem_of(tmp_path, "").limits
    several = problem_of(tmp_path, 'objective = ["latency_p90", "parameters"]')
    worst = Metric("latency_p90", (ort, tflite), (0.008, 0.004))
    assert several.objectives == (accuracy, worst, Metric("parameters"))
    both = problem_of(tmp_path, 'objective = ["peak_memory", "macs"]\nacross_targets = "each"')
    memory = (Metric("peak_memory", (ort,)), Metric("peak_memory", (tflite,)))
    assert both.objectives == (accuracy, *memory, Metric("macs"))
    assert objectives(both, tflite) == (replace(accuracy, targets=(tflite,)), memory[1], Metric("macs"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('objective = ["macs", "macs"]', "objective names one twice"),
        ("objective = []", "objective is an empty list"),
        ('objective = ["macs", "latency"]', "unknown name 'latency'; did you mean 'latency_p"),
        ('across_targets = "mean"', "across_targets unknown name 'mean'"),
    ],
)
def test_objectives_that_are_none(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        problem_of(tmp_path, line)


@pytest.mark.parametrize("name", ["-rf", "", "a" * 300, "a/b", "..", "käse", "a b", "a\n"])
def test_a_name_that_is_no_good_folder_is_refused_when_the_file_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(GOOD.replace(chr(34) + "demo" + chr(34), json.dumps(name)))
    with pytest.raises(ConfigError, match="name must be made of letters"):
        read_study(path)


def test_a_stored_run_may_have_the_longer_name_that_earlier_versions_took(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(GOOD)
    values = {**read_study(path).source, "name": "a" * 255}
    assert study_of(values, path).name == "a" * 255
