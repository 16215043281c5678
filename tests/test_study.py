"""Study files: what they say, and what is refused in which words."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli
from harness.config import STORE
from harness.quantities import parse_limit, show
from harness.study import WORKERS, read_study, study_of
from harness.training_pools import pool_of
from results.errors import ConfigError
from results.front import objectives
from results.records import Limit, Metric, Problem
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
    accuracy, cost = study.problem.objectives
    assert accuracy == Metric("accuracy", maximise=True)
    assert cost == Metric("latency_p90", (ort, tflite), (0.008, 0.004))
    assert study.in_flight == 6


def test_what_is_stored_reads_back_as_the_same_study(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    study = read_study(path)
    assert study_of(study.source, path) == study


def test_a_study_has_a_worker_per_core_unless_it_names_a_number(tmp_path: Path) -> None:
    unnamed = write(tmp_path, GOOD.replace("workers = 2\n", ""))
    cores = len(os.sched_getaffinity(0))
    here = read_study(write(tmp_path, unnamed.read_text().replace("trials = 12", "trials = 10000")))
    assert (here.workers, here.in_flight) == (cores, 3 * cores)
    assert read_study(write(tmp_path, GOOD.replace("workers = 2\n", ""))).workers == min(cores, 2)
    with on_cores(1):
        there = read_study(unnamed)
        assert (there.workers, there.in_flight) == (1, 3)
        assert study_of(here.source, unnamed) == here, "what is stored goes on with its own number"
        assert read_study(write(tmp_path, GOOD)).workers == 2
        assert read_study(write(tmp_path, GOOD.split("[training]")[0] + _TARGET)).workers == 1
    assert study_of(there.source, unnamed) == there


@pytest.mark.parametrize("place", ['pool = "ray"', 'device = "cuda"'])
def test_cores_of_this_machine_tell_nothing_of_clusters_and_gpus(tmp_path: Path, place: str) -> None:
    with on_cores(1):
        assert read_study(write(tmp_path, GOOD.replace("workers = 2", place))).workers == WORKERS


def test_a_run_is_stored_with_its_number_of_workers(tmp_path: Path) -> None:
    study = write(tmp_path, GOOD.replace("workers = 2\n", ""))
    (tmp_path / "lab.toml").write_text('[devices.pi5]\nconnection = "local"\npython = "/no/such/python"\n')
    places = ["--lab", str(tmp_path / "lab.toml"), "--runs", str(tmp_path / "runs")]
    assert cli.main(["search", str(study), *places]) == 1  # begun and stored, but the board is not fit
    with Store.open(tmp_path / "runs" / "demo" / STORE) as store:
        stored = store.run("demo").config["study"]
    assert stored["training"]["workers"] == min(len(os.sched_getaffinity(0)), WORKERS)
    with on_cores(1):
        assert study_of(stored, study).workers == stored["training"]["workers"]


def test_a_run_that_was_stored_without_a_number_of_workers_goes_on_with_two(tmp_path: Path) -> None:
    stored = tomllib.loads(GOOD.replace("workers = 2\n", ""))
    with on_cores(1):
        study = study_of(stored, tmp_path / "study.toml")
    assert (study.workers, study.in_flight) == (2, 6)


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
    return read_study(write(folder, GOOD.replace("seed = 7", f"seed = 7\n{line}"))).problem


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
