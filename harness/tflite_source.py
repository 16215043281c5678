"""Reads a user's TFLite file.

The file is read with Python's flatbuffers, which cannot leave its bounds unnoticed.  TFLite's own code
may crash on a damaged file, so that it gets one only in a process of its own, on the board.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tflite

from harness.model_inputs import Input, Reading, Shapes, fixed_shape, refuse_nan, refuse_unknown
from harness.tflite_file import IDENTIFIER
from results.errors import ConfigError

T = TypeVar("T")

_SCHEMA_VERSION = 3
_DTYPES = {
    tflite.TensorType.FLOAT32: "float32",
    tflite.TensorType.FLOAT16: "float16",
    tflite.TensorType.FLOAT64: "float64",
    tflite.TensorType.INT8: "int8",
    tflite.TensorType.UINT8: "uint8",
    tflite.TensorType.INT16: "int16",
    tflite.TensorType.INT32: "int32",
    tflite.TensorType.UINT32: "uint32",
    tflite.TensorType.INT64: "int64",
    tflite.TensorType.BOOL: "bool",
}
_FLOATS = {tflite.TensorType.FLOAT16: "<f2", tflite.TensorType.FLOAT32: "<f4"}
_COMPUTING = {
    tflite.BuiltinOperator.CONV_2D,
    tflite.BuiltinOperator.DEPTHWISE_CONV_2D,
    tflite.BuiltinOperator.FULLY_CONNECTED,
    tflite.BuiltinOperator.BATCH_MATMUL,
    tflite.BuiltinOperator.TRANSPOSE_CONV,
}
_BUILT_IN_CUSTOM = {"TFLite_Detection_PostProcess", "Mfcc", "AudioSpectrogram", "NumericVerify"}
"""Custom operators that the interpreters of the Python packages have."""

_DAMAGE = (struct.error, ValueError, TypeError, IndexError, AttributeError, OverflowError)


def read(data: bytes, path: Path, shapes: Shapes) -> Reading:
    """Reads the content of a TFLite file.

    Dimensions that it leaves open are those that the file itself gives as default, unless ``shapes``
    says otherwise.

    Raises:
        ConfigError: If it is damaged, needs operators that no interpreter here has, or does not take
            the shapes.
    """
    if data[4:8] != IDENTIFIER:
        raise ConfigError(f"{path} is no TFLite file: it lacks the mark {IDENTIFIER.decode()} at byte 4")
    content = bytearray(data)  # shapes are fixed in place
    try:
        model = tflite.Model.GetRootAs(content)
        if model.Version() != _SCHEMA_VERSION:
            raise ConfigError(f"{path} has schema version {model.Version()}, only {_SCHEMA_VERSION} is known")
        sizes = _constant_sizes(model, len(data))
        graphs = list(_table(model.SubgraphsLength, model.Subgraphs, len(data)))
        used = [_operators(model, graph, len(data)) for graph in graphs]
        tensors = list(_table(graphs[0].TensorsLength, graphs[0].Tensors, len(data)))
        inputs = _inputs(graphs[0], tensors, path, shapes)
        precision = _precision(used[0], tensors, sizes)
        _check_weights(model, tensors, path)
    except _DAMAGE as error:
        raise ConfigError(f"{path} is damaged or cut off: {error}") from error
    _refuse_custom({name for operators in used for _, name, _ in operators if name}, path)
    return Reading(bytes(content), inputs, precision)


def _table(length: Callable[[], int], item: Callable[[int], T], size: int) -> Iterator[T]:
    """Items of a vector, unless its length alone shows that the file is damaged."""
    count = length()
    if count * 4 > size:
        raise ValueError(f"a table of {count} entries in {size} bytes")
    return (item(i) for i in range(count))


def _constant_sizes(model: Any, size: int) -> list[int]:
    """Size of every buffer, all of them checked to lie within the file."""
    sizes = []
    for buffer in _table(model.BuffersLength, model.Buffers, size):
        if buffer.Offset() > 1:  # files above 2 GiB keep data behind the flatbuffer; 0 and 1 mean none
            if buffer.Offset() + buffer.Size() > size:
                raise ValueError("weights lie beyond the end")
            sizes.append(buffer.Size())
        else:
            data = None if buffer.DataIsNone() else buffer.DataAsNumpy()  # raises if out of bounds
            sizes.append(0 if data is None else len(data))
    return sizes


def _operators(model: Any, graph: Any, size: int) -> list[tuple[int, str, list[int]]]:
    """Code, custom name and input tensors of every operator."""
    codes = list(_table(model.OperatorCodesLength, model.OperatorCodes, size))
    found = []
    for operator in _table(graph.OperatorsLength, graph.Operators, size):
        code = codes[operator.OpcodeIndex()]
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = code.CustomCode() or b"custom" if number == tflite.BuiltinOperator.CUSTOM else b""
        inputs = list(_table(operator.InputsLength, operator.Inputs, size))
        found.append((number, name.decode(errors="replace"), inputs))
    if not found:
        raise ValueError("it has no operators")
    return found


def _inputs(graph: Any, tensors: list[Any], path: Path, shapes: Shapes) -> tuple[Input, ...]:
    given = [tensors[i] for i in _table(graph.InputsLength, graph.Inputs, len(tensors) * 4)]
    names = [(tensor.Name() or b"").decode(errors="replace") for tensor in given]
    if not given:
        raise ConfigError(f"{path} has no inputs: there is nothing to run")
    refuse_unknown(path, names, shapes)
    inputs = []
    for name, tensor in zip(names, given, strict=True):
        if tensor.Type() not in _DTYPES:
            raise ConfigError(f"{path}: input {name!r} is no tensor of numbers that can be made up")
        shape = _fix_shape(tensor, name, path, shapes)
        inputs.append(Input(name, _DTYPES[tensor.Type()], shape))
    return tuple(inputs)


def _fix_shape(tensor: Any, name: str, path: Path, shapes: Shapes) -> tuple[int, ...]:
    """Shape of an input, written into the file where the user fixes what it leaves open."""
    empty = np.zeros(0, np.int32)
    default = empty if tensor.ShapeIsNone() else tensor.ShapeAsNumpy()
    signature = default if tensor.ShapeSignatureLength() != len(default) else tensor.ShapeSignatureAsNumpy()
    is_open = signature < 0
    if name not in shapes and (default > 0).all():
        return tuple(int(size) for size in default)
    sizes = tuple("?" if o or s < 1 else int(s) for o, s in zip(is_open, default, strict=True))
    shape = fixed_shape(path, name, sizes, shapes)
    default[:] = shape
    signature[:] = shape
    return shape


def _precision(operators: list[tuple[int, str, list[int]]], tensors: list[Any], sizes: list[int]) -> str:
    """int8 where convolutions or products read 8-bit activations; fp16 where most weights are float16."""
    eight = (tflite.TensorType.INT8, tflite.TensorType.UINT8)
    if any(code in _COMPUTING and tensors[inputs[0]].Type() in eight for code, _, inputs in operators):
        return "int8"
    bytes_of = {tflite.TensorType.FLOAT32: 0, tflite.TensorType.FLOAT16: 0}
    for tensor in tensors:
        if tensor.Type() in bytes_of:
            bytes_of[tensor.Type()] += sizes[tensor.Buffer()]
    half = bytes_of[tflite.TensorType.FLOAT16] > bytes_of[tflite.TensorType.FLOAT32]
    return "fp16" if half else "fp32"


def _check_weights(model: Any, tensors: list[Any], path: Path) -> None:
    for tensor in tensors:
        buffer, kind = model.Buffers(tensor.Buffer()), _FLOATS.get(tensor.Type())
        if kind is None or buffer.DataIsNone() or tensor.ShapeIsNone():
            continue
        values = buffer.DataAsNumpy()
        if len(values) == math.prod(map(int, tensor.ShapeAsNumpy())) * np.dtype(kind).itemsize:
            refuse_nan(path, (tensor.Name() or b"").decode(errors="replace"), values.view(kind))


def _refuse_custom(names: set[str], path: Path) -> None:
    foreign = sorted(names - _BUILT_IN_CUSTOM)
    if not foreign:
        return
    listed = ", ".join(foreign)
    if any(name.startswith("Flex") for name in foreign):
        raise ConfigError(
            f"{path} needs TensorFlow itself for {listed}; convert it with built-in operators only "
            "(target_spec.supported_ops = [TFLITE_BUILTINS])"
        )
    raise ConfigError(f"{path} needs custom operators that the interpreter does not have: {listed}")
