"""A user's own file with weights that are no numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from harness.export import export
from harness.sources import source
from results.errors import ConfigError
from search.network import Conv, Dense, GlobalPool, Network, Node, initial_weights

NETWORK = Network(
    (3, 8, 8),
    (
        Node("conv", Conv(4), ("input",)),
        Node("mean", GlobalPool(), ("conv",)),
        Node("fc", Dense(3), ("mean",)),
    ),
)
ODD = np.float32(1234.5)
"""Of which every occurrence in a file is replaced."""


def file_with(file_format: str, precision: str, value: float) -> bytes:
    """A real file one of whose weights has another value than the exporter would write."""
    weights = initial_weights(NETWORK, 0)
    weights["fc.weight"][1, 2] = ODD
    data = export(NETWORK, weights, file_format, precision).data
    kind = np.float16 if precision == "fp16" else np.float32
    old = kind(ODD).tobytes()
    assert data.count(old) == 1
    return data.replace(old, kind(value).tobytes())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_nan_is_told_with_the_name_of_the_weights(tmp_path: Path, file_format: str, precision: str) -> None:
    path = tmp_path / f"model.{file_format}"
    path.write_bytes(file_with(file_format, precision, np.nan))
    with pytest.raises(ConfigError, match=rf"model\.{file_format}: the weights 'fc\.weight.*' hold NaN"):
        source(str(path))


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_infinite_weights_are_allowed(tmp_path: Path, file_format: str) -> None:
    path = tmp_path / f"model.{file_format}"
    path.write_bytes(file_with(file_format, "fp32", -np.inf))
    assert source(str(path)).artifact.precision == "fp32"


def test_nan_in_external_data_is_found(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(file_with("onnx", "fp32", 0.0))
    for tensor in model.graph.initializer:
        if tensor.name == "fc.bias":
            tensor.CopyFrom(numpy_helper.from_array(np.full(3, np.nan, np.float32), "fc.bias"))
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    with pytest.raises(ConfigError, match=r"the weights 'fc\.bias' hold NaN"):
        source(str(path))
