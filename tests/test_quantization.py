"""Half floats and integers: calibration, scales, files, and the proof that they are the same network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import tflite
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.calibration import calibrate, plausible, run_operations
from harness.export import Exported, agreement, compare, export, run_on_host
from harness.exporters import onnx as onnx_exporter
from harness.folding import Operation, fold
from harness.proof import Trained, prove
from harness.quantization import METHODS, PROBABILITY, Calibration, as_convolutions, quantize
from harness.simulation import Simulation
from results.errors import ConfigError, ExportError
from search.network import (
    Activation,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    GlobalPool,
    MaxPool,
    Network,
    Node,
    initial_weights,
)
from tests.export_fuzz import excesses, networks, pytorch_logits, random_weights

FORMATS = ("onnx", "tflite")


def mixed() -> Network:
    """A stem, a pool beside a convolution, joined; hard-swish; a head."""
    nodes = (
        Node("stem", Conv(8, stride=(2, 2)), ("input",)),
        Node("stem_norm", BatchNorm(), ("stem",)),
        Node("stem_act", Activation("hard_swish"), ("stem_norm",)),
        Node("pool", MaxPool((3, 3), (1, 1), (1, 1, 1, 1)), ("stem_act",)),
        Node("depthwise", Conv(8, groups=8), ("stem_act",)),
        Node("depthwise_act", Activation("relu"), ("depthwise",)),
        Node("joined", Concat(), ("pool", "depthwise_act")),
        Node("mean", GlobalPool(), ("joined",)),
        Node("classifier", Dense(5), ("mean",)),
    )
    return Network((3, 12, 10), nodes)


def images_for(network: Network, count: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *network.input_shape)).astype(np.float32)


@pytest.fixture(name="trained")
def _trained() -> Trained:
    network = mixed()
    weights, images = random_weights(network, 0), images_for(network)
    return Trained(network, weights, images, pytorch_logits(network, weights, images))


def calibrated(trained: Trained) -> Calibration:
    return calibrate(trained.network, trained.weights, trained.images)


# --------------------------------------------------------------------------- calibration


def test_operations_compute_what_the_module_computes(trained: Trained) -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def observe(name: str, value: torch.Tensor) -> torch.Tensor:
        seen[name] = tuple(value.shape[1:])
        return value

    operations = fold(trained.network, trained.weights)
    logits = run_operations(operations, torch.from_numpy(trained.images), observe).numpy()
    assert logits == pytest.approx(trained.logits, rel=1e-4, abs=1e-5)
    assert {name: trained.network.shapes[name] for name in seen if "." not in name} == {
        name: shape for name, shape in seen.items() if "." not in name
    }
    assert set(seen) == set(calibrated(trained).ranges)


def test_extremes_by_hand() -> None:
    network = Network((1, 1, 4), (Node("double", Conv(1, (1, 1), padding=(0, 0, 0, 0)), ("input",)),))
    weights = {"double.weight": np.full((1, 1, 1, 1), 2, np.float32)}
    images = np.arange(-40, 40, dtype=np.float32).reshape(20, 1, 1, 4)
    found = calibrate(network, weights, images)
    assert found.ranges == {"input": (-40, 39), "double": (-80, 78)}
    assert (found.method, found.images) == ("min-max", 20)


def test_percentile_and_mse_leave_outliers_out() -> None:
    network = Network((1, 100, 100), (Node("same", Conv(1, (1, 1), padding=(0, 0, 0, 0)), ("input",)),))
    weights = {"same.weight": np.ones((1, 1, 1, 1), np.float32)}
    images = images_for(network, 4)
    images[:, 0, 0, 0] = 50.0
    high = {m: calibrate(network, weights, images, m).ranges["same"][1] for m in METHODS}
    assert high["min-max"] == 50
    # The 0.01 % quantile of normal values is 3.7; 10,000 of them reach 5 with a chance below 0.3 %.
    assert 3 < high["percentile"] < 5
    assert 40 < high["mse"] < 50  # clipping 4 of 40,000 values by 10 costs more than coarser steps
    errors = {m: np.square(rounded_to(images, high[m]) - images).mean() for m in METHODS}
    assert errors["mse"] < errors["min-max"] < errors["percentile"]


def rounded_to(values: np.ndarray, high: float) -> np.ndarray:
    """Values rounded to 255 steps over a range that begins where theirs does."""
    low = values.min() * high / values.max()
    step = (high - low) / 255
    return np.clip(np.rint(values / step) * step, low, high)


@pytest.mark.parametrize(
    ("images", "method", "message"),
    [
        (np.zeros((0, 3, 12, 10), np.float32), "min-max", r"n >= 1, got \(0, 3, 12, 10\)"),
        (np.zeros((2, 3, 12, 11), np.float32), "min-max", r"\(n, 3, 12, 10\), n >= 1, got \(2, 3, 12, 11\)"),
        (np.zeros((3, 12, 10), np.float32), "min-max", "calibration takes images of shape"),
        (np.full((2, 3, 12, 10), np.nan, np.float32), "min-max", "not finite"),
        (np.zeros((2, 3, 12, 10), np.float32), "percentil", "did you mean 'percentile'"),
    ],
)
def test_calibration_data_that_cannot_be_used(
    trained: Trained, images: np.ndarray, method: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        calibrate(trained.network, trained.weights, images, method)  # type: ignore[arg-type]


# --------------------------------------------------------------------------- scales


def test_scales_hold_zero_exactly_and_cover_the_range(trained: Trained) -> None:
    ranges = calibrated(trained).ranges
    found = quantize(fold(trained.network, trained.weights), ranges)
    for name, (low, high) in ranges.items():
        scale = found.scales[name]
        assert -128 <= scale.zero_point <= 127
        assert scale.scale * (-128 - scale.zero_point) <= min(low, 0) + scale.scale
        assert scale.scale * (127 - scale.zero_point) >= max(high, 0) - scale.scale


def test_layers_that_move_values_share_one_scale(trained: Trained) -> None:
    scales = quantize(fold(trained.network, trained.weights), calibrated(trained).ranges).scales
    joined = ("stem_act", "pool", "depthwise_act", "joined")
    assert len({scales[name] for name in joined}) == 1
    assert scales["stem_act"] != scales["stem_act.linear"]


def test_a_pool_after_a_sigmoid_covers_what_it_reads() -> None:
    layers = (Node("gate", Activation("sigmoid"), ("input",)), Node("pool", AvgPool(), ("gate",)))
    network = Network((1, 4, 4), layers)
    scales = quantize(fold(network, {}), {"input": (-9, 9), "gate": (0, 1), "pool": (0.4, 0.5)}).scales
    assert scales["gate"] == PROBABILITY
    assert scales["pool"].scale == pytest.approx(1 / 255)


def test_symmetric_scales_have_no_zero_point(trained: Trained) -> None:
    found = quantize(fold(trained.network, trained.weights), calibrated(trained).ranges, symmetric=True)
    assert {scale.zero_point for scale in found.scales.values()} == {0}


def dense(weight: list[list[float]], bias: list[float]) -> Operation:
    arrays = np.array(weight, np.float32), np.array(bias, np.float32)
    return Operation("dense", Dense(len(bias)), ("input",), (len(bias),), *arrays)


def test_integer_weights_by_hand() -> None:
    operation = dense([[1.27, -0.5], [0.0, 254.0]], [3.0, -1.0])
    found = quantize([operation], {"input": (0, 2.55), "dense": (-1, 700)}).weights(operation)
    assert found.scales == pytest.approx([0.01, 2.0])
    assert found.weight.tolist() == [[127, -50], [0, 127]]
    assert found.bias.tolist() == [30000, -50]  # scales 0.01 * 0.01 and 0.01 * 2


def test_dead_channels_keep_their_bias() -> None:
    operation = dense([[1.0], [1e-30], [0.0]], [0.0, 5.0, 1e-3])
    found = quantize([operation], {"input": (0, 1), "dense": (0, 6)}).weights(operation)
    assert np.isfinite(found.scales).all()
    assert (found.scales > 1e-12).all()
    assert found.bias * found.bias_scales == pytest.approx([0, 5, 1e-3], rel=1e-3)
    assert found.weight[1:].tolist() == [[0], [0]]


@pytest.mark.parametrize("file_format", FORMATS)
def test_dead_and_silent_networks_run(file_format: str) -> None:
    network = mixed()
    weights = random_weights(network, 0)
    for name in weights:
        if name.endswith("weight"):
            weights[name] *= np.float32(1e-12)
    images = images_for(network)
    calibration = calibrate(network, weights, images)
    logits = run_on_host(export(network, weights, file_format, "int8", calibration=calibration), images)
    assert logits == pytest.approx(pytorch_logits(network, weights, images), abs=0.02)


def test_a_hard_swish_of_nothing_has_a_scale_that_kernels_take() -> None:
    """Found by tests.export_fuzz: LiteRT refuses a product of 128 or more of input and output scale."""
    network = Network((2, 3, 3), (Node("act", Activation("hard_swish"), ("input",)),))
    ranges = {"input": (-100.0, 0.0), "act": (-0.001, 0.0)}
    scales = quantize(fold(network, {}), ranges).scales
    assert scales["act"].scale == pytest.approx(100 / 255 / 64)
    images = np.full((1, 2, 3, 3), -2.9999, np.float32)
    for file_format in FORMATS:
        exported = export(network, {}, file_format, "int8", calibration=Calibration(ranges, "min-max", 1))
        assert np.abs(run_on_host(exported, images)).max() < 0.1


# --------------------------------------------------------------------------- files


# Thousands of others: python -m tests.export_fuzz --precision int8
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(network=networks(), seed=st.integers(0, 2**31), precision=st.sampled_from(("fp16", "int8", "int8")))
def test_random_graphs_compute_what_they_should(network: Network, seed: int, precision: str) -> None:
    assert max(excesses(network, random_weights(network, seed), precision).values()) <= 1


def variants(trained: Trained) -> list[tuple[str, str, Calibration | None]]:
    calibration = calibrated(trained)
    return [
        ("onnx", "fp16", None),
        ("tflite", "fp16", None),
        ("onnx", "int8", calibration),
        ("onnx", "int8", replace(calibration, symmetric=True)),
        ("tflite", "int8", calibration),
        ("tflite", "int8", replace(calibration, integer_io=True)),
    ]


def test_every_variant_is_proved_and_has_a_structure_of_its_own(trained: Trained) -> None:
    graphs = set()
    for file_format, precision, calibration in variants(trained):
        exported = export(trained.network, trained.weights, file_format, precision, calibration=calibration)
        proof = prove(exported, trained, calibration)
        assert proof.comparison.images == len(trained.images)
        assert proof.comparison.largest_difference < 0.2 * proof.comparison.largest_logit
        assert exported.artifact.precision == precision
        graphs.add(exported.artifact.graph)
    assert len(graphs) == len(variants(trained))


def test_equal_arguments_give_equal_bytes(trained: Trained) -> None:
    for file_format, precision, calibration in variants(trained):
        twice = [
            export(trained.network, trained.weights, file_format, precision, calibration=calibration)
            for _ in range(2)
        ]
        assert twice[0] == twice[1]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_another_network_is_found(trained: Trained, file_format: str, precision: str) -> None:
    calibration = calibrated(trained) if precision == "int8" else None
    weights = dict(trained.weights)
    weights["classifier.bias"] = weights["classifier.bias"] + np.float32([1, 0, 0, 0, 0])
    other = export(trained.network, weights, file_format, precision, calibration=calibration)
    with pytest.raises(ExportError, match="is another network"):
        prove(other, trained, calibration)


@pytest.mark.parametrize("file_format", FORMATS)
def test_untrained_files_have_the_structure_of_trained_ones(trained: Trained, file_format: str) -> None:
    network = trained.network
    first = initial_weights(network, 0)
    untrained = export(network, first, file_format, "int8", calibration=plausible(network, first))
    late = export(network, trained.weights, file_format, "int8", calibration=calibrated(trained))
    assert untrained.artifact.graph == late.artifact.graph
    assert untrained.artifact.sha256 != late.artifact.sha256
    assert np.isfinite(run_on_host(untrained, trained.images)).all()


def test_weights_beyond_half_floats_are_refused(trained: Trained) -> None:
    weights = dict(trained.weights)
    weights["classifier.weight"] = weights["classifier.weight"] * np.float32(1e6)
    for file_format in FORMATS:
        with pytest.raises(
            ExportError, match=r"'classifier\.weight' holds .* beyond float16; use fp32 or int8"
        ):
            export(trained.network, weights, file_format, "fp16")


def test_sizes(trained: Trained) -> None:
    network = Network((3, 12, 10), (*mixed().nodes[:-1], Node("classifier", Dense(2000), ("mean",))))
    weights = random_weights(network, 0)
    calibration = calibrate(network, weights, images_for(network))
    for file_format in FORMATS:
        single, half, eighth = (
            export(network, weights, file_format, precision, calibration=ranges).artifact.size_bytes
            for precision, ranges in (("fp32", None), ("fp16", None), ("int8", calibration))
        )
        assert 0.48 < half / single < 0.6
        assert eighth < 0.6 * single


def test_onnx_integers_are_what_runtimes_fuse(trained: Trained) -> None:
    def tensors(calibration: Calibration) -> dict[str, int]:
        exported = export(trained.network, trained.weights, "onnx", "int8", calibration=calibration)
        model = onnx.load_model_from_string(exported.data)
        assert (model.ir_version, model.opset_import[0].version) == (8, 15)
        return {each.name: each.data_type for each in model.graph.initializer}

    kinds = tensors(calibrated(trained))
    assert kinds["depthwise_act.weight.integers"] == onnx.TensorProto.INT8
    assert kinds["depthwise_act.bias.integers"] == onnx.TensorProto.INT32
    assert kinds["input.zero_point"] == onnx.TensorProto.UINT8
    symmetric = tensors(replace(calibrated(trained), symmetric=True))
    assert symmetric["input.zero_point"] == onnx.TensorProto.INT8
    assert symmetric["depthwise_act.bias"] == onnx.TensorProto.FLOAT


def file_types(exported: Exported) -> tuple[set[int], tuple[int, int], dict[int, int]]:
    model = tflite.Model.GetRootAs(exported.data)
    main = model.Subgraphs(0)
    kinds = [main.Tensors(i).Type() for i in range(main.TensorsLength())]
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    ends = kinds[main.Inputs(0)], kinds[main.Outputs(0)]
    return set(kinds), ends, {code.BuiltinCode(): code.Version() for code in codes}


def test_tflite_integers_through_and_through(trained: Trained) -> None:
    calibration = replace(calibrated(trained), integer_io=True)
    exported = export(trained.network, trained.weights, "tflite", "int8", calibration=calibration)
    kinds, ends, versions = file_types(exported)
    op, types = tflite.BuiltinOperator, tflite.TensorType
    assert kinds == {types.INT8, types.INT32}
    assert ends == (types.INT8, types.INT8)
    assert versions[op.CONV_2D] == versions[op.DEPTHWISE_CONV_2D] == 3
    assert versions[op.FULLY_CONNECTED] == 4
    assert op.QUANTIZE not in versions
    plain = export(trained.network, trained.weights, "tflite", "int8", calibration=calibrated(trained))
    _, ends, versions = file_types(plain)
    assert ends == (types.FLOAT32, types.FLOAT32)
    assert {op.QUANTIZE, op.DEQUANTIZE} < set(versions)


def test_precision_and_calibration_go_together(trained: Trained) -> None:
    with pytest.raises(ConfigError, match="int8 and nothing else needs calibrated ranges"):
        export(trained.network, trained.weights, "onnx", "fp32", calibration=calibrated(trained))


# --------------------------------------------------------------------------- this host


def test_integer_sums_are_exact_whatever_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Largest activations times largest weights: where pairs are added in 16 bits, half the sum is lost."""
    network = Network((64, 1, 1), (Node("sum", Conv(2, (1, 1), padding=(0, 0, 0, 0)), ("input",)),))
    weights = {"sum.weight": np.ones((2, 64, 1, 1), np.float32)}
    images = np.ones((1, 64, 1, 1), np.float32)
    calibration = calibrate(network, weights, images)
    exported = export(network, weights, "onnx", "int8", calibration=calibration)
    assert run_on_host(exported, images).ravel() == pytest.approx([64, 64], rel=0.01)
    options = []
    real = onnx_exporter._options
    monkeypatch.setattr(onnx_exporter, "_options", lambda **kw: options.append(kw) or real(**kw))
    assert onnx_exporter.saturates() in (True, False)
    run_on_host(exported, images)
    assert options == [{"exact": False}, {}]
    assert real().get_session_config_entry("session.x64quantprecision") == "1"


def test_simulation_is_near_pytorch_and_states_its_tolerance(trained: Trained) -> None:
    for file_format in FORMATS:
        simulation = Simulation(trained.network, trained.weights, calibrated(trained), file_format)
        expected = simulation.simulated(trained.images)
        found = agreement(trained.logits, expected.logits)
        assert 0 < found.largest_difference < 0.1 * found.largest_logit
        assert 0 < expected.tolerance < 0.3 * found.largest_logit
        exported = export(
            trained.network, trained.weights, file_format, "int8", calibration=calibrated(trained)
        )
        compare(exported, expected.logits, trained.images, tolerance=expected.tolerance)


def test_batch_norm_alone_becomes_a_depthwise_convolution() -> None:
    network = Network((3, 4, 4), (Node("norm", BatchNorm(), ("input",)),))
    (operation,) = as_convolutions(fold(network, random_weights(network, 0)))
    assert isinstance(operation.layer, Conv)
    assert (operation.layer.groups, np.asarray(operation.weight).shape) == (3, (3, 1, 1, 1))
