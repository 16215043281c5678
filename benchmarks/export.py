"""How long a candidate takes from layer graph to file, against PyTorch's own exporters.

``python -m benchmarks.export [--json FILE]`` prints medians in milliseconds: ``onnx_ms`` and ``tflite_ms``
(written and checked), their parts, and ``torch_onnx_ms`` (TorchScript exporter, the faster of PyTorch's
two; its file is neither checked nor has it a TFLite counterpart).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import plugins
from harness.export import compare, export
from search.module import to_module
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
    initial_weights,
)
from search.spaces.chain import Space

IMAGES = 16


def mobile_network() -> Network:
    """A stem and nine inverted residuals on 96 x 96 images: 29 layers with weights."""
    nodes: list[Node] = []

    def add(layer: Layer, *inputs: str) -> str:
        nodes.append(Node(f"n{len(nodes)}", layer, inputs))
        return nodes[-1].name

    def convolve(source: str, layer: Conv, activation: str | None) -> str:
        last = add(BatchNorm(), add(layer, source))
        return add(Activation(activation), last) if activation else last  # type: ignore[arg-type]

    point = {"kernel": (1, 1), "padding": (0, 0, 0, 0)}
    last = convolve("input", Conv(16, stride=(2, 2)), "hard_swish")
    for block in range(9):
        stride = 2 if block in (0, 3, 6) else 1
        width = 16 * (1 + block // 3)
        hidden = 4 * width
        inside = convolve(last, Conv(hidden, **point), "relu6")  # type: ignore[arg-type]
        inside = convolve(inside, Conv(hidden, stride=(stride, stride), groups=hidden), "relu6")
        inside = convolve(inside, Conv(width, **point), None)  # type: ignore[arg-type]
        last = add(Add(), last, inside) if stride == 1 else inside
    add(Dense(10), add(GlobalPool(), last))
    return Network((3, 96, 96), tuple(nodes))


def chain_network() -> Network:
    """A sample of the chain space on 32 x 32 images."""
    space = Space(input_shape=(1, 32, 32), classes=10)
    return space.build(space.sample(np.random.default_rng(0)))


def median_ms(work: Callable[[], Any], repeats: int) -> float:
    """Median wall time of some work [ms], after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times) * 1e3, 3)


def times_of(network: Network, repeats: int) -> dict[str, float]:
    """Times and sizes of every format for one network."""
    weights = initial_weights(network, 0)
    images = np.random.default_rng(0).standard_normal((IMAGES, *network.input_shape)).astype(np.float32)
    with torch.inference_mode():
        reference = to_module(network, weights).eval()(torch.from_numpy(images)).numpy()
    found: dict[str, float] = {}
    for name in plugins.known("exporters"):
        exporter = plugins.load("exporters", name)
        exported = export(network, weights, name)
        found[f"{name}_ms"] = median_ms(lambda name=name: export(network, weights, name), repeats)
        found[f"{name}_write_ms"] = median_ms(lambda e=exporter: e.write(network, weights), repeats)
        found[f"{name}_check_ms"] = median_ms(lambda e=exporter, f=exported: e.check(f.data), repeats)
        found[f"{name}_compare_ms"] = median_ms(lambda f=exported: compare(f, reference, images), repeats)
        found[f"{name}_bytes"] = exported.artifact.size_bytes
        found[f"{name}_largest_difference"] = compare(exported, reference, images).largest_difference
    return found


def torch_onnx_ms(network: Network, repeats: int) -> float:
    """Time of ``torch.onnx.export`` for the same network [ms]."""
    module = to_module(network, initial_weights(network, 0)).eval()
    image = torch.zeros(1, *network.input_shape)

    def work() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that it is the older of the two
            torch.onnx.export(module, (image,), path, dynamo=False, opset_version=15)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        return median_ms(work, repeats)


def main() -> None:
    """Prints the times; with --json they go into a file as well."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # on a busy host its threads wait for each other: 1.5 s instead of 0.3 s
    mobile = mobile_network()
    found = times_of(mobile, arguments.repeats)
    found |= {f"chain_{key}": value for key, value in times_of(chain_network(), arguments.repeats).items()}
    found["torch_onnx_ms"] = torch_onnx_ms(mobile, max(3, arguments.repeats // 10))
    for key, value in found.items():
        print(f"{key:32} {value:.6g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
