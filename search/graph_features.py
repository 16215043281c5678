"""What surrogates learn from in any network: features of its computation graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2, log10

import numpy as np
from numpy.typing import NDArray

from results.records import Architecture
from search.network import Add, Concat, Conv, Multiply, Network, costs

_REMEMBERED = 20_000  # architectures whose features are kept: some 30 MB


class FeatureMemory:
    """Features by architecture: building a network costs a hundred times what looking it up does."""

    def __init__(self) -> None:
        self._known: dict[Architecture, NDArray[np.float64]] = {}

    def of(
        self, architecture: Architecture, compute: Callable[[Architecture], Sequence[float]]
    ) -> NDArray[np.float64]:
        """Features of an architecture, computed unless they are known, shape ``(k,)``; read-only."""
        known = self._known.get(architecture)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = np.asarray(compute(architecture), np.float64)
            known.setflags(write=False)
            self._known[architecture] = known
        return known


def graph_features(network: Network) -> list[float]:
    """Ten numbers about a network of convolutions.

    log10 of MACs, of parameters and of activation bytes; number of convolutions; convolutions on the
    longest and on the shortest way from input to output; number of joins (add, concat, multiply); mean
    edge of the kernels; mean and largest of log2 of the convolutions' channels.
    """
    cost = costs(network)
    layers = [node.layer for node in network.nodes]
    convolutions = [layer for layer in layers if isinstance(layer, Conv)]
    widths = [log2(layer.channels) for layer in convolutions]
    return [
        *(log10(max(1, number)) for number in (cost.macs, cost.parameters, cost.activation_bytes)),
        float(len(convolutions)),
        float(_depth(network, max)),
        float(_depth(network, min)),
        float(sum(isinstance(layer, Add | Concat | Multiply) for layer in layers)),
        sum(max(layer.kernel) for layer in convolutions) / max(1, len(convolutions)),
        sum(widths) / max(1, len(widths)),
        max(widths, default=0.0),
    ]


def _depth(network: Network, pick: Callable[[list[int]], int]) -> int:
    """Convolutions on the longest (``max``) or shortest (``min``) way to the output."""
    depth = {"input": 0}
    for node in network.nodes:
        depth[node.name] = pick([depth[name] for name in node.inputs]) + isinstance(node.layer, Conv)
    return depth[network.output]
