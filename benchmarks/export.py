"""How long a candidate takes from layer graph to file, against PyTorch's own exporter, and what int8 costs.

``python -m benchmarks.export [--json FILE]`` prints, all of one run and the same networks:

* ``onnx_ms``, ``tflite_ms`` (medians; written and checked), ``*_cpu_ms`` (the same in CPU time, which waiting
  for others on a busy host does not lengthen), their parts, ``*_fp16_ms`` and ``*_int8_ms`` (with ranges at
  hand), ``calibrate_*_ms`` (128 images, by method) and ``quantize_static_ms`` (ONNX Runtime's tool, 128
  images, calibration included);
* ``torch_onnx_ms``: PyTorch's current exporter, ``torch.onnx.export(dynamo=True)``, where ``onnxscript``
  is installed, ``torchscript_onnx_ms``: its older and faster one; ``onnx_to_torch_size``: our file to theirs,
  ``onnx_to_torch_bare_size``: both without metadata and shapes, which are written for debuggers and viewers;
* with ``--accuracy``: a network trained on ``digits_in_photos``: accuracy in float32, accuracy and argmax
  agreement of the int8 files on validation and test images, by method of calibration.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from harness import plugins
from harness.calibration import calibrate
from harness.export import agreement, compare, export, run_on_host
from harness.quantization import METHODS
from results.records import Fidelity
from search.blocks import Block, GraphBuilder
from search.datasets import load_task
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
from search.training import TrainingJob, predict, train

CALIBRATION_IMAGES = 128
EPOCHS = 20
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


def median_ms(work: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of some work by a clock [ms], after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return round(statistics.median(times) * 1e3, 3)


def times_of(network: Network, repeats: int) -> dict[str, float]:
    """Times and sizes of every format for one network."""
    weights = initial_weights(network, 0)
    images = np.random.default_rng(0).standard_normal((IMAGES, *network.input_shape)).astype(np.float32)
    calibration = calibrate(network, weights, images)
    with torch.inference_mode():
        reference = to_module(network, weights).eval()(torch.from_numpy(images)).numpy()
    found: dict[str, float] = {}
    for name in plugins.known("exporters"):
        exporter = plugins.load("exporters", name)
        exported = export(network, weights, name)
        for precision, ranges in (("fp16", None), ("int8", calibration)):
            variant = {"precision": precision, "calibration": ranges}
            found[f"{name}_{precision}_ms"] = median_ms(
                lambda name=name, variant=variant: export(network, weights, name, **variant), repeats
            )
            found[f"{name}_{precision}_bytes"] = export(network, weights, name, **variant).artifact.size_bytes
        plain = partial(export, network, weights, name)
        found[f"{name}_ms"] = median_ms(plain, repeats)
        found[f"{name}_cpu_ms"] = median_ms(plain, repeats, time.process_time)
        found[f"{name}_write_ms"] = median_ms(lambda e=exporter: e.write(network, weights), repeats)
        found[f"{name}_check_ms"] = median_ms(lambda e=exporter, f=exported: e.check(f.data), repeats)
        found[f"{name}_compare_ms"] = median_ms(lambda f=exported: compare(f, reference, images), repeats)
        found[f"{name}_bytes"] = exported.artifact.size_bytes
        found[f"{name}_largest_difference"] = compare(exported, reference, images).largest_difference
    return found


def moved_weights(network: Network) -> dict[str, np.ndarray]:
    """Initial weights with batch norms as a training leaves them.

    PyTorch's current exporter leaves out biases that are zero, as those of initial weights are.
    """
    rng, moved = np.random.default_rng(0), {}
    for name, values in initial_weights(network, 0).items():
        shift = rng.uniform(0.01, 0.1, values.shape) if name.endswith(("bias", "running_mean")) else 0.0
        moved[name] = (values + shift).astype(np.float32)
    return moved


def torch_exporters(network: Network, repeats: int) -> dict[str, float]:
    """Times [ms] of ``torch.onnx.export`` for the same network, and our file's size as a share of theirs."""
    weights = moved_weights(network)
    module = to_module(network, weights).eval()
    image = torch.zeros(1, *network.input_shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"

        def work(**options: Any) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the older one warns that it is, the newer of opsets
                torch.onnx.export(module, (image,), path, verbose=False, **options)

        found = {"torchscript_onnx_ms": median_ms(lambda: work(dynamo=False, opset_version=15), repeats)}
        sizes, bare = {"onnx_to_torchscript_size": path.stat().st_size}, 0
        if importlib.util.find_spec("onnxscript"):
            found["torch_onnx_ms"] = median_ms(lambda: work(dynamo=True, external_data=False), repeats)
            sizes["onnx_to_torch_size"] = path.stat().st_size
            bare = bare_size_bytes(path.read_bytes())
    ours = export(network, weights, "onnx").data
    found |= {name: len(ours) / size for name, size in sizes.items()}
    if bare:
        found["onnx_to_torch_bare_size"] = bare_size_bytes(ours) / bare
    return found


def bare_size_bytes(data: bytes) -> int:
    """Size of an ONNX file without what no runtime reads: metadata, doc strings, intermediate shapes."""
    model = onnx.load_model_from_string(data)
    for part in (model, model.graph, *model.graph.node):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    del model.graph.value_info[:]
    return int(model.ByteSize())


def calibration_times(network: Network, repeats: int) -> dict[str, float]:
    """Times [ms] of our calibration by method, and of ONNX Runtime's static quantisation, 128 images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    weights = initial_weights(network, 0)
    shape = (CALIBRATION_IMAGES, *network.input_shape)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = {
        f"calibrate_{method}_ms": median_ms(lambda m=method: calibrate(network, weights, images, m), repeats)
        for method in METHODS
    }

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._left, None)
            return None if image is None else {"input": image[None]}

    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(export(network, weights, "onnx").data)

        def work() -> None:
            quantize_static(
                source,
                result,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )

        found["quantize_static_ms"] = median_ms(work, repeats)
    return found


def accurate_network() -> Network:
    """A network of several kinds of blocks that learns ``digits_in_photos`` to more than 0.95."""
    builder = GraphBuilder((3, 32, 32))
    builder.stem(24, 2, "hard_swish")
    builder.block(Block("b0", "plain", 24, 3, 1, "relu6"))
    builder.block(Block("b1", "plain", 48, 3, 2, "hard_swish"))
    builder.block(Block("b2", "inverted", 48, 3, 1, "relu6", skip=True, expansion=2))
    builder.block(Block("b3", "separable", 96, 3, 2, "hard_swish"))
    builder.block(Block("b4", "inverted", 96, 3, 1, "relu6", skip=True, expansion=2))
    return builder.network(10)


def accuracies() -> dict[str, float]:
    """Accuracy in float32 and int8 of a trained network, and how often both say the same."""
    network, task = accurate_network(), load_task("digits_in_photos")
    start = time.process_time()
    weights = train(TrainingJob(network, "digits_in_photos", {}, Fidelity(EPOCHS), 0)).weights
    splits = task.splits()
    images = np.concatenate([splits.validation.images, splits.test.images])
    labels = np.concatenate([splits.validation.labels, splits.test.labels])
    logits = predict(network, weights, images)
    found = {
        "training_cpu_s": time.process_time() - start,
        "accuracy_images": len(labels),
        "accuracy_fp32": float((logits.argmax(1) == labels).mean()),
    }
    for method in METHODS:
        calibration = calibrate(network, weights, splits.train.take(CALIBRATION_IMAGES), method)
        for name in plugins.known("exporters"):
            outputs = run_on_host(export(network, weights, name, "int8", calibration=calibration), images)
            kind = f"{name}_{method}"
            found[f"accuracy_int8_{kind}"] = float((outputs.argmax(1) == labels).mean())
            found[f"agreement_int8_{kind}"] = agreement(logits, outputs).argmax_agreement
    return found


def main() -> None:
    """Prints the figures; with --json they go into a file as well."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--accuracy", action="store_true", help="train a network first: 40 s CPU")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # the other exporters advise
    torch.set_num_threads(1)  # on a busy host its threads wait for each other: 1.5 s instead of 0.3 s
    mobile, few = mobile_network(), max(3, arguments.repeats // 10)
    found: dict[str, float] = times_of(mobile, arguments.repeats)
    found |= torch_exporters(mobile, few) | calibration_times(mobile, few)
    found |= {f"chain_{key}": value for key, value in times_of(chain_network(), arguments.repeats).items()}
    if arguments.accuracy:
        found |= accuracies()
    for key, value in found.items():
        print(f"{key:40} {value:.6g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
