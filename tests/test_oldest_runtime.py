"""Files of every layer and precision in the oldest ONNX Runtime that this Python can install.

The oldest tflite-runtime is among the runtimes of every test (tests/export_fuzz.py).  What is older still is
asserted by the versions in the files (tests/test_exported_files.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from harness.calibration import calibrate
from harness.export import export, rounding
from harness.simulation import Simulation
from search.network import Dense, GlobalPool, Network
from tests.export_fuzz import pytorch_logits, random_weights
from tests.test_layer_set import BODIES, graph

VERSION = "1.15.0" if sys.version_info < (3, 12) else "1.20.1"
"""For Python 3.11 the first there is; later Pythons come with NumPy 2, which older ones do not take."""

RUN = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.path.insert(0, sys.argv[1])
import json, numpy, onnxruntime
levels = onnxruntime.GraphOptimizationLevel
found = {"version": onnxruntime.__version__}
for name in sys.argv[2:]:
    arrays, worst = numpy.load(name + ".npz"), 0.0
    for level in (levels.ORT_ENABLE_ALL, levels.ORT_DISABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level, options.intra_op_num_threads = level, 1
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(name + ".onnx", options, providers=["CPUExecutionProvider"])
        outputs = [session.run(None, {"input": image[None]})[0] for image in arrays["images"]]
        worst = max(worst, float(abs(numpy.concatenate(outputs) - arrays["logits"]).max()))
    found[name] = worst / float(arrays["tolerance"])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with that release alone; what it needs besides is installed."""
    folder = tmp_path_factory.mktemp("oldest")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", folder, f"onnxruntime=={VERSION}"], check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "packages")
    return folder / "packages"


def write(network: Network, precision: str, path: Path) -> None:
    """A file, images, and what it should make of them how exactly."""
    weights = random_weights(network, 0)
    images = np.random.default_rng(0).standard_normal((2, *network.input_shape)).astype(np.float32)
    calibration = calibrate(network, weights, images) if precision == "int8" else None
    logits = pytorch_logits(network, weights, images)
    tolerance = rounding(precision, float(np.abs(logits).max()))
    if calibration is not None:
        expected = Simulation(network, weights, calibration, "onnx").simulated(images)
        logits, tolerance = expected.logits, expected.tolerance
    file = export(network, weights, "onnx", precision, calibration=calibration)
    path.with_suffix(".onnx").write_bytes(file.data)
    np.savez(path.with_suffix(".npz"), images=images, logits=logits, tolerance=tolerance)


def test_files_of_every_layer_and_precision_run_there(oldest: Path, tmp_path: Path) -> None:
    names = []
    for number, body in enumerate(BODIES.values()):
        for precision in ("fp32", "fp16", "int8"):
            names.append(f"{number}-{precision}")
            write(graph((3, 7, 8), *body, GlobalPool(), Dense(4)), precision, tmp_path / names[-1])
    done = subprocess.run(
        [sys.executable, "-c", RUN, oldest, *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found.pop("version") == VERSION
    assert found.keys() == set(names)
    assert {name: share for name, share in found.items() if not share <= 1} == {}
