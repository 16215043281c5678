"""Nights and comparisons by the command line, measured for real on this machine."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from harness import cli
from harness.export import export
from harness.nightly import next_time
from harness.nightly_plan import read_plan
from results.errors import ConfigError
from search.network import initial_weights
from search.spaces.chain import Space

PLAN = """
name = "small"
metrics = ["latency_p50", "size"]
[thresholds]
latency_p50 = 0.05
[measurement]
nightly = { sessions = [3, 3], agents = 3, session_s = 0.01, warmup_s = 0.0, min_runs = 20, retries = 0 }
[[sources]]
name = "small"
model = "small.onnx"
[[sources]]
name = "broken"
model = "broken.onnx"
[[targets]]
device = "desk"
runtime = "onnxruntime"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab file with this machine, and two models of which one is twice the other."""
    folder = tmp_path_factory.mktemp("nightly")
    lab = str(folder / "lab.toml")
    assert cli.main(["devices", "add", "desk", "--local", "--python", sys.executable, "--lab", lab]) == 0
    space = Space(input_shape=(1, 16, 16), classes=10)
    network = space.build(space.sample(np.random.default_rng(0)))
    file = export(network, initial_weights(network, 0), "onnx")
    (folder / "small.onnx").write_bytes(file.data)
    big = Space(input_shape=(1, 64, 64), classes=10)
    network = big.build(big.sample(np.random.default_rng(0)))
    (folder / "big.onnx").write_bytes(export(network, initial_weights(network, 0), "onnx").data)
    return folder


def run(folder: Path, *words: str) -> int:
    return cli.main([*words, "--lab", str(folder / "lab.toml"), "--runs", str(folder / "runs")])


def test_a_night_is_measured_judged_and_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = folder / "plan.toml"
    plan.write_text(PLAN.replace('[[sources]]\nname = "broken"\nmodel = "broken.onnx"\n', ""))
    assert run(folder, "nightly", str(plan), "--accept-noisy", "--json") == 0
    rows = {row["metric"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"latency_p50", "size"}
    assert all(row["outcome"] == "learning" for row in rows.values())
    assert 0 < rows["latency_p50"]["figure_low"] <= rows["latency_p50"]["figure"]
    assert rows["size"]["figure"] == (folder / "small.onnx").stat().st_size
    assert len(list((folder / "runs" / "nightly" / "small").glob("*/junit.xml"))) == 1
    assert run(folder, "nightly", "accept", "small") == 0
    assert "accepted: small/desk-onnxruntime-fp32-threads1/latency_p50" in capsys.readouterr().out


def test_a_missing_source_ends_the_night_with_its_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = folder / "missing.toml"
    plan.write_text(PLAN)
    assert run(folder, "nightly", str(plan), "--accept-noisy") == 1
    assert "broken.onnx" in capsys.readouterr().err


def test_what_is_not_reached_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from harness import nightly

    plan = folder / "late.toml"
    plan.write_text(
        PLAN.replace('name = "small"\nm', 'name = "late"\nm', 1).replace("broken.onnx", "big.onnx")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nightly, "next_time", lambda text, now: now.timestamp() - 1)
        assert run(folder, "nightly", str(plan), "--accept-noisy", "--until", "06:00") == 1
    out = capsys.readouterr().out
    assert "4 series: 4 unmeasured" in out
    assert "not reached before the end of the night" in out


def test_two_files_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, big = str(folder / "small.onnx"), str(folder / "big.onnx")
    code = run(folder, "compare", small, big, "--on", "desk", "--agents", "3", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["ratio"]["value"] > 2  # 16 times the pixels
    assert found["agents"] == 3
    if code == 0:
        assert found["verdict"] == "different"
        assert "big.onnx takes" in found["sentence"]
        assert "times as long as small.onnx" in found["sentence"]
    else:  # on a very busy machine
        assert (code, found["verdict"]) == (4, "cannot tell")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('model = "small.onnx"', 'modell = "small.onnx"', "exactly one of model, run, space"),
        ('name = "broken"', 'name = "small"', "two sources are called 'small'"),
        ('metrics = ["latency_p50", "size"]', 'metrics = ["latency"]', "'latency'"),
        ("latency_p50 = 0.05", "latency_p5 = 0.05", "latency_p5"),
        ('runtime = "onnxruntime"', 'runtime = "onnx"', "'onnx'"),
    ],
)
def test_bad_plans_are_refused_by_key(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "plan.toml"
    assert old in PLAN
    path.write_text(PLAN.replace(old, new))
    with pytest.raises(ConfigError, match=words):
        read_plan(path)


def test_winners_and_architectures_are_sources_too(tmp_path: Path, folder: Path) -> None:
    models = tmp_path / "runs" / "demo" / "models"
    models.mkdir(parents=True)
    (models / "trial7.onnx").write_bytes((folder / "small.onnx").read_bytes())
    space = Space(input_shape=(1, 16, 16), classes=10)
    options = space.describe(space.sample(np.random.default_rng(0)))
    decisions = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    path = tmp_path / "plan.toml"
    path.write_text(f"""
[[sources]]
name = "winners"
run = "runs/demo"
[[sources]]
name = "known"
space = {{ name = "chain", input_shape = [1, 16, 16], classes = 10, architecture = {{ {decisions} }} }}
[[targets]]
device = "desk"
runtime = "onnxruntime"
""")
    winners, known = read_plan(path).sources
    assert [item.name for item in winners.items("onnx")] == ["winners.trial7"]
    (built,) = known.items("onnx")
    network = space.build(space.sample(np.random.default_rng(0)))
    assert built.file.artifact.graph == export(network, initial_weights(network, 0), "onnx").artifact.graph
    assert known.items("tflite")[0].file.artifact.file_format == "tflite"
    with pytest.raises(ConfigError, match=r"holds no \.tflite file"):
        winners.items("tflite")


def test_the_end_of_the_night_is_the_next_time_the_clock_shows() -> None:
    evening = datetime(2026, 3, 4, 22, 30, tzinfo=UTC)
    assert next_time("06:00", evening) == datetime(2026, 3, 5, 6, 0, tzinfo=UTC).timestamp()
    assert next_time("23:00", evening) == datetime(2026, 3, 4, 23, 0, tzinfo=UTC).timestamp()
    with pytest.raises(ConfigError, match="write it like 06:00"):
        next_time("6 o'clock", evening)
