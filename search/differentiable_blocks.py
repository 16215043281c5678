"""The pieces of networks of searched cells: what is mixed in training and measured in a profile.

:class:`Blocks` is what a differentiable search knows of a space; :class:`CellBlocks` are those of
NAS-Bench-201, :mod:`search.differentiable_darts` has those of DARTS.

Pieces are cut out of networks that the space itself builds, so they cannot differ from what a candidate
consists of.  A piece has one input and one output.

The time of a network is modelled as the sum of its pieces' times (ProxylessNAS: Cai, Zhu, Han 2019 (ICLR),
section 3.3; FBNet: Wu et al. 2019 (CVPR), section 3.2).  What a table of that kind leaves out (fusion across
pieces, caches, the scheduler) is why the network that a search finds is measured as a whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from results.errors import ConfigError
from results.records import Architecture
from search.cell_graph import EDGES, steps
from search.cell_networks import NasBench201Networks
from search.network import Activation, Add, Network, Node, Shape
from search.space import SearchSpace
from search.spaces import cell as cell_space

REPEATS = 4
"""Copies of an operation one after the other in the network that is measured for it: what a runtime does to
its input and output once (another memory layout) then counts for little."""

STAGES = (1, 2, 3)

NODES = tuple(sorted({end for _, end in EDGES}))
"""Nodes of a cell that are sums; the last is its output."""


@dataclass(frozen=True)
class Block:
    """A network that is measured for a piece.

    Attributes:
        network: What is measured.
        copies: How often it holds the piece.
        empty: Name of the block with the same input that computes next to nothing (a ReLU: runtimes refuse
            less), whose time is what calling the runtime takes; None for such a block itself.
    """

    network: Network
    copies: int = 1
    empty: str | None = None


def piece(network: Network, names: Sequence[str], source: str) -> Network:
    """The part of a network made of these nodes, which read ``source`` and each other.

    Raises:
        ArchitectureError: If they read anything else.
    """
    chosen = set(names)
    nodes = tuple(
        Node(n.name, n.layer, tuple("input" if i == source else i for i in n.inputs))
        for n in network.nodes
        if n.name in chosen
    )
    return Network(network.shapes[source], nodes)


def empty(shape: Shape) -> Block:
    """The block that computes next to nothing on an input of this shape."""
    return Block(Network(shape, (Node("relu", Activation("relu"), ("input",)),)))


def repeated(network: Network, copies: int) -> Network:
    """A network that keeps the shape of its input, several times in a row."""
    nodes: list[Node] = []
    last = "input"
    for copy in range(copies):
        new = {"input": last} | {n.name: f"{n.name}_{copy}" for n in network.nodes}
        nodes += [Node(new[n.name], n.layer, tuple(new[i] for i in n.inputs)) for n in network.nodes]
        last = nodes[-1].name
    return Network(network.input_shape, tuple(nodes))


Selected = tuple[tuple[int, int], ...]
"""Edges that stay, in order, and the number of the operation of each."""

KEPT = 2
"""Rival edges that stay."""


class Blocks(ABC):
    """Pieces of the networks of a cell space, and how mixtures become cells of it.

    Attributes:
        operations: Of every edge.
        edges: How many are mixed.
        rivals: Edges of which only :data:`KEPT` stay, those with the greatest share of an operation
            (DARTS, section 2.4); an edge that is in no such group stays.
        normal: Edges in which skip connections are counted.
    """

    operations: tuple[str, ...]
    edges: int
    rivals: tuple[tuple[int, ...], ...] = ()
    normal: range

    @property
    @abstractmethod
    def table(self) -> Mapping[str, Block]:
        """Every block that has to be measured, by name."""

    @abstractmethod
    def fixed_s(self, measured_s: Mapping[str, float]) -> float:
        """Time of everything that is not searched [s], the runtime's call included."""

    @abstractmethod
    def edge_s(self, measured_s: Mapping[str, float]) -> NDArray[np.float64]:
        """Expected time of each operation on each edge, all cells together [s], ``(edges, operations)``.

        Of rivals, all count with the chance of one of them to stay, if all are alike.
        """

    @abstractmethod
    def total_s(self, architecture: Architecture, measured_s: Mapping[str, float]) -> float:
        """Sum of the pieces of a network [s]: every operation and addition that is really in it."""

    @abstractmethod
    def choices(self, selected: Selected) -> tuple[int, ...]:
        """The cell as choices of the space."""

    @abstractmethod
    def probabilities(self, shares: NDArray[np.float64]) -> list[list[float]]:
        """Of each option of each decision of the space, from the shares ``(edges, operations)``."""

    def piece_s(self, measured_s: Mapping[str, float]) -> dict[str, float]:
        """Time of each piece [s] from the times of the blocks [s]; not below 0.

        Raises:
            ConfigError: If a block was not measured.
        """
        missing = sorted(self.table.keys() - measured_s.keys())
        if missing:
            raise ConfigError(f"the profile has no time of block {missing[0]!r} and {len(missing) - 1} more")
        return {
            name: max(0.0, measured_s[name] - measured_s[block.empty]) / block.copies
            for name, block in self.table.items()
            if block.empty is not None
        }

    def select(self, shares: NDArray[np.float64]) -> Selected:
        """Of each edge the operation with the greatest share; of rivals, the edges where that is greatest."""
        strengths = shares.max(axis=1)
        kept = [sorted(group, key=lambda edge: -strengths[edge])[:KEPT] for group in self.rivals]
        return self.cell(shares.argmax(axis=1).tolist(), kept)

    def draw(self, shares: NDArray[np.float64], rng: np.random.Generator) -> Selected:
        """Operations drawn by their shares; of rivals, edges drawn by the greatest share of each."""
        operations = [int(rng.choice(len(row), p=row / row.sum())) for row in shares]
        kept = []
        for group in self.rivals:
            strengths = shares[list(group)].max(axis=1)
            kept.append(rng.choice(group, size=KEPT, replace=False, p=strengths / strengths.sum()).tolist())
        return self.cell(operations, kept)

    def cell(self, operations: Sequence[int], kept: Sequence[Sequence[int]] = ()) -> Selected:
        """Every edge with its operation, without the rivals that are not kept.

        Args:
            operations: Of each edge.
            kept: Of each group of rivals, the edges that stay.
        """
        dropped = {edge for group in self.rivals for edge in group}.difference(*kept)
        return tuple((edge, o) for edge, o in enumerate(operations) if edge not in dropped)

    def alone(self, selected: Selected) -> NDArray[np.float64]:
        """Shares whose expected time is that of one cell, shape ``(edges, operations)``."""
        chances = np.ones(self.edges)
        for group in self.rivals:
            chances[list(group)] = KEPT / len(group)
        shares = np.zeros((self.edges, len(self.operations)))
        for edge, operation in selected:
            shares[edge, operation] = 1.0 / chances[edge]
        return shares


class CellBlocks(Blocks):
    """Pieces of the networks of the NAS-Bench-201 cell space.

    Args:
        space: The space.

    Raises:
        ConfigError: For another space.
    """

    def __init__(self, space: SearchSpace) -> None:
        networks = space.networks if isinstance(space, cell_space.Space) else None
        if not isinstance(space, cell_space.Space) or not isinstance(networks, NasBench201Networks):
            raise ConfigError(f"space {space.name!r} has no cells of NAS-Bench-201")
        self.operations = networks.operations
        self.edges = len(EDGES)
        self.normal = range(self.edges)
        self.cells = networks.cells
        # With all operations, also where the study searches some of them only.
        self._full = cell_space.Space(
            input_shape=space.input_shape,
            classes=space.classes,
            channels=networks.channels,
            cells=networks.cells,
        )

    @cached_property
    def skeleton(self) -> tuple[Network, Network, Network, Network]:
        """Stem, the two reductions, and everything after the last cell."""
        whole = self._with("skip_connect")  # a cell that is its input adds no node
        names = [node.name for node in whole.nodes]
        cut = [names.index("reduce1_act1"), names.index("reduce2_act1"), names.index("last_norm")]
        parts = [names[: cut[0]], names[cut[0] : cut[1]], names[cut[1] : cut[2]], names[cut[2] :]]
        sources = ["input", *(part[-1] for part in parts[:3])]
        stem, first, second, tail = (piece(whole, *each) for each in zip(parts, sources, strict=True))
        return stem, first, second, tail

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """What the cells of each stage take and make."""
        return tuple(part.shapes[part.output] for part in self.skeleton[:3])

    def operation(self, stage: int, name: str) -> Network | None:
        """One operation of a stage's edge; None for ``none`` and ``skip_connect``, which compute nothing."""
        if name in ("none", "skip_connect"):
            return None
        whole = self._with(name)
        names = [n.name for n in whole.nodes if n.name.startswith(f"stage{stage}_cell1_")]
        first = next(n for n in whole.nodes if n.name in names)
        return piece(whole, names, first.inputs[0])

    def _with(self, operation: str) -> Network:
        return self._full.build(self._full.from_options({"edge_0_3": operation}))

    @cached_property
    def table(self) -> dict[str, Block]:
        """Every block that has to be measured, by name."""
        blocks: dict[str, Block] = {}
        for name, shape in {"image": self.skeleton[0].input_shape, **self._stage_shapes}.items():
            blocks[f"empty_{name}"] = empty(shape)
        places = ("image", "stage1", "stage2", "stage3")
        for name, place, part in zip(
            ("stem", "reduce1", "reduce2", "tail"), places, self.skeleton, strict=True
        ):
            blocks[name] = Block(part, empty=f"empty_{place}")
        for stage, shape in zip(STAGES, self.shapes, strict=True):
            add = Network(shape, (Node("sum", Add(), ("input", "input")),))
            parts = [("add", add), *((o, self.operation(stage, o)) for o in self.operations)]
            for name, operation in parts:
                if operation is not None:
                    network = repeated(operation, REPEATS)
                    blocks[f"stage{stage}_{name}"] = Block(network, REPEATS, f"empty_stage{stage}")
        return blocks

    @property
    def _stage_shapes(self) -> dict[str, Shape]:
        return {f"stage{stage}": shape for stage, shape in zip(STAGES, self.shapes, strict=True)}

    def fixed_s(self, measured_s: Mapping[str, float]) -> float:
        """Time of everything that is no cell [s], the runtime's call included."""
        pieces = self.piece_s(measured_s)
        return measured_s["empty_image"] + sum(pieces[n] for n in ("stem", "reduce1", "reduce2", "tail"))

    def edge_s(self, measured_s: Mapping[str, float]) -> NDArray[np.float64]:
        """See the base class; all edges are alike.

        With the addition of its result to those of other edges; of a node's edges one needs none, which
        counts a cell three additions too many, the same for all cells but those with dead nodes.
        """
        pieces = self.piece_s(measured_s)
        times_s = np.array(
            [
                0.0
                if name == "none"
                else self.cells
                * sum(pieces.get(f"stage{s}_{name}", 0.0) + pieces[f"stage{s}_add"] for s in STAGES)
                for name in self.operations
            ]
        )
        return np.tile(times_s, (self.edges, 1))

    def choices(self, selected: Selected) -> tuple[int, ...]:
        """The operation of each edge."""
        return tuple(operation for _, operation in selected)

    def probabilities(self, shares: NDArray[np.float64]) -> list[list[float]]:
        """The shares: every edge is a decision."""
        return [[float(share) for share in row] for row in shares]

    def total_s(self, architecture: Architecture, measured_s: Mapping[str, float]) -> float:
        """Sum of the pieces of a network [s]: every operation and addition that is really in it."""
        pieces = self.piece_s(measured_s)
        found, output = steps(tuple(self.operations[c] for c in architecture.choices))
        sums = {sources for _, sources in found} | {output}
        additions = sum(max(0, len(sources) - 1) for sources in sums)
        one_of_each = (
            additions * pieces[f"stage{stage}_add"] + sum(pieces[f"stage{stage}_{name}"] for name, _ in found)
            for stage in STAGES
        )
        return self.fixed_s(measured_s) + self.cells * sum(one_of_each)
