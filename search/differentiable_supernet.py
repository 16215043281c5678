"""The network in which every edge of a cell is a mixture of all operations.

Liu, Simonyan, Yang 2019 (ICLR), "DARTS: Differentiable architecture search", section 2.2, with their cells or
in the macro-structure of NAS-Bench-201 (Dong and Yang 2020, figure 1).  All cells of a kind share a mixture.
Batch norms of operations have no scale of their own, which could undo the mixture's weights (appendix A.1.1
there).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search.cell_graph import EDGES
from search.darts_cell import NODES as DARTS_NODES
from search.differentiable_blocks import NODES, STAGES, CellBlocks, Selected
from search.differentiable_darts import EDGES as DARTS_EDGES
from search.differentiable_darts import DartsBlocks
from search.module import to_module
from search.network import Network, initial_weights

Terms = Sequence[tuple[int, Tensor | None]]
"""What an edge computes: operations by number with their weights; None for a weight of 1."""

Mixture = Sequence[Terms]
"""Terms of every edge, in the order of :data:`search.cell_graph.EDGES`, or of the edges of DARTS
(:data:`search.differentiable_darts.EDGES`), those of the normal cell first."""


@dataclass(frozen=True)
class Fixed:
    """An edge with one operation for good.

    Attributes:
        operation: Its number.
    """

    operation: int

    def terms(self) -> Terms:
        """The operation alone."""
        return [(self.operation, None)]


def terms_of(selected: Selected, edges: int) -> Mixture:
    """The mixture of one cell: nothing on edges that are not in it."""
    operations = dict(selected)
    return [Fixed(operations[edge]).terms() if edge in operations else [] for edge in range(edges)]


class MixedNetwork(nn.Module):
    """All networks of a cell space at once.

    Args:
        operations: Of every edge.
        seed: Initial weights follow from it.
    """

    def __init__(self, operations: tuple[str, ...], seed: int) -> None:
        super().__init__()
        self.operations = operations
        self._seeds = iter(range(seed << 20, (seed + 1) << 20))

    def learned(self) -> list[nn.Parameter]:
        """What training changes, in a fixed order."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """Logits ``(n, classes)`` of images ``(n, channels, height, width)``."""
        raise NotImplementedError

    def _module(self, network: Network) -> nn.Module:
        return to_module(network, initial_weights(network, next(self._seeds)))

    def _edge_modules(self, parts: Mapping[str, Network | None]) -> nn.ModuleDict:
        """Operations of an edge by name, without those that compute nothing."""
        return nn.ModuleDict({n: self._operation(part) for n, part in parts.items() if part is not None})

    def _operation(self, network: Network) -> nn.Module:
        module = self._module(network)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.requires_grad_(False)
                layer.bias.requires_grad_(False)
        return module

    def _edge(self, edge: nn.Module, value: Tensor, terms: Terms) -> Iterator[Tensor]:
        """What the operations of an edge make, weighted; ``none`` adds nothing."""
        made = dict(edge.named_children())
        for number, weight in terms:
            name = self.operations[number]
            if name == "none":
                continue
            result = made[name](value) if name in made else value  # a skip connection is its input
            yield result if weight is None else weight * result


class MixedCells(MixedNetwork):
    """Those of NAS-Bench-201.

    Args:
        blocks: Pieces of the space.
        seed: Initial weights follow from it.
    """

    def __init__(self, blocks: CellBlocks, seed: int) -> None:
        super().__init__(blocks.operations, seed)
        stem, first, second, tail = blocks.skeleton
        self.stem = self._module(stem)
        self.reductions = nn.ModuleList([self._module(first), self._module(second)])
        self.tail = self._module(tail)
        self.stages = nn.ModuleList(
            nn.ModuleList(self._cell(blocks, stage) for _ in range(blocks.cells)) for stage in STAGES
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _cell(self, blocks: CellBlocks, stage: int) -> nn.ModuleList:
        parts = {name: blocks.operation(stage, name) for name in self.operations}
        return nn.ModuleList(self._edge_modules(parts) for _ in EDGES)

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """See the base class."""
        last: Tensor = self.stem(images)
        for number, cells in enumerate(self.stages):
            if number:
                last = self.reductions[number - 1](last)
            for cell in _modules(cells):
                last = self._compute(cell, last, mixture)
        logits: Tensor = self.tail(last)
        return logits

    def _compute(self, cell: nn.Module, entry: Tensor, mixture: Mixture) -> Tensor:
        made = {0: entry}
        for node in NODES:
            summands = [
                term
                for (start, end), edge, terms in zip(EDGES, _modules(cell), mixture, strict=True)
                if end == node
                for term in self._edge(edge, made[start], terms)
            ]
            made[node] = torch.stack(summands).sum(0) if summands else torch.zeros_like(entry)
        return made[NODES[-1]]


class MixedDartsCells(MixedNetwork):
    """Those of DARTS: normal cells share one half of the mixture, reduction cells the other.

    Args:
        blocks: Pieces of the space.
        seed: Initial weights follow from it.
    """

    def __init__(self, blocks: DartsBlocks, seed: int) -> None:
        super().__init__(blocks.operations, seed)
        self._places = blocks.places
        self.stem = self._module(blocks.stem)
        self.entries = nn.ModuleList(
            nn.ModuleList(self._module(blocks.entry(place, number)) for number in (0, 1))
            for place in blocks.places
        )
        self.cells = nn.ModuleList(
            nn.ModuleList(
                self._edge_modules({name: blocks.operation(place, source, name) for name in self.operations})
                for source, _ in DARTS_EDGES
            )
            for place in blocks.places
        )
        self.tail = self._module(blocks.tail)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """See the base class."""
        stem: Tensor = self.stem(images)
        before = (stem, stem)
        count = len(DARTS_EDGES)
        for place, entries, cell in zip(
            self._places, _modules(self.entries), _modules(self.cells), strict=True
        ):
            terms = mixture[count:] if place.reduces else mixture[:count]
            inputs = [entry(value) for entry, value in zip(_modules(entries), before, strict=True)]
            before = (before[1], self._compute(cell, inputs, terms))
        logits: Tensor = self.tail(before[1])
        return logits

    def _compute(self, cell: nn.Module, made: list[Tensor], mixture: Mixture) -> Tensor:
        edges = list(zip(DARTS_EDGES, _modules(cell), mixture, strict=True))
        for node in DARTS_NODES:
            summands = [
                term
                for (source, end), edge, terms in edges
                if end == node
                for term in self._edge(edge, made[source], terms)
            ]
            made = [*made, torch.stack(summands).sum(0)]
        return torch.cat(made[2:], 1)


def _modules(module: nn.Module) -> Iterator[nn.Module]:
    return module.children()
