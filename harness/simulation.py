"""What a quantised network computes, simulated in PyTorch with floats that are rounded like its integers.

Kernels of runtimes round intermediate results in their own ways, so that a file agrees with this to a few
steps of its output, not to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.calibration import run_operations
from harness.folding import Operation, Weights, fold, fuses
from harness.quantization import Calibration, as_convolutions, quantize
from search.network import Dense, Network

NOISY_RUNS = 3
SAFETY = 4.0
"""How much more a file may differ from the simulation than the simulation does from itself where every
tensor is rounded up or down at random; docs/formats.md says what was measured."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """What integers compute, and how exactly that can be said.

    Attributes:
        logits: Shape ``(n, classes)``.
        tolerance: Largest difference from them that is rounding.
    """

    logits: NDArray[np.float32]
    tolerance: float


class Simulation:
    """A quantised network in floats.

    Args:
        network: What to compute.
        weights: Its weights.
        calibration: Ranges of its tensors.
        file_format: Dense layers have a scale per output in ONNX, a single one in TFLite.
    """

    def __init__(
        self, network: Network, weights: Weights, calibration: Calibration, file_format: str
    ) -> None:
        operations = as_convolutions(fold(network, weights))
        symmetric = calibration.symmetric and file_format == "onnx"
        self._quantization = quantize(operations, calibration.ranges, symmetric=symmetric)
        # A ReLU that is fused leaves no rounded tensor before it.
        self._skipped = {op.linear for op in operations if op.activation is not None and fuses(op)}
        self._operations = [self._rounded(operation, file_format) for operation in operations]

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``(n, classes)`` of images ``(n, c, h, w)``."""
        return self._run(images, None)

    def simulated(self, images: NDArray[np.float32]) -> Simulated:
        """Logits with the largest difference that is rounding."""
        logits = self._run(images, None)
        noisy = [self._run(images, torch.Generator().manual_seed(seed)) for seed in range(NOISY_RUNS)]
        spread = max(float(np.abs(each - logits).max()) for each in noisy)
        step = self._quantization.scales[self._operations[-1].name].scale
        return Simulated(logits, SAFETY * spread + 2 * step)

    def _run(self, images: NDArray[np.float32], noise: torch.Generator | None) -> NDArray[np.float32]:
        def observe(name: str, value: Tensor) -> Tensor:
            if name in self._skipped:
                return value
            scale = self._quantization.scales[name]
            steps = value / scale.scale
            if noise is not None:
                steps = steps + torch.rand(steps.shape, generator=noise) - 0.5
            steps = torch.clamp(torch.round(steps) + scale.zero_point, -128, 127)
            return (steps - scale.zero_point) * scale.scale

        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images, np.float32))
            return np.asarray(run_operations(self._operations, batch, observe).numpy(), np.float32)

    def _rounded(self, operation: Operation, file_format: str) -> Operation:
        """The operation with the numbers that its integer weights stand for."""
        if operation.weight is None:
            return operation
        per_channel = file_format == "onnx" or not isinstance(operation.layer, Dense)
        integers = self._quantization.weights(operation, per_channel=per_channel)
        scales = integers.scales.reshape(-1, *[1] * (integers.weight.ndim - 1))
        bias = integers.bias * integers.bias_scales
        return replace(
            operation,
            weight=integers.weight.astype(np.float32) * scales,
            bias=np.asarray(operation.bias if self._quantization.symmetric else bias, np.float32),
        )
