"""Files compute what PyTorch computes not only at their end: tensors between operations are compared."""

from __future__ import annotations

from collections.abc import Mapping

import ai_edge_litert.interpreter as litert
import numpy as np
import onnx
import onnxruntime
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.export import TOLERANCE, export
from harness.exporters.tflite import channels_first, channels_last
from harness.folding import Weights, fold
from search.module import NetworkModule, load_weights
from search.network import Dense, Layer, Network
from tests.export_fuzz import networks, random_weights

Tensors = Mapping[str, NDArray[np.float32]]


class Recorder(NetworkModule):
    """Keeps what every node computes."""

    def _compute(self, name: str, layer: Layer, inputs: list[torch.Tensor]) -> torch.Tensor:
        value = super()._compute(name, layer, inputs)
        self.seen[name] = value.numpy().copy()
        return value

    seen: dict[str, NDArray[np.float32]]


def by_pytorch(network: Network, weights: Weights, images: NDArray[np.float32]) -> Tensors:
    module = Recorder(network)
    load_weights(module, weights)
    module.seen = {}
    with torch.inference_mode():
        module.eval()(torch.from_numpy(images))
    return module.seen


def by_onnxruntime(data: bytes, images: NDArray[np.float32]) -> Tensors:
    """Every tensor that the file describes, by making them outputs; nothing is optimised away."""
    model = onnx.load_model_from_string(data)
    model.graph.output.extend(model.graph.value_info)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": images}), strict=True))


def by_litert(data: bytes, images: NDArray[np.float32]) -> Tensors:
    """Every tensor, with the built-in kernels: under XNNPACK those inside of it cannot be read."""
    interpreter = litert.Interpreter(
        model_content=data,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], channels_last(images))
    interpreter.invoke()
    found = {}
    for detail in interpreter.get_tensor_details():
        if detail["name"].endswith((".output", "logits")):
            found[detail["name"]] = channels_first(interpreter.get_tensor(detail["index"]))
    return found


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(network=networks(), seed=st.integers(0, 2**31))
def test_every_operation_gives_what_pytorch_gives(network: Network, seed: int) -> None:
    weights = random_weights(network, seed)
    images = np.random.default_rng(seed).standard_normal((1, *network.input_shape)).astype(np.float32)
    expected = by_pytorch(network, weights, images)
    names = [operation.name for operation in fold(network, weights)]
    layers = {node.name: node.layer for node in network.nodes}
    for file_format, run in (("onnx", by_onnxruntime), ("tflite", by_litert)):
        found = run(export(network, weights, file_format).data, images)
        for name in names:
            tensor = found["logits" if name == names[-1] else f"{name}.output"]
            wanted = expected[name]
            assert tensor.shape == wanted.shape, (file_format, name)
            if wanted.ndim == 2 and name != names[-1] and not isinstance(layers[name], Dense):
                # Before a dense layer a flattened image may have TFLite's order.
                tensor, wanted = np.sort(tensor), np.sort(wanted)
            allowed = TOLERANCE * max(float(np.abs(wanted).max()), 1e-30)
            assert float(np.abs(tensor - wanted).max()) <= allowed, (file_format, name)
