"""Reads a user's ONNX file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, external_data_helper, numpy_helper

from harness.model_inputs import Input, Reading, Shapes, fixed_shape, refuse_nan, refuse_unknown
from results.errors import ConfigError

_STANDARD_DOMAINS = ("", "ai.onnx")
_DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT16: "int16",
    TensorProto.UINT16: "uint16",
    TensorProto.INT32: "int32",
    TensorProto.UINT32: "uint32",
    TensorProto.INT64: "int64",
    TensorProto.UINT64: "uint64",
    TensorProto.BOOL: "bool",
}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
_WEIGHT_TYPES = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.INT8,
    TensorProto.UINT8,
}


def read(data: bytes, path: Path, shapes: Shapes) -> Reading:
    """Reads the content of an ONNX file; external data are taken in, open dimensions fixed.

    Raises:
        ConfigError: If it is damaged, newer than what is known here, lacks external data, or leaves
            dimensions open; if weights are NaN.
    """
    try:
        return _read(data, path, shapes)
    except (UnicodeDecodeError, TypeError) as error:  # texts are decoded only when they are looked at
        raise ConfigError(f"{path} is a damaged ONNX file: {error}") from error


def _read(data: bytes, path: Path, shapes: Shapes) -> Reading:
    model = _parsed(data, path)
    _check_versions(model, path)
    changed = _take_in_external_data(model, path)
    _check_weights(model, path)
    inputs = _inputs(model, path, shapes)
    changed = _fix_dimensions(model, path, inputs) or changed
    if changed:
        try:
            data = model.SerializeToString(deterministic=True)
        except (ValueError, EncodeError) as error:
            raise ConfigError(f"{path} is larger than 2 GiB with its external data: {error}") from error
    precision = _precision(model, inputs)
    weights = _strip_weights(model)
    graph = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    return Reading(data, inputs, precision, graph if weights else "", weights)


def _parsed(data: bytes, path: Path) -> ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ConfigError(f"{path} is no ONNX file, or a damaged one: {error}") from error
    if not model.graph.node or not model.opset_import:
        what = "layers" if not model.graph.node else "opset"
        raise ConfigError(f"{path} is no ONNX file, or a damaged one: it names no {what}")
    named = (*model.graph.input, *model.graph.output, *model.graph.initializer)
    if not all(isinstance(each.name, str) for each in named):  # bytes where they are no UTF-8
        raise ConfigError(f"{path} is a damaged ONNX file: names in it are no text")
    return model


def _check_versions(model: ModelProto, path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in _STANDARD_DOMAINS and opset.version > newest:
            raise ConfigError(
                f"{path} uses opset {opset.version}, the newest known here is {newest}; export it with that"
            )
    if model.ir_version > onnx.IR_VERSION:
        raise ConfigError(
            f"{path} has IR version {model.ir_version}, the newest known here is {onnx.IR_VERSION}; "
            "write it with an older onnx package"
        )


def _take_in_external_data(model: ModelProto, path: Path) -> bool:
    """Loads weights that lie in files beside the model; True if there were any."""
    constants = [each.t for node in model.graph.node for each in node.attribute if each.HasField("t")]
    tensors = [*model.graph.initializer, *constants]
    outside = [tensor for tensor in tensors if external_data_helper.uses_external_data(tensor)]
    if not outside:
        return False
    names = sorted({entry.value for t in outside for entry in t.external_data if entry.key == "location"})
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        listed = ", ".join(names)
        raise ConfigError(f"{path} keeps weights in {listed}, which cannot be read: {error}") from error
    return True


def _check_weights(model: ModelProto, path: Path) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS:
            refuse_nan(path, tensor.name, numpy_helper.to_array(tensor))


def _inputs(model: ModelProto, path: Path, shapes: Shapes) -> tuple[Input, ...]:
    stored = {tensor.name for tensor in model.graph.initializer}  # up to IR 3 these are inputs as well
    given = [value for value in model.graph.input if value.name not in stored]
    if not given:
        raise ConfigError(f"{path} has no inputs: there is nothing to run")
    refuse_unknown(path, (value.name for value in given), shapes)
    inputs = []
    for value in given:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or kind.elem_type not in _DTYPES:
            raise ConfigError(f"{path}: input {value.name!r} is no tensor of numbers that can be made up")
        if not kind.HasField("shape"):
            raise ConfigError(f"{path}: input {value.name!r} has no shape; export it with one")
        sizes = tuple(d.dim_value if d.dim_value > 0 else d.dim_param or "?" for d in kind.shape.dim)
        inputs.append(
            Input(value.name, _DTYPES[kind.elem_type], fixed_shape(path, value.name, sizes, shapes))
        )
    return tuple(inputs)


def _fix_dimensions(model: ModelProto, path: Path, inputs: tuple[Input, ...]) -> bool:
    """Writes the inputs' shapes into the model, under every name that a dimension has."""
    shapes = {each.name: each.shape for each in inputs}
    named: dict[str, int] = {}
    changed = False
    for value in model.graph.input:
        dimensions = value.type.tensor_type.shape.dim if value.name in shapes else ()
        for dimension, size in zip(dimensions, shapes.get(value.name, ()), strict=True):
            if dimension.dim_param and named.setdefault(dimension.dim_param, size) != size:
                both = f"{named[dimension.dim_param]} and {size}"
                raise ConfigError(f"{path}: --shape makes the dimension {dimension.dim_param!r} both {both}")
            changed = changed or dimension.dim_value != size
            dimension.dim_value = size  # a oneof: clears dim_param
    for value in (*model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in named:
                dimension.dim_value = named[dimension.dim_param]
    return changed


def _precision(model: ModelProto, inputs: tuple[Input, ...]) -> str:
    kinds = {node.op_type for node in model.graph.node}
    if any(k.startswith("QLinear") or k.endswith("Integer") or k == "QuantizeLinear" for k in kinds):
        return "int8"
    bytes_of = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0}
    for tensor in model.graph.initializer:
        if tensor.data_type in bytes_of:
            bytes_of[tensor.data_type] += tensor.ByteSize()
    half = bytes_of[TensorProto.FLOAT16] > bytes_of[TensorProto.FLOAT]
    return "fp16" if half or any(each.dtype == "float16" for each in inputs) else "fp32"


def _strip_weights(model: ModelProto) -> str:
    """Takes the weights out of the model and returns their hash; empty if there are none.

    Integer constants (shapes, axes) stay: they are structure.
    """
    total, found = hashlib.sha256(), False
    for tensor in model.graph.initializer:
        if tensor.data_type in _WEIGHT_TYPES:
            total.update(tensor.SerializeToString(deterministic=True))
            kept = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            tensor.CopyFrom(kept)
            found = True
    for text in ("producer_name", "producer_version", "doc_string", "metadata_props"):
        model.ClearField(text)
    return total.hexdigest() if found else ""
