"""Searched cells in a fixed network: those of NAS-Bench-201 or of DARTS.

``kind = "nas_bench_201"`` (Dong and Yang 2020, figure 1), the default: a 3 x 3 convolution, then three
stages of ``cells`` equal cells with ``channels``, twice and four times as many channels, a residual block
that halves the image before the second and the third, then batch norm, ReLU, global pooling and a dense
layer.  With the defaults and images of 32 x 32 pixels these are the published networks.  Six decisions with
five options: 15,625 encodings of 5,260 different cells (:mod:`search.cell_graph`).  A cell with no way
through it gives zeros, and so does the network: the tables have such networks, too.

``kind = "darts"`` (Liu et al. 2019, appendix A): a normal and a reduction cell (:mod:`search.darts_cell`).
A 3 x 3 convolution, then ``cells`` cells in all, of which those at one and two thirds halve the image and
double the channels, global pooling and a dense layer.  10^18 encodings.  No auxiliary classifier, no drop
path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.records import Architecture
from results.settings import Settings
from search import cell_graph, darts_cell
from search.blocks import shape_at
from search.cell_networks import CellNetworks, DartsNetworks, NasBench201Networks
from search.graph import Graph
from search.graph_features import FeatureMemory, graph_features
from search.network import Network, Shape
from search.space import SearchSpace
from search.space_options import names

KINDS: dict[str, tuple[type[CellNetworks], tuple[str, ...], int, int]] = {
    "nas_bench_201": (NasBench201Networks, cell_graph.OPERATIONS, 5, 1),
    "darts": (DartsNetworks, darts_cell.OPERATIONS, 8, 3),
}
"""Networks, operations, cells by default, and at least (fewer than 3 of DARTS have no normal one)."""


class Space(SearchSpace):
    """The cell space.

    The default space for 32 x 32 images has 7.8 to 220 million MACs and 73,000 to 1.5 million parameters;
    samples of ``darts`` have 30 to 60 million MACs (median 45) and 160,000 to 360,000 parameters.

    Args:
        input_shape: ``(channels, height, width)``.
        classes: Number of logits.
        options: ``kind``; ``channels`` of the first cells (default 16); ``cells`` per stage (default 5), of
            ``darts`` in all (8); ``operations``: some of those of the kind.

    Raises:
        ConfigError: For an unknown key or a value that cannot be used.
    """

    def __init__(self, *, input_shape: Shape, classes: int, **options: Any) -> None:
        table = Settings(options, "space 'cell'")
        self.input_shape = tuple(input_shape)
        self.classes = classes
        kind = table.take_name("kind", KINDS, "nas_bench_201")
        networks, operations, cells, fewest = KINDS[kind]
        self.networks = networks(
            table.take_count("channels", 16),
            table.take_count("cells", cells, low=fewest),
            names(table, "operations", operations),
        )
        table.done()
        settings = {
            "input_shape": list(self.input_shape),
            "classes": classes,
            "kind": kind,
            "channels": self.networks.channels,
            "cells": self.networks.cells,
        }
        super().__init__("cell", self.networks.decisions(), settings)
        self._features = FeatureMemory()

    def canonical(self, choices: tuple[int, ...]) -> tuple[int, ...]:
        """One encoding for all of the same cells."""
        return self.networks.canonical(choices)

    def equivalents(self, choices: tuple[int, ...]) -> Sequence[tuple[int, ...]]:
        """Encodings of the same cells."""
        return self.networks.equivalents(choices)

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All other architectures one change away from an encoding of this one; see the base class."""
        near = self.networks.neighbours(architecture.choices)
        if near is None:
            yield from super().neighbours(architecture)
        else:
            yield from map(self.architecture, near)

    def build(
        self, architecture: Architecture, *, width: float = 1.0, resolution: int | None = None
    ) -> Network:
        """The layer graph.

        Args:
            architecture: A point of this space.
            width: Multiplier of the channel numbers, which become multiples of 4.
            resolution: Shorter edge of the input in pixels; None for the space's own.

        Raises:
            ArchitectureError: If the architecture is not of this space.
        """
        self.check(architecture)
        graph = Graph(shape_at(self.input_shape, width, resolution))
        return graph.network(self.networks.build(graph, architecture.choices, width), self.classes)

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """The encoding, features of the cells and of the network, shape ``(k,)``; read-only.

        See :func:`search.graph_features.graph_features` for those of the network.
        """
        return self._features.of(
            architecture,
            lambda a: [
                *self.encode(a),
                *self.networks.features(a.choices),
                *graph_features(self.build(a)),
            ],
        )
