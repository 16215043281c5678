"""Sizes between which all runtimes pick the same pixels when they resize to the nearest one.

Pixel i of n comes from pixel ``floor(i * m / n)`` of m.  Where ``i * m / n`` is whole, single precision may
fall just below it, and runtimes differ in how they compute it: 14 to 2 pixels takes pixel 7 in PyTorch
and TFLite, 6 in ONNX Runtime.
"""

from __future__ import annotations

import numpy as np

from search.layers import Resize, Shape


def agrees(layer: Resize, shape: Shape) -> bool:
    """Whether a resizing of an image ``(c, h, w)`` gives the same in PyTorch and every runtime."""
    return layer.mode == "bilinear" or all(map(_same_pixels, shape[1:], layer.size))


def _same_pixels(before: int, after: int) -> bool:
    exact = np.arange(after) * before // after
    index, old, new = (np.float32(x) for x in (np.arange(after), before, after))
    by_product = np.floor(index * np.float32(old / new))  # PyTorch, TFLite
    by_quotient = np.floor(index / np.float32(new / old))  # ONNX Runtime
    return bool((by_product == exact).all() and (by_quotient == exact).all())
