"""TFLite files, written straight from the layer graph.

Tensors are NHWC and operators carry the lowest version that holds them, so that old runtimes load the
file.  Padding is exact: TFLite's SAME puts the odd row at the bottom and right, PyTorch pads what it is
told; SAME is used only where both agree, and an explicit PAD before a VALID convolution elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from tflite import ActivationFunctionType, BuiltinOperator, Padding

from harness.folding import Array, Operation, Weights, fold
from harness.tflite_file import IDENTIFIER, TfliteFile
from results.errors import ConfigError, ExportError, RuntimeRefused
from search.network import Activation, Activations, Add, BatchNorm, Conv, Dense, GlobalPool, Network, Shape

FILE_FORMAT = "tflite"
PRECISIONS = ("fp32",)

_FUSED = {
    None: ActivationFunctionType.NONE,
    "relu": ActivationFunctionType.RELU,
    "relu6": ActivationFunctionType.RELU6,
    "hard_swish": ActivationFunctionType.NONE,
}
# Operators with the versions that the converter's op_version.cc gives them for float32.
_ADD = (BuiltinOperator.ADD, 1)
_CONV = (BuiltinOperator.CONV_2D, 1)
_CONV_GROUPED = (BuiltinOperator.CONV_2D, 6)
_DEPTHWISE = (BuiltinOperator.DEPTHWISE_CONV_2D, 1)
_DEPTHWISE_DILATED = (BuiltinOperator.DEPTHWISE_CONV_2D, 2)
_DENSE = (BuiltinOperator.FULLY_CONNECTED, 1)
_MEAN = (BuiltinOperator.MEAN, 1)
_MUL = (BuiltinOperator.MUL, 1)
_PAD = (BuiltinOperator.PAD, 1)
_ACTIVATIONS = {
    "relu": ((BuiltinOperator.RELU, 1), ""),
    "relu6": ((BuiltinOperator.RELU6, 1), ""),
    "hard_swish": ((BuiltinOperator.HARD_SWISH, 1), "HardSwishOptions"),
}


def write(network: Network, weights: Weights, *, batch: int = 1) -> bytes:
    """The file of a network with its weights; equal arguments give equal bytes.

    Raises:
        ExportError: If the weights do not fit or are not finite.
    """
    return _Graph(fold(network, weights), network.input_shape, batch).pack()


def check(data: bytes) -> None:
    """Loads a file into the TFLite interpreter and lets it prepare every operator.

    Raises:
        ExportError: If it is no TFLite file or the interpreter does not take it.
    """
    artifact = hashlib.sha256(data).hexdigest()
    if data[4:8] != IDENTIFIER:
        raise ExportError(artifact, f"no TFLite file: its identifier is {data[4:8]!r}, not {IDENTIFIER!r}")
    try:
        _interpreter(data)
    except (ValueError, RuntimeError) as error:
        raise ExportError(artifact, f"the TFLite interpreter refuses it: {error}") from error


def run(data: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits ``(n, classes)`` that the TFLite interpreter computes on one CPU thread of this host.

    Args:
        data: The file.
        images: Shape ``(n, channels, height, width)``, n a multiple of the file's batch.

    Raises:
        ConfigError: If the images do not fill batches.
        RuntimeRefused: If the interpreter does not load or run the file.
    """
    try:
        interpreter = _interpreter(data)
        source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        batch = int(source["shape"][0])
        if len(images) % batch:
            raise ConfigError(f"{len(images)} images do not fill batches of {batch}")
        outputs = []
        for block in channels_last(images).reshape(-1, *source["shape"]):
            interpreter.set_tensor(source["index"], block)
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(result["index"]))
    except (ValueError, RuntimeError) as error:
        raise RuntimeRefused(hashlib.sha256(data).hexdigest(), f"TFLite: {error}") from error
    return channels_first(np.concatenate(outputs))


def channels_last(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(n, c, h, w)`` as ``(n, h, w, c)``, contiguous."""
    return np.ascontiguousarray(np.moveaxis(images, 1, -1))


def channels_first(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(n, h, w, c)`` as ``(n, c, h, w)``, contiguous; vectors as they are."""
    return np.ascontiguousarray(np.moveaxis(images, -1, 1) if images.ndim == 4 else images)


def _interpreter(data: bytes) -> Interpreter:
    global _announced
    with _lock:
        quiet: AbstractContextManager[None] = nullcontext() if _announced else _without_stderr()
        _announced = True
    with quiet:
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
    return interpreter


# The first interpreter of a process prints a line about XNNPACK that no option turns off.
_lock, _announced = Lock(), False


@contextmanager
def _without_stderr() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Graph:
    """The operators of a file."""

    def __init__(self, operations: Sequence[Operation], input_shape: Shape, batch: int) -> None:
        self._file = TfliteFile()
        self._batch = batch
        self._output = operations[-1].name
        self._shapes = {"input": input_shape} | {op.name: op.shape for op in operations}
        self._tensors = {"input": self._new("input", input_shape)}
        for operation in operations:
            self._tensors[operation.name] = self._add(operation)

    def pack(self) -> bytes:
        """The file."""
        return self._file.pack([self._tensors["input"]], [self._tensors[self._output]])

    def _new(self, name: str, shape: Shape) -> int:
        return self._file.tensor(name, (self._batch, *shape[1:], *shape[:1]))

    def _add(self, operation: Operation) -> int:
        name = "logits" if operation.name == self._output else f"{operation.name}.output"
        if operation.activation == "hard_swish":  # has an operator of its own; cannot be fused
            linear = self._compute(operation, self._new(f"{operation.name}.linear", operation.shape))
            return self._activate("hard_swish", linear, self._new(name, operation.shape))
        return self._compute(operation, self._new(name, operation.shape))

    def _compute(self, operation: Operation, output: int) -> int:
        inputs = [self._tensors[name] for name in operation.inputs]
        fused = _FUSED[operation.activation]
        match operation.layer:
            case Conv() as layer:
                return self._convolve(operation, layer, output)
            case Dense():
                inputs += self._constants(operation, operation.weight)
                options = "FullyConnectedOptions"
                return self._file.operate(_DENSE, inputs, output, options, FusedActivationFunction=fused)
            case BatchNorm():
                return self._scale(operation, inputs[0], output)
            case Add():
                return self._file.operate(_ADD, inputs, output, "AddOptions", FusedActivationFunction=fused)
            case GlobalPool():
                return self._mean(operation, inputs[0], output)
            case Activation(kind=kind):
                return self._activate(kind, inputs[0], output)

    def _constants(self, operation: Operation, weight: Array | None) -> list[int]:
        named = (("weight", weight), ("bias", operation.bias))
        return [
            self._file.constant(f"{operation.name}.{part}", np.asarray(values, "<f4"))
            for part, values in named
            if values is not None
        ]

    def _convolve(self, operation: Operation, layer: Conv, output: int) -> int:
        source = operation.inputs[0]
        channels, height, width = self._shapes[source]
        top, bottom, left, right = layer.padding
        rows = _needed_padding(height, operation.shape[1], (top, bottom), layer, axis=0)
        columns = _needed_padding(width, operation.shape[2], (left, right), layer, axis=1)
        tensor, padding = self._tensors[source], Padding.VALID
        if rows != (0, 0) or columns != (0, 0):
            if _is_same(height, rows, layer, 0) and _is_same(width, columns, layer, 1):
                padding = Padding.SAME
            else:
                tensor = self._pad(operation.name, source, rows, columns)
        options = {
            "Padding": padding,
            "StrideH": layer.stride[0],
            "StrideW": layer.stride[1],
            "DilationHFactor": layer.dilation[0],
            "DilationWFactor": layer.dilation[1],
            "FusedActivationFunction": _FUSED[operation.activation],
        }
        weight = np.asarray(operation.weight)
        if layer.groups == channels > 1:
            constants = self._constants(operation, weight.transpose(1, 2, 3, 0))
            code = _DEPTHWISE if layer.dilation == (1, 1) else _DEPTHWISE_DILATED
            table, options["DepthMultiplier"] = "DepthwiseConv2DOptions", layer.channels // channels
        else:
            constants = self._constants(operation, weight.transpose(0, 2, 3, 1))
            code, table = _CONV if layer.groups == 1 else _CONV_GROUPED, "Conv2DOptions"
        return self._file.operate(code, [tensor, *constants], output, table, **options)

    def _pad(self, name: str, source: str, rows: tuple[int, int], columns: tuple[int, int]) -> int:
        channels, height, width = self._shapes[source]
        padded = self._new(f"{name}.padded", (channels, height + sum(rows), width + sum(columns)))
        amounts = self._file.constant(f"{name}.padding", np.array([(0, 0), rows, columns, (0, 0)], "<i4"))
        return self._file.operate(_PAD, [self._tensors[source], amounts], padded, "PadOptions")

    def _scale(self, operation: Operation, source: int, output: int) -> int:
        """``x * weight + bias`` per channel, channels on the last axis."""
        weight, bias = self._constants(operation, operation.weight)
        scaled = self._new(f"{operation.name}.scaled", operation.shape)
        self._file.operate(_MUL, [source, weight], scaled, "MulOptions")
        fused = _FUSED[operation.activation]
        return self._file.operate(_ADD, [scaled, bias], output, "AddOptions", FusedActivationFunction=fused)

    def _mean(self, operation: Operation, source: int, output: int) -> int:
        axes = self._file.constant("spatial_axes", np.array([1, 2], "<i4"))
        if operation.activation in (None, "hard_swish"):
            return self._file.operate(_MEAN, [source, axes], output, "ReducerOptions", KeepDims=0)
        mean = self._new(f"{operation.name}.mean", operation.shape)
        self._file.operate(_MEAN, [source, axes], mean, "ReducerOptions", KeepDims=0)
        return self._activate(operation.activation, mean, output)

    def _activate(self, kind: Activations, source: int, output: int) -> int:
        code, options = _ACTIVATIONS[kind]
        return self._file.operate(code, [source], output, options)


def _needed_padding(
    size: int, out: int, padding: tuple[int, int], layer: Conv, *, axis: int
) -> tuple[int, int]:
    """Padding along an axis without what no window reaches at its end."""
    before, after = padding
    reach = layer.dilation[axis] * (layer.kernel[axis] - 1) + 1
    used = (out - 1) * layer.stride[axis] + reach
    return before, min(after, max(0, used - size - before))


def _is_same(size: int, padding: tuple[int, int], layer: Conv, axis: int) -> bool:
    """Whether TFLite's SAME pads an axis as the layer does: half of it before, the odd row after."""
    stride = layer.stride[axis]
    reach = layer.dilation[axis] * (layer.kernel[axis] - 1) + 1
    total = (-(-size // stride) - 1) * stride + reach - size
    # Where windows leave rows out, the total can be negative; XNNPACK in tflite-runtime 2.14 then
    # computes wrong outputs instead of padding nothing.
    return reach >= stride and padding == (total // 2, total - total // 2)
