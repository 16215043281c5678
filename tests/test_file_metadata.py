"""What model files say of themselves: classes and normalisation, in the bytes that were measured."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tflite
from PIL import Image

from harness import cli
from harness.config import STORE
from harness.export import export, run_on_host
from harness.file_metadata import FILE_METADATA, metadata_of
from results.errors import DataError
from results.store import Store
from search.datasets import load_task
from search.network import initial_weights
from tests.fixtures_training import small_network, task_file

NETWORK = small_network(outputs=2)
WEIGHTS = initial_weights(NETWORK, 0)
METADATA = {"classes": '["cat", "gr\\u00fc\\u00df"]', "input_mean": "[127.5]"}


def read_back(data: bytes, file_format: str) -> dict[str, str]:
    """The metadata of a file, by its runtime or by the schema's own reader."""
    if file_format == "onnx":
        return dict(onnxruntime.InferenceSession(data).get_modelmeta().custom_metadata_map)
    model = tflite.Model.GetRootAs(data)
    entries = [model.Metadata(number) for number in range(model.MetadataLength())]
    return {e.Name().decode(): model.Buffers(e.Buffer()).DataAsNumpy().tobytes().decode() for e in entries}


@pytest.mark.parametrize(("file_format", "layout"), [("onnx", "NCHW"), ("tflite", "NHWC")])
def test_a_file_carries_its_metadata_and_computes_the_same(file_format: str, layout: str) -> None:
    plain = export(NETWORK, WEIGHTS, file_format)
    file = export(NETWORK, WEIGHTS, file_format, metadata=METADATA)
    assert read_back(file.data, file_format) == {**METADATA, "input_layout": f'"{layout}"'}
    assert file.artifact.graph == plain.artifact.graph
    assert file.artifact.weights == plain.artifact.weights
    turned = dict(reversed(METADATA.items()))
    assert export(NETWORK, WEIGHTS, file_format, metadata=turned).data == file.data
    images = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    assert (run_on_host(file, images) == run_on_host(plain, images)).all()
    assert read_back(plain.data, file_format) == {}


# --------------------------------------------------------------------------- names of classes


def classes(task: str, **options: Any) -> list[str] | None:
    text = metadata_of(load_task(task, options)).get("classes")
    return None if text is None else json.loads(text)


def test_classes_of_built_in_tasks_folders_and_arrays(tmp_path: Path) -> None:
    assert classes("digits") == list("0123456789")
    rng = np.random.default_rng(0)
    for name in ("zebra", "ant"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    assert classes(str(tmp_path / "pictures")) == ["ant", "zebra"]
    x, y = rng.integers(0, 255, (40, 8, 8), np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y)
    assert classes(str(tmp_path / "data.npz")) == ["0", "1"]


def test_classes_of_a_task_of_ones_own(tmp_path: Path) -> None:
    assert classes(task_file(tmp_path)) == ["0", "1"]
    assert classes(task_file(tmp_path, "CLASSES = ['low', 'high']")) == ["low", "high"]
    with pytest.raises(DataError, match=r"CLASSES is to name the 2 outputs in order, got \['low'\]"):
        load_task(task_file(tmp_path, "CLASSES = ['low']"))
    with pytest.raises(DataError, match="CLASSES is 'low', of the wrong type"):
        load_task(task_file(tmp_path, "CLASSES = 'low'"))
    regression = "OUTPUTS = 1\ndef loss(o, t): return o.mean()\ndef metric(o, t): return 0.0"
    assert classes(task_file(tmp_path, regression)) is None


# --------------------------------------------------------------------------- a run


STUDY = """
name = "small"
seed = 1
trials = 2
[task]
name = "{task}"
[space]
name = "chain"
depths = [1]
[strategy]
name = "random_search"
[training]
epochs = 2
workers = 1
[measurement]
accept_noisy = true
screen = {{ sessions = [1, 1], session_s = 0.005, warmup_s = 0.0, min_runs = 20 }}
confirm = {{ sessions = [2, 2], agents = 2, session_s = 0.005, warmup_s = 0.0, min_runs = 20 }}
[[targets]]
device = "desk"
runtime = ["onnxruntime", "tflite"]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of a task with named classes."""
    folder = tmp_path_factory.mktemp("named")
    task = task_file(folder, "CLASSES = ['dark', 'bright']")
    here = f'connection = "local"\npython = "{sys.executable}"\ndirectory = "{folder}/board"'
    (folder / "lab.toml").write_text(f"[devices.desk]\n{here}\n")
    (folder / "study.toml").write_text(STUDY.format(task=task))
    words = ["--lab", str(folder / "lab.toml"), "--runs", str(folder / "runs")]
    assert cli.main(["search", str(folder / "study.toml"), *words]) == 0
    return folder / "runs" / "small"


def test_the_delivered_files_are_those_that_were_measured(finished: Path) -> None:
    with Store.open(finished / STORE) as store:
        records = store.run("small").records("confirmed")
        measured = {record.body["measurement"]["artifact"]["sha256"] for record in records}
    files = [path for path in (finished / "models").iterdir() if path.suffix in (".onnx", ".tflite")]
    assert measured <= {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    for path in files:
        found = read_back(path.read_bytes(), path.suffix[1:])
        assert json.loads(found["classes"]) == ["dark", "bright"]
        assert len(json.loads(found["input_mean"])) == 1


def test_the_folder_says_how_to_use_them(finished: Path, tmp_path: Path) -> None:
    models = finished / "models"
    assert (models / "labels.txt").read_text() == "dark\nbright\n"
    known = json.loads((models / "models.json").read_text())
    assert all(file["confirmed"] and not file["not_confirmed"] for file in known["files"].values())
    (code,) = re.findall(r"```python\n(.*?)```", (models / "README.md").read_text(), re.DOTALL)
    for name, level in (("dark", 50), ("bright", 200)):
        script = f"import numpy as np\npixels = np.full((1, 8, 8), {level}, np.uint8)\n{code}"
        done = subprocess.run([sys.executable, "-c", script], cwd=models, capture_output=True, text=True)
        assert done.stdout.strip() == name, done.stderr


def test_a_run_that_began_without_goes_on_without(finished: Path, tmp_path: Path) -> None:
    """As earlier versions stored it: its measured files have no metadata, so no file gets any."""
    old = tmp_path / "runs" / "small"
    (tmp_path / "lab.toml").write_text((finished.parents[1] / "lab.toml").read_text())
    words = ["--lab", str(tmp_path / "lab.toml"), "--runs", str(tmp_path / "runs")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.studies_cli.metadata_of", lambda task: {})
        assert cli.main(["search", str(finished.parents[1] / "study.toml"), *words]) == 0
    with Store.open(old / STORE) as store:
        assert not store.run("small").config[FILE_METADATA]
    before = {path.name: path.read_bytes() for path in (old / "models").glob("trial*")}
    for name in before:
        (old / "models" / name).unlink()
    assert cli.main(["resume", "small", *words]) == 0
    assert {path.name: path.read_bytes() for path in (old / "models").glob("trial*")} == before
    assert read_back(next(data for name, data in before.items() if name.endswith("x")), "onnx") == {}
    assert "own metadata" not in (old / "models" / "README.md").read_text()
