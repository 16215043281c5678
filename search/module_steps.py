"""Which layer a call of PyTorch computes: one reader per function, with PyTorch's own arguments.

Modules, functions and methods come to the same few functions (:mod:`search.module_trace` sees each call), so
that a layer's settings are read where they take effect.  A reader that cannot honour a setting says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from results.errors import ArchitectureError
from search.layers import Padding
from search.network import (
    Activation,
    Activations,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalPool,
    Layer,
    MaxPool,
    Multiply,
    Resize,
    Softmax,
    Zero,
)


@dataclass(frozen=True, eq=False)
class Step:
    """What one call computes.

    Attributes:
        layer: The layer; None for zeros around an image, which the convolution that reads them adds itself.
        inputs: What it reads, in the layer's order.
        weights: The module's own tensors by the layer's names for them.
        padding: Of the zeros around an image, ``(top, bottom, left, right)``.
        training: Whether it is as in a training; None where that makes no difference.
    """

    layer: Layer | None
    inputs: tuple[Any, ...]
    weights: Mapping[str, Any] = field(default_factory=dict)
    padding: Padding = (0, 0, 0, 0)
    training: bool | None = None


def unsupported(setting: str, value: object, supported: str) -> ArchitectureError:
    """The refusal of a setting."""
    return ArchitectureError(f"{setting}={value!r} (supported: {supported})")


def _conv2d(
    input: Any,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Step:
    kernel, dilations = _pair(tuple(weight.shape[2:])), _pair(dilation)
    around = _conv_padding(padding, kernel, dilations)
    layer = Conv(weight.shape[0], kernel, _pair(stride), around, groups, dilations, bias is not None)
    return Step(layer, (input,), _given(weight=weight, bias=bias))


def _conv_padding(padding: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> Padding:
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        top, left = (each // 2 for each in total)
        return (top, total[0] - top, left, total[1] - left)
    return _around(padding)


def _linear(input: Any, weight: Tensor, bias: Any = None) -> Step:
    return Step(Dense(weight.shape[0], bias is not None), (input,), _given(weight=weight, bias=bias))


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Step:
    if weight is None or bias is None:
        raise unsupported("affine", False, "True, with weight and bias")
    if running_mean is None or running_var is None:
        raise unsupported("track_running_stats", False, "True, with running mean and variance")
    weights = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    return Step(BatchNorm(eps, momentum), (input,), weights, training=training)


def _pad(input: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Step:
    if any(pad) and (mode != "constant" or value):
        raise unsupported("padding_mode", mode if mode != "constant" else value, "zeros")
    if len(pad) != 4 or min(pad) < 0:
        raise unsupported("pad", tuple(pad), "(left, right, top, bottom), none of them negative")
    left, right, top, bottom = pad
    return Step(None, (input,), padding=(top, bottom, left, right))


def _max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Step:
    if return_indices:
        raise unsupported("return_indices", True, "False")
    if _pair(dilation) != (1, 1):
        raise unsupported("dilation", dilation, "1")
    kernel = _pair(kernel_size)
    return Step(MaxPool(kernel, _pair(stride or kernel), _around(padding)), (input,))


def _avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Step:
    if divisor_override is not None:
        raise unsupported("divisor_override", divisor_override, "None")
    kernel = _pair(kernel_size)
    return Step(AvgPool(kernel, _pair(stride or kernel), _around(padding), count_include_pad), (input,))


def _adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Step:
    size = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    area = (int(input.shape[-2]), int(input.shape[-1]))
    rows, columns = (have if want is None else int(want) for want, have in zip(size, area, strict=True))
    if (rows, columns) == (1, 1):
        return Step(GlobalPool(True), (input,))
    if area[0] % rows or area[1] % columns:
        raise unsupported("output_size", output_size, f"1, or divisors of the input's {area[0]}x{area[1]}")
    kernel = (area[0] // rows, area[1] // columns)
    return Step(AvgPool(kernel, kernel), (input,))


def _mean(input: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Step:
    dimensions = [dim] if isinstance(dim, int) else list(dim or ())
    if input.dim() != 4 or sorted(d % 4 for d in dimensions) != [2, 3]:
        raise unsupported("dim", dim, "(2, 3), height and width")
    return Step(GlobalPool(bool(keepdim)), (input,))


def _interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Step:
    modes: dict[str, Literal["nearest", "bilinear"]] = {"nearest": "nearest", "bilinear": "bilinear"}
    if mode not in modes:
        raise unsupported("mode", mode, "'nearest', 'bilinear'")
    if align_corners or antialias:
        raise unsupported("align_corners" if align_corners else "antialias", True, "False")
    area = (int(input.shape[-2]), int(input.shape[-1]))
    if size is None:
        size = _whole(area, scale_factor)
    return Step(Resize(_pair(size), modes[mode]), (input,))


def _whole(area: tuple[int, int], scale_factor: Any) -> tuple[int, int]:
    factors = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor, scale_factor)
    rows, columns = (edge * factor for edge, factor in zip(area, factors, strict=True))
    if rows != int(rows) or columns != int(columns):
        raise unsupported(
            "scale_factor", scale_factor, f"what makes whole pixels of {area[0]}x{area[1]}, or size="
        )
    return int(rows), int(columns)


def _clamp(input: Any, min: Any = None, max: Any = None) -> Step:
    kinds: dict[tuple[Any, Any], Activations] = {(0, None): "relu", (0, 6): "relu6"}
    if not all(bound is None or isinstance(bound, int | float) for bound in (min, max)):
        raise unsupported("min, max", (type(min).__name__, type(max).__name__), "numbers")
    if (min, max) not in kinds:
        raise unsupported("min, max", (min, max), "0 and 6 (relu6), or 0 and none (relu)")
    return Step(Activation(kinds[min, max]), (input,))


def _hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Step:
    if (min_val, max_val) != (0, 6):
        raise unsupported("min_val, max_val", (min_val, max_val), "0 and 6, as in relu6")
    return Step(Activation("relu6"), (input,))


def _add(input: Any, other: Any, alpha: float = 1, out: Any = None) -> Step:
    if alpha != 1:
        raise unsupported("alpha", alpha, "1")
    return Step(Add(), (input, other))


def _mul(input: Any, other: Any, out: Any = None) -> Step:
    if isinstance(other, int | float) and other == 0:
        return Step(Zero(), (input,))
    if isinstance(input, Tensor) and isinstance(other, Tensor) and input.numel() < other.numel():
        input, other = other, input
    return Step(Multiply(), (input, other))


def _cat(tensors: Any, dim: int = 0, **_: Any) -> Step:
    if dim % tensors[0].dim() != 1:
        raise unsupported("dim", dim, "1, the channels")
    return Step(Concat(), tuple(tensors))


def _flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Step:
    if start_dim % input.dim() != 1 or end_dim % input.dim() != input.dim() - 1:
        raise unsupported("start_dim, end_dim", (start_dim, end_dim), "1 and -1, all but the batch")
    return Step(Flatten(), (input,))


def _view(input: Tensor, *shape: Any) -> Step:
    sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    if len(sizes) != 2 or sizes[1] not in (-1, input[:1].numel()):
        raise unsupported("shape", tuple(sizes), "(images, -1), which flattens")
    return Step(Flatten(), (input,))


def _softmax(input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Step:
    if input.dim() != 2 or dim not in (1, -1):
        raise unsupported("dim", dim, "1, of outputs (images, classes)")
    return Step(Softmax(), (input,))


def _zeros_like(input: Any, **_: Any) -> Step:
    return Step(Zero(), (input,))


def _dropout(
    of: Literal["elements", "channels", "alpha elements", "alpha channels"], default: bool
) -> Callable[..., Step]:
    def read(input: Tensor, p: float = 0.5, training: bool = default, inplace: bool = False) -> Step:
        if "channels" in of and input.dim() != 4:
            raise unsupported("input", f"{input.dim() - 1} dimensions", "images; of features, Dropout")
        return Step(Dropout(float(p), of), (input,), training=training)

    return read


def _activation(kind: Activations) -> Callable[..., Step]:
    return lambda input, inplace=False: Step(Activation(kind), (input,))


DROPOUTS: Mapping[str, Callable[..., Step]] = {
    "dropout": _dropout("elements", True),
    "dropout2d": _dropout("channels", True),
    "alpha_dropout": _dropout("alpha elements", False),
    "feature_alpha_dropout": _dropout("alpha channels", False),
}
"""Readers of what is its input in evaluation, by name."""

READERS: Mapping[str, Callable[..., Step]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "pad": _pad,
    "max_pool2d": _max_pool2d,
    "max_pool2d_with_indices": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "mean": _mean,
    "interpolate": _interpolate,
    "clamp": _clamp,
    "clip": _clamp,
    "hardtanh": _hardtanh,
    "add": _add,
    "mul": _mul,
    "multiply": _mul,
    "cat": _cat,
    "concat": _cat,
    "concatenate": _cat,
    "flatten": _flatten,
    "view": _view,
    "reshape": _view,
    "softmax": _softmax,
    "zeros_like": _zeros_like,
    "relu": _activation("relu"),
    "relu6": _activation("relu6"),
    "hardswish": _activation("hard_swish"),
    "hardsigmoid": _activation("hard_sigmoid"),
    "sigmoid": _activation("sigmoid"),
    "silu": _activation("silu"),
    **DROPOUTS,
}
"""Readers by the name of PyTorch's function, without the underscore of those that work in place."""


def _given(**tensors: Any) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, tuple | list):
        return (int(value[0]), int(value[-1]))
    return (int(value), int(value))


def _around(padding: Any) -> Padding:
    vertical, horizontal = _pair(padding)
    return (vertical, vertical, horizontal, horizontal)
