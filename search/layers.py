"""The layers a network is made of: what each takes, makes and has for weights.

One-dimensional signals are images of height 1: ``(channels, 1, length)``, kernels ``(1, k)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from results.codec import to_json
from results.errors import ArchitectureError

Shape = tuple[int, ...]
Padding = tuple[int, int, int, int]
Activations = Literal["relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid", "silu"]


@dataclass(frozen=True)
class Conv:
    """A 2-D convolution.

    Attributes:
        channels: Output channels.
        kernel: ``(height, width)``.
        stride: ``(vertical, horizontal)``.
        padding: ``(top, bottom, left, right)``, zeros.
        groups: Equal to the input channels for a depthwise convolution.
        dilation: ``(vertical, horizontal)``.
        bias: Whether it adds a bias; none where a batch norm follows.
    """

    channels: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: Padding = (1, 1, 1, 1)
    groups: int = 1
    dilation: tuple[int, int] = (1, 1)
    bias: bool = False


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation over the channels; folded into the convolution before it on export.

    Attributes:
        epsilon: Added to the variance.
        momentum: Share of a batch's statistics in the running ones, as in PyTorch; of trainings alone.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1


@dataclass(frozen=True)
class Activation:
    """A nonlinearity, element by element; ``hard_swish`` and ``hard_sigmoid`` as in MobileNetV3."""

    kind: Activations = "relu"


@dataclass(frozen=True)
class Add:
    """Sum of two inputs of equal shape."""


@dataclass(frozen=True)
class Multiply:
    """Product of two inputs of equal shape, or of ``(c, h, w)`` and ``(c, 1, 1)`` (squeeze-excitation)."""


@dataclass(frozen=True)
class Concat:
    """Two or more inputs one after the other along the channels."""


@dataclass(frozen=True)
class Zero:
    """Zeros of the input's shape: the absent edge of a cell."""


@dataclass(frozen=True)
class Identity:
    """Its input."""


@dataclass(frozen=True)
class Dropout:
    """Its input; in trainings, a random part of it is dropped and the rest scaled up.

    Attributes:
        rate: Probability of being dropped.
        of: What is dropped at once: single ``elements``, or whole ``channels``; with ``alpha`` in the manner
            of PyTorch's ``AlphaDropout``, which keeps mean and variance.
    """

    rate: float
    of: Literal["elements", "channels", "alpha elements", "alpha channels"] = "elements"


@dataclass(frozen=True)
class MaxPool:
    """Largest value of every window; padding never wins.

    Attributes:
        kernel: ``(height, width)``.
        stride: ``(vertical, horizontal)``.
        padding: ``(top, bottom, left, right)``, each less than the kernel.
    """

    kernel: tuple[int, int] = (2, 2)
    stride: tuple[int, int] = (2, 2)
    padding: Padding = (0, 0, 0, 0)


@dataclass(frozen=True)
class AvgPool:
    """Mean of every window.

    Attributes:
        kernel: ``(height, width)``.
        stride: ``(vertical, horizontal)``.
        padding: ``(top, bottom, left, right)``, each less than the kernel.
        count_padding: Whether padding counts as zeros (PyTorch's ``count_include_pad``) or not at all.
    """

    kernel: tuple[int, int] = (2, 2)
    stride: tuple[int, int] = (2, 2)
    padding: Padding = (0, 0, 0, 0)
    count_padding: bool = True


@dataclass(frozen=True)
class GlobalPool:
    """Mean over height and width: ``(c, h, w)`` to ``(c,)``, or to ``(c, 1, 1)`` with ``keep_dims``."""

    keep_dims: bool = False


@dataclass(frozen=True)
class Resize:
    """An image of another size.

    Attributes:
        size: ``(height, width)`` of the output.
        mode: ``nearest`` takes pixel ``floor(i * in / out)``; ``bilinear`` has pixel centres at half
            integers; both as PyTorch's ``interpolate`` (without ``align_corners`` and antialiasing).
    """

    size: tuple[int, int]
    mode: Literal["nearest", "bilinear"] = "nearest"


@dataclass(frozen=True)
class Flatten:
    """``(c, h, w)`` to ``(c * h * w,)``, channel by channel."""


@dataclass(frozen=True)
class Softmax:
    """Probabilities of logits: ``(n,)`` to ``(n,)``."""


@dataclass(frozen=True)
class Dense:
    """A fully connected layer: ``(n,)`` to ``(units,)``.

    Attributes:
        units: Outputs.
        bias: Whether it adds a bias.
    """

    units: int
    bias: bool = True


Pool = MaxPool | AvgPool
Layer = (
    Conv
    | BatchNorm
    | Activation
    | Add
    | Multiply
    | Concat
    | Zero
    | Identity
    | Dropout
    | MaxPool
    | AvgPool
    | GlobalPool
    | Resize
    | Flatten
    | Softmax
    | Dense
)
_RANKS: dict[type, int] = {  # of what a layer reads, where it matters
    **dict.fromkeys((Conv, BatchNorm, MaxPool, AvgPool, GlobalPool, Resize, Flatten), 3),
    **dict.fromkeys((Softmax, Dense), 1),
}
_LATER: dict[type, dict[str, Any]] = {Dense: {"bias": True}, BatchNorm: {"momentum": 0.1}}
_INPUTS: dict[type, int] = {Add: 2, Multiply: 2}  # all others but concatenations have one


def output_shape(layer: Layer, inputs: list[Shape]) -> Shape:
    """Shape that a layer makes of its inputs' shapes.

    Raises:
        ArchitectureError: If the layer cannot take them.
    """
    _check_inputs(layer, inputs)
    match layer:
        case Conv():
            return _conv_shape(layer, inputs[0])
        case BatchNorm() | Activation() | Add():  # most of any network: not to be asked for all that follows
            return inputs[0]
        case MaxPool() | AvgPool():
            return _pool_shape(layer, inputs[0])
        case Concat():
            return (sum(shape[0] for shape in inputs), *inputs[0][1:])
        case GlobalPool() | Resize() | Flatten() | Dense():
            return _named_shape(layer, inputs[0])
        case _:
            return inputs[0]


def described(layer: Layer) -> list[Any]:
    """Kind and settings as JSON, the same for all versions of Boardwise that know the layer.

    Settings that layers have got since are left out where they are what they were before.
    """
    later = _LATER.get(type(layer), {})
    settings = {k: v for k, v in to_json(layer).items() if k not in later or v != later[k]}
    return [type(layer).__name__, settings]


def _named_shape(layer: GlobalPool | Resize | Flatten | Dense, shape: Shape) -> Shape:
    """Shape that a layer names itself."""
    match layer:
        case GlobalPool(keep_dims=keep):
            return (shape[0], 1, 1) if keep else shape[:1]
        case Resize(size=size):
            if min(size) < 1:
                raise ArchitectureError(f"an image needs a height and a width, got {size}")
            return (shape[0], *size)
        case Flatten():
            return (prod(shape),)
        case Dense(units=units):
            if units < 1:
                raise ArchitectureError(f"a dense layer needs units, got {units}")
            return (units,)


def _check_inputs(layer: Layer, inputs: list[Shape]) -> None:
    kind = type(layer)
    if kind is Concat:
        if len(inputs) < 2 or len({shape[1:] for shape in inputs}) != 1:
            raise ArchitectureError(f"cannot join {inputs}: two or more of equal height and width are needed")
        return
    wanted = _INPUTS.get(kind, 1)
    if len(inputs) != wanted:
        raise ArchitectureError(f"{kind.__name__} takes {wanted} inputs, got {len(inputs)}")
    if kind is Add and inputs[0] != inputs[1]:
        raise ArchitectureError(f"cannot add {inputs[0]} and {inputs[1]}")
    if kind is Multiply and inputs[1] not in (inputs[0], (inputs[0][0], 1, 1)):
        raise ArchitectureError(f"cannot multiply {inputs[0]} by {inputs[1]}")
    rank = _RANKS.get(kind)
    if rank is not None and len(inputs[0]) != rank:
        raise ArchitectureError(f"needs an input of rank {rank}, got shape {inputs[0]}")


def _conv_shape(layer: Conv, shape: Shape) -> Shape:
    channels = shape[0]
    if min(layer.groups, *layer.kernel, *layer.stride, *layer.dilation) < 1 or min(layer.padding) < 0:
        raise ArchitectureError(f"kernel, stride, dilation and groups start at 1, padding at 0: {layer}")
    if layer.channels < 1 or channels % layer.groups or layer.channels % layer.groups:
        raise ArchitectureError(f"{channels} to {layer.channels} channels do not divide into {layer.groups}")
    return (layer.channels, *_windows(layer, shape))


def _pool_shape(layer: Pool, shape: Shape) -> Shape:
    if min(*layer.kernel, *layer.stride) < 1 or min(layer.padding) < 0:
        raise ArchitectureError(f"kernel and stride start at 1, padding at 0: {layer}")
    top, bottom, left, right = layer.padding
    if max(top, bottom) >= layer.kernel[0] or max(left, right) >= layer.kernel[1]:
        raise ArchitectureError(f"padding as large as the kernel makes windows of padding alone: {layer}")
    return (shape[0], *_windows(layer, shape))


def _windows(layer: Conv | Pool, shape: Shape) -> tuple[int, int]:
    """Number of windows along height and width."""
    top, bottom, left, right = layer.padding
    rows, columns = (
        (size + pad - reach) // stride + 1
        for size, pad, reach, stride in zip(
            shape[1:], (top + bottom, left + right), reaches(layer), layer.stride, strict=True
        )
    )
    if min(rows, columns) < 1:
        raise ArchitectureError(f"a {layer.kernel} kernel does not fit into {shape}")
    return rows, columns


def reaches(layer: Conv | Pool) -> tuple[int, int]:
    """Rows and columns from a window's first to its last, both included."""
    vertical, horizontal = layer.dilation if isinstance(layer, Conv) else (1, 1)
    return vertical * (layer.kernel[0] - 1) + 1, horizontal * (layer.kernel[1] - 1) + 1


def tensors(layer: Layer, shape: Shape) -> dict[str, Shape]:
    """Shapes of a layer's weights by name, for an input of this shape."""
    match layer:
        case Conv(channels=channels, kernel=kernel, groups=groups, bias=bias):
            weight = {"weight": (channels, shape[0] // groups, *kernel)}
            return weight | ({"bias": (channels,)} if bias else {})
        case BatchNorm():
            return {name: shape[:1] for name in ("weight", "bias", "running_mean", "running_var")}
        case Dense(units=units, bias=bias):
            return {"weight": (units, shape[0])} | ({"bias": (units,)} if bias else {})
        case _:
            return {}
