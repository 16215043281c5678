"""The pieces of networks of DARTS cells, and how their mixtures become cells.

Liu, Simonyan, Yang 2019 (ICLR), "DARTS: Differentiable architecture search", sections 2.1 and 2.4: a node is
the sum of operations on all nodes before it while they are mixed; in the cell that is derived it keeps the
two edges whose strongest operation is strongest.  Normal and reduction cells have architecture weights of
their own, edges 0 to 13 and 14 to 27.

Deviation: there is no operation ``none``.  What it is worth cannot be learnt (section 2.4 there), and a
derived cell never has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from results.errors import ConfigError
from results.records import Architecture
from search import darts_cell
from search.cell_networks import DartsNetworks, cells_of
from search.differentiable_blocks import KEPT, REPEATS, Block, Blocks, Selected, empty, piece, repeated
from search.graph import Graph
from search.network import Network, Shape
from search.space import SearchSpace
from search.spaces import cell as cell_space

EDGES = tuple((source, node) for node in darts_cell.NODES for source in range(node))
"""Source and node of the edges of one cell."""


@dataclass(frozen=True)
class Place:
    """One cell of the network.

    Attributes:
        reduces: Whether it is a reduction cell.
        inputs: Shapes of the two cells before.
        entry: Shape of what its edges read from those, with its channels.
        inner: Shape of its nodes.
    """

    reduces: bool
    inputs: tuple[Shape, Shape]
    entry: Shape
    inner: Shape

    @property
    def output(self) -> Shape:
        """Shape of the concatenation of its nodes."""
        return (len(darts_cell.NODES) * self.inner[0], *self.inner[1:])

    def edge(self, source: int) -> tuple[Shape, bool]:
        """What an edge reads, and whether it halves that."""
        return (self.entry, self.reduces) if source < 2 else (self.inner, False)


class DartsBlocks(Blocks):
    """Pieces of the networks of the DARTS cell space.

    Args:
        space: The space.

    Attributes:
        places: The cells in order.
        stem: Before them.
        tail: After them.

    Raises:
        ConfigError: For another space.
    """

    def __init__(self, space: SearchSpace) -> None:
        networks = space.networks if isinstance(space, cell_space.Space) else None
        if not isinstance(space, cell_space.Space) or not isinstance(networks, DartsNetworks):
            raise ConfigError(f"space {space.name!r} has no cells of DARTS")
        self.operations = networks.operations
        self.edges = 2 * len(EDGES)
        self.normal = range(len(EDGES))
        self.rivals = tuple(
            tuple(first + i for i, (_, end) in enumerate(EDGES) if end == node)
            for first in (0, len(EDGES))
            for node in darts_cell.NODES
            if node > KEPT
        )
        self.stem = _part(
            space.input_shape, lambda graph: graph.convolve("stem", "input", 3 * networks.channels, 3)
        )
        stem = self.stem.shapes[self.stem.output]
        self.places = _places(networks, stem)
        closed = Graph(self.places[-1].output).network("input", space.classes)
        self.tail = piece(closed, [node.name for node in closed.nodes], "input")

    def entry(self, place: Place, number: int) -> Network:
        """What an input of a cell goes through first."""
        return _part(
            place.inputs[number],
            lambda graph: darts_cell.build_input(
                graph, "input_", "input", place.entry[0], (place.entry[1], place.entry[2])
            ),
        )

    def operation(self, place: Place, source: int, name: str) -> Network | None:
        """One operation on an edge; None for one that computes nothing."""
        shape, halves = place.edge(source)
        if name == "skip_connect" and not halves:
            return None
        return _part(shape, lambda graph: darts_cell.build_edge(graph, "op", "input", name, halves))

    @cached_property
    def table(self) -> dict[str, Block]:
        """Every block that has to be measured, by name; equal pieces of several cells once."""
        parts: dict[str, Network] = {"stem": self.stem, "tail": self.tail}
        for place in self.places:
            for number, shape in enumerate(place.inputs):
                parts[_entry_name(shape, place)] = self.entry(place, number)
            for source in (0, 2):
                for name in self.operations:
                    operation = self.operation(place, source, name)
                    if operation is not None:
                        parts[_operation_name(place, source, name)] = operation
            parts[f"add_{_size(place.inner)}"] = _part(
                place.inner, lambda graph: graph.total("sum", ["input", "input"])
            )
            parts[f"concat_{_size(place.inner)}"] = _part(
                place.inner, lambda graph: graph.concat("concat", ["input"] * len(darts_cell.NODES))
            )
        blocks: dict[str, Block] = {}
        for name, part in parts.items():
            without = f"empty_{_size(part.input_shape)}"
            blocks.setdefault(without, empty(part.input_shape))
            keeps = part.shapes[part.output] == part.input_shape
            copies = REPEATS if keeps else 1
            blocks[name] = Block(repeated(part, copies), copies, without)
        return blocks

    def fixed_s(self, measured_s: Mapping[str, float]) -> float:
        """See the base class; with both inputs of every cell."""
        pieces = self.piece_s(measured_s)
        return self._around_s(measured_s, pieces) + sum(
            pieces[f"concat_{_size(place.inner)}"]
            + sum(pieces[_entry_name(shape, place)] for shape in place.inputs)
            for place in self.places
        )

    def edge_s(self, measured_s: Mapping[str, float]) -> NDArray[np.float64]:
        """See the base class; half of a node's addition belongs to each of its two edges."""
        pieces = self.piece_s(measured_s)
        times_s = np.zeros((self.edges, len(self.operations)))
        for place in self.places:
            first = place.reduces * len(EDGES)
            for edge, (source, _) in enumerate(EDGES, start=first):
                times_s[edge] += pieces[f"add_{_size(place.inner)}"] / KEPT
                times_s[edge] += [
                    pieces.get(_operation_name(place, source, name), 0.0) for name in self.operations
                ]
        for group in self.rivals:
            times_s[list(group)] *= KEPT / len(group)
        return times_s

    def total_s(self, architecture: Architecture, measured_s: Mapping[str, float]) -> float:
        """See the base class."""
        pieces = self.piece_s(measured_s)
        cells = cells_of(architecture.choices)
        total_s = self._around_s(measured_s, pieces)
        for place in self.places:
            cell = cells[place.reduces]
            ends = [end for a, b, first, second in cell for end in ((a, first), (b, second))]
            total_s += pieces[f"concat_{_size(place.inner)}"]
            total_s += len(cell) * pieces[f"add_{_size(place.inner)}"]
            total_s += sum(
                pieces[_entry_name(place.inputs[number], place)]
                for number in {source for source, _ in ends if source < 2}
            )
            total_s += sum(
                pieces.get(_operation_name(place, source, self.operations[o]), 0.0) for source, o in ends
            )
        return total_s

    def choices(self, selected: Selected) -> tuple[int, ...]:
        """What each node reads, and the operations on it."""
        choices: list[int] = []
        for first in (0, len(EDGES)):
            kept = [(*EDGES[edge - first], o) for edge, o in selected if 0 <= edge - first < len(EDGES)]
            nodes = ([(source, o) for source, end, o in kept if end == node] for node in darts_cell.NODES)
            choices += darts_cell.choices_of(tuple((a, b, oa, ob) for (a, oa), (b, ob) in nodes))
        return tuple(choices)

    def probabilities(self, shares: NDArray[np.float64]) -> list[list[float]]:
        """Of two inputs the product of the strengths of their edges; of an operation over all pairs."""
        rows: list[list[float]] = []
        for first in (0, len(EDGES)):
            for node in darts_cell.NODES:
                edges = [first + EDGES.index((source, node)) for source in range(node)]
                pairs = list(combinations(edges, KEPT))
                chances = np.array([np.prod(shares[list(pair)].max(axis=1)) for pair in pairs])
                chances /= chances.sum()
                rows.append(chances.tolist())
                rows += [
                    sum(p * shares[pair[side]] for p, pair in zip(chances, pairs, strict=True)).tolist()
                    for side in range(KEPT)
                ]
        return rows

    def _around_s(self, measured_s: Mapping[str, float], pieces: Mapping[str, float]) -> float:
        return measured_s[f"empty_{_size(self.stem.input_shape)}"] + pieces["stem"] + pieces["tail"]


def _places(networks: DartsNetworks, stem: Shape) -> tuple[Place, ...]:
    places: list[Place] = []
    before = (stem, stem)
    for level, reduces in networks.levels():
        channels, (_, *size) = networks.channels * 2**level, before[1]
        inner = [-(-edge // 2) for edge in size] if reduces else size
        places.append(Place(reduces, before, (channels, *size), (channels, *inner)))
        before = (before[1], places[-1].output)
    return tuple(places)


def _part(shape: Shape, build: Callable[[Graph], str]) -> Network:
    """What ``build`` adds to an input of this shape."""
    graph = Graph(shape)
    whole = graph.network(build(graph), 1)
    return piece(whole, [node.name for node in whole.nodes[:-2]], "input")


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _entry_name(shape: Shape, place: Place) -> str:
    return f"input_{_size(shape)}_to_{_size(place.entry)}"


def _operation_name(place: Place, source: int, name: str) -> str:
    shape, halves = place.edge(source)
    return f"{name}_{_size(shape)}" + ("_halved" if halves else "")
