"""What is in the files that are written: ONNX's nodes and shapes, TFLite's operators, versions and layout."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tflite

from harness.calibration import plausible
from harness.export import export
from search.network import Activation, Add, BatchNorm, Conv, Dense, GlobalPool, Layer, Shape
from tests.export_fuzz import random_weights
from tests.test_exporters import classifier, excess, graph

# --------------------------------------------------------------------------- ONNX


def test_onnx_versions_names_and_shapes() -> None:
    model = onnx.load_model_from_string(export(classifier(), random_weights(classifier(), 0), "onnx").data)
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (8, [("", 15)])
    assert [node.op_type for node in model.graph.node] == [
        "Conv",
        "Clip",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    ]
    ends = (*model.graph.input, *model.graph.output)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in ends}
    assert shapes == {"input": [1, 3, 9, 8], "logits": [1, 5]}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_onnx_file_describes_what_its_operations_give(precision: str) -> None:
    network = classifier()
    ranges = plausible(network, random_weights(network, 0)) if precision == "int8" else None
    exported = export(network, random_weights(network, 0), "onnx", precision, calibration=ranges)
    model = onnx.load_model_from_string(exported.data)
    described = {v.name: (v.type.tensor_type.elem_type, v) for v in model.graph.value_info}
    inferred = onnx.shape_inference.infer_shapes(without_shapes(model), check_type=True, strict_mode=True)
    for value in inferred.graph.value_info:
        if value.name in described:
            assert described.pop(value.name) == (value.type.tensor_type.elem_type, value)
    assert not described, "names that there are not"
    assert len(model.graph.value_info) == (5 if precision == "fp16" else 4)


def without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    return bare


# --------------------------------------------------------------------------- TFLite


def operators(data: bytes) -> list[tuple[int, int]]:
    """Builtin code and version of every operator of a TFLite file."""
    model = tflite.Model.GetRootAs(data)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    main = model.Subgraphs(0)
    used = [codes[main.Operators(i).OpcodeIndex()] for i in range(main.OperatorsLength())]
    return [(code.BuiltinCode(), code.Version()) for code in used]


def tflite_operators(shape: Shape, *layers: Layer) -> list[tuple[int, int]]:
    network = graph(shape, *layers)
    return operators(export(network, random_weights(network, 0), "tflite").data)


def test_tflite_fuses_what_it_can() -> None:
    op = tflite.BuiltinOperator
    layers = (Conv(4), BatchNorm(), Activation("relu6"), Add(), Activation("relu"), GlobalPool(), Dense(3))
    expected = [(op.CONV_2D, 1), (op.ADD, 1), (op.MEAN, 1), (op.FULLY_CONNECTED, 1)]
    assert tflite_operators((3, 8, 8), *layers) == expected


@pytest.mark.parametrize(
    ("size", "stride", "padding", "padded"),
    [
        (9, 2, (1, 1, 1, 1), False),  # odd: SAME pads one on either side, as PyTorch does
        (8, 2, (1, 1, 1, 1), True),  # even: SAME would pad (0, 1)
        (8, 2, (0, 1, 0, 1), False),
        (8, 1, (1, 1, 1, 1), False),
        (8, 1, (0, 0, 0, 0), False),
        (8, 1, (2, 2, 2, 2), True),
        (8, 2, (0, 0, 0, 0), False),  # the last row and column are never read
    ],
)
def test_tflite_pads_explicitly_only_where_same_differs(
    size: int, stride: int, padding: tuple, padded: bool
) -> None:
    layer = Conv(4, (3, 3), (stride, stride), padding)
    assert (
        (tflite.BuiltinOperator.PAD, 1) in tflite_operators((3, size, size), layer, GlobalPool())
    ) is padded
    assert excess(graph((3, size, size), layer, GlobalPool())) <= 1


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Conv(4, groups=4), (tflite.BuiltinOperator.DEPTHWISE_CONV_2D, 1)),
        (Conv(8, groups=4), (tflite.BuiltinOperator.DEPTHWISE_CONV_2D, 1)),
        (
            Conv(4, groups=4, dilation=(2, 2), padding=(2, 2, 2, 2)),
            (tflite.BuiltinOperator.DEPTHWISE_CONV_2D, 2),
        ),
        (Conv(4, groups=2), (tflite.BuiltinOperator.CONV_2D, 6)),
    ],
)
def test_tflite_operator_versions_are_those_of_the_converter(layer: Conv, expected: tuple) -> None:
    assert tflite_operators((4, 7, 7), layer) == [expected]


def test_tflite_layout_of_the_file() -> None:
    data = export(classifier(), random_weights(classifier(), 0), "tflite").data
    model = tflite.Model.GetRootAs(data)
    assert (data[4:8], model.Version()) == (b"TFL3", 3)
    assert model.Buffers(0).DataIsNone()
    start = np.frombuffer(data, np.uint8).ctypes.data
    for i in range(1, model.BuffersLength()):
        assert (model.Buffers(i).DataAsNumpy().ctypes.data - start) % 16 == 0, i


def test_tflite_stores_equal_constants_once() -> None:
    layers = [Conv(4, (3, 3), (1, 1), (2, 2, 2, 2))] * 3
    network = graph((4, 6, 6), *layers)
    weights = random_weights(network, 0)
    for i in (1, 2):
        weights[f"n{i}.weight"] = weights["n0.weight"]
    model = tflite.Model.GetRootAs(export(network, weights, "tflite").data)
    assert model.BuffersLength() == 1 + 3  # empty, paddings, weight, bias
