"""Random layer graphs for the exporters, and a command that runs as many as one likes.

``python -m tests.export_fuzz --graphs 5000 --seed 1`` writes each graph in every format, runs it in every
runtime of this host with and without the runtime's own optimisations, and compares with PyTorch;
``--precision fp16`` and ``--precision int8`` do the same for these, int8 compared with simulated integers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import ai_edge_litert.interpreter as litert
import numpy as np
import onnxruntime
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from harness import resizing
from harness.calibration import calibrate
from harness.export import export, rounding
from harness.exporters.tflite import channels_first, channels_last
from harness.simulation import Simulation
from search.module import to_module
from search.network import (
    Activation,
    Activations,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
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
    output_shape,
    weight_shapes,
)

IMAGES = 2
KINDS = get_args(Activations)


# --------------------------------------------------------------------------- runtimes


def run_onnx(data: bytes, images: np.ndarray, *, optimised: bool) -> np.ndarray:
    """Logits by ONNX Runtime with all of its graph optimisations or none."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in images])


def run_tflite(data: bytes, images: np.ndarray, *, package: Any, delegate: bool) -> np.ndarray:
    """Logits by a TFLite package with XNNPACK or with the built-in kernels."""
    resolvers = package.OpResolverType
    resolver = resolvers.AUTO if delegate else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = package.Interpreter(
        model_content=data, num_threads=1, experimental_op_resolver_type=resolver
    )
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    outputs = []
    for image in channels_last(images):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result["index"]))
    return channels_first(np.concatenate(outputs))


Runner = Callable[[bytes, np.ndarray], np.ndarray]
RUNNERS: dict[str, dict[str, Runner]] = {
    "onnx": {
        "onnxruntime, all optimisations": partial(run_onnx, optimised=True),
        "onnxruntime, none": partial(run_onnx, optimised=False),
    },
    "tflite": {
        "litert, XNNPACK": partial(run_tflite, package=litert, delegate=True),
        "litert, built-in": partial(run_tflite, package=litert, delegate=False),
    },
}
if sys.version_info < (3, 12):  # the last Python that the older package has a wheel for
    import tflite_runtime.interpreter as tflite_runtime

    RUNNERS["tflite"] |= {
        "tflite-runtime, XNNPACK": partial(run_tflite, package=tflite_runtime, delegate=True),
        "tflite-runtime, built-in": partial(run_tflite, package=tflite_runtime, delegate=False),
    }


# --------------------------------------------------------------------------- graphs


@st.composite
def convolutions(draw: st.DrawFn, shape: Shape) -> Conv:
    """A convolution that fits on an image of this shape."""
    kernel = draw(st.tuples(*[st.sampled_from((1, 3, 5))] * 2))
    dilation = draw(st.tuples(*[st.sampled_from((1, 1, 1, 2))] * 2))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = []
    for edge, size in zip(reach, shape[1:], strict=True):
        sides = draw(st.sampled_from(((edge // 2, edge // 2), None)))
        sides = sides or draw(st.tuples(*[st.integers(0, edge)] * 2))
        padding += sides if sum(sides) + size >= edge else (edge, edge)
    channels = shape[0]
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    groups = draw(st.sampled_from((1, channels, *divisors)))
    return Conv(
        channels=groups * draw(st.integers(1, 2 if groups == channels else 6)),
        kernel=kernel,
        stride=draw(st.tuples(*[st.sampled_from((1, 2))] * 2)),
        padding=tuple(padding),
        groups=groups,
        dilation=dilation,
        bias=draw(st.booleans()),
    )


@st.composite
def pools(draw: st.DrawFn, shape: Shape) -> MaxPool | AvgPool:
    """A pooling that fits on an image of this shape."""
    kernel = draw(st.tuples(*[st.sampled_from((1, 2, 3))] * 2))
    padding = []
    for edge, size in zip(kernel, shape[1:], strict=True):
        sides = draw(st.tuples(*[st.integers(0, edge - 1)] * 2))
        padding += sides if sum(sides) + size >= edge else (edge - 1, edge - 1)
    stride = draw(st.tuples(*[st.sampled_from((1, 2, 3))] * 2))
    if draw(st.booleans()):
        return MaxPool(kernel, stride, tuple(padding))
    return AvgPool(kernel, stride, tuple(padding), draw(st.booleans()))


def single_layers(kind: str, shape: Shape) -> st.SearchStrategy[Layer]:
    """Layers of a kind that read one image of this shape."""
    return {
        "conv": convolutions(shape),
        "pool": pools(shape),
        "norm": st.builds(BatchNorm, st.sampled_from((1e-5, 1e-3))),
        "activation": st.builds(Activation, st.sampled_from(KINDS)),
        "resize": st.builds(
            Resize, st.tuples(*[st.integers(1, 19)] * 2), st.sampled_from(("nearest", "bilinear"))
        ).filter(lambda layer: resizing.agrees(layer, shape)),
        "hollow": st.sampled_from((Zero(), Identity())),
    }[kind]


class Drawing:
    """A network in the making; most often it goes on from the last tensor, else from any."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.shape = (
            draw(st.integers(1, 6)),
            draw(st.sampled_from((1, *range(1, 18)))),
            draw(st.integers(1, 17)),
        )
        self.shapes: dict[str, Shape] = {"input": self.shape}
        self.nodes: list[Node] = []
        self.last = "input"

    def add(self, layer: Layer, *inputs: str) -> None:
        name = f"n{len(self.nodes)}"
        self.nodes.append(Node(name, layer, inputs))
        self.shapes[name] = output_shape(layer, [self.shapes[i] for i in inputs])
        self.last = name

    def grow(self) -> None:
        """One more layer on an image, or several where they belong together."""
        draw = self.draw
        images = [name for name, shape in self.shapes.items() if len(shape) == 3]
        source = draw(st.sampled_from([self.last, self.last, self.last, *images]))
        shape = self.shapes[source]
        twins = [name for name in images if self.shapes[name] == shape]
        kind = draw(st.sampled_from(LAYERS))
        match kind:
            case "add" | "multiply":
                layer = Add() if kind == "add" else Multiply()
                self.add(layer, source, draw(st.sampled_from(twins)))
            case "excite":
                self.excite(source)
            case "concat":
                beside = [name for name in images if self.shapes[name][1:] == shape[1:]]
                self.add(Concat(), source, *draw(st.lists(st.sampled_from(beside), min_size=1, max_size=3)))
            case _:
                self.add(draw(single_layers(kind, shape)), source)

    def excite(self, source: str) -> None:
        """Squeeze-excitation."""
        point = {"kernel": (1, 1), "padding": (0, 0, 0, 0), "bias": True}
        self.add(GlobalPool(keep_dims=True), source)
        self.add(Conv(self.draw(st.integers(1, 4)), **point), self.last)
        self.add(Activation("relu"), self.last)
        self.add(Conv(self.shapes[source][0], **point), self.last)
        self.add(Activation(self.draw(st.sampled_from(("sigmoid", "hard_sigmoid")))), self.last)
        self.add(Multiply(), source, self.last)

    def close(self) -> None:
        """A head, or none."""
        head = self.draw(st.sampled_from(("pool", "pool", "flatten", "none")))
        if head == "none":
            return
        self.add(GlobalPool() if head == "pool" else Flatten(), self.last)
        if self.draw(st.booleans()):
            self.add(Activation(self.draw(st.sampled_from(KINDS))), self.last)
        if self.draw(st.booleans()):
            self.add(Concat(), self.last, self.last)
        self.add(Dense(self.draw(st.integers(1, 10))), self.last)
        if self.draw(st.sampled_from((False, False, True))):
            self.add(Softmax(), self.last)


LAYERS = (
    *("conv", "conv", "conv", "norm", "norm", "activation", "activation"),
    *("add", "multiply", "excite", "concat", "pool", "pool", "resize", "hollow"),
)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A random graph over every layer; tensors may be read several times or not at all."""
    drawing = Drawing(draw)
    for _ in range(draw(st.integers(1, 9))):
        drawing.grow()
    drawing.close()
    if isinstance(drawing.nodes[-1].layer, Identity | Add):  # may hand the input through: nothing to write
        drawing.add(Activation("relu"), drawing.last)
    return Network(drawing.shape, tuple(drawing.nodes))


def random_weights(network: Network, seed: int) -> dict[str, np.ndarray]:
    """Weights as training may leave them: negative scales, dead channels, small and large variances."""
    rng = np.random.default_rng(seed)
    weights = {}
    norms = {node.name for node in network.nodes if isinstance(node.layer, BatchNorm)}
    for name, shape in weight_shapes(network).items():
        node, part = name.split(".")
        values = rng.standard_normal(shape)
        if part == "running_var":
            values = np.exp(values)
        elif part == "weight" and node in norms:
            values[rng.random(shape) < 0.1] = 0
        elif part == "weight":
            values *= (2 / np.prod(shape[1:])) ** 0.5
            values[rng.random(shape) < 0.05] *= 1e-40  # denormal in float32
        weights[name] = values.astype(np.float32)
    return weights


def pytorch_logits(network: Network, weights: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """What the product's own PyTorch module computes in inference."""
    with torch.inference_mode():
        return np.asarray(to_module(network, weights).eval()(torch.from_numpy(images)).numpy())


def excesses(network: Network, weights: dict[str, np.ndarray], precision: str = "fp32") -> dict[str, float]:
    """Largest difference from what should be computed, by runtime, as a share of the tolerance."""
    images = np.random.default_rng(0).standard_normal((IMAGES, *network.input_shape)).astype(np.float32)
    calibration = calibrate(network, weights, images) if precision == "int8" else None
    logits = pytorch_logits(network, weights, images)
    found = {}
    for file_format, runners in RUNNERS.items():
        reference, tolerance = logits, rounding(precision, max(float(np.abs(logits).max()), 1e-30))
        if calibration is not None:
            expected = Simulation(network, weights, calibration, file_format).simulated(images)
            reference, tolerance = expected.logits, expected.tolerance
        data = export(network, weights, file_format, precision, calibration=calibration).data
        for name, run in runners.items():
            computed = run(data, images)
            assert computed.shape == reference.shape, name
            found[name] = float(np.abs(computed - reference).max()) / tolerance
    return found


# --------------------------------------------------------------------------- command


def main() -> None:
    """Runs random graphs and prints the differences per runtime, as shares of the tolerance."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32")
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {}

    @seed(arguments.seed)
    @settings(
        max_examples=arguments.graphs,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(network=networks(), number=st.integers(0, 2**31))
    def compare(network: Network, number: int) -> None:
        each = excesses(network, random_weights(network, number), arguments.precision)
        for name, value in each.items():
            found.setdefault(name, []).append(value)
        assert max(each.values()) <= 1, each

    compare()
    for name, values in found.items():
        low, high, most = np.percentile(values, (50, 99, 100))
        print(f"{name:32} {len(values)} graphs: median {low:.2g}, 99 % {high:.2g}, largest {most:.2g}")


if __name__ == "__main__":
    main()
