"""The reference network: one small fixed network that is measured beside everything else.

What a board does to every file alike (its temperature, a kernel's mood, a neighbour on the bus) shows in it
as well, and leaves the ratio of the two alone.  Its files follow from the exporters; their hashes are part of
what a series of nights is known by.
"""

from __future__ import annotations

from functools import cache

from harness.export import Exported, export
from search.network import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    GlobalPool,
    Layer,
    Network,
    Node,
    initial_weights,
)

SEED = 2026
WIDTHS = (16, 24, 32)
"""Channels of the stages, each half the size of the one before: 1.9 M MACs, 13 k parameters."""


def reference_network() -> Network:
    """Three convolutions on 32 x 32 images with a classifier of 10 classes."""
    nodes: list[Node] = []
    last = "input"

    def then(layer: Layer) -> None:
        nonlocal last
        nodes.append(Node(f"n{len(nodes)}", layer, (last,)))
        last = nodes[-1].name

    for width in WIDTHS:
        then(Conv(width, kernel=(3, 3), stride=(2, 2)))
        then(BatchNorm())
        then(Activation("relu"))
    then(GlobalPool())
    then(Dense(10))
    return Network((3, 32, 32), tuple(nodes))


@cache
def reference(file_format: str) -> Exported:
    """The reference as a file, in fp32 with initial weights: equal in every run of one version.

    Args:
        file_format: ``onnx`` or ``tflite``.
    """
    network = reference_network()
    return export(network, initial_weights(network, SEED), file_format)
