"""Builds a TFLite flatbuffer from tensors and operators.

Layout (schema version 3, file identifier ``TFL3``): one subgraph; buffer 0 is empty and is what every
computed tensor points to; constant data are aligned to 16 bytes, as the schema's ``force_align`` asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import flatbuffers
import numpy as np
import tflite
from numpy.typing import NDArray

IDENTIFIER = b"TFL3"

_SCHEMA_VERSION = 3
_TYPES = {
    "float32": tflite.TensorType.FLOAT32,
    "float16": tflite.TensorType.FLOAT16,
    "int32": tflite.TensorType.INT32,
    "int8": tflite.TensorType.INT8,
}


@dataclass(frozen=True)
class Affine:
    """How a tensor's integers stand for numbers: ``scale * (integer - zero_point)``.

    Attributes:
        scales: One, or one per index of ``axis``.
        zero_points: As many.
        axis: Along which the scales differ.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    type: int
    buffer: int = 0
    affine: Affine | None = None


@dataclass(frozen=True)
class _Operator:
    code: int
    inputs: tuple[int, ...]
    output: int
    options: str
    fields: Mapping[str, float]


@dataclass
class TfliteFile:
    """A TFLite file in the making; tensors are known by their index."""

    _tensors: list[_Tensor] = field(default_factory=list)
    _operators: list[_Operator] = field(default_factory=list)
    _codes: dict[tuple[int, int], int] = field(default_factory=dict)
    _buffers: list[bytes] = field(default_factory=lambda: [b""])
    _constants: dict[tuple[str, tuple[int, ...], bytes, Affine | None], int] = field(default_factory=dict)

    def tensor(
        self, name: str, shape: Sequence[int], *, dtype: str = "float32", affine: Affine | None = None
    ) -> int:
        """Adds a tensor that the network computes or is given."""
        self._tensors.append(_Tensor(name, tuple(shape), _TYPES[dtype], affine=affine))
        return len(self._tensors) - 1

    def constant(self, name: str, values: NDArray[Any], affine: Affine | None = None) -> int:
        """Adds constant float32, float16, int32 or int8 values; equal ones are stored once."""
        data = values.tobytes()
        key = (values.dtype.name, values.shape, data, affine)
        if key not in self._constants:
            self._buffers.append(data)
            kind = _TYPES[values.dtype.name]
            self._tensors.append(_Tensor(name, values.shape, kind, len(self._buffers) - 1, affine))
            self._constants[key] = len(self._tensors) - 1
        return self._constants[key]

    def operate(
        self, code: tuple[int, int], inputs: Sequence[int], output: int, options: str = "", **fields: float
    ) -> int:
        """Adds an operator that makes ``output``, and returns that.

        Args:
            code: Builtin operator and its version.
            inputs: Tensors it reads.
            output: Tensor it makes.
            options: Table of the schema with its options, such as ``"Conv2DOptions"``; none if empty.
            fields: Fields of that table.
        """
        number = self._codes.setdefault(code, len(self._codes))
        self._operators.append(_Operator(number, tuple(inputs), output, options, fields))
        return output

    def pack(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        """The file.

        Args:
            inputs: Tensors that are its inputs.
            outputs: Tensors that are its outputs.
            metadata: Texts by name, each in a buffer of its own that the model's ``metadata`` points to.
        """
        first = len(self._buffers)
        held = [*self._buffers, *(text.encode() for text in metadata.values())]
        size = sum(len(data) + 64 for data in held) + 128 * len(metadata)
        size += sum(12 * len(tensor.affine.scales) for tensor in self._tensors if tensor.affine)
        builder = flatbuffers.Builder(size + 256 * (len(self._tensors) + len(self._operators)) + 1024)
        buffers = _vector(builder, [_buffer(builder, data) for data in held])
        subgraph = self._subgraph(builder, inputs, outputs)
        codes = _vector(builder, [_operator_code(builder, *code) for code in self._codes])
        subgraphs = _vector(builder, [subgraph])
        entries = [_metadata(builder, name, first + number) for number, name in enumerate(metadata)]
        named = _vector(builder, entries) if entries else None
        description = builder.CreateString("boardwise")
        tflite.ModelStart(builder)
        tflite.ModelAddVersion(builder, _SCHEMA_VERSION)
        tflite.ModelAddOperatorCodes(builder, codes)
        tflite.ModelAddSubgraphs(builder, subgraphs)
        tflite.ModelAddDescription(builder, description)
        tflite.ModelAddBuffers(builder, buffers)
        if named is not None:
            tflite.ModelAddMetadata(builder, named)
        builder.Finish(tflite.ModelEnd(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _subgraph(self, builder: Any, inputs: Sequence[int], outputs: Sequence[int]) -> int:
        tensors = _vector(builder, [_tensor(builder, tensor) for tensor in self._tensors])
        operators = _vector(builder, [_operator(builder, operator) for operator in self._operators])
        ends = _integers(builder, inputs), _integers(builder, outputs)
        name = builder.CreateString("main")
        tflite.SubGraphStart(builder)
        tflite.SubGraphAddTensors(builder, tensors)
        tflite.SubGraphAddInputs(builder, ends[0])
        tflite.SubGraphAddOutputs(builder, ends[1])
        tflite.SubGraphAddOperators(builder, operators)
        tflite.SubGraphAddName(builder, name)
        return _end(tflite.SubGraphEnd, builder)


def _end(end: Callable[[Any], Any], builder: Any) -> int:
    return int(end(builder))


def _vector(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _integers(builder: Any, values: Sequence[int]) -> int:
    return int(builder.CreateNumpyVector(np.array(values, np.int32)))


def _buffer(builder: Any, data: bytes) -> int:
    vector = None
    if data:
        builder.Prep(16, len(data))  # aligns the first byte of the data, not the length before it
        vector = builder.CreateByteVector(data)
    tflite.BufferStart(builder)
    if vector is not None:
        tflite.BufferAddData(builder, vector)
    return _end(tflite.BufferEnd, builder)


def _metadata(builder: Any, name: str, buffer: int) -> int:
    text = builder.CreateString(name)
    tflite.MetadataStart(builder)
    tflite.MetadataAddName(builder, text)
    tflite.MetadataAddBuffer(builder, buffer)
    return _end(tflite.MetadataEnd, builder)


def _tensor(builder: Any, tensor: _Tensor) -> int:
    shape = _integers(builder, tensor.shape)
    name = builder.CreateString(tensor.name)
    affine = None if tensor.affine is None else _affine(builder, tensor.affine)
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, tensor.type)
    tflite.TensorAddBuffer(builder, tensor.buffer)
    tflite.TensorAddName(builder, name)
    if affine is not None:
        tflite.TensorAddQuantization(builder, affine)
    return _end(tflite.TensorEnd, builder)


def _affine(builder: Any, affine: Affine) -> int:
    scales = int(builder.CreateNumpyVector(np.array(affine.scales, np.float32)))
    zero_points = int(builder.CreateNumpyVector(np.array(affine.zero_points, np.int64)))
    tflite.QuantizationParametersStart(builder)
    tflite.QuantizationParametersAddScale(builder, scales)
    tflite.QuantizationParametersAddZeroPoint(builder, zero_points)
    tflite.QuantizationParametersAddQuantizedDimension(builder, affine.axis)
    return _end(tflite.QuantizationParametersEnd, builder)


def _operator_code(builder: Any, code: int, version: int) -> int:
    tflite.OperatorCodeStart(builder)
    # Runtimes before 2.4 know only the one-byte field; 127 there means: see the wide one.
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, min(code, 127))
    tflite.OperatorCodeAddBuiltinCode(builder, code)
    tflite.OperatorCodeAddVersion(builder, version)
    return _end(tflite.OperatorCodeEnd, builder)


def _operator(builder: Any, operator: _Operator) -> int:
    options = _options(builder, operator.options, operator.fields) if operator.options else None
    inputs, outputs = _integers(builder, operator.inputs), _integers(builder, [operator.output])
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, operator.code)
    tflite.OperatorAddInputs(builder, inputs)
    tflite.OperatorAddOutputs(builder, outputs)
    if options is not None:
        tflite.OperatorAddBuiltinOptionsType(builder, getattr(tflite.BuiltinOptions, operator.options))
        tflite.OperatorAddBuiltinOptions(builder, options)
    return _end(tflite.OperatorEnd, builder)


def _options(builder: Any, table: str, fields: Mapping[str, float]) -> int:
    getattr(tflite, f"{table}Start")(builder)
    for name, value in fields.items():
        getattr(tflite, f"{table}Add{name}")(builder, value)
    return _end(getattr(tflite, f"{table}End"), builder)
