"""Every layer: shapes by hand, values by hand or PyTorch, and files in both formats."""

from __future__ import annotations

import numpy as np
import pytest
import tflite
import torch
import torch.nn.functional as F
from torch import nn

from harness.export import export
from harness.folding import fold
from results.errors import ArchitectureError, ExportError
from search.module import to_module
from search.network import (
    Activation,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalPool,
    Identity,
    Layer,
    MaxPool,
    Multiply,
    Network,
    Node,
    Resize,
    Shape,
    Softmax,
    Zero,
    costs,
    output_shape,
)
from tests.export_fuzz import KINDS, excesses, pytorch_logits, random_weights

POINT = Conv(4, (1, 1), padding=(0, 0, 0, 0), bias=True)
PRECISIONS = ("fp32", "fp16", "int8")


def graph(shape: Shape, *layers: Layer) -> Network:
    """Layers one after the other; those with two inputs read the last tensor twice."""
    names = ["input", *(f"n{i}" for i in range(len(layers)))]
    twice = Add | Multiply | Concat
    return Network(
        shape,
        tuple(
            Node(f"n{i}", layer, (names[i],) * (2 if isinstance(layer, twice) else 1))
            for i, layer in enumerate(layers)
        ),
    )


def excess(network: Network, precision: str = "fp32") -> float:
    return max(excesses(network, random_weights(network, 0), precision).values())


# --------------------------------------------------------------------------- shapes and values


@pytest.mark.parametrize(
    ("layer", "inputs", "expected"),
    [
        (Multiply(), [(4, 5, 6), (4, 1, 1)], (4, 5, 6)),
        (Multiply(), [(7,), (7,)], (7,)),
        (Concat(), [(4, 5, 6), (1, 5, 6), (2, 5, 6)], (7, 5, 6)),
        (Concat(), [(4,), (3,)], (7,)),
        (Zero(), [(4, 5, 6)], (4, 5, 6)),
        (Identity(), [(9,)], (9,)),
        (MaxPool((2, 3), (2, 1), (1, 0, 1, 1)), [(4, 5, 6)], (4, 3, 6)),
        (AvgPool((3, 3), (2, 2)), [(4, 6, 5)], (4, 2, 2)),  # no ceiling
        (GlobalPool(keep_dims=True), [(4, 5, 6)], (4, 1, 1)),
        (Resize((10, 3)), [(4, 5, 6)], (4, 10, 3)),
        (Flatten(), [(4, 5, 6)], (120,)),
        (Softmax(), [(4,)], (4,)),
    ],
)
def test_shapes(layer: Layer, inputs: list[Shape], expected: Shape) -> None:
    assert output_shape(layer, inputs) == expected


@pytest.mark.parametrize(
    ("layer", "inputs", "message"),
    [
        (Multiply(), [(4, 5, 6), (3, 1, 1)], r"cannot multiply \(4, 5, 6\) by \(3, 1, 1\)"),
        (Multiply(), [(4, 1, 1), (4, 5, 6)], "cannot multiply"),
        (Concat(), [(4, 5, 6)], "two or more"),
        (Concat(), [(4, 5, 6), (4, 5, 7)], "equal height and width"),
        (MaxPool((2, 2), padding=(2, 0, 0, 0)), [(4, 5, 6)], "padding as large as the kernel"),
        (AvgPool((2, 2), padding=(0, 0, 0, 2)), [(4, 5, 6)], "padding as large as the kernel"),
        (MaxPool((0, 2)), [(4, 5, 6)], "start at 1"),
        (AvgPool((6, 1)), [(4, 5, 6)], "does not fit"),
        (Resize((0, 3)), [(4, 5, 6)], "height and a width"),
        (Softmax(), [(4, 5, 6)], "rank 1"),
        (Flatten(), [(4,)], "rank 3"),
        (Identity(), [(4,), (4,)], "takes 1 inputs"),
    ],
)
def test_what_a_layer_cannot_take(layer: Layer, inputs: list[Shape], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        output_shape(layer, inputs)


def computed(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    return to_module(graph(tuple(x.shape[1:]), layer))(x)


def test_pools_by_hand() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3) - 20  # all below 0: padding would win if it counted
    padding = (1, 0, 0, 1)
    assert computed(MaxPool((2, 2), (2, 2), padding), x).tolist() == [[[[-19, -18], [-13, -12]]]]
    counted = computed(AvgPool((2, 2), (2, 2), padding), x)
    assert counted.tolist() == [[[[-39 / 4, -18 / 4], [-15.0, -27 / 4]]]]
    inside = computed(AvgPool((2, 2), (2, 2), padding, count_padding=False), x)
    assert inside.tolist() == [[[[-19.5, -18], [-15, -13.5]]]]


@pytest.mark.parametrize("counted", [True, False])
def test_symmetric_pools_are_pytorchs(counted: bool) -> None:
    x = torch.randn(2, 3, 7, 8)
    expected = F.avg_pool2d(x, (3, 2), (2, 3), (1, 1), count_include_pad=counted)
    layer = AvgPool((3, 2), (2, 3), (1, 1, 1, 1), counted)
    assert torch.allclose(computed(layer, x), expected, atol=1e-6)
    expected = F.max_pool2d(x, (3, 2), (2, 3), (1, 1))
    assert torch.equal(computed(MaxPool((3, 2), (2, 3), (1, 1, 1, 1)), x), expected)


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("relu", nn.ReLU()),
        ("relu6", nn.ReLU6()),
        ("hard_swish", nn.Hardswish()),
        ("hard_sigmoid", nn.Hardsigmoid()),
        ("sigmoid", nn.Sigmoid()),
        ("silu", nn.SiLU()),
    ],
)
def test_activations_are_pytorchs(kind: str, module: nn.Module) -> None:
    x = torch.linspace(-8, 8, 65).reshape(1, 1, 1, 65)
    assert torch.equal(computed(Activation(kind), x), module(x))  # type: ignore[arg-type]


def test_zero_stays_zero_and_trains() -> None:
    network = graph((2, 3, 3), Conv(2), Zero(), GlobalPool(), Dense(2))
    module = to_module(network)
    module(torch.randn(2, 2, 3, 3)).sum().backward()
    assert torch.equal(module(torch.full((1, 2, 3, 3), 1e30)), module(torch.zeros(1, 2, 3, 3)))


def test_costs_count_no_macs_for_layers_without_weights() -> None:
    shape = (4, 6, 6)
    bare = costs(graph(shape, POINT))
    more = costs(graph(shape, POINT, MaxPool(), Identity(), Activation("silu"), Flatten(), Softmax()))
    assert (more.macs, more.parameters) == (bare.macs, bare.parameters)
    assert more.activation_bytes == bare.activation_bytes  # flattening and identities copy nothing


# --------------------------------------------------------------------------- files

HEADS: dict[str, tuple[Layer, ...]] = {
    "pool": (GlobalPool(), Dense(5)),
    "flatten": (Flatten(), Dense(5)),
    "without a bias": (GlobalPool(), Dropout(0.5), Dense(5, bias=False)),
    "flatten alone": (Flatten(),),
    "softmax": (GlobalPool(), Dense(5), Softmax()),
}
BODIES: dict[str, tuple[Layer, ...]] = {
    **{kind: (Conv(4), Activation(kind)) for kind in KINDS},
    **{f"pooled {kind}": (MaxPool(), Activation(kind)) for kind in KINDS},
    "excite": (Conv(4), GlobalPool(keep_dims=True), POINT, Activation("hard_sigmoid")),
    "max": (MaxPool((3, 3), (2, 2), (1, 1, 1, 1)),),
    "max, uneven": (MaxPool((3, 2), (1, 3), (0, 2, 1, 0)),),
    "mean": (AvgPool((3, 3), (2, 2), (1, 1, 1, 1)),),
    "mean inside": (AvgPool((3, 3), (2, 2), (1, 1, 1, 1), count_padding=False),),
    "mean inside, uneven": (AvgPool((3, 2), (1, 3), (0, 2, 1, 0), count_padding=False),),
    "nearest": (Resize((14, 16)),),
    "bilinear": (Resize((9, 13), "bilinear"),),
    "smaller": (Resize((3, 5), "bilinear"),),
    "concat": (Conv(4), Concat(), BatchNorm()),
    "multiply": (Conv(4), Multiply(), Activation("relu")),
    "dropout": (Conv(4), Dropout(0.9, "channels"), BatchNorm()),
    "zero": (Conv(4), Zero(), Conv(3, bias=True)),
    "sigmoid into a pool": (Activation("sigmoid"), AvgPool((3, 3), (1, 1), (1, 1, 1, 1))),
    "sigmoid twice": (Activation("sigmoid"), Concat(), Conv(3)),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("body", BODIES)
def test_layers_in_both_formats_and_all_runtimes(body: str, precision: str) -> None:
    network = graph((3, 7, 8), *BODIES[body], GlobalPool(), Dense(4))
    assert excess(network, precision) <= 1
    assert excess(graph((3, 7, 8), *BODIES[body]), precision) <= 1  # as an image


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", HEADS)
def test_heads_in_both_formats_and_all_runtimes(head: str, precision: str) -> None:
    assert excess(graph((3, 5, 4), Conv(4), *HEADS[head]), precision) <= 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_squeeze_and_excitation(precision: str) -> None:
    nodes = (
        Node("stem", Conv(6), ("input",)),
        Node("squeeze", GlobalPool(keep_dims=True), ("stem",)),
        Node("reduce", Conv(2, (1, 1), padding=(0, 0, 0, 0), bias=True), ("squeeze",)),
        Node("reduce_act", Activation("relu"), ("reduce",)),
        Node("expand", Conv(6, (1, 1), padding=(0, 0, 0, 0), bias=True), ("reduce_act",)),
        Node("gate", Activation("hard_sigmoid"), ("expand",)),
        Node("scale", Multiply(), ("stem", "gate")),
        Node("pool", GlobalPool(), ("scale",)),
        Node("classifier", Dense(4), ("pool",)),
    )
    assert excess(Network((3, 9, 8), nodes), precision) <= 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_dimensional_signals_are_images_of_height_1(precision: str) -> None:
    layers = (
        Conv(8, (1, 7), (1, 2), (0, 0, 3, 3)),
        BatchNorm(),
        Activation("relu"),
        MaxPool((1, 3), (1, 2), (0, 0, 1, 1)),
        Conv(8, (1, 5), padding=(0, 0, 2, 2), groups=8, dilation=(1, 2)),
        Conv(12, (1, 1), padding=(0, 0, 0, 0)),
        GlobalPool(),
        Dense(3),
    )
    network = graph((3, 1, 64), *layers)
    assert network.shapes["n0"] == (8, 1, 32)
    weights = random_weights(network, 0)
    x = np.random.default_rng(0).standard_normal((2, 3, 1, 64)).astype(np.float32)
    flat = F.conv1d(torch.from_numpy(x[:, :, 0]), torch.from_numpy(weights["n0.weight"][:, :, 0]), None, 2, 3)
    first = pytorch_logits(graph((3, 1, 64), layers[0]), {"n0.weight": weights["n0.weight"]}, x)
    assert first[:, :, 0] == pytest.approx(flat.numpy(), abs=1e-5)
    assert excess(network, precision) <= 1


def test_nearest_pixels_of_which_runtimes_differ_are_refused() -> None:
    network = graph((1, 1, 14), Resize((1, 2)))  # ONNX Runtime takes pixel 6, the others 7
    for file_format in ("onnx", "tflite"):
        with pytest.raises(ExportError, match=r"'n0' resizes \(1, 14\) to \(1, 2\) by nearest pixels"):
            export(network, {}, file_format)


def test_a_network_that_computes_nothing_is_refused() -> None:
    network = graph((1, 4, 4), Identity(), Identity())
    with pytest.raises(ExportError, match="hands its input through"):
        export(network, {}, "onnx")


def test_identities_and_zeros_disappear() -> None:
    nodes = (
        Node("conv", Conv(3), ("input",)),
        Node("skip", Identity(), ("conv",)),
        Node("norm", BatchNorm(), ("skip",)),
        Node("none", Zero(), ("norm",)),
        Node("none_act", Activation("relu"), ("none",)),
        Node("sum", Add(), ("none_act", "norm")),
        Node("gated", Multiply(), ("sum", "none")),
        Node("out", Add(), ("sum", "gated")),
    )
    network = Network((2, 4, 4), nodes)
    assert [op.name for op in fold(network, random_weights(network, 0))] == ["norm"]
    assert excess(network) <= 1


def test_flattening_before_a_dense_layer_costs_no_transposition() -> None:
    def codes(*layers: Layer) -> list[int]:
        network = graph((3, 5, 4), Conv(4), *layers)
        model = tflite.Model.GetRootAs(export(network, random_weights(network, 0), "tflite").data)
        main = model.Subgraphs(0)
        used = [main.Operators(i).OpcodeIndex() for i in range(main.OperatorsLength())]
        return [model.OperatorCodes(i).BuiltinCode() for i in used]

    op = tflite.BuiltinOperator
    assert codes(Flatten(), Dense(3)) == [op.CONV_2D, op.RESHAPE, op.FULLY_CONNECTED]
    assert codes(Flatten()) == [op.CONV_2D, op.TRANSPOSE, op.RESHAPE]
