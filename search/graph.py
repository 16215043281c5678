"""Collects the nodes of a layer graph in which any node may read any before it."""

from __future__ import annotations

from collections.abc import Sequence

from search.layers import output_shape
from search.network import (
    Activation,
    Activations,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    GlobalPool,
    Layer,
    MaxPool,
    Network,
    Node,
    Shape,
)


class Graph:
    """A graph under construction; every method returns the name of the last node that it added.

    Args:
        input_shape: ``(channels, height, width)``.
    """

    def __init__(self, input_shape: Shape) -> None:
        self._nodes: list[Node] = []
        self._shapes: dict[str, Shape] = {"input": input_shape}

    def shape(self, name: str) -> Shape:
        """Shape of what a node makes."""
        return self._shapes[name]

    def add(self, name: str, layer: Layer, *inputs: str) -> str:
        """Adds one node."""
        self._shapes[name] = output_shape(layer, [self._shapes[i] for i in inputs])
        self._nodes.append(Node(name, layer, inputs))
        return name

    def convolve(self, name: str, source: str, channels: int, kernel: int = 1, *, stride: int = 1) -> str:
        """A convolution, padded to keep the size, and its batch norm."""
        layer = Conv(channels, (kernel, kernel), (stride, stride), (kernel // 2,) * 4)
        return self.normalise(name, self.add(name, layer, source))

    def depthwise(self, name: str, source: str, kernel: int, *, stride: int = 1) -> str:
        """A depthwise convolution, padded to keep the size, and its batch norm."""
        return self.normalise(name, self.depthwise_only(name, source, kernel, stride=stride))

    def depthwise_only(
        self, name: str, source: str, kernel: int, *, stride: int = 1, dilation: int = 1
    ) -> str:
        """A depthwise convolution, padded to keep the size, without a batch norm."""
        channels, pad = self._shapes[source][0], (kernel // 2 * dilation,) * 4
        layer = Conv(channels, (kernel, kernel), (stride, stride), pad, channels, (dilation, dilation))
        return self.add(name, layer, source)

    def normalise(self, name: str, source: str) -> str:
        """A batch norm, called ``<name>_norm``."""
        return self.add(f"{name}_norm", BatchNorm(), source)

    def activate(self, name: str, source: str, kind: Activations = "relu") -> str:
        """An activation."""
        return self.add(name, Activation(kind), source)

    def max_pool(self, name: str, source: str, stride: int = 1) -> str:
        """The largest of every 3 x 3 window."""
        return self.add(name, MaxPool((3, 3), (stride, stride), (1, 1, 1, 1)), source)

    def avg_pool(self, name: str, source: str, stride: int = 1) -> str:
        """The mean of every 3 x 3 window; padding does not count."""
        return self.add(name, AvgPool((3, 3), (stride, stride), (1, 1, 1, 1), count_padding=False), source)

    def shrink(self, name: str, source: str, factor: int) -> str:
        """Means of ``factor x factor`` squares; those at the border may be incomplete."""
        _, height, width = self._shapes[source]
        padding = (0, -height % factor, 0, -width % factor)
        return self.add(name, AvgPool((factor, factor), (factor, factor), padding, False), source)

    def total(self, name: str, sources: Sequence[str]) -> str:
        """The sum of one or more nodes; of one, that node itself."""
        last = sources[0]
        for number, source in enumerate(sources[1:], start=1):
            last = self.add(f"{name}_sum{number}", Add(), last, source)
        return last

    def concat(self, name: str, sources: Sequence[str]) -> str:
        """Two or more nodes one after the other along the channels."""
        return self.add(name, Concat(), *sources)

    def network(self, source: str, classes: int) -> Network:
        """The network, closed by global pooling of a node and a dense layer."""
        self.add("classifier", Dense(classes), self.add("pool", GlobalPool(), source))
        return Network(self._shapes["input"], tuple(self._nodes), self._shapes)
