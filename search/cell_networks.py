"""Networks around searched cells: what a cell's choices are, which are the same, and what they build.

The two macro-structures of the space ``cell``, each with the same methods on plain choices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence

from search import darts_cell
from search.blocks import scaled
from search.cell_graph import EDGES, Sources, cell_features, same_cells, steps
from search.graph import Graph
from search.network import Conv, Zero
from search.space import Decision

Choices = tuple[int, ...]


class CellNetworks(ABC):
    """A kind of cell and the network that it is put into.

    Args:
        channels: Of the first cells.
        cells: How many, see the subclass.
        operations: That an edge may have.
    """

    def __init__(self, channels: int, cells: int, operations: tuple[str, ...]) -> None:
        self.channels = channels
        self.cells = cells
        self.operations = operations

    @abstractmethod
    def decisions(self) -> list[Decision]:
        """The choices of the micro-structure."""

    @abstractmethod
    def equivalents(self, choices: Choices) -> list[Choices]:
        """Encodings of the same network, see :meth:`search.space.SearchSpace.equivalents`."""

    @abstractmethod
    def canonical(self, choices: Choices) -> Choices:
        """The encoding that stands for all of the same network."""

    @abstractmethod
    def neighbours(self, choices: Choices) -> Iterable[Choices] | None:
        """Canonical encodings one change away; None where all single changes are to be listed."""

    @abstractmethod
    def build(self, graph: Graph, choices: Choices, width: float) -> str:
        """Adds all layers before global pooling, with channels times ``width``; the last one's name."""

    @abstractmethod
    def features(self, choices: Choices) -> list[float]:
        """Numbers about the cells, equal for all encodings of a network."""


class NasBench201Networks(CellNetworks):
    """NAS-Bench-201: three stages of ``cells`` equal cells (Dong and Yang 2020, figure 1)."""

    def decisions(self) -> list[Decision]:
        """One operation per edge."""
        return [Decision(f"edge_{start}_{end}", self.operations) for start, end in EDGES]

    def equivalents(self, choices: Choices) -> list[Choices]:
        """All encodings of the same cell."""
        return [self._choices(cell) for cell in same_cells(self.operations)[self.cell(choices)]]

    def canonical(self, choices: Choices) -> Choices:
        """The first encoding of the same cell."""
        return self._choices(same_cells(self.operations)[self.cell(choices)][0])

    def neighbours(self, choices: Choices) -> Iterable[Choices] | None:
        """None: there are few."""
        return None

    def cell(self, choices: Sequence[int]) -> tuple[str, ...]:
        """Operations of the edges."""
        return tuple(self.operations[choice] for choice in choices)

    def _choices(self, cell: Sequence[str]) -> Choices:
        return tuple(self.operations.index(operation) for operation in cell)

    def build(self, graph: Graph, choices: Choices, width: float) -> str:
        """Stem, stages with residual reductions between them, batch norm and ReLU."""
        last = graph.convolve("stem", "input", scaled(self.channels, width), 3)
        for stage in range(3):
            if stage:
                last = _reduction(graph, f"reduce{stage}", last, scaled(self.channels * 2**stage, width))
            for number in range(1, self.cells + 1):
                last = _cell_nodes(graph, f"stage{stage + 1}_cell{number}", last, self.cell(choices))
        return graph.activate("last_act", graph.normalise("last", last))

    def features(self, choices: Choices) -> list[float]:
        """See :func:`search.cell_graph.cell_features`."""
        return cell_features(self.cell(choices))


class DartsNetworks(CellNetworks):
    """DARTS: ``cells`` cells in all, those at one and two thirds reductions (Liu et al. 2019, appendix A)."""

    def decisions(self) -> list[Decision]:
        """Per cell and node which two it reads, and the operations on them."""
        return [
            decision
            for kind in ("normal", "reduction")
            for node in darts_cell.NODES
            for decision in (
                Decision(f"{kind}_node{node}_inputs", tuple(f"{a}+{b}" for a, b in darts_cell.pairs(node))),
                Decision(f"{kind}_node{node}_first", self.operations),
                Decision(f"{kind}_node{node}_second", self.operations),
            )
        ]

    def equivalents(self, choices: Choices) -> list[Choices]:
        """One of the two cells with its nodes in every order, the other as it is."""
        normal, reduction = cells_of(choices)
        same = [(cell, reduction) for cell in darts_cell.relabelled(normal)]
        same += [(normal, cell) for cell in darts_cell.relabelled(reduction)]
        return [_joined(*pair) for pair in dict.fromkeys(same)]

    def canonical(self, choices: Choices) -> Choices:
        """Both cells in normal form."""
        normal, reduction = cells_of(choices)
        return _joined(darts_cell.normal_form(normal), darts_cell.normal_form(reduction))

    def neighbours(self, choices: Choices) -> Iterable[Choices] | None:
        """One change in one of the cells."""
        normal, reduction = cells_of(choices)
        count = len(self.operations)
        return [
            *(_joined(cell, reduction) for cell in darts_cell.single_changes(normal, count)),
            *(_joined(normal, cell) for cell in darts_cell.single_changes(reduction, count)),
        ]

    def build(self, graph: Graph, choices: Choices, width: float) -> str:
        """Stem of three times the channels, then cells that read the two before them."""
        normal, reduction = cells_of(choices)
        stem = graph.convolve("stem", "input", 3 * scaled(self.channels, width), 3)
        before = (stem, stem)
        for number, (level, reduces) in enumerate(self.levels()):
            name, channels = f"cell{number + 1}", scaled(self.channels * 2**level, width)
            cell = reduction if reduces else normal
            inputs = _inputs(graph, name, before, cell, channels)
            output = darts_cell.build_cell(
                graph, name, inputs, cell, operations=self.operations, reduction=reduces
            )
            before = (before[1], output)
        return before[1]

    def levels(self) -> list[tuple[int, bool]]:
        """Of each cell how often the channels are doubled, its own doubling included, and whether it does."""
        doubles = [number in (self.cells // 3, 2 * self.cells // 3) for number in range(self.cells)]
        return [(sum(doubles[: number + 1]), here) for number, here in enumerate(doubles)]

    def features(self, choices: Choices) -> list[float]:
        """How often each operation occurs in each cell."""
        numbers: list[float] = []
        for cell in cells_of(choices):
            count = Counter(operation for node in cell for operation in node[2:])
            numbers += [float(count[operation]) for operation in range(len(self.operations))]
        return numbers


def cells_of(choices: Choices) -> tuple[darts_cell.Cell, darts_cell.Cell]:
    """The normal and the reduction cell of DARTS."""
    middle = len(choices) // 2
    return darts_cell.cell_of(choices[:middle]), darts_cell.cell_of(choices[middle:])


def _joined(normal: darts_cell.Cell, reduction: darts_cell.Cell) -> Choices:
    return (*darts_cell.choices_of(normal), *darts_cell.choices_of(reduction))


def _inputs(
    graph: Graph, name: str, before: tuple[str, str], cell: darts_cell.Cell, channels: int
) -> tuple[str, str]:
    """The two cells before with the channels and size of this one; what no node reads is left out."""
    _, *size = graph.shape(before[1])
    first, second = (
        darts_cell.build_input(graph, f"{name}_input{place}", source, channels, (size[0], size[1]))
        if any(place in node[:2] for node in cell)
        else source
        for place, source in enumerate(before)
    )
    return first, second


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
