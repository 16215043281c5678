"""Modules of the user's own: found, exported, compared, or refused with what went wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from harness import cli
from harness.export import export
from harness.sources import source
from results.errors import ConfigError
from search.network import Dense, GlobalPool, Network, Node, initial_weights

GOOD = """
import torch
from torch import nn

class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.dense = nn.Linear(4, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, image, tokens):
        pooled = image.mean((2, 3)) + self.table(tokens).mean(1)
        return self.drop(self.dense(pooled))

def build():
    torch.manual_seed(0)
    return Mixed(), (torch.randn(2, 4, 5, 5), torch.zeros(2, 7, dtype=torch.int64))

def convolution():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()), torch.randn(1, 3, 8, 8)

def random():
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn(x.shape)
    return Noise(), torch.zeros(1, 5)

def too_small():
    return nn.Linear(4, 2), torch.zeros(1, 5)

def dynamic():
    class Count(nn.Module):
        def forward(self, x):
            return torch.linalg.eig(x)[0].abs()
    return Count(), torch.eye(3)

def bare():
    return nn.Linear(4, 2)

def listed():
    return nn.Linear(4, 2), [1, 2]

def raises():
    raise RuntimeError("no weights here")

number = 3
"""


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Path:
    path = tmp_path / "own_models.py"
    path.write_text(GOOD)
    return path


def test_inputs_types_and_batch_are_those_of_the_example(place: Path) -> None:
    found = source(f"{place}:build")
    assert [(i.dtype, i.shape) for i in found.inputs] == [("float32", (2, 4, 5, 5)), ("int64", (2, 7))]
    assert (found.artifact.file_format, found.artifact.precision) == ("onnx", "fp32")
    session = onnxruntime.InferenceSession(found.data)
    image = np.random.default_rng(0).standard_normal((2, 4, 5, 5)).astype(np.float32)
    tokens = np.arange(14).reshape(2, 7) % 10
    outputs = session.run(None, {i.name: x for i, x in zip(found.inputs, (image, tokens), strict=True)})
    names: dict[str, object] = {}
    exec(compile(GOOD, str(place), "exec"), names)
    module = names["build"]()[0].eval()  # type: ignore[operator]
    with torch.inference_mode():
        expected = module(torch.from_numpy(image), torch.from_numpy(tokens)).numpy()
    assert outputs[0] == pytest.approx(expected, abs=1e-5)


def test_a_dotted_name_is_imported_from_here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.parent)
    assert source("own_models:convolution").inputs[0].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "has no function 'nothing'"),
        ("number", "has no function 'number'"),
        ("raises", "no weights here"),
        ("bare", "is to return .module, example.*it returned a Linear"),
        ("listed", "the example holds list"),
        ("too_small", "does not take its example"),
        ("random", "gives other numbers than the module"),
        ("dynamic", "torch.onnx.export failed"),
    ],
)
def test_functions_that_cannot_be_used(place: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source(f"{place}:{name}")


def test_code_that_cannot_be_imported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.py: no such Python file"):
        source(f"{tmp_path / 'missing.py'}:build")
    with pytest.raises(ConfigError, match=r"no_such_package: cannot be imported"):
        source("no_such_package:build")
    broken = tmp_path / "broken.py"
    broken.write_text("import torch\n1 / 0\n")
    with pytest.raises(ConfigError, match="division by zero"):
        source(f"{broken}:build")


def test_tflite_needs_a_package_of_its_own(place: Path) -> None:
    if importlib.util.find_spec("litert_torch") is None:
        with pytest.raises(ConfigError, match="pip install litert-torch"):
            source(f"{place}:convolution", file_format="tflite")
    else:
        found = source(f"{place}:convolution", file_format="tflite")
        assert found.inputs[0].shape == (1, 3, 8, 8)


STAND_IN = """
from pathlib import Path

class Converted:
    def export(self, path):
        Path(path).write_bytes(Path(__file__).with_name("converted.tflite").read_bytes())

def convert(module, example):
    return Converted()
"""
OWN = """
import torch
from search.module import to_module
from tests.test_module_source import NETWORK, weights

def build():
    return to_module(NETWORK, weights(%d)), torch.ones(2, 4, 4, 4)
"""
NETWORK = Network((4, 4, 4), (Node("mean", GlobalPool(), ("input",)), Node("fc", Dense(3), ("mean",))))


def weights(seed: int) -> dict[str, np.ndarray]:
    return initial_weights(NETWORK, seed)


def test_a_converted_file_is_compared_with_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for litert-torch, which this Python does not have; its answer is a real file."""
    (tmp_path / "litert_torch.py").write_text(STAND_IN)
    data = export(NETWORK, weights(0), "tflite", batch=2).data
    (tmp_path / "converted.tflite").write_bytes(data)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "litert_torch", raising=False)
    for seed in (0, 1):
        (tmp_path / f"own{seed}.py").write_text(OWN % seed)
    assert source(f"{tmp_path / 'own0.py'}:build", file_format="tflite").data == data
    with pytest.raises(ConfigError, match="the file gives other numbers than the module"):
        source(f"{tmp_path / 'own1.py'}:build", file_format="tflite")
    (tmp_path / "converted.tflite").write_bytes(export(NETWORK, weights(0), "tflite").data)
    with pytest.raises(ConfigError, match="LiteRT does not run the file"):
        source(f"{tmp_path / 'own0.py'}:build", file_format="tflite")
    sys.modules.pop("litert_torch", None)


def test_bench_measures_a_module_and_states_its_batch(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = tmp_path / "lab.toml"
    lab.write_text(f'[devices.desk]\nconnection = "local"\npython = "{sys.executable}"\n')
    argv = ["bench", f"{place}:build", "--on", "desk", "--sessions", "1", "--json"]
    argv += ["--lab", str(lab), "--out", str(tmp_path / "out")]
    status = cli.main(argv)
    output = capsys.readouterr()
    assert status == 0, output.err
    row = json.loads(output.out)
    assert row["batch"] == 2
    assert row["inputs"].endswith("int64 2x7")
    assert row["latency_p50_ms"] > 0
