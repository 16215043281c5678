"""Folded operations as nodes and tensors of an ONNX file, in any precision.

fp16: all tensors inside are half floats, with a cast behind the input and one before the output.
int8: every activation passes a QuantizeLinear and a DequantizeLinear ("QDQ"), weights and biases are
stored as integers behind a DequantizeLinear; runtimes fuse these into integer kernels.  A ReLU or ReLU6
follows its operation directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from harness.folding import Operation, as_half, fuses
from harness.quantization import PROBABILITY, Quantization, Scale
from results.errors import ExportError
from search.network import (
    Activation,
    Activations,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    MaxPool,
    Multiply,
    Resize,
    Shape,
    Softmax,
    Zero,
)

_NODES = {
    "relu": ("Relu", {}),
    "hard_swish": ("HardSwish", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "sigmoid": ("Sigmoid", {}),
}
_PLAIN: dict[type, tuple[str, dict[str, int]]] = {
    Add: ("Add", {}),
    Multiply: ("Mul", {}),
    Concat: ("Concat", {"axis": 1}),
    Flatten: ("Flatten", {"axis": 1}),
    Softmax: ("Softmax", {"axis": 1}),
}
_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
}


class OnnxGraph:
    """Nodes and tensors; names with a dot cannot clash with those of the layer graph.

    ``shapes`` describes what operations give to the next ones: no runtime needs it, viewers show it, and the
    checker holds it against what it infers.

    Args:
        operations: What the file computes; without batch norms where it is quantised.
        batch: Number of images that it takes at a time.
        half: Whether it computes in half floats.
        quantization: Scales of the activations, if it computes in integers.

    Raises:
        ExportError: If a weight does not fit into a half float.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        batch: int,
        *,
        half: bool = False,
        quantization: Quantization | None = None,
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.shapes: list[onnx.ValueInfoProto] = []
        self._batch = batch
        self._float: Literal["float16", "float32"] = "float16" if half else "float32"
        self._quantization = quantization
        self._output = operations[-1].name
        self._stored: set[str] = set()
        self._read = {"input": self._enter()}
        for operation in operations:
            self._add(operation)
        if half:
            self._node("Cast", [self._read[self._output]], "logits", to=TensorProto.FLOAT)

    def _enter(self) -> str:
        if self._float == "float16":
            return self._node("Cast", ["input"], "input.half", to=TensorProto.FLOAT16)
        return self._settle("input", "input")

    def _add(self, operation: Operation) -> None:
        made = self._compute(operation, self._name(operation.linear))
        if operation.activation is not None:
            if not fuses(operation):
                made = self._settle(operation.linear, made)
            self._describe(made, operation.shape)
            made = self._activate(operation.activation, made, self._name(operation.name))
        self._read[operation.name] = self._settle(operation.name, made)
        self._describe(self._read[operation.name], operation.shape)

    def _describe(self, name: str, shape: Shape) -> None:
        if name != "logits":  # described as the output
            kind = _TYPES[self._float]
            self.shapes.append(helper.make_tensor_value_info(name, kind, (self._batch, *shape)))

    def _name(self, name: str) -> str:
        """Name of a tensor as it is computed, before it is rounded to integers."""
        if self._quantization is not None:
            return f"{name}.real"
        if name == self._output:
            return "logits.half" if self._float == "float16" else "logits"
        return name if name.endswith(".linear") else f"{name}.output"

    def _compute(self, operation: Operation, output: str) -> str:
        inputs = [self._read[name] for name in operation.inputs]
        match operation.layer:
            case Conv() as layer:
                return self._node("Conv", inputs + self._weights(operation), output, **_conv(layer))
            case Dense():
                return self._node("Gemm", inputs + self._weights(operation), output, transB=1)
            case BatchNorm():
                return self._scale(operation, inputs[0], output)
            case Activation(kind=kind):
                return self._activate(kind, inputs[0], output)
            case GlobalPool(keep_dims=keep):
                return self._mean(operation, inputs[0], output, keep)
            case Resize() as layer:
                return self._resize(operation, layer, inputs[0], output)
            case _:
                return self._plain(operation, inputs, output)

    def _plain(self, operation: Operation, inputs: list[str], output: str) -> str:
        """Layers that are one node without tensors of their own."""
        match operation.layer:
            case Zero():
                return self._node("Mul", [*inputs, self._constant("zero", np.zeros(()))], output)
            case MaxPool() as layer:
                return self._node("MaxPool", inputs, output, **_window(layer))
            case AvgPool() as layer:
                counts = int(layer.count_padding)
                return self._node("AveragePool", inputs, output, count_include_pad=counts, **_window(layer))
            case layer:
                if type(layer) not in _PLAIN:
                    raise ExportError(operation.name, f"ONNX has no {type(layer).__name__}")
                operator, attributes = _PLAIN[type(layer)]
                return self._node(operator, inputs, output, **attributes)

    def _mean(self, operation: Operation, source: str, output: str, keep: bool) -> str:
        if keep:
            return self._node("GlobalAveragePool", [source], output)
        mean = self._node("GlobalAveragePool", [source], f"{operation.name}.mean")
        mean = self._settle(operation.linear, mean, prefix=f"{operation.name}.mean")
        self._describe(mean, (*operation.shape, 1, 1))
        return self._node("Flatten", [mean], output)

    def _resize(self, operation: Operation, layer: Resize, source: str, output: str) -> str:
        attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        if layer.mode == "nearest":
            attributes = {
                "mode": "nearest",
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "floor",
            }
        sizes = np.array([self._batch, *operation.shape], np.int64)
        inputs = [source, "", "", self._store(f"{operation.name}.sizes", sizes)]
        return self._node("Resize", inputs, output, **attributes)

    def _scale(self, operation: Operation, source: str, output: str) -> str:
        """``x * weight + bias`` per channel, channels on axis 1."""
        weight, bias = (np.asarray(v).reshape(-1, 1, 1) for v in (operation.weight, operation.bias))
        scale = self._constant(f"{operation.name}.weight", weight)
        scaled = self._node("Mul", [source, scale], f"{operation.name}.scaled")
        return self._node("Add", [scaled, self._constant(f"{operation.name}.bias", bias)], output)

    def _activate(self, kind: Activations, source: str, output: str) -> str:
        if kind == "relu6":
            bounds = [self._constant(f"relu6.{n}", np.array(v)) for n, v in (("min", 0.0), ("max", 6.0))]
            return self._node("Clip", [source, *bounds], output)
        if kind == "silu":
            gate = self._node("Sigmoid", [source], f"{output}.gate")
            if self._quantization is not None:
                gate = self._round(gate, f"{output}.gate", PROBABILITY)
            return self._node("Mul", [source, gate], output)
        operator, attributes = _NODES[kind]
        return self._node(operator, [source], output, **attributes)

    # ------------------------------------------------------------------ tensors

    def _weights(self, operation: Operation) -> list[str]:
        if self._quantization is None:
            parts = (("weight", operation.weight), ("bias", operation.bias))
            return [self._constant(f"{operation.name}.{part}", np.asarray(v)) for part, v in parts]
        integers = self._quantization.weights(operation)
        weight = self._dequantized(f"{operation.name}.weight", integers.weight, integers.scales)
        if self._quantization.symmetric:  # TensorRT adds biases as floats
            return [weight, self._constant(f"{operation.name}.bias", np.asarray(operation.bias))]
        return [weight, self._dequantized(f"{operation.name}.bias", integers.bias, integers.bias_scales)]

    def _dequantized(self, name: str, values: NDArray[Any], scales: NDArray[np.float32]) -> str:
        stored = self._store(f"{name}.integers", values)
        zeros = self._store(f"{name}.zero_points", np.zeros(len(scales), values.dtype))
        inputs = [stored, self._store(f"{name}.scales", scales), zeros]
        return self._node("DequantizeLinear", inputs, name, axis=0)

    def _settle(self, name: str, made: str, *, prefix: str = "") -> str:
        """A computed tensor as the next operations read it: rounded to integers where the file has them."""
        if self._quantization is None:
            return made
        return self._round(made, prefix or name, self._quantization.scales[name])

    def _round(self, made: str, prefix: str, scale: Scale) -> str:
        symmetric = self._quantization is not None and self._quantization.symmetric
        zero = np.int8(scale.zero_point) if symmetric else np.uint8(scale.zero_point + 128)
        pair = [
            self._store(f"{prefix}.scale", np.array(scale.scale, np.float32)),
            self._store(f"{prefix}.zero_point", np.array(zero)),
        ]
        integers = self._node("QuantizeLinear", [made, *pair], f"{prefix}.integers")
        output = "logits" if prefix == self._output else f"{prefix}.output"
        return self._node("DequantizeLinear", [integers, *pair], output)

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        """A constant in the file's floating-point type."""
        stored = as_half(name, values) if self._float == "float16" else values.astype(np.float32)
        return self._store(name, stored)

    def _store(self, name: str, values: NDArray[Any]) -> str:
        if name not in self._stored:
            self._stored.add(name)
            data = values.astype(values.dtype.newbyteorder("<")).tobytes()
            self.tensors.append(
                helper.make_tensor(name, _TYPES[values.dtype.name], values.shape, data, raw=True)
            )
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output


def _window(layer: Conv | MaxPool | AvgPool) -> dict[str, Any]:
    top, bottom, left, right = layer.padding
    return {"kernel_shape": layer.kernel, "strides": layer.stride, "pads": (top, left, bottom, right)}


def _conv(layer: Conv) -> dict[str, Any]:
    return _window(layer) | {"dilations": layer.dilation, "group": layer.groups}
