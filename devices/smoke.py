"""The smallest real model of each file format, to see whether a runtime that was brought works.

Importing is not enough: tflite-runtime 2.14 imports with NumPy 2 and dies on its first model.
"""

from __future__ import annotations

INPUTS = (-1.5, 0.0, 2.5)
OUTPUTS = (0.0, 0.0, 2.5)
"""What max(x, 0) makes of the inputs."""


def model(file_format: str) -> bytes:
    """A file that computes max(x, 0) for x of shape (1, 3).

    Args:
        file_format: ``onnx`` or ``tflite``.
    """
    return _onnx() if file_format == "onnx" else _tflite()


def _onnx() -> bytes:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "smoke", [x], [y])
    # IR 8 and opset 15 are what the oldest runtimes still read.
    opset = helper.make_opsetid("", 15)
    file: onnx.ModelProto = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return bytes(file.SerializeToString())


def _tflite() -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    relu = schema.OperatorCodeT()
    relu.builtinCode = relu.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(schema, b"x"), _tensor(schema, b"y")]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    file = schema.ModelT()
    file.version, file.operatorCodes, file.subgraphs = 3, [relu], [graph]
    file.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(file.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(schema, name: bytes):  # type: ignore[no-untyped-def]
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer, tensor.name = [1, 3], schema.TensorType.FLOAT32, 0, name
    return tensor
