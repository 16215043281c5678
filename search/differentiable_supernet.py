"""The network in which every edge of a cell is a mixture of all operations.

Liu, Simonyan, Yang 2019 (ICLR), "DARTS: Differentiable architecture search", section 2.2, in the
macro-structure of NAS-Bench-201 (Dong and Yang 2020, figure 1).  All cells share one mixture.  Batch norms of
operations have no scale of their own, which could undo the mixture's weights (appendix A.1.1 there).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search.cell_graph import EDGES
from search.differentiable_blocks import NODES, STAGES, CellBlocks
from search.module import to_module
from search.network import Network, initial_weights

Terms = Sequence[tuple[int, Tensor | None]]
"""What an edge computes: operations by number with their weights; None for a weight of 1."""

Mixture = Sequence[Terms]
"""Terms of every edge, in the order of :data:`search.cell_graph.EDGES`."""


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


class MixedNetwork(nn.Module):
    """All networks of a cell space at once.

    Args:
        blocks: Pieces of the space.
        seed: Initial weights follow from it.
    """

    def __init__(self, blocks: CellBlocks, seed: int) -> None:
        super().__init__()
        self.operations = blocks.operations
        self._seeds = iter(range(seed << 20, (seed + 1) << 20))
        stem, first, second, tail = blocks.skeleton
        self.stem = self._module(stem)
        self.reductions = nn.ModuleList([self._module(first), self._module(second)])
        self.tail = self._module(tail)
        self.stages = nn.ModuleList(
            nn.ModuleList(self._cell(blocks, stage) for _ in range(blocks.cells)) for stage in STAGES
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _module(self, network: Network) -> nn.Module:
        return to_module(network, initial_weights(network, next(self._seeds)))

    def _cell(self, blocks: CellBlocks, stage: int) -> nn.ModuleList:
        parts = {name: blocks.operation(stage, name) for name in self.operations}
        edges = [
            nn.ModuleDict({n: self._operation(part) for n, part in parts.items() if part is not None})
            for _ in EDGES
        ]
        return nn.ModuleList(edges)

    def _operation(self, network: Network) -> nn.Module:
        module = self._module(network)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.requires_grad_(False)
                layer.bias.requires_grad_(False)
        return module

    def learned(self) -> list[nn.Parameter]:
        """What training changes, in a fixed order."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """Logits ``(n, classes)`` of images ``(n, channels, height, width)``."""
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

    def _edge(self, edge: nn.Module, value: Tensor, terms: Terms) -> Iterator[Tensor]:
        """What the operations of an edge make, weighted; ``none`` adds nothing."""
        for number, weight in terms:
            name = self.operations[number]
            if name == "none":
                continue
            result = value if name == "skip_connect" else edge.get_submodule(name)(value)
            yield result if weight is None else weight * result


def _modules(module: nn.Module) -> Iterator[nn.Module]:
    return module.children()
