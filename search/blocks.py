"""Builds layer graphs block by block; what the spaces of convolutional networks share.

Blocks (k x k kernels, a batch norm after every convolution):

- ``plain``: convolution, activation.
- ``separable``: depthwise convolution, activation, 1 x 1 convolution, activation (MobileNet, Howard
  et al. 2017).
- ``inverted``: 1 x 1 convolution to ``expansion`` times the channels, activation, depthwise
  convolution, activation, 1 x 1 convolution (MobileNetV2, Sandler et al. 2018).

A skip adds the block's input to the output of its last batch norm, before the activation that follows
there if one does (He et al. 2016, "Deep residual learning for image recognition", figure 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from results.errors import ArchitectureError
from search.network import (
    Activation,
    Activations,
    Add,
    BatchNorm,
    Conv,
    Dense,
    GlobalPool,
    Layer,
    Network,
    Node,
    Shape,
)

BlockType = Literal["plain", "separable", "inverted"]

SMALLEST = 3
"""Edge in pixels below which nothing is halved unless the study asks for it: a 3 x 3 kernel's."""

LARGE = 16
"""Edge in pixels from which the stem halves the image, unless the study asks for more: wide layers at
half the resolution learn more per MAC than narrow ones at full resolution."""


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        name: Prefix of its nodes' names.
        kind: Its type.
        channels: Output channels.
        kernel: Edge of the kernel, odd.
        stride: Of the convolution that has the kernel.
        activation: Nonlinearity.
        skip: Whether its input is added; only with stride 1 and as many channels in as out.
        expansion: Inner channels as a multiple of those that enter; of inverted blocks only.
    """

    name: str
    kind: BlockType
    channels: int
    kernel: int
    stride: int
    activation: Activations
    skip: bool = False
    expansion: int = 1


class GraphBuilder:
    """Collects nodes, each reading the one before it."""

    def __init__(self, input_shape: Shape) -> None:
        self._input_shape = input_shape
        self._nodes: list[Node] = []
        self._last = "input"
        self._channels = input_shape[0]

    def stem(self, channels: int, stride: int, activation: Activations) -> None:
        """A 3 x 3 convolution with batch norm and activation."""
        self._convolve("stem", channels, 3, stride)
        self._add("stem_act", Activation(activation))

    def block(self, block: Block) -> None:
        """A block after what there is."""
        start, name = self._last, block.name
        match block.kind:
            case "plain":
                self._convolve(name, block.channels, block.kernel, block.stride)
            case "separable":
                self._depthwise(block)
                self._convolve(f"{name}_pointwise", block.channels)
            case "inverted":
                self._convolve(f"{name}_expand", block.expansion * self._channels)
                self._add(f"{name}_expand_act", Activation(block.activation))
                self._depthwise(block)
                self._convolve(f"{name}_project", block.channels)
        if block.skip:
            self._add(f"{name}_skip", Add(), start)
        if block.kind != "inverted":  # its output is linear (MobileNetV2, section 3.2)
            self._add(f"{name}_act", Activation(block.activation))

    def network(self, classes: int) -> Network:
        """The network, closed by global pooling and a dense layer."""
        self._add("pool", GlobalPool())
        self._add("classifier", Dense(classes))
        return Network(self._input_shape, tuple(self._nodes))

    def _depthwise(self, block: Block) -> None:
        name = f"{block.name}_depthwise"
        self._convolve(name, self._channels, block.kernel, block.stride, groups=self._channels)
        self._add(f"{name}_act", Activation(block.activation))

    def _convolve(self, name: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        pad = kernel // 2
        self._add(name, Conv(channels, (kernel, kernel), (stride, stride), (pad, pad, pad, pad), groups))
        self._add(f"{name}_norm", BatchNorm())
        self._channels = channels

    def _add(self, name: str, layer: Layer, *others: str) -> None:
        self._nodes.append(Node(name, layer, (self._last, *others)))
        self._last = name


def scaled(channels: int, width: float, multiple: int = 4) -> int:
    """A channel number times ``width``, rounded to a multiple, at least one multiple; itself for 1.0."""
    if width == 1.0:
        return channels
    return max(multiple, multiple * round(channels * width / multiple))


def halvings(edge: int, smallest: int) -> int:
    """How often an edge in pixels can be halved, rounding up, without falling below ``smallest``."""
    count = 0
    while edge > 1 and -(-edge // 2) >= smallest:
        edge = -(-edge // 2)
        count += 1
    return count


def shape_at(input_shape: Shape, width: float, resolution: int | None) -> Shape:
    """The shape of an image whose shorter edge is brought to ``resolution`` pixels; itself for None.

    Raises:
        ArchitectureError: If there is no such network, of this width multiplier or resolution.
    """
    if width <= 0 or (resolution is not None and resolution < 1):
        raise ArchitectureError(f"no network has width {width} and resolution {resolution}")
    channels, height, across = input_shape
    shorter = min(height, across)
    edge = resolution or shorter
    return channels, max(1, round(height * edge / shorter)), max(1, round(across * edge / shorter))
