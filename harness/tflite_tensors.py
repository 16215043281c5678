"""Tensors and operators of a TFLite file in any precision: layouts, scales, weights, versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tflite import BuiltinOperator

from harness.folding import Operation, as_half
from harness.quantization import Quantization, Scale
from harness.tflite_file import Affine, TfliteFile
from search.layers import Shape

_OP = BuiltinOperator
_VERSIONS: dict[int, tuple[int, int]] = {  # of operators on float32 and on int8 tensors
    _OP.ADD: (1, 2),
    _OP.AVERAGE_POOL_2D: (1, 2),
    _OP.CONCATENATION: (1, 2),
    _OP.CONV_2D: (1, 3),
    _OP.DEPTHWISE_CONV_2D: (1, 3),
    _OP.DEQUANTIZE: (3, 2),  # of half floats
    _OP.FULLY_CONNECTED: (1, 4),
    _OP.HARD_SWISH: (1, 1),
    _OP.LOGISTIC: (1, 2),
    _OP.MAX_POOL_2D: (1, 2),
    _OP.MEAN: (1, 2),
    _OP.MUL: (1, 2),
    _OP.PAD: (1, 2),
    _OP.PADV2: (1, 2),
    _OP.QUANTIZE: (1, 1),
    _OP.RELU: (1, 2),
    _OP.RELU6: (1, 2),
    _OP.RESHAPE: (1, 1),
    _OP.RESIZE_BILINEAR: (3, 3),  # pixel centres at half integers
    _OP.RESIZE_NEAREST_NEIGHBOR: (1, 2),
    _OP.SOFTMAX: (1, 2),
    _OP.TRANSPOSE: (1, 2),
}
_LOWEST = np.float32(-3.4e38)


class TfliteTensors:
    """A file in the making.

    Args:
        batch: Number of images that it takes at a time.
        half: Whether weights are stored as half floats.
        quantization: Scales of the activations, if it computes in integers.
    """

    def __init__(self, batch: int, half: bool, quantization: Quantization | None) -> None:
        self._file = TfliteFile()
        self._batch = batch
        self._half = half
        self._quantization = quantization
        self._scales: dict[int, Scale] = {}  # of integer tensors by number
        self._single: dict[int, int] = {}  # tensors of half floats to those that compute

    def _layout(self, shape: Shape) -> Shape:
        return (self._batch, *shape[1:], *shape[:1])

    def _new(self, name: str, shape: Shape, scale: Scale | None) -> int:
        """A computed tensor: int8 of that scale where the file has integers, else float32."""
        if self._quantization is None or scale is None:
            return self._file.tensor(name, self._layout(shape))
        affine = Affine((scale.scale,), (scale.zero_point,))
        tensor = self._file.tensor(name, self._layout(shape), dtype="int8", affine=affine)
        self._scales[tensor] = scale
        return tensor

    def _scale_of(self, name: str) -> Scale | None:
        return None if self._quantization is None else self._quantization.scales[name]

    def _lowest(self, tensor: int) -> int:
        """The number that never is a maximum."""
        if self._quantization is None:
            return self._file.constant("lowest", np.array([_LOWEST], "<f4"))
        scale = self._scales[tensor]
        affine = Affine((scale.scale,), (scale.zero_point,))
        return self._file.constant("lowest", np.array([-128], np.int8), affine)

    def _number(self, name: str, values: NDArray[np.float64]) -> int:
        """Constant numbers that an activation is multiplied with or added to."""
        if self._quantization is None:
            return self._file.constant(name, values.astype("<f4"))
        scale = float(np.float32(np.abs(values).max() / 127 or 1.0))
        steps = np.rint(values / scale).astype(np.int8)
        tensor = self._file.constant(name, steps, Affine((scale,), (0,)))
        self._scales[tensor] = Scale(scale, 0)
        return tensor

    def _weights(
        self, operation: Operation, weight: NDArray[Any], order: tuple[int, ...], *, per_channel: bool = True
    ) -> list[int]:
        """Weight, its axes in this order, and bias."""
        names = f"{operation.name}.weight", f"{operation.name}.bias"
        if self._quantization is None:
            pair = weight.transpose(order), np.asarray(operation.bias)
            return [self._stored(name, values) for name, values in zip(names, pair, strict=True)]
        integers = self._quantization.weights(replace(operation, weight=weight), per_channel=per_channel)
        zeros = (0,) * len(integers.scales)
        scales, bias_scales = (tuple(map(float, s)) for s in (integers.scales, integers.bias_scales))
        turned = np.ascontiguousarray(integers.weight.transpose(order))
        return [
            self._file.constant(names[0], turned, Affine(scales, zeros, order.index(0))),
            self._file.constant(names[1], integers.bias.astype("<i4"), Affine(bias_scales, zeros)),
        ]

    def _stored(self, name: str, values: NDArray[Any]) -> int:
        if not self._half:
            return self._file.constant(name, values.astype("<f4"))
        constant = self._file.constant(f"{name}.half", as_half(name, values))
        if constant not in self._single:
            single = self._file.tensor(name, values.shape)
            self._single[constant] = self._operate(_OP.DEQUANTIZE, [constant], single, "DequantizeOptions")
        return self._single[constant]

    def _operate(
        self,
        code: int,
        inputs: Sequence[int],
        output: int,
        table: str = "",
        version: int | None = None,
        **fields: float,
    ) -> int:
        lowest = _VERSIONS[code][self._quantization is not None]
        return self._file.operate((code, version or lowest), inputs, output, table, **fields)
