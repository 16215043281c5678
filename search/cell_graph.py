"""The cell of NAS-Bench-201: four nodes, six edges with one operation each, and which cells are the same.

Dong and Yang 2020 (ICLR), "NAS-Bench-201: Extending the scope of reproducible neural architecture
search", section 2.1.  Node 0 is the cell's input, node 3 its output; a node is the sum of its edges.

Two cells are the same here if they compute the same sums of the same operations: edges without a way from
input to output through them do nothing, a skip connection is its input, nodes without names are
interchangeable, and a pooling (which has no weights) of the same values is one pooling.  Deviation from
the tables, which hold every encoding: a convolution of nothing but zeros, a constant there because of its
batch norm's bias, is zero here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import permutations, product

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""Operations of an edge, by the names and in the order of NAS-Bench-201."""

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""From node, to node, in the order in which the tables write them."""

WAYS = ((3,), (0, 4), (1, 5), (0, 2, 5))
"""Edges of each way from the cell's input to its output."""

Encoding = tuple[str, ...]
Sources = tuple[int, ...]
"""What a sum adds: 0 for the cell's input, i for the i-th of the operations; in order, repeats count."""

Steps = tuple[tuple[str, Sources], ...]
"""Operations with the sum that each reads; what an operation reads comes before it."""


def live(cell: Encoding) -> Encoding:
    """The cell with ``none`` on edges that no way from input to output goes through, shape ``(6,)``."""
    alive = {edge for way in WAYS if all(cell[e] != "none" for e in way) for edge in way}
    return tuple(operation if i in alive else "none" for i, operation in enumerate(cell))


def steps(cell: Encoding) -> tuple[Steps, Sources]:
    """What a cell computes: its operations, and those whose sum is its output (none: it is zero)."""
    sums: dict[int, Sources] = {0: (0,), 1: (), 2: (), 3: ()}
    found: list[tuple[str, Sources]] = []
    for (start, end), operation in zip(EDGES, live(cell), strict=True):
        added = sums[start]
        if operation not in ("none", "skip_connect"):
            step = (operation, added)
            if operation != "avg_pool_3x3" or step not in found:
                found.append(step)
                added = (len(found),)
            else:
                added = (found.index(step) + 1,)
        if operation != "none":
            sums[end] = tuple(sorted((*sums[end], *added)))
    return tuple(found), sums[3]


def key(cell: Encoding) -> tuple[Steps, Sources]:
    """Equal exactly for cells that are the same: the steps in a normal order.

    Steps are put in order by what they compute, written out as a tree; of steps that look alike there,
    all orders are tried and the least result taken (there are no more than six steps).
    """
    found, output = steps(cell)
    trees: list[str] = ["input"]
    for operation, sources in found:
        trees.append(f"{operation}({'+'.join(sorted(trees[s] for s in sources))})")
    alike: dict[tuple[int, str], list[int]] = {}
    for number in range(1, len(trees)):
        alike.setdefault((len(trees[number]), trees[number]), []).append(number)
    groups = [alike[look] for look in sorted(alike)]
    orders = product(*(permutations(group) for group in groups))
    return min(_renumbered(found, output, [n for part in order for n in part]) for order in orders)


def _renumbered(found: Steps, output: Sources, order: Sequence[int]) -> tuple[Steps, Sources]:
    new = {0: 0} | {number: i for i, number in enumerate(order, start=1)}

    def moved(sources: Sources) -> Sources:
        return tuple(sorted(new[s] for s in sources))

    return tuple((found[n - 1][0], moved(found[n - 1][1])) for n in order), moved(output)


@cache
def same_cells(operations: Encoding) -> dict[Encoding, tuple[Encoding, ...]]:
    """For every cell of these operations all that are the same, in lexicographic order of the options."""
    by_live: dict[Encoding, list[Encoding]] = {}
    for cell in product(operations, repeat=len(EDGES)):
        by_live.setdefault(live(cell), []).append(cell)
    classes: dict[tuple[Steps, Sources], list[Encoding]] = {}
    for alive, cells in by_live.items():
        classes.setdefault(key(alive), []).extend(cells)
    rank = {operation: i for i, operation in enumerate(operations)}
    ordered = (tuple(sorted(c, key=lambda cell: [rank[o] for o in cell])) for c in classes.values())
    return {cell: members for members in ordered for cell in members}


def cell_features(cell: Encoding) -> list[float]:
    """Of what a cell computes, equal for cells that are the same, shape ``(20,)``.

    Live operations by kind; ways from input to output, and whether one has skips alone; ways with 0, 1, 2
    and 3 convolutions; convolutions, wide convolutions and poolings on a way: most, fewest, all together;
    ways with a pooling; the largest number of equal summands.
    """
    found, output = steps(cell)
    count = Counter(operation for operation, _ in found)
    ways = list(_ways(found, output))
    convolutions = [way["nor_conv_1x1"] + way["nor_conv_3x3"] for way in ways]
    wide = [way["nor_conv_3x3"] for way in ways]
    pools = [way["avg_pool_3x3"] for way in ways]
    sums = [*(sources for _, sources in found), output]
    repeats = [sources.count(s) for sources in sums for s in sources]
    return [
        *(float(count[operation]) for operation in OPERATIONS[2:]),
        float(len(ways)),
        float(any(not way for way in ways)),
        *(float(convolutions.count(depth)) for depth in range(4)),
        *(number for numbers in (convolutions, wide, pools) for number in _spread(numbers)),
        float(sum(number > 0 for number in pools)),
        float(max(repeats, default=0)),
    ]


def _ways(found: Steps, sources: Sources) -> Iterator[Counter[str]]:
    """Operations on each way that leads from the cell's input into a sum."""
    for source in sources:
        if source == 0:
            yield Counter()
            continue
        operation, before = found[source - 1]
        for way in _ways(found, before):
            yield way + Counter([operation])


def _spread(numbers: Sequence[int]) -> tuple[float, float, float]:
    """Most, fewest and all together; 0 where there is no way."""
    return float(max(numbers, default=0)), float(min(numbers, default=0)), float(sum(numbers))
