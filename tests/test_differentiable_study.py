"""A whole study with differentiable search, on this machine: profile, pretrain, search, confirm, report."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import cli
from harness.config import STORE
from harness.export import run_on_host
from harness.profile import block_file
from results.records import Target
from results.store import Store
from search.differentiable_spaces import blocks_of
from search.spaces.cell import Space

STUDY = """
name = "cells"
seed = 4
trials = 3
[task]
name = "digits"
[space]
name = "cell"
channels = 4
cells = 1
[strategy]
name = "differentiable"
epochs = 3
[training]
epochs = 1
workers = 1
[measurement]
accept_noisy = true
screen = { sessions = [2, 2], session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
confirm = { sessions = [2, 2], agents = 2, session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
[[targets]]
device = "desk"
runtime = "onnxruntime"
"""
TARGET = "desk-onnxruntime-fp32-threads1"


@pytest.mark.parametrize("cells", [{"kind": "nas_bench_201", "cells": 1}, {"kind": "darts", "cells": 4}])
@pytest.mark.parametrize("runtime", ["onnxruntime", "tflite"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_block_runs_in_every_format_and_precision(
    runtime: str, precision: str, cells: dict[str, Any]
) -> None:
    target = Target("desk", runtime, precision)
    space = Space(input_shape=(3, 16, 16), classes=10, channels=4, **cells)
    for name, block in blocks_of(space).table.items():
        file = block_file(block, target, seed=0)
        images = np.ones((1, *block.network.input_shape), np.float32)
        outputs = run_on_host(file, images)
        assert outputs.shape[1:] == block.network.shapes[block.network.output], name


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str, float]]]:
    """Folder of a run that was killed in the middle of the profile and gone on with, and its records then."""
    folder = tmp_path_factory.mktemp("differentiable")
    (folder / "lab.toml").write_text(f'[devices.desk]\nconnection = "local"\npython = "{sys.executable}"\n')
    (folder / "study.toml").write_text(STUDY)
    places = ["--lab", str(folder / "lab.toml"), "--runs", str(folder / "runs")]
    run = folder / "runs" / "cells"
    argv = [sys.executable, "-m", "harness.cli", "search", str(folder / "study.toml"), *places]
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=Path(__file__).parents[1], stdout=log, stderr=log)
    while profiled_so_far(run) < 5:
        assert process.poll() is None, (folder / "output.log").read_text()
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = [(r.kind, r.key, r.at) for r in records(run)]
    assert cli.main(["resume", str(run), *places]) == 0
    return run, before


def profiled_so_far(run: Path) -> int:
    """Number of measured blocks, read from outside while the run writes."""
    try:
        with closing(sqlite3.connect(f"file:{run / STORE}?mode=ro", uri=True, timeout=5)) as database:
            query = "SELECT COUNT(*) FROM records WHERE kind = 'profiled'"
            return int(database.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # not there yet, or its tables are being made


@pytest.fixture(scope="module")
def finished(interrupted: tuple[Path, list[Any]]) -> Path:
    """Folder of a finished run."""
    return interrupted[0]


def records(folder: Path, kind: str | None = None) -> list[Any]:
    with Store.open(folder / STORE) as store:
        return list(store.run("cells").records(kind))


def test_every_block_is_measured_once_per_target(finished: Path) -> None:
    keys = [r.key for r in records(finished, "profiled")]
    assert len(keys) == len(set(keys)) == 20
    assert all(key.endswith(f"/{TARGET}") for key in keys)
    for record in records(finished, "profiled"):
        assert record.body["measurement"]["origin"] == "measured"


def test_a_killed_profile_is_gone_on_with(interrupted: tuple[Path, list[Any]]) -> None:
    run, before = interrupted
    measured = [key for kind, key, _ in before if kind == "profiled"]
    assert 5 <= len(measured) < 20
    assert not [key for kind, key, _ in before if kind == "pretrained"]
    assert [(r.kind, r.key, r.at) for r in records(run)][: len(before)] == before


def test_the_selected_network_is_asked_for_first_and_measured_as_a_whole(finished: Path) -> None:
    (pretrained,) = records(finished, "pretrained")
    first = next(r for r in records(finished, "asked") if r.key == "0").body["trial"]["proposal"]
    assert first["architecture"] == pretrained.body["architecture"]
    assert pretrained.body["training_s"] > 0
    assert (pretrained.body["plan"]["method"], pretrained.body["plan"]["latency_weight"]) == ("darts", 0.1)
    assert len(pretrained.body["found"]["curve"]) <= 3
    asked = [
        tuple(r.body["trial"]["proposal"]["architecture"]["choices"]) for r in records(finished, "asked")
    ]
    assert len(set(asked)) == 3
    assert any(r.key.startswith(f"0/{TARGET}") for r in records(finished, "measured"))


def test_the_report_puts_the_sum_of_blocks_beside_the_measurement_and_no_csv_has_it(finished: Path) -> None:
    text = (finished / "report.md").read_text()
    row = re.search(rf"\| {TARGET} \| ([\d.]+) ms \| ([\d.]+) ms \| [+-]\d+% \|", text)
    assert row is not None, text
    (pretrained,) = records(finished, "pretrained")
    sum_s = pretrained.body["sum_of_blocks_s"][TARGET]
    assert float(row[1]) == pytest.approx(1e3 * sum_s, rel=0.01)
    for path in finished.glob("*.csv"):
        content = path.read_text()
        assert repr(sum_s) not in content
        assert repr(1e3 * sum_s) not in content


def test_resuming_repeats_no_stage(finished: Path) -> None:
    before = [(r.kind, r.key, r.at) for r in records(finished)]
    lab = finished.parents[1] / "lab.toml"
    assert cli.main(["resume", str(finished), "--lab", str(lab)]) == 0
    assert [(r.kind, r.key, r.at) for r in records(finished)] == before


def test_another_space_is_refused_with_the_remedy(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY.replace('name = "cell"\nchannels = 4\ncells = 1', 'name = "chain"'))
    lab = finished.parents[1] / "lab.toml"
    assert cli.main(["search", str(study), "--lab", str(lab), "--runs", str(tmp_path / "runs")]) == 1
    said = capsys.readouterr().err
    assert "'chain'" in said
    assert "nas_bench_201" in said
    assert not (tmp_path / "runs").exists()


def test_dry_run_names_the_stages_before_the_search(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    lab = finished.parents[1] / "lab.toml"
    command = [
        "search",
        str(study),
        "--lab",
        str(lab),
        "--runs",
        str(tmp_path / "runs"),
        "--dry-run",
        "--json",
    ]
    assert cli.main(command) == 0
    costs = json.loads(capsys.readouterr().out)
    assert (costs["profiled_blocks_per_target"], costs["pretrain_epochs"]) == (20, 3)
