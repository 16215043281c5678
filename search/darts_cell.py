"""The cell of DARTS: four nodes, each the sum of two operations on earlier nodes; which cells are the same.

Liu, Simonyan, Yang 2019 (ICLR), "DARTS: Differentiable architecture search", section 2.1 and appendix A:
inputs 0 and 1 are the outputs of the two cells before, nodes 2 to 5 read two different ones of those before
them, and the output is the concatenation of the four nodes.  As in the paper's derived cells, ``none`` is no
operation.

Two cells are the same if one is the other with its nodes in another order: the channels of the output come in
another order then, which the layers after it do not care about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import combinations, permutations

from search.graph import Graph

OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""Operations of an edge, by the names and in the order of DARTS."""

NODES = (2, 3, 4, 5)
CellNode = tuple[int, int, int, int]
"""What a node reads, the smaller first, and the numbers of the operations on them."""

Cell = tuple[CellNode, ...]


def pairs(node: int) -> list[tuple[int, int]]:
    """What a node may read."""
    return list(combinations(range(node), 2))


@lru_cache(maxsize=100_000)
def normal_form(cell: Cell) -> Cell:
    """The least of all cells that are the same."""
    return min(relabelled(cell))


def relabelled(cell: Cell) -> Iterator[Cell]:
    """The cell with its nodes in every order in which each reads only earlier ones; itself is the first."""
    for order in permutations(range(4)):
        new = {0: 0, 1: 1} | {old + 2: i for i, old in enumerate(order, start=2)}
        nodes = tuple(_moved(cell[old], new) for old in order)
        if all(node[1] < place for place, node in zip(NODES, nodes, strict=True)):
            yield nodes


def _moved(node: CellNode, new: dict[int, int]) -> CellNode:
    a, b, operation_a, operation_b = node
    if new[a] < new[b]:
        return new[a], new[b], operation_a, operation_b
    return new[b], new[a], operation_b, operation_a


@lru_cache(maxsize=4096)
def single_changes(cell: Cell, operations: int) -> tuple[Cell, ...]:
    """Normal forms of the other cells with one operation, or what one node reads, changed; each once.

    Changes of what is read are made in every order of the nodes, so that each can be taken back.
    """
    found: dict[Cell, None] = {}
    for place, (a, b, first, second) in enumerate(cell):
        for operation in range(operations):
            for node in ((a, b, operation, second), (a, b, first, operation)):
                found[normal_form((*cell[:place], node, *cell[place + 1 :]))] = None
    for same in dict.fromkeys(relabelled(cell)):
        for place, (_, _, first, second) in enumerate(same):
            for a, b in pairs(NODES[place]):
                found[normal_form((*same[:place], (a, b, first, second), *same[place + 1 :]))] = None
    return tuple(other for other in found if other != normal_form(cell))


@cache
def choices_of(cell: Cell) -> tuple[int, ...]:
    """The cell as choices: per node the pair that it reads, then the operations on each."""
    return tuple(
        choice
        for place, (a, b, first, second) in zip(NODES, cell, strict=True)
        for choice in (pairs(place).index((a, b)), first, second)
    )


def cell_of(choices: Sequence[int]) -> Cell:
    """Inverse of :func:`choices_of`."""
    return tuple(
        (*pairs(place)[choices[3 * i]], choices[3 * i + 1], choices[3 * i + 2])
        for i, place in enumerate(NODES)
    )


def build_cell(
    graph: Graph,
    name: str,
    before: tuple[str, str],
    cell: Cell,
    *,
    operations: Sequence[str],
    reduction: bool,
) -> str:
    """Adds a cell; its inputs have the channels of one of its nodes."""
    made = list(before)
    for place, (a, b, first, second) in zip(NODES, cell, strict=True):
        ends = [
            build_edge(
                graph, f"{name}_node{place}_{side}", made[source], operations[o], reduction and source < 2
            )
            for side, source, o in (("a", a, first), ("b", b, second))
        ]
        made.append(graph.total(f"{name}_node{place}", ends))
    return graph.concat(f"{name}_concat", made[2:])


def build_edge(graph: Graph, name: str, source: str, kind: str, halves: bool) -> str:
    """One operation; with stride 2 where it reads an input of a reduction cell."""
    stride = 2 if halves else 1
    match kind:
        case "skip_connect":
            return halved(graph, name, source, graph.shape(source)[0]) if halves else source
        case "max_pool_3x3":
            return graph.max_pool(name, source, stride)
        case "avg_pool_3x3":
            return graph.avg_pool(name, source, stride)
        case _:
            return _convolutions(graph, name, source, kind, stride)


def _convolutions(graph: Graph, name: str, source: str, kind: str, stride: int) -> str:
    """Depthwise and 1 x 1 convolution: dilated by 2 once, or as they are twice."""
    kernel, channels = int(kind[-1]), graph.shape(source)[0]
    last = source
    for number in (1, 2) if kind.startswith("sep") else (1,):
        part = f"{name}_{number}"
        last = graph.activate(f"{part}_act", last)
        last = graph.depthwise_only(
            f"{part}_depthwise",
            last,
            kernel,
            stride=stride if number == 1 else 1,
            dilation=2 - kind.startswith("sep"),
        )
        last = graph.convolve(part, last, channels)
    return last


def build_input(graph: Graph, name: str, source: str, channels: int, size: tuple[int, int]) -> str:
    """What a cell reads, with the channels of the cell and the size of the latest of the two."""
    if graph.shape(source)[1:] != size:
        return halved(graph, name, source, channels)
    return graph.convolve(name, graph.activate(f"{name}_act", source), channels)


def halved(graph: Graph, name: str, source: str, channels: int) -> str:
    """ReLU, means of 2 x 2 squares, 1 x 1 convolution, batch norm.

    Instead of DARTS's factorised reduction, two 1 x 1 convolutions with stride 2 of which one reads the image
    without its first row and column: exchange formats would pay for that crop, and means lose nothing either.
    """
    active = graph.activate(f"{name}_act", source)
    return graph.convolve(name, graph.shrink(f"{name}_means", active, 2), channels)
