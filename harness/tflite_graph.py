"""Folded operations as operators and tensors of a TFLite file, in any precision.

Tensors are NHWC and operators carry the lowest version that holds them (the runtime's ``op_version.cc``),
so that old runtimes load the file.  Padding is exact: TFLite's SAME puts the odd row at the bottom and
right, PyTorch pads what it is told; SAME is used only where both agree, and an explicit PAD before a
VALID window elsewhere.

fp16: weights are stored as half floats behind a DEQUANTIZE, which runtimes compute once.
int8: all tensors inside are int8.  Weights of convolutions have a scale per output channel, those of
dense layers a single one: runtimes before 2.14 would take the first channel's for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tflite import ActivationFunctionType, BuiltinOperator, Padding

from harness.file_metadata import NONE, Metadata
from harness.folding import Operation, fuses
from harness.quantization import PROBABILITY, Quantization, Scale
from harness.tflite_padding import NO_PADDING, is_same, needed_padding, shares_inside
from harness.tflite_tensors import TfliteTensors
from results.errors import ExportError
from search.layers import Pool
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

_OP = BuiltinOperator
_FUSED: dict[str | None, int] = {
    "relu": ActivationFunctionType.RELU,
    "relu6": ActivationFunctionType.RELU6,
}
_GROUPED, _DILATED, _RATIO = 6, 2, 3
"""Versions of a convolution in groups, a dilated depthwise one, an int8 product with scales of 1 or more."""


class TfliteGraph(TfliteTensors):
    """The operators of a file.

    Args:
        operations: What the file computes; without batch norms where it is quantised.
        input_shape: ``(channels, height, width)``.
        batch: Number of images that it takes at a time.
        half: Whether weights are stored as half floats.
        quantization: Scales of the activations, if it computes in integers.
        integer_io: Whether it takes and gives integers.

    Raises:
        ExportError: If a weight does not fit into a half float.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        input_shape: Shape,
        batch: int,
        *,
        half: bool = False,
        quantization: Quantization | None = None,
        integer_io: bool = False,
    ) -> None:
        super().__init__(batch, half, quantization)
        self._outer_integers = integer_io
        self._output = operations[-1].name
        self._shapes = {"input": input_shape} | {op.name: op.shape for op in operations}
        self._channels_last = _flattened_for_dense(operations)
        self._first, self._last = -1, -1
        self._tensors = {"input": self._enter()}
        for operation in operations:
            self._tensors[operation.name] = self._add(operation)
        self._leave()

    def pack(self, metadata: Metadata = NONE) -> bytes:
        """The file, with metadata by name."""
        return self._file.pack([self._first], [self._last], metadata)

    # ------------------------------------------------------------------ operations

    def _enter(self) -> int:
        shape = self._shapes["input"]
        if self._quantization is None or self._outer_integers:
            self._first = self._new("input", shape, self._scale_of("input"))
            return self._first
        self._first = self._file.tensor("input", self._layout(shape))
        integers = self._new("input.integers", shape, self._scale_of("input"))
        return self._operate(_OP.QUANTIZE, [self._first], integers, "QuantizeOptions")

    def _leave(self) -> None:
        self._last = self._tensors[self._output]
        if self._quantization is not None and not self._outer_integers:
            logits = self._file.tensor("logits", self._layout(self._shapes[self._output]))
            self._last = self._operate(_OP.DEQUANTIZE, [self._last], logits, "DequantizeOptions")

    def _add(self, operation: Operation) -> int:
        output = self._new(self._name(operation.name), operation.shape, self._scale_of(operation.name))
        if operation.activation is None or fuses(operation):
            return self._compute(operation, output)
        linear = self._new(operation.linear, operation.shape, self._scale_of(operation.linear))
        return self._activate(operation.activation, operation.shape, self._compute(operation, linear), output)

    def _name(self, name: str) -> str:
        if name == self._output:
            return "logits" if self._quantization is None or self._outer_integers else "logits.integers"
        return f"{name}.output"

    def _compute(self, operation: Operation, output: int) -> int:
        source = self._tensors[operation.inputs[0]]
        match operation.layer:
            case Conv() as layer:
                return self._convolve(operation, layer, output)
            case Dense():
                return self._dense(operation, source, output)
            case BatchNorm():
                return self._affine(operation, source, output)
            case Activation(kind=kind):
                return self._activate(kind, operation.shape, source, output)
            case MaxPool() | AvgPool() as pool:
                return self._pool(operation, pool, output)
            case Flatten():
                return self._flatten(operation, output)
            case Resize() as layer:
                return self._resize(operation, layer, output)
            case _:
                return self._plain(operation, output)

    def _plain(self, operation: Operation, output: int) -> int:
        """Layers that are one operator without weights."""
        inputs = [self._tensors[name] for name in operation.inputs]
        match operation.layer:
            case Add():
                return self._operate(_OP.ADD, inputs, output, "AddOptions", **_fused(operation))
            case Multiply():
                return self._multiply(inputs, output, **_fused(operation))
            case Zero():
                return self._multiply([*inputs, self._number("zero", np.zeros(()))], output)
            case Concat():
                inputs = [self._rescaled(name, output) for name in operation.inputs]
                axis = len(operation.shape)
                return self._operate(_OP.CONCATENATION, inputs, output, "ConcatenationOptions", Axis=axis)
            case GlobalPool(keep_dims=keep):
                axes = self._file.constant("spatial_axes", np.array([1, 2], "<i4"))
                return self._operate(_OP.MEAN, [*inputs, axes], output, "ReducerOptions", KeepDims=keep)
            case Softmax():
                return self._operate(_OP.SOFTMAX, inputs, output, "SoftmaxOptions", Beta=1.0)
            case layer:
                raise ExportError(operation.name, f"TFLite has no {type(layer).__name__}")

    def _dense(self, operation: Operation, source: int, output: int) -> int:
        weight = np.asarray(operation.weight)
        shape = self._channels_last.get(operation.inputs[0])
        if shape is not None:
            columns = weight.reshape(-1, *shape).transpose(0, 2, 3, 1)
            weight = columns.reshape(len(weight), -1)
        inputs = [source, *self._weights(operation, weight, (0, 1), per_channel=False)]
        return self._operate(
            _OP.FULLY_CONNECTED, inputs, output, "FullyConnectedOptions", **_fused(operation)
        )

    def _convolve(self, operation: Operation, layer: Conv, output: int) -> int:
        channels = self._shapes[operation.inputs[0]][0]
        source, padding = self._padded(operation, layer, self._tensors[operation.inputs[0]])
        options = {
            "Padding": padding,
            "StrideH": layer.stride[0],
            "StrideW": layer.stride[1],
            "DilationHFactor": layer.dilation[0],
            "DilationWFactor": layer.dilation[1],
            **_fused(operation),
        }
        weight = np.asarray(operation.weight)
        version = None
        if layer.groups == channels > 1:
            inputs = [source, *self._weights(operation, weight, (1, 2, 3, 0))]
            options["DepthMultiplier"] = layer.channels // channels
            if layer.dilation != (1, 1) and self._quantization is None:
                version = _DILATED
            table = "DepthwiseConv2DOptions"
            return self._operate(_OP.DEPTHWISE_CONV_2D, inputs, output, table, version, **options)
        inputs = [source, *self._weights(operation, weight, (0, 2, 3, 1))]
        if layer.groups > 1:
            version = _GROUPED
        return self._operate(_OP.CONV_2D, inputs, output, "Conv2DOptions", version, **options)

    def _pool(self, operation: Operation, layer: Pool, output: int) -> int:
        source, padding = self._padded(operation, layer, self._rescaled(operation.inputs[0], output))
        options = {
            "Padding": padding,
            "FilterHeight": layer.kernel[0],
            "FilterWidth": layer.kernel[1],
            "StrideH": layer.stride[0],
            "StrideW": layer.stride[1],
        }
        code = _OP.MAX_POOL_2D if isinstance(layer, MaxPool) else _OP.AVERAGE_POOL_2D
        if isinstance(layer, MaxPool) or layer.count_padding or padding == Padding.SAME:
            return self._operate(code, [source], output, "Pool2DOptions", **options, **_fused(operation))
        shares = shares_inside(layer, self._shapes[operation.inputs[0]], operation.shape)
        if (shares == 1).all():
            return self._operate(code, [source], output, "Pool2DOptions", **options, **_fused(operation))
        means = self._new(f"{operation.name}.means", operation.shape, self._scales.get(source))
        self._operate(code, [source], means, "Pool2DOptions", **options)
        factors = self._number(f"{operation.name}.factors", 1 / shares)
        return self._multiply([means, factors], output, **_fused(operation))

    def _flatten(self, operation: Operation, output: int) -> int:
        source = self._rescaled(operation.inputs[0], output)
        channels, height, width = self._shapes[operation.inputs[0]]
        if channels > 1 and height * width > 1 and operation.name not in self._channels_last:
            order = self._file.constant("channels_first", np.array([0, 3, 1, 2], "<i4"))
            turned = self._new(
                f"{operation.name}.turned", (width, channels, height), self._scales.get(source)
            )
            source = self._operate(_OP.TRANSPOSE, [source, order], turned, "TransposeOptions")
        flat = self._file.constant("flat", np.array([self._batch, *operation.shape], "<i4"))
        return self._operate(_OP.RESHAPE, [source, flat], output, "ReshapeOptions")

    def _resize(self, operation: Operation, layer: Resize, output: int) -> int:
        size = self._file.constant(f"{operation.name}.size", np.array(layer.size, "<i4"))
        inputs = [self._rescaled(operation.inputs[0], output), size]
        if layer.mode == "nearest":
            table = "ResizeNearestNeighborOptions"
            return self._operate(_OP.RESIZE_NEAREST_NEIGHBOR, inputs, output, table)
        table = "ResizeBilinearOptions"
        return self._operate(_OP.RESIZE_BILINEAR, inputs, output, table, HalfPixelCenters=True)

    def _affine(self, operation: Operation, source: int, output: int) -> int:
        """``x * weight + bias`` per channel, channels on the last axis."""
        weight, bias = self._weights(operation, np.asarray(operation.weight), (0,))
        scaled = self._new(f"{operation.name}.scaled", operation.shape, None)
        self._operate(_OP.MUL, [source, weight], scaled, "MulOptions")
        return self._operate(_OP.ADD, [scaled, bias], output, "AddOptions", **_fused(operation))

    def _activate(self, kind: Activations, shape: Shape, source: int, output: int) -> int:
        match kind:
            case "relu":
                return self._operate(_OP.RELU, [source], output)
            case "relu6":
                return self._operate(_OP.RELU6, [source], output)
            case "hard_swish":
                return self._operate(_OP.HARD_SWISH, [source], output, "HardSwishOptions")
            case "sigmoid":
                return self._operate(_OP.LOGISTIC, [source], output)
            case "silu":
                gate = self._new(f"gate{output}", shape, PROBABILITY)
                self._operate(_OP.LOGISTIC, [source], gate)
                return self._multiply([source, gate], output)
            case "hard_sigmoid":
                shifted = self._new(f"shifted{output}", shape, Scale(6 / 255, -128))
                inputs = [source, self._number("three", np.array(3.0))]
                relu6 = _FUSED["relu6"]
                self._operate(_OP.ADD, inputs, shifted, "AddOptions", FusedActivationFunction=relu6)
                return self._multiply([shifted, self._number("sixth", np.array(1 / 6))], output)

    def _multiply(self, inputs: Sequence[int], output: int, **options: int) -> int:
        version = None
        if self._quantization is not None:
            first, second, product = (self._scales[tensor].scale for tensor in (*inputs, output))
            version = _RATIO if first * second / product >= 1 else None
        return self._operate(_OP.MUL, inputs, output, "MulOptions", version, **options)

    def _rescaled(self, name: str, output: int) -> int:
        """A tensor with the scale of the output of the layer that reads it."""
        tensor = self._tensors[name]
        if self._scales.get(tensor) == self._scales.get(output):
            return tensor
        rescaled = self._new(f"{name}.rescaled{output}", self._shapes[name], self._scales[output])
        return self._operate(_OP.QUANTIZE, [tensor], rescaled, "QuantizeOptions")

    def _padded(self, operation: Operation, layer: Conv | Pool, source: int) -> tuple[int, int]:
        """The source, padded where TFLite's own padding differs, and the padding that is left to do."""
        shape = self._shapes[operation.inputs[0]]
        padding = needed_padding(layer, shape, operation.shape)
        if padding == NO_PADDING:
            return source, Padding.VALID
        counted = isinstance(layer, AvgPool) and layer.count_padding
        if not counted and is_same(layer, shape, padding):
            return source, Padding.SAME
        rows, columns = padding
        larger = (shape[0], shape[1] + sum(rows), shape[2] + sum(columns))
        padded = self._new(f"{operation.name}.padded", larger, self._scales.get(source))
        amounts = self._file.constant(
            f"{operation.name}.padding", np.array([(0, 0), rows, columns, (0, 0)], "<i4")
        )
        if isinstance(layer, MaxPool):
            inputs = [source, amounts, self._lowest(source)]
            return self._operate(_OP.PADV2, inputs, padded, "PadV2Options"), Padding.VALID
        return self._operate(_OP.PAD, [source, amounts], padded, "PadOptions"), Padding.VALID


def _fused(operation: Operation) -> dict[str, int]:
    kind = operation.activation if fuses(operation) else None
    return {"FusedActivationFunction": _FUSED[kind]} if kind else {}


def _flattened_for_dense(operations: Sequence[Operation]) -> dict[str, Shape]:
    """Flattenings that only dense layers read, with the shapes that they flatten.

    They may stay in TFLite's order if the dense layers' weights take it.
    """
    shapes = {operation.name: operation.shape for operation in operations}
    found = {op.name: op.inputs[0] for op in operations if isinstance(op.layer, Flatten)}
    found.pop(operations[-1].name, None)
    for operation in operations:
        if not isinstance(operation.layer, Dense):
            for name in operation.inputs:
                found.pop(name, None)
    return {name: shapes[source] for name, source in found.items() if source in shapes}
