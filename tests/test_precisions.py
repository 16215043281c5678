"""A study on targets of several precisions: measured untrained, scored and proved trained, resumed."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from harness import cli
from harness.config import STORE
from harness.study import read_study
from results.errors import ConfigError
from results.evaluations import history
from results.records import UNTRAINED, Metric
from results.store import Run, Store
from search.datasets import load_task

STUDY = """
name = "mixed"
seed = 5
trials = 4
objective = "latency_p90"
[task]
name = "digits"
[space]
name = "chain"
widths = [8]
[strategy]
name = "random_search"
[training]
epochs = 3
workers = 1
[calibration]
images = 32
method = "min-max"
[measurement]
check_outputs = "all"
accept_noisy = true
screen = { sessions = [2, 2], session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
confirm = { sessions = [2, 2], agents = 2, session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
[[targets]]
device = "desk"
runtime = "onnxruntime"
precision = "int8"
[[targets]]
device = "desk"
runtime = "tflite"
precision = "int8"
[[targets]]
device = "desk"
runtime = "tflite"
precision = "fp16"
"""
ORT, TFLITE, HALF = (f"desk-{name}-threads1" for name in ("onnxruntime-int8", "tflite-int8", "tflite-fp16"))


KINDS = ("onnx-int8", "tflite-int8", "tflite-fp16")


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("precisions")
    (folder / "lab.toml").write_text(f'[devices.desk]\nconnection = "local"\npython = "{sys.executable}"\n')
    (folder / "study.toml").write_text(STUDY)
    argv = [str(folder / "study.toml"), "--lab", str(folder / "lab.toml"), "--runs", str(folder / "runs")]
    with redirect_stdout(io.StringIO()) as output:
        assert cli.main(["search", *argv]) == 0, output.getvalue()
    return folder / "runs" / "mixed"


@pytest.fixture(name="run", scope="module")
def _run(folder: Path) -> Run:
    return Store.open(folder / STORE).run("mixed")


def completed(run: Run) -> list[int]:
    return [known.trial.number for known in history(run).trials if known.state == "complete"]


def test_every_trained_file_is_exported_proved_and_scored(run: Run) -> None:
    numbers = completed(run)
    assert numbers
    for number in numbers:
        bodies = {
            kind: run.get("exported", f"{number}/{kind}")
            for kind in ("onnx-int8", "tflite-int8", "tflite-fp16")
        }
        for kind, body in bodies.items():
            assert body is not None, kind
            assert body["artifact"]["precision"] == kind.split("-")[1]
            assert body["tolerance"] > 0
        scored = run.get("scored", str(number))
        assert scored is not None
        worst = min(bodies[kind]["score"]["value"] for kind in ("onnx-int8", "tflite-int8"))
        assert scored["accuracy"]["int8"]["value"] == worst
        assert set(scored["accuracy"]) == {"int8", "fp16"}
        for target in (ORT, TFLITE, HALF):
            checked = run.get("checked", f"{number}/{target}")
            assert checked is not None
            assert checked["largest_difference"] <= bodies[kind_in(target)]["tolerance"]


def kind_in(target: str) -> str:
    _, runtime, precision, _ = target.split("-")
    return f"{'onnx' if runtime == 'onnxruntime' else 'tflite'}-{precision}"


def test_screens_are_of_files_of_the_targets_precision(run: Run) -> None:
    for target, precision in ((ORT, "int8"), (TFLITE, "int8"), (HALF, "fp16")):
        body = run.get("measured", f"0/{target}/screen/0")
        assert body is not None
        assert body["measurement"]["artifact"]["precision"] == precision
        assert body["measurement"]["artifact"]["weights"] == UNTRAINED
        trained = run.get("exported", f"{completed(run)[0]}/{kind_in(target)}")
        screened = run.get("measured", f"{completed(run)[0]}/{target}/screen/0")
        assert trained is not None
        assert screened is not None
        assert trained["artifact"]["weights"] != UNTRAINED
        assert trained["artifact"]["graph"] == screened["measurement"]["artifact"]["graph"]


def test_accuracy_is_that_of_the_precision(run: Run) -> None:
    for known in history(run).trials:
        if known.state == "complete":
            assert set(known.accuracy) == {"fp32", "fp16", "int8"}
            assert known.accuracy["fp16"].value == pytest.approx(known.accuracy["fp32"].value, abs=0.01)
            # 359 validation images; 8 bits on few parameters may cost some of them.
            assert known.accuracy["int8"].value == pytest.approx(known.accuracy["fp32"].value, abs=0.1)


def test_the_front_shows_the_test_score_of_the_file_that_is_shipped(run: Run, folder: Path) -> None:
    front = pd.read_csv(folder / f"pareto_{ORT}.csv")
    tested = front[(front["accuracy_test"].notna()) & front["nominal"]]
    assert len(tested)
    split = load_task("digits").data.test
    for row in tested.to_dict("records"):
        file = folder / "models" / f"trial{row['trial']}-int8.onnx"
        session = onnxruntime.InferenceSession(file)
        outputs = np.concatenate([session.run(None, {"input": image[None]})[0] for image in split.images])
        here = (outputs.argmax(1) == split.labels).mean()
        assert row["accuracy_test"] <= here + 1e-6  # the worst of both formats
        assert row["accuracy_test"] == pytest.approx(here, abs=0.02)


def test_resuming_a_finished_run_changes_no_record(folder: Path, run: Run) -> None:
    before = [(r.kind, r.key) for r in run.records()]
    argv = ["resume", "mixed", "--lab", str(folder.parents[1] / "lab.toml"), "--runs", str(folder.parent)]
    with redirect_stdout(io.StringIO()):
        assert cli.main(argv) == 0
    assert [(r.kind, r.key) for r in run.records()] == before


def study(folder: Path, **changes: tuple[str, str]) -> Path:
    text = STUDY
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    path = folder / "study.toml"
    path.write_text(text)
    return path


def test_accuracy_objective_is_at_the_targets_precisions(tmp_path: Path) -> None:
    found = read_study(study(tmp_path))
    assert found.problem("accuracy", maximise=True).objectives[0] == Metric(
        "accuracy", (ORT, TFLITE, HALF), maximise=True
    )
    assert (found.calibration.images, found.calibration.method) == (32, "min-max")
    plain = read_study(
        study(tmp_path, a=('precision = "int8"', ""), b=('precision = "fp16"', "options = { threads = 2 }"))
    )
    assert plain.problem("accuracy", maximise=True).objectives[0] == Metric("accuracy", maximise=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('precision = "int8"', 'precision = "int4"'), "precision"),
        (('method = "min-max"', 'method = "kl"'), "method"),
        (("images = 32", "images = 0"), "images"),
        (("images = 32", "pictures = 32"), "pictures"),
    ],
)
def test_what_a_study_cannot_say(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_study(study(tmp_path, a=change))
