"""An untrained int8 file stands for the trained one: ONNX Runtime makes the same operators of both."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from harness.calibration import calibrate, plausible
from harness.export import export
from harness.folding import Weights
from search.network import (
    Activation,
    Add,
    AvgPool,
    Concat,
    Conv,
    GlobalPool,
    MaxPool,
    Network,
    Node,
    initial_weights,
)
from search.spaces import chain, mobile, multi_branch

SHAPE, CLASSES = (3, 32, 32), 10


def optimised(data: bytes, path: Path) -> Counter[str]:
    """Operators of a file after all of ONNX Runtime's optimisations on this machine."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.x64quantprecision", "1")
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def as_if_trained(network: Network, rng: np.random.Generator) -> Weights:
    """Weights of other sizes than the initial ones, batch norms with statistics of their own."""
    return {
        name: np.abs(values + 0.3 * rng.standard_normal(values.shape)).astype(np.float32)
        if name.endswith("running_var")
        else (values * rng.uniform(0.5, 2.0) + 0.1 * rng.standard_normal(values.shape)).astype(np.float32)
        for name, values in initial_weights(network, 1).items()
    }


def test_what_cannot_be_negative_begins_at_zero() -> None:
    nodes = (
        Node("conv", Conv(4), ("input",)),
        Node("relu", Activation("relu"), ("conv",)),
        Node("pool", MaxPool(), ("relu",)),
        Node("mean", AvgPool(), ("relu",)),
        Node("both", Add(), ("pool", "mean")),
        Node("signed", Conv(4), ("pool",)),
        Node("joined", Concat(), ("both", "signed")),
        Node("gate", Activation("hard_sigmoid"), ("joined",)),
        Node("logits", GlobalPool(), ("gate",)),
    )
    network = Network((3, 8, 8), nodes)
    ranges = plausible(network, initial_weights(network, 0)).ranges
    signed = {"input", "relu.linear", "signed", "gate.linear"}
    others = {"relu", "pool", "mean", "both", "gate", "logits"}
    lows = {name: low for name, (low, _) in ranges.items()}
    assert lows == dict.fromkeys(signed, -6.0) | dict.fromkeys(others, 0.0)
    assert all(high <= 6 for _, high in ranges.values())


@pytest.mark.parametrize("kind", [chain, mobile, multi_branch], ids=lambda kind: kind.__name__)
def test_calibrated_ranges_change_no_operator(kind: object, tmp_path: Path) -> None:
    space = kind.Space(input_shape=SHAPE, classes=CLASSES)  # type: ignore[attr-defined]
    rng = np.random.default_rng(5)
    for number in range(3):
        network = space.build(space.sample(rng))
        first, trained = initial_weights(network, number), as_if_trained(network, rng)
        images = rng.standard_normal((8, *SHAPE)).astype(np.float32)
        before, after = (
            optimised(export(network, w, "onnx", "int8", calibration=ranges).data, tmp_path / "model.onnx")
            for w, ranges in (
                (first, plausible(network, first)),
                (trained, calibrate(network, trained, images)),
            )
        )
        assert before == after
