"""Small model files for tests of what runs files: written by hand, so that they depend on no exporter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from results.records import Artifact


def artifact_of(data: bytes, file_format: str) -> Artifact:
    """The record of a file, for runs that do not care about its weights."""
    name = hashlib.sha256(data).hexdigest()
    return Artifact(name, name, "", file_format, "fp32", len(data))


def onnx_convolution(
    *, channels: int = 8, size: int = 16, layers: int = 2, batch: int | str = 1, seed: int = 0
) -> bytes:
    """``layers`` 3x3 convolutions with ReLU on an image of 3 channels; input ``x``, output ``y``, NCHW."""
    rng = np.random.default_rng(seed)
    nodes, weights, name, width = [], [], "x", 3
    for layer in range(layers):
        kernel = rng.standard_normal((channels, width, 3, 3)).astype(np.float32) / 3
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        name, width = f"r{layer}", channels
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, size, size])]
    wanted = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, channels, 1, 1])]
    return _onnx_model(nodes, given, wanted, weights)


def onnx_product(rows: int = 4, columns: int = 3) -> tuple[bytes, np.ndarray]:
    """``y = x @ w`` with ``x`` of shape (1, rows); gives the file and ``w``, to compare answers by hand."""
    weight = np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, rows])]
    wanted = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, columns])]
    return _onnx_model(nodes, given, wanted, [numpy_helper.from_array(weight, "w")]), weight


def onnx_without_end() -> bytes:
    """A loop of 2**62 rounds: it loads at once and never finishes its first run."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going_on"], ["go_on"]),
            helper.make_node("Add", ["before", "before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [1]),
        ],
    )
    rounds = numpy_helper.from_array(np.array(2**62, np.int64), "rounds")
    always = numpy_helper.from_array(np.array(True), "always")
    node = helper.make_node("Loop", ["rounds", "always", "x"], ["y"], body=body)
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    wanted = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    return _onnx_model([node], given, wanted, [rounds, always])


def onnx_of_inputs(*inputs: tuple[str, int, Sequence[int | str]]) -> bytes:
    """One Identity per input ``(name, element type, shape)``; outputs are called ``<name>_out``."""
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in inputs]
    given = [helper.make_tensor_value_info(name, kind, list(shape)) for name, kind, shape in inputs]
    wanted = [helper.make_tensor_value_info(f"{name}_out", kind, list(shape)) for name, kind, shape in inputs]
    return _onnx_model(nodes, given, wanted, [])


def _onnx_model(nodes: list, given: list, wanted: list, weights: list) -> bytes:
    graph = helper.make_graph(nodes, "tiny", given, wanted, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tflite_convolution(*, channels: int = 8, size: int = 16, layers: int = 2, seed: int = 0) -> bytes:
    """``layers`` 3x3 convolutions with ReLU on an image of 3 channels, NHWC, and one LOG_SOFTMAX at the end.

    XNNPACK does not take that one, so a file has ``layers`` operators that it runs and one that it leaves.
    """
    rng = np.random.default_rng(seed)
    model, graph = _tflite_model()
    graph.inputs = [_tensor(model, graph, "x", (1, size, size, 3))]
    before, width = graph.inputs[0], 3
    for _ in range(layers):
        kernel = (rng.standard_normal((channels, 3, 3, width)) / 3).astype(np.float32)
        bias = np.zeros(channels, np.float32)
        after = _tensor(model, graph, "r", (1, size, size, channels))
        tensors = [before, _constant(model, graph, kernel), _constant(model, graph, bias)]
        graph.operators.append(_operator(0, tensors, [after], _same_convolution()))
        before, width = after, channels
    graph.outputs = [_tensor(model, graph, "y", (1, size, size, channels))]
    graph.operators.append(_operator(1, [before], graph.outputs, None))
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tflite_model() -> tuple[schema.ModelT, schema.SubGraphT]:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, "tiny"
    model.buffers = [schema.BufferT()]
    model.subgraphs = [graph]
    graph.tensors, graph.operators, graph.name = [], [], "main"
    model.operatorCodes = []
    for code in (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.LOG_SOFTMAX):
        entry = schema.OperatorCodeT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        entry.version = 1
        model.operatorCodes.append(entry)
    return model, graph


def _tensor(model: schema.ModelT, graph: schema.SubGraphT, name: str, shape: Sequence[int]) -> int:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), schema.TensorType.FLOAT32, 0
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _constant(model: schema.ModelT, graph: schema.SubGraphT, values: np.ndarray) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    number = _tensor(model, graph, f"w{len(graph.tensors)}", values.shape)
    graph.tensors[number].buffer = len(model.buffers) - 1
    return number


def _same_convolution() -> schema.Conv2DOptionsT:
    options = schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME
    options.strideH = options.strideW = 1
    options.dilationHFactor = options.dilationWFactor = 1
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    return options


def _operator(
    code: int, inputs: list[int], outputs: list[int], options: schema.Conv2DOptionsT | None
) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    if options is not None:
        operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
        operator.builtinOptions = options
    return operator


def onnx_of_size(elements: int) -> bytes:
    """Makes a tensor of so many floats and adds it up."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "x"], ["y"]),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    wanted = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    size = numpy_helper.from_array(np.array([elements], np.int64), "size")
    return _onnx_model(nodes, given, wanted, [size])
