"""ONNX files, written straight from the layer graph.

IR version 8 and opset 15: the lowest that hold every layer (HardSwish came with opset 14), so that
runtimes from ONNX Runtime 1.10 on load the file.  One input ``"input"``, one output ``"logits"``,
both float32 with a fixed batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as _ort

from harness.folding import Array, Operation, Weights, fold
from results.errors import ConfigError, ExportError, RuntimeRefused
from search.network import Activation, Activations, Add, BatchNorm, Conv, Dense, GlobalPool, Network

FILE_FORMAT = "onnx"
PRECISIONS = ("fp32",)

_IR_VERSION = 8
_OPSET = 15
_ACTIVATIONS = {"relu": "Relu", "relu6": "Clip", "hard_swish": "HardSwish"}
_REFUSALS = tuple(e for e in vars(_ort).values() if isinstance(e, type) and issubclass(e, Exception))


def write(network: Network, weights: Weights, *, batch: int = 1) -> bytes:
    """The file of a network with its weights; equal arguments give equal bytes.

    Raises:
        ExportError: If the weights do not fit or are not finite.
    """
    graph = _Graph(fold(network, weights))
    shapes = {"input": network.input_shape, "logits": network.shapes[network.output]}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (batch, *shapes[name]))] for name in shapes
    )
    body = helper.make_graph(graph.nodes, "network", inputs, outputs, graph.tensors)
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="boardwise")
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        batch = session.get_inputs()[0].shape[0]
        if len(images) % batch:
            raise ConfigError(f"{len(images)} images do not fill batches of {batch}")
        blocks = images.reshape(-1, batch, *images.shape[1:])
        return np.concatenate([session.run(["logits"], {"input": block})[0] for block in blocks])
    except _REFUSALS as error:
        raise RuntimeRefused(hashlib.sha256(data).hexdigest(), f"ONNX Runtime: {error}") from error


class _Graph:
    """Nodes and tensors of a file; names with a dot cannot clash with those of the layer graph."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._output = operations[-1].name
        for operation in operations:
            self._add(operation)

    def _add(self, operation: Operation) -> None:
        inputs = [self._name(name) for name in operation.inputs]
        output = self._name(operation.name)
        linear = f"{operation.name}.linear" if operation.activation else output
        match operation.layer:
            case Conv() as layer:
                self._node("Conv", [*inputs, *self._weights(operation)], linear, **_conv_attributes(layer))
            case Dense():
                self._node("Gemm", [*inputs, *self._weights(operation)], linear, transB=1)
            case BatchNorm():
                self._scale(operation, inputs[0], linear)
            case Add():
                self._node("Add", inputs, linear)
            case GlobalPool():
                self._node("GlobalAveragePool", inputs, f"{operation.name}.mean")
                self._node("Flatten", [f"{operation.name}.mean"], linear)
            case Activation(kind=kind):
                self._activation(kind, inputs[0], linear)
        if operation.activation:
            self._activation(operation.activation, linear, output)

    def _name(self, name: str) -> str:
        if name == self._output:
            return "logits"
        return name if name == "input" else f"{name}.output"

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))

    def _tensor(self, name: str, values: Array) -> str:
        data = np.asarray(values, "<f4")
        self.tensors.append(helper.make_tensor(name, TensorProto.FLOAT, data.shape, data.tobytes(), raw=True))
        return name

    def _weights(self, operation: Operation) -> list[str]:
        return [
            self._tensor(f"{operation.name}.{part}", values)
            for part, values in (("weight", operation.weight), ("bias", operation.bias))
            if values is not None
        ]

    def _scale(self, operation: Operation, source: str, output: str) -> None:
        """``x * weight + bias`` per channel, channels on axis 1."""
        weight, bias = (np.asarray(v).reshape(-1, 1, 1) for v in (operation.weight, operation.bias))
        scaled = f"{operation.name}.scaled"
        self._node("Mul", [source, self._tensor(f"{operation.name}.weight", weight)], scaled)
        self._node("Add", [scaled, self._tensor(f"{operation.name}.bias", bias)], output)

    def _activation(self, kind: Activations, source: str, output: str) -> None:
        bounds = []
        if kind == "relu6":
            bounds = ["relu6.min", "relu6.max"]
            if not any(tensor.name == bounds[0] for tensor in self.tensors):
                for name, value in zip(bounds, (0.0, 6.0), strict=True):
                    self._tensor(name, np.array(value))
        self._node(_ACTIVATIONS[kind], [source, *bounds], output)


def _conv_attributes(layer: Conv) -> dict[str, Any]:
    top, bottom, left, right = layer.padding
    return {
        "kernel_shape": layer.kernel,
        "strides": layer.stride,
        "pads": (top, left, bottom, right),
        "dilations": layer.dilation,
        "group": layer.groups,
    }
