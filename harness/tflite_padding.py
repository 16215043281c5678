"""Where windows lie: PyTorch's explicit padding in TFLite's terms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.layers import AvgPool, Conv, Pool, Shape, reaches

Sides = tuple[int, int]
NO_PADDING: tuple[Sides, Sides] = ((0, 0), (0, 0))


def needed_padding(layer: Conv | Pool, shape: Shape, out: Shape) -> tuple[Sides, Sides]:
    """Padding of rows and columns, before and after, without what no window reaches at the end.

    Args:
        layer: With windows.
        shape: Of its input, ``(c, h, w)``.
        out: Of its output.
    """
    top, bottom, left, right = layer.padding
    rows, columns = (
        (before, min(after, max(0, (count - 1) * stride + reach - size - before)))
        for (before, after), size, count, stride, reach in zip(
            ((top, bottom), (left, right)), shape[1:], out[1:], layer.stride, reaches(layer), strict=True
        )
    )
    return rows, columns


def is_same(layer: Conv | Pool, shape: Shape, padding: tuple[Sides, Sides]) -> bool:
    """Whether TFLite's SAME pads as the layer does: half of it before, the odd row after."""
    for size, sides, stride, reach in zip(shape[1:], padding, layer.stride, reaches(layer), strict=True):
        total = (-(-size // stride) - 1) * stride + reach - size
        # Where windows leave rows out, the total can be negative; XNNPACK in tflite-runtime 2.14 then
        # computes wrong outputs instead of padding nothing.
        if reach < stride or sides != (total // 2, total - total // 2):
            return False
    return True


def shares_inside(layer: AvgPool, shape: Shape, out: Shape) -> NDArray[np.float64]:
    """Share of every window that lies on the image, shape ``(1, h, w, 1)``."""
    counts = []
    for size, count, before, kernel, stride in zip(
        shape[1:], out[1:], (layer.padding[0], layer.padding[2]), layer.kernel, layer.stride, strict=True
    ):
        starts = np.arange(count) * stride - before
        inside = np.minimum(starts + kernel, size) - np.maximum(starts, 0)
        counts.append(inside / kernel)
    shares: NDArray[np.float64] = (counts[0][:, None] * counts[1])[None, :, :, None]
    return shares
