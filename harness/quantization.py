"""8-bit integers in place of floats: scales of activations from their ranges, integer weights.

Affine quantisation ``real = scale * (integer - zero_point)`` (Jacob et al. 2018, "Quantization and
training of neural networks for efficient integer-arithmetic-only inference", eq. 1): activations
asymmetric per tensor, weights symmetric per output channel within +-127, biases 32-bit with the product
of the scales of input and weight.  Integers are given as -128..127; the ONNX writer stores asymmetric
activations as 0..255, which is the same with 128 added.

Layers that move or pick values (pooling, concatenation, resizing, flattening) have one scale for input
and output, as TFLite's kernels ask: their tensors form groups whose range is the union.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from harness.folding import Operation, fuses
from search.network import (
    Activation,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Flatten,
    GlobalPool,
    Identity,
    MaxPool,
    Multiply,
    Resize,
    Softmax,
)

Range = tuple[float, float]
Ranges = Mapping[str, Range]
"""Least and greatest value of a tensor by name: ``input``, and of every operation ``name`` and ``linear``."""

MOVING = (MaxPool, AvgPool, Resize, Flatten, Concat)
"""Layers whose input and output have one scale."""

LARGEST_RATIO = 128.0
"""Greatest input scale * weight scale / output scale; XNNPACK refuses convolutions from 256 on."""

HARD_SWISH_RATIO = 64.0
"""Greatest input scale / output scale of a hard-swish; TFLite's kernel refuses 128."""

SMALLEST_RATIO = 2.0**-30
"""Least such ratio; XNNPACK refuses convolutions below 2**-32."""


Method = Literal["min-max", "percentile", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class CalibrationPlan:
    """How int8 files get their ranges.

    Attributes:
        images: Number of training images; none of the validation split, whose score they would flatter.
        method: See :mod:`harness.calibration`.
    """

    images: int = 128
    method: Method = "mse"


@dataclass(frozen=True, eq=False)
class Calibration:
    """What turns a network with its weights into one that computes in integers.

    Attributes:
        ranges: Ranges of all tensors of the folded operations.
        method: How they were found: ``min-max``, ``percentile``, ``mse``, or ``plausible`` for none.
        images: Number of images behind them.
        symmetric: Whether ONNX files have zero points of 0 and float biases, as TensorRT asks.
        integer_io: Whether TFLite files take and give int8 rather than float32.
    """

    ranges: Ranges
    method: str
    images: int
    symmetric: bool = False
    integer_io: bool = False


@dataclass(frozen=True)
class Scale:
    """How the integers of an activation stand for numbers: ``scale * (integer - zero_point)``."""

    scale: float
    zero_point: int


PROBABILITY = Scale(1 / 256, -128)
"""Outputs of sigmoid and softmax: what TFLite's kernels ask for."""


@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """Weights of an operation as integers.

    Attributes:
        weight: int8 in PyTorch's layout.
        scales: float32, one per output channel, or one alone.
        bias: int32 ``(channels,)``.
        bias_scales: float32, as many as ``scales``.
    """

    weight: NDArray[np.int8]
    scales: NDArray[np.float32]
    bias: NDArray[np.int32]
    bias_scales: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Quantization:
    """Scales of the activations of a network.

    Attributes:
        scales: By name of the tensor, as in :data:`Ranges`.
        symmetric: Whether all zero points are 0, as TensorRT asks; biases stay float32 then.
    """

    scales: Mapping[str, Scale]
    symmetric: bool = False

    def weights(self, operation: Operation, *, per_channel: bool = True) -> IntegerWeights:
        """Integer weights of a convolution or dense layer."""
        weight, bias = (np.asarray(v, np.float64) for v in (operation.weight, operation.bias))
        scale_in, scale_out = (self.scales[n].scale for n in (operation.inputs[0], _first_output(operation)))
        axes = tuple(range(1, weight.ndim))
        # A channel of nearly no weight gets a scale with which its bias still fits into 32 bits.
        smallest = np.maximum(np.abs(bias) / (scale_in * 2**30), SMALLEST_RATIO * scale_out / scale_in)
        scales = np.maximum(np.abs(weight).max(axis=axes) / 127, smallest)
        if not per_channel:
            scales = scales.max(keepdims=True)
        single = scales.astype(np.float32)
        steps = np.rint(weight / single.astype(np.float64).reshape(-1, *[1] * len(axes)))
        bias_scales = (np.float32(scale_in) * single).astype(np.float32)
        return IntegerWeights(
            np.clip(steps, -127, 127).astype(np.int8),
            single,
            np.rint(bias / bias_scales).astype(np.int32),
            bias_scales,
        )


def as_convolutions(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """The operations with ``x * weight + bias`` as depthwise convolutions, which integers can compute."""
    return tuple(
        replace(
            operation,
            layer=Conv(operation.shape[0], (1, 1), padding=(0, 0, 0, 0), groups=operation.shape[0]),
            weight=np.asarray(operation.weight).reshape(-1, 1, 1, 1),
        )
        if isinstance(operation.layer, BatchNorm)
        else operation
        for operation in operations
    )


def quantize(operations: Sequence[Operation], ranges: Ranges, *, symmetric: bool = False) -> Quantization:
    """Scales of all activations of operations that :func:`as_convolutions` gave.

    Args:
        operations: What is computed.
        ranges: Ranges of all tensors.
        symmetric: Whether all zero points are to be 0.
    """
    groups = _Groups(ranges)
    for operation in operations:
        if isinstance(operation.layer, MOVING):
            for source in operation.inputs:
                groups.join(source, _first_output(operation))
    fixed = {} if symmetric else _fixed(operations)
    scales = {name: _scale(groups.range(name), symmetric) for name in ranges} | fixed
    for _ in operations:  # what is widened may be an input of what was looked at before
        if not any([_widen(operation, scales, groups, fixed) for operation in operations]):
            break
    return Quantization(scales, symmetric)


def plausible_ranges(operations: Sequence[Operation]) -> dict[str, Range]:
    """Ranges to measure a network with before it is trained: kernels do not care for values.

    Normalised activations lie within +-6; what an activation function bounds has its bounds, and what cannot
    become negative begins at 0.  The latter decides what runs: a ReLU whose output begins at 0 is part of the
    rounding and costs nothing, others are computed.
    """
    ranges = {"input": _ANY}
    for operation in operations:
        kind = operation.activation
        if isinstance(operation.layer, Activation):
            kind = operation.layer.kind
        linear = _plausible(operation, [ranges[name] for name in operation.inputs])
        ranges[operation.linear] = linear
        ranges[operation.name] = _BOUNDS.get(kind, linear)
    return ranges


def _plausible(operation: Operation, inputs: Sequence[Range]) -> Range:
    """Range of what an operation computes, before its activation, from those of its inputs."""
    lows, highs = zip(*inputs, strict=True)
    match operation.layer:
        case MaxPool() | AvgPool() | Resize() | Flatten() | Concat() | GlobalPool() | Identity():
            return min(lows), max(highs)
        case Add():
            return max(_ANY[0], sum(lows)), min(_ANY[1], sum(highs))
        case Multiply() if min(lows) >= 0:
            return 0.0, _ANY[1]
        case _:
            return _ANY


_ANY: Range = (-6.0, 6.0)
_BOUNDS: dict[str | None, Range] = {
    "relu": (0.0, 6.0),
    "relu6": (0.0, 6.0),
    "hard_swish": (-0.375, 6.0),
    "hard_sigmoid": (0.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "silu": (-0.279, 6.0),
}


def _first_output(operation: Operation) -> str:
    """The first tensor that a file holds of an operation: before its activation where that is not fused."""
    return operation.name if fuses(operation) else operation.linear


def _fixed(operations: Sequence[Operation]) -> dict[str, Scale]:
    """Tensors whose scale is not for us to choose."""
    fixed = {}
    for operation in operations:
        if isinstance(operation.layer, Softmax):
            fixed[operation.linear] = PROBABILITY
        if operation.activation == "sigmoid" or operation.layer == Activation("sigmoid"):
            fixed[operation.name] = PROBABILITY
    return fixed


class _Groups:
    """Tensors that share a scale, as a union-find structure with the union of their ranges."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = dict(ranges)
        self._members = {name: {name} for name in ranges}

    def join(self, first: str, second: str) -> None:
        if self._members[first] is not self._members[second]:
            self._members[first] |= self._members[second]
            for name in self._members[second]:
                self._members[name] = self._members[first]

    def range(self, name: str) -> Range:
        ends = [self._ranges[each] for each in self._members[name]]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def members(self, name: str) -> set[str]:
        return self._members[name]


def _scale(ends: Range, symmetric: bool) -> Scale:
    """Scale that holds a range and 0 exactly; of a range of nothing, any."""
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    if symmetric:
        return Scale(_single(max(-low, high) / 127), 0)
    scale = _single((high - low) / 255)
    return Scale(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def _single(scale: float) -> float:
    """The scale as the float32 that a file stores; above what kernels can invert."""
    return float(np.float32(scale)) if scale > 1e-20 else 1 / 255


def _widen(
    operation: Operation, scales: dict[str, Scale], groups: _Groups, fixed: Mapping[str, Scale]
) -> bool:
    """Coarsens scales of outputs that are nothing beside what they are computed from; True if it did."""
    least: dict[str, float] = {}
    if operation.weight is not None:
        weight = np.abs(np.asarray(operation.weight)).max() / 127
        product = scales[operation.inputs[0]].scale * weight
        least[_first_output(operation)] = product / LARGEST_RATIO
    if source := _hard_swish_input(operation):
        least[operation.name] = scales[source].scale / HARD_SWISH_RATIO
    widened = False
    for output, scale in least.items():
        single = float(np.float32(scale))
        for name in groups.members(output) - fixed.keys():
            if scales[name].scale < single:
                scales[name] = replace(scales[name], scale=single)
                widened = True
    return widened


def _hard_swish_input(operation: Operation) -> str | None:
    """The tensor that an operation computes a hard-swish of, if any."""
    if operation.layer == Activation("hard_swish"):
        return operation.inputs[0]
    return operation.linear if operation.activation == "hard_swish" else None
