"""Contract of every file of ``harness/exporters``, and what ONNX and TFLite files must be beyond it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import plugins
from harness.export import TOLERANCE, Comparison, agreement, compare, export, run_on_host
from harness.folding import fold
from results.errors import ConfigError, ExportError, RuntimeRefused
from results.records import FORMATS
from search.network import (
    Activation,
    Add,
    BatchNorm,
    Conv,
    Dense,
    GlobalPool,
    Layer,
    Network,
    Node,
    Shape,
    initial_weights,
)
from search.spaces.chain import Space
from tests.export_fuzz import excesses, networks, pytorch_logits, random_weights

EXPORTERS = plugins.known("exporters")
POINT = Conv(6, (1, 1), padding=(0, 0, 0, 0))


def graph(shape: Shape, *layers: Layer) -> Network:
    """Layers one after the other, called ``n0``, ``n1`` ..."""
    names = ["input", *(f"n{i}" for i in range(len(layers)))]
    nodes = (
        Node(f"n{i}", layer, (names[i],) * (2 if isinstance(layer, Add) else 1))
        for i, layer in enumerate(layers)
    )
    return Network(shape, tuple(nodes))


def classifier() -> Network:
    """A small network that ends in 5 logits."""
    return graph((3, 9, 8), Conv(4), BatchNorm(), Activation("relu6"), GlobalPool(), Dense(5))


def shared_convolution() -> Network:
    """A convolution whose output is normalised and read by a skip: nothing may be folded into it."""
    nodes = (
        Node("conv", Conv(4), ("input",)),
        Node("norm", BatchNorm(), ("conv",)),
        Node("act", Activation("relu"), ("norm",)),
        Node("sum", Add(), ("act", "conv")),
        Node("sum_norm", BatchNorm(), ("sum",)),
        Node("pool", GlobalPool(), ("sum_norm",)),
        Node("dense", Dense(3), ("pool",)),
    )
    return Network((2, 7, 6), nodes)


def shared_norm() -> Network:
    """A batch norm that its activation and a skip read: it folds, the activation may not be fused."""
    nodes = (
        Node("conv", Conv(4), ("input",)),
        Node("norm", BatchNorm(), ("conv",)),
        Node("act", Activation("relu"), ("norm",)),
        Node("sum", Add(), ("norm", "act")),
        Node("sum_act", Activation("hard_swish"), ("sum",)),
        Node("pool", GlobalPool(), ("sum_act",)),
        Node("dense", Dense(3), ("pool",)),
    )
    return Network((2, 7, 6), nodes)


def excess(network: Network, seed: int = 0, precision: str = "fp32") -> float:
    """Largest difference from what should be computed, over both formats and all runtimes, in tolerances."""
    return max(excesses(network, random_weights(network, seed), precision).values())


# --------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("name", EXPORTERS)
class TestContract:
    """What the rest of the product expects of an exporter."""

    def test_says_what_it_writes(self, name: str) -> None:
        exporter = plugins.load("exporters", name)
        assert name == exporter.FILE_FORMAT
        assert name in FORMATS.values()
        assert "fp32" in exporter.PRECISIONS

    def test_writes_what_its_checker_takes_and_pytorch_computes(self, name: str) -> None:
        network, exporter = classifier(), plugins.load("exporters", name)
        weights = random_weights(network, 0)
        data = exporter.write(network, weights)
        exporter.check(data)
        images = np.random.default_rng(0).standard_normal((3, *network.input_shape)).astype(np.float32)
        logits = exporter.run(data, images)
        assert logits.dtype == np.float32
        assert logits == pytest.approx(pytorch_logits(network, weights, images), rel=1e-4, abs=1e-5)

    def test_equal_arguments_give_equal_bytes(self, name: str) -> None:
        network, exporter = classifier(), plugins.load("exporters", name)
        first = exporter.write(network, random_weights(network, 0))
        assert first == exporter.write(network, random_weights(network, 0))
        assert first != exporter.write(network, random_weights(network, 1))

    def test_an_image_as_output_keeps_its_layout(self, name: str) -> None:
        network = graph((3, 6, 5), Conv(4, stride=(2, 1)), Activation("hard_swish"))
        weights = random_weights(network, 0)
        images = np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype(np.float32)
        found = compare(export(network, weights, name), pytorch_logits(network, weights, images), images)
        assert found.images == 2

    def test_batch_is_fixed_in_the_file(self, name: str) -> None:
        network, weights = classifier(), random_weights(classifier(), 0)
        exported = export(network, weights, name, batch=2)
        images = np.random.default_rng(0).standard_normal((4, *network.input_shape)).astype(np.float32)
        assert compare(exported, pytorch_logits(network, weights, images), images).argmax_agreement == 1
        assert exported.artifact.graph != export(network, weights, name).artifact.graph
        with pytest.raises(ConfigError, match="3 images do not fill batches of 2"):
            run_on_host(exported, images[:3])

    def test_damaged_files_are_refused(self, name: str) -> None:
        exporter = plugins.load("exporters", name)
        data = exporter.write(classifier(), random_weights(classifier(), 0))
        for damaged in (b"", b"\xff" * 64, data[: len(data) // 2]):
            with pytest.raises(ExportError):
                exporter.check(damaged)
            with pytest.raises(RuntimeRefused):
                exporter.run(damaged, np.zeros((1, 3, 9, 8), np.float32))

    def test_wrong_image_shape_is_refused(self, name: str) -> None:
        exporter = plugins.load("exporters", name)
        data = exporter.write(classifier(), random_weights(classifier(), 0))
        with pytest.raises(RuntimeRefused):
            exporter.run(data, np.zeros((1, 3, 9, 9), np.float32))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda w: w.pop("n1.running_var"), r"lack 'n1.running_var'"),
            (lambda w: w.update({"n0.weight": w["n0.weight"][:2]}), r"'n0.weight' has shape \(2, 3, 3, 3\)"),
            (lambda w: w["n4.bias"].fill(np.nan), r"'n4.bias' holds numbers that are not finite"),
            (lambda w: w["n0.weight"].fill(np.inf), r"'n0.weight' holds numbers that are not finite"),
            (lambda w: w["n1.running_var"].fill(-1), r"'n1' has a variance that is not positive"),
            (lambda w: w["n1.weight"].fill(3e38), r"weights of 'n2' overflow float32"),
        ],
    )
    def test_unusable_weights_name_their_node(self, name: str, change: Callable, message: str) -> None:
        weights = random_weights(classifier(), 0)
        weights["n0.weight"][0, 0, 0, 0] = 100
        change(weights)
        with pytest.raises(ExportError, match=message):
            export(classifier(), weights, name)


def test_bytes_do_not_depend_on_the_process_and_stderr_stays_silent() -> None:
    program = (
        "from harness.export import export, plugins\n"
        "from search.network import *\n"
        "network = Network((3, 9, 9), (Node('conv', Conv(4), ('input',)),))\n"
        "for name in plugins.known('exporters'):\n"
        "    print(export(network, initial_weights(network, 0), name).artifact.sha256)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
        text=True,
    )
    network = Network((3, 9, 9), (Node("conv", Conv(4), ("input",)),))
    here = [export(network, initial_weights(network, 0), name).artifact.sha256 for name in EXPORTERS]
    assert found.stdout.split() == here
    assert found.stderr == ""


# --------------------------------------------------------------------------- every runtime of this host


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(network=networks(), seed=st.integers(0, 2**31))
def test_random_graphs_compute_what_pytorch_computes(network: Network, seed: int) -> None:
    # Thousands of others: python -m tests.export_fuzz; docs/formats.md says what they showed.
    assert excess(network, seed) <= 1


@pytest.mark.parametrize("seed", range(8))
def test_samples_of_the_chain_space(seed: int) -> None:
    space = Space(input_shape=(1, 32, 32), classes=10)
    network = space.build(space.sample(np.random.default_rng(seed)))
    assert excess(network, seed) <= 1


@pytest.mark.parametrize("network", [shared_convolution(), shared_norm()], ids=["conv", "norm"])
def test_tensors_with_several_readers(network: Network) -> None:
    assert excess(network) <= 1


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_grouped_convolutions(groups: int, dilation: int) -> None:
    layer = Conv(12, groups=groups, dilation=(dilation, dilation), padding=(2, 1, 0, 2), bias=True)
    assert excess(graph((6, 9, 8), layer, BatchNorm(), GlobalPool(), Dense(4))) <= 1


@pytest.mark.parametrize("shape", [(2, 1), (4, 8), (7, 7)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (3, 3)])
def test_narrow_kernels_and_uneven_strides(shape: tuple, stride: tuple, kernel: tuple) -> None:
    (top, left) = (k // 2 for k in kernel)
    layer = Conv(5, kernel, stride, (top, top, left, left))
    assert excess(graph((3, *shape), layer, GlobalPool(), Dense(4))) <= 1


@pytest.mark.parametrize("layer", [Activation("relu"), Activation("relu6"), Activation("hard_swish"), Add()])
def test_layers_on_the_vector_after_the_pool(layer: Layer) -> None:
    assert excess(graph((3, 4, 4), GlobalPool(), layer, Dense(2), layer)) <= 1


@pytest.mark.parametrize("kind", ["relu", "relu6", "hard_swish"])
def test_norm_that_no_convolution_precedes(kind: str) -> None:
    network = graph((3, 4, 4), BatchNorm(), Activation(kind), BatchNorm(), Add(), GlobalPool(), Dense(2))
    assert excess(network) <= 1


# --------------------------------------------------------------------------- folding


def test_norm_and_activation_disappear_into_the_convolution() -> None:
    operations = fold(classifier(), random_weights(classifier(), 0))
    assert [(op.name, type(op.layer), op.activation) for op in operations] == [
        ("n2", Conv, "relu6"),
        ("n3", GlobalPool, None),
        ("n4", Dense, None),
    ]


def test_folding_has_the_value_computed_by_hand() -> None:
    network = graph((1, 1, 1), Conv(1, (1, 1), padding=(0, 0, 0, 0), bias=True), BatchNorm(epsilon=1.0))
    parts = {"weight": 3.0, "bias": 0.5, "running_mean": 4.0, "running_var": 8.0}
    weights = {f"n1.{part}": np.array([value], np.float32) for part, value in parts.items()}
    weights |= {"n0.weight": np.full((1, 1, 1, 1), 2, np.float32), "n0.bias": np.ones(1, np.float32)}
    (operation,) = fold(network, weights)
    # scale 3 / sqrt(8 + 1) = 1: weight 2, bias (1 - 4) * 1 + 0.5
    assert operation.weight is not None
    assert operation.bias is not None
    assert operation.weight.item() == 2
    assert operation.bias.item() == -2.5


def test_nothing_is_folded_into_what_others_read() -> None:
    operations = fold(shared_convolution(), random_weights(shared_convolution(), 0))
    assert [op.name for op in operations] == ["conv", "act", "sum", "sum_norm", "pool", "dense"]
    assert [op.activation for op in operations] == [None, "relu", None, None, None, None]


def test_several_norms_fold_into_one_convolution() -> None:
    network = graph((2, 5, 5), Conv(3), BatchNorm(), BatchNorm(1e-3))
    assert [op.name for op in fold(network, random_weights(network, 0))] == ["n2"]
    assert excess(network) <= 1


def test_norm_after_an_activation_stays() -> None:
    network = graph((2, 5, 5), Conv(3), Activation("relu"), BatchNorm())
    assert [op.name for op in fold(network, random_weights(network, 0))] == ["n1", "n2"]


def test_what_nothing_reads_is_left_out() -> None:
    nodes = (Node("dead", Conv(3), ("input",)), Node("conv", POINT, ("input",)))
    network = Network((2, 4, 4), nodes)
    assert [op.name for op in fold(network, random_weights(network, 0))] == ["conv"]


def test_denormal_weights_become_zero() -> None:
    network = graph((2, 4, 4), Conv(3), BatchNorm(), GlobalPool(), Dense(2))
    weights = random_weights(network, 0)
    weights["n0.weight"] *= np.float32(1e-38)
    weights["n3.weight"][0] = 1e-41
    for operation in fold(network, weights):
        for values in (operation.weight, operation.bias):
            if values is not None:
                assert values.dtype == np.float32
                assert not ((values != 0) & (np.abs(values) < np.finfo(np.float32).tiny)).any()


# --------------------------------------------------------------------------- export and compare


def test_artifact_tells_structure_and_weights_apart() -> None:
    network = classifier()
    first, second = (export(network, random_weights(network, seed), "onnx").artifact for seed in (0, 1))
    assert first.graph == second.graph
    assert first.weights != second.weights
    assert first.sha256 != second.sha256
    assert (first.file_format, first.precision) == ("onnx", "fp32")
    assert first.size_bytes == len(export(network, random_weights(network, 0), "onnx").data)
    tflite_file = export(network, random_weights(network, 0), "tflite").artifact
    assert tflite_file.graph != first.graph
    assert tflite_file.weights == first.weights


def test_weights_that_the_network_does_not_have_do_not_count() -> None:
    weights = random_weights(classifier(), 0)
    counted = weights | {"n1.num_batches_tracked": np.array(3)}
    assert export(classifier(), weights, "onnx") == export(classifier(), counted, "onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("onx",), "did you mean 'onnx'"),
        (("tflite", "int4"), "no 'int4' tflite file can be written; precisions: fp32, fp16, int8"),
        (("tflite", "int8"), "int8 and nothing else needs calibrated ranges, got None"),
    ],
)
def test_unknown_formats_and_precisions(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export(classifier(), random_weights(classifier(), 0), *arguments)
    with pytest.raises(ConfigError, match="at least 1 image"):
        export(classifier(), random_weights(classifier(), 0), "onnx", batch=0)


def test_networks_beyond_what_a_file_can_hold_are_refused_before_they_are_written() -> None:
    network = graph((1 << 15, 1, 1), GlobalPool(), Dense(1 << 14))
    with pytest.raises(
        ExportError, match=r"take 2147549184 bytes in float32; a model file can have 2147483647"
    ):
        export(network, {}, "onnx")


@pytest.mark.parametrize("name", EXPORTERS)
def test_another_network_is_not_taken_for_rounding(name: str) -> None:
    network = classifier()
    weights, images = random_weights(network, 0), np.ones((4, 3, 9, 8), np.float32)
    images *= np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1, 1)
    reference = pytorch_logits(network, weights, images)
    exported = export(network, weights, name)
    found = compare(exported, reference, images)
    assert found.images == 4
    assert found.argmax_agreement == 1
    assert 0 <= found.largest_difference < 1e-4
    weights["n4.bias"][0] += 0.1
    with pytest.raises(ExportError, match="is another network"):
        compare(export(network, weights, name), reference, images)
    with pytest.raises(ExportError, match=r"logits have shape \(4, 5\), PyTorch's \(4, 4\)"):
        compare(exported, reference[:, :4], images)
    with pytest.raises(ExportError, match="PyTorch computes logits that are not finite"):
        compare(exported, reference * np.nan, images)
    with pytest.raises(ExportError, match=f"the {name} file computes logits that are not finite"):
        compare(exported, reference, images * np.nan)


def test_agreement() -> None:
    reference = np.array([[1, 2], [4, 3]], np.float32)
    assert agreement(reference, reference) == Comparison(0, 1, 2, 4)
    found = agreement(reference, np.array([[1, 2.5], [2, 3]], np.float32))
    assert found == Comparison(2, 0.5, 2, 4)
    assert not found.within_tolerance
    for wrong in (reference[:1], reference * np.nan):
        assert not agreement(reference, wrong).within_tolerance
        assert not agreement(wrong, reference).within_tolerance
    assert agreement(reference, reference * np.float32(1 + TOLERANCE / 2)).within_tolerance
    zeros = np.zeros((2, 2), np.float32)
    assert agreement(zeros, zeros).within_tolerance
