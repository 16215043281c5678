"""Searched cells in a fixed network: NAS-Bench-201.

Dong and Yang 2020, figure 1: a 3 x 3 convolution, then three stages of ``cells`` equal cells with
``channels``, twice and four times as many channels, a residual block that halves the image before the
second and the third, then batch norm, ReLU, global pooling and a dense layer.  With the defaults and
images of 32 x 32 pixels these are the published networks.  Six decisions with five options: 15,625
encodings of 5,260 different cells (:mod:`search.cell_graph`).

Options may leave operations out.  A cell with no way through it gives zeros, and so does the network: the
tables have such networks, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.records import Architecture
from results.settings import Settings
from search.blocks import scaled, shape_at
from search.cell_graph import EDGES, OPERATIONS, Sources, cell_features, same_cells, steps
from search.graph import Graph
from search.graph_features import FeatureMemory, graph_features
from search.network import Conv, Network, Shape, Zero
from search.space import Decision, SearchSpace
from search.space_options import names


class Space(SearchSpace):
    """The cells of NAS-Bench-201.

    The default space for 32 x 32 images has 7.8 to 220 million MACs and 73,000 to 1.5 million parameters.

    Args:
        input_shape: ``(channels, height, width)``.
        classes: Number of logits.
        options: ``channels`` of the first stage (default 16), ``cells`` per stage (5), and
            ``operations``: some of :data:`search.cell_graph.OPERATIONS`.

    Raises:
        ConfigError: For an unknown key or a value that cannot be used.
    """

    def __init__(self, *, input_shape: Shape, classes: int, **options: Any) -> None:
        table = Settings(options, "space 'cell'")
        self.input_shape = tuple(input_shape)
        self.classes = classes
        self.channels = table.take_count("channels", 16)
        self.cells = table.take_count("cells", 5)
        self.operations: tuple[str, ...] = names(table, "operations", OPERATIONS)
        table.done()
        settings = {
            "input_shape": list(self.input_shape),
            "classes": classes,
            "channels": self.channels,
            "cells": self.cells,
        }
        edges = [Decision(f"edge_{start}_{end}", self.operations) for start, end in EDGES]
        super().__init__("cell", edges, settings)
        self._features = FeatureMemory()

    def canonical(self, choices: tuple[int, ...]) -> tuple[int, ...]:
        """The first encoding of the same cell."""
        return self._choices(same_cells(self.operations)[self._cell(choices)][0])

    def equivalents(self, choices: tuple[int, ...]) -> Sequence[tuple[int, ...]]:
        """All encodings of the same cell."""
        return [self._choices(cell) for cell in same_cells(self.operations)[self._cell(choices)]]

    def _cell(self, choices: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.operations[choice] for choice in choices)

    def _choices(self, cell: Sequence[str]) -> tuple[int, ...]:
        return tuple(self.operations.index(operation) for operation in cell)

    def build(
        self, architecture: Architecture, *, width: float = 1.0, resolution: int | None = None
    ) -> Network:
        """The layer graph; the network's input keeps its proportions at another resolution.

        Args:
            architecture: A point of this space.
            width: Multiplier of the channel numbers, which become multiples of 4.
            resolution: Shorter edge of the input in pixels; None for the space's own.

        Raises:
            ArchitectureError: If the architecture is not of this space.
        """
        self.check(architecture)
        cell = self._cell(architecture.choices)
        graph = Graph(shape_at(self.input_shape, width, resolution))
        last = "input"
        for stage in range(3):
            channels = scaled(self.channels * 2**stage, width)
            last = (
                _reduction(graph, f"reduce{stage}", last, channels)
                if stage
                else graph.convolve("stem", last, channels, 3)
            )
            for number in range(1, self.cells + 1):
                last = _cell_nodes(graph, f"stage{stage + 1}_cell{number}", last, cell)
        last = graph.activate("last_act", graph.normalise("last", last))
        return graph.network(last, self.classes)

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """The encoding, features of the cell and of the network, shape ``(k,)``; read-only.

        See :func:`search.cell_graph.cell_features` and :func:`search.graph_features.graph_features`.
        """
        return self._features.of(
            architecture,
            lambda a: [
                *self.encode(a),
                *cell_features(self._cell(a.choices)),
                *graph_features(self.build(a)),
            ],
        )


def _reduction(graph: Graph, name: str, source: str, channels: int) -> str:
    """The residual block with stride 2 between stages: no activation after its sum."""
    first = graph.activate(f"{name}_act1", source)
    inner = graph.convolve(f"{name}_conv1", first, channels, 3, stride=2)
    inner = graph.convolve(f"{name}_conv2", graph.activate(f"{name}_act2", inner), channels, 3)
    short = graph.add(
        f"{name}_short", Conv(channels, (1, 1), padding=(0,) * 4), graph.shrink(f"{name}_pool", source, 2)
    )
    return graph.total(name, [short, inner])


def _cell_nodes(graph: Graph, name: str, entry: str, cell: tuple[str, ...]) -> str:
    """One cell; a sum that several operations read is computed once."""
    found, output = steps(cell)
    made, sums = [entry], dict[Sources, str]()

    def total(sources: Sources) -> str:
        if sources not in sums:
            sums[sources] = graph.total(f"{name}_node{len(sums)}", [made[s] for s in sources])
        return sums[sources]

    for number, (operation, sources) in enumerate(found, start=1):
        read, step = total(sources), f"{name}_step{number}"
        if operation == "avg_pool_3x3":
            made.append(graph.avg_pool(step, read))
            continue
        kernel = 3 if operation == "nor_conv_3x3" else 1
        channels = graph.shape(entry)[0]
        made.append(graph.convolve(step, graph.activate(f"{step}_act", read), channels, kernel))
    return total(output) if output else graph.add(f"{name}_zero", Zero(), entry)
