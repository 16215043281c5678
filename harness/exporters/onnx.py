"""ONNX files, written straight from the layer graph.

IR version 8 and opset 15: the lowest that hold every layer (HardSwish came with opset 14), so that
runtimes from ONNX Runtime 1.10 on load the file.  One input ``"input"``, one output ``"logits"``,
both float32 with a fixed batch.
"""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as _ort

from harness.file_metadata import NONE, Metadata, with_layout
from harness.folding import Weights, fold
from harness.onnx_graph import OnnxGraph
from harness.quantization import Calibration, as_convolutions, quantize
from results.errors import ConfigError, ExportError, RuntimeRefused
from search.network import Network

FILE_FORMAT = "onnx"
PRECISIONS = ("fp32", "fp16", "int8")

_IR_VERSION = 8
_OPSET = 15
_REFUSALS = tuple(e for e in vars(_ort).values() if isinstance(e, type) and issubclass(e, Exception))


def write(
    network: Network,
    weights: Weights,
    *,
    precision: str = "fp32",
    calibration: Calibration | None = None,
    batch: int = 1,
    metadata: Metadata = NONE,
) -> bytes:
    """The file of a network with its weights; equal arguments give equal bytes.

    Raises:
        ExportError: If the weights do not fit, are not finite, or cannot be written in this precision.
    """
    operations = fold(network, weights)
    quantization = None
    if calibration is not None:
        operations = as_convolutions(operations)
        quantization = quantize(operations, calibration.ranges, symmetric=calibration.symmetric)
    graph = OnnxGraph(operations, batch, half=precision == "fp16", quantization=quantization)
    shapes = {"input": network.input_shape, "logits": network.shapes[network.output]}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (batch, *shapes[name]))] for name in shapes
    )
    body = helper.make_graph(graph.nodes, "network", inputs, outputs, graph.tensors, value_info=graph.shapes)
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="boardwise")
    if metadata:
        helper.set_model_props(model, dict(with_layout(metadata, "NCHW")))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def check(data: bytes) -> None:
    """Runs ONNX's own checker with shape inference over a file.

    Raises:
        ExportError: If it finds anything.
    """
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError(hashlib.sha256(data).hexdigest(), f"ONNX's checker refuses it: {error}") from error


def run(data: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits ``(n, classes)`` that ONNX Runtime computes on one CPU thread of this host.

    Args:
        data: The file.
        images: Shape ``(n, channels, height, width)``, n a multiple of the file's batch.

    Raises:
        ConfigError: If the images do not fill batches.
        RuntimeRefused: If ONNX Runtime does not load or run the file.
    """
    options = _options()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        batch = session.get_inputs()[0].shape[0]
        if len(images) % batch:
            raise ConfigError(f"{len(images)} images do not fill batches of {batch}")
        blocks = images.reshape(-1, batch, *images.shape[1:])
        return np.concatenate([session.run(["logits"], {"input": block})[0] for block in blocks])
    except _REFUSALS as error:
        raise RuntimeRefused(hashlib.sha256(data).hexdigest(), f"ONNX Runtime: {error}") from error


def saturates() -> bool:
    """Whether this host's CPU would cut off sums of 8-bit products, were it not for the exact mode.

    x86 without VNNI adds pairs of products in 16 bits: 255 * 127 * 2 becomes 32767.  Files that are run
    here (:func:`run`) and by the agent on boards are always run in the mode that computes such products
    exactly; other CPUs do not know the difference.
    """
    size = 64
    weights = helper.make_tensor(
        "b", TensorProto.INT8, (size, size), np.full((size, size), 127, "i1").tobytes(), True
    )
    inputs = [helper.make_tensor_value_info("a", TensorProto.UINT8, (1, size))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, (1, size))]
    nodes = [helper.make_node("MatMulInteger", ["a", "b"], ["y"])]
    graph = helper.make_graph(nodes, "product", inputs, outputs, [weights])
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), _options(exact=False), providers=["CPUExecutionProvider"]
    )
    (sums,) = session.run(None, {"a": np.full((1, size), 255, np.uint8)})
    return bool((sums != 255 * 127 * size).any())


def _options(*, exact: bool = True) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options
