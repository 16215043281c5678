"""Ranges of all tensors of a network on real images, from one run in floating point.

``min-max`` takes the extremes.  ``percentile`` leaves out the outermost 0.01 % on either side.  ``mse``
shrinks both ends together as far as that makes the squared error of rounding and clipping smaller (as in
Nagel et al. 2021, "A white paper on neural network quantization", section 3.1), estimated on a histogram.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from harness.folding import Operation, Weights, fold
from harness.quantization import (
    METHODS,
    Calibration,
    Method,
    Range,
    Ranges,
    as_convolutions,
    plausible_ranges,
)
from results.errors import ConfigError, unknown_name
from search.module import activate, compute
from search.network import Conv, Dense, Network

BATCH = 32
TAIL = 1e-4
"""Share of the values that ``percentile`` leaves out at either end."""

BINS = 2048
SHRINKAGES = np.linspace(1.0, 0.3, 29)
SAMPLED = 65536
"""Most values of a tensor and batch that are counted, evenly spread over it."""

Observe = Callable[[str, Tensor], Tensor]


def calibrate(
    network: Network, weights: Weights, images: NDArray[np.float32], method: Method = "min-max"
) -> Calibration:
    """Ranges of all tensors of a network.

    Args:
        network: What is to compute in integers.
        weights: Its trained weights.
        images: Real inputs ``(n, c, h, w)``, of the training split: those of the validation split would
            flatter the score.
        method: One of :data:`harness.quantization.METHODS`.

    Raises:
        ConfigError: If there are no images, they do not fit the network or are not finite, or the method
            is unknown.
        ExportError: If the weights do not fit.
    """
    if method not in METHODS:
        raise ConfigError(unknown_name("calibration method", method, METHODS))
    if images.ndim != 4 or images.shape[1:] != network.input_shape or not len(images):
        raise ConfigError(
            f"calibration takes images of shape (n, {', '.join(map(str, network.input_shape))}), n >= 1, "
            f"got {images.shape}"
        )
    if not np.isfinite(images).all():
        raise ConfigError("calibration images hold numbers that are not finite")
    operations = as_convolutions(fold(network, weights))
    extremes = _extremes(operations, images)
    if method != "min-max":
        narrow = _quantiles if method == "percentile" else _shrunk
        counts = _histograms(operations, images, extremes)
        extremes = {name: narrow(counts[name], ends) for name, ends in extremes.items()}
    return Calibration(extremes, method, len(images))


def plausible(network: Network, weights: Weights) -> Calibration:
    """Ranges good enough to measure the latency of a network that is not trained yet."""
    return Calibration(plausible_ranges(as_convolutions(fold(network, weights))), "plausible", 0)


def run_operations(operations: Sequence[Operation], images: Tensor, observe: Observe) -> Tensor:
    """Computes folded operations in PyTorch and returns the output, batch first.

    Args:
        operations: What to compute.
        images: Shape ``(n, c, h, w)``.
        observe: Called with name and value of every tensor (see :data:`harness.quantization.Ranges`); what
            it returns is what the next operations read.
    """
    values = {"input": observe("input", images)}
    for operation in operations:
        value = _linear(operation, [values[name] for name in operation.inputs])
        if operation.activation is not None:
            value = activate(operation.activation, observe(operation.linear, value))
        values[operation.name] = observe(operation.name, value)
    return values[operations[-1].name]


def _linear(operation: Operation, inputs: list[Tensor]) -> Tensor:
    layer = operation.layer
    if operation.weight is None:
        return compute(layer, inputs)
    weight, bias = (torch.from_numpy(np.asarray(v)) for v in (operation.weight, operation.bias))
    if isinstance(layer, Dense):
        return F.linear(inputs[0], weight, bias)
    if not isinstance(layer, Conv):
        return inputs[0] * weight.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)
    top, bottom, left, right = layer.padding
    x, padding = inputs[0], (top, left)
    if (top, left) != (bottom, right):
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)


def _watch(
    operations: Sequence[Operation], images: NDArray[np.float32], see: Callable[[str, Tensor], None]
) -> None:
    def observe(name: str, value: Tensor) -> Tensor:
        see(name, value)
        return value

    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH], np.float32))
            run_operations(operations, batch, observe)


def _extremes(operations: Sequence[Operation], images: NDArray[np.float32]) -> dict[str, Range]:
    found: dict[str, Range] = {}

    def see(name: str, value: Tensor) -> None:
        low, high = (float(v) for v in value.aminmax())
        before = found.get(name, (low, high))
        found[name] = min(low, before[0]), max(high, before[1])

    _watch(operations, images, see)
    return found


def _histograms(
    operations: Sequence[Operation], images: NDArray[np.float32], extremes: Ranges
) -> dict[str, NDArray[np.float64]]:
    """Counts of evenly spread values between a tensor's extremes, ``BINS`` of them."""
    counts = {name: np.zeros(BINS) for name in extremes}

    def see(name: str, value: Tensor) -> None:
        low, high = extremes[name]
        flat = value.flatten()
        if high > low:
            counts[name] += torch.histc(flat[:: -(-len(flat) // SAMPLED)], BINS, low, high).numpy()

    _watch(operations, images, see)
    return counts


def _quantiles(counts: NDArray[np.float64], ends: Range) -> Range:
    """The range without the bins that hold the outermost values."""
    low, high = ends
    shares = counts.cumsum() / max(counts.sum(), 1.0)
    first = int(np.searchsorted(shares, TAIL, side="right"))
    last = int(np.searchsorted(shares, 1 - TAIL))
    width = (high - low) / BINS
    return low + first * width, low + (last + 1) * width


def _shrunk(counts: NDArray[np.float64], ends: Range) -> Range:
    """The range with which 255 steps have the least squared error over a histogram of it."""
    low, high = ends
    middles = low + (np.arange(BINS) + 0.5) * (high - low) / BINS
    errors = []
    for share in SHRINKAGES:
        least, most = share * min(low, 0.0), share * max(high, 0.0)
        clipped = np.clip(middles, least, most)
        errors.append(counts @ ((middles - clipped) ** 2 + ((most - least) / 255) ** 2 / 12))
    best = float(SHRINKAGES[int(np.argmin(errors))])
    return best * low, best * high
