"""NAS-Bench-201 as a search space whose trials are answered from the published tables.

Cells (Dong and Yang 2020, ICLR): four nodes, six edges, one of five operations per edge.  Accuracies and
latencies were published for all 15,625 of them (``data/README.md`` beside the table says by whom), so a
strategy can be tried without training anything.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from results.records import (
    Architecture,
    Artifact,
    Conditions,
    Environment,
    Evaluation,
    Limit,
    Measurement,
    Metric,
    Plan,
    Problem,
    RanOn,
    Score,
    Session,
    Target,
    Trial,
)
from results.statistics import decide
from search.network import Activation, Add, BatchNorm, Conv, Dense, GlobalPool, Network, Node
from search.space import Decision, SearchSpace

TABLE = Path(__file__).parents[2] / "shared" / "data" / "nb201_cifar10_boards.parquet"

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""From node, to node, in the order of the table's ``op_codes``."""

PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))
"""Edges of each way from the cell's input to its output."""

STAGES = ((16, 32), (32, 16), (64, 8))
"""Channels and resolution of the three stages of five cells each."""

EXAMPLES = 10_000
"""Images of the CIFAR-10 test split behind each accuracy."""


class TableSpace(SearchSpace):
    """The space of NAS-Bench-201 with features of the computation graph."""

    def __init__(self) -> None:
        edges = [Decision(f"edge_{a}_{b}", OPERATIONS) for a, b in EDGES]
        super().__init__("nas_bench_201", edges)

    def build(
        self, architecture: Architecture, *, width: float = 1.0, resolution: int | None = None
    ) -> Network:
        """The published macro-structure around the cell.

        The layer graph has no average pooling: a pooling edge becomes a depthwise 3x3 convolution, which
        moves the same data; MACs of the convolutions are those of the published networks.
        """
        self.check(architecture)
        edge = resolution or 32
        return Network((3, edge, edge), tuple(_nodes(live_operations(architecture), width)))

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """Of the live graph, equal for isomorphic cells: operations, MACs, and what lies on its paths."""
        return _features(architecture.choices)

    def structure(self, architecture: Architecture) -> NDArray[np.float64]:
        """How often each sequence of operations leads from input to output, shape ``(40,)``."""
        return _path_counts(architecture.choices)


def live_operations(architecture: Architecture) -> tuple[str, ...]:
    """Operations per edge, with ``none`` for edges on no way from input to output, shape ``(6,)``."""
    choices = architecture.choices
    alive = {edge for path in PATHS if all(choices[e] for e in path) for edge in path}
    return tuple(OPERATIONS[c] if i in alive else "none" for i, c in enumerate(choices))


@functools.cache
def _features(choices: tuple[int, ...]) -> NDArray[np.float64]:
    live = live_operations(Architecture("", choices))
    paths = [[live[edge] for edge in path] for path in PATHS if all(live[edge] != "none" for edge in path)]
    conv = [sum("conv" in operation for operation in path) for path in paths]
    wide = [path.count("nor_conv_3x3") for path in paths]
    pool = [path.count("avg_pool_3x3") for path in paths]
    row = (
        *(float(live.count(operation)) for operation in OPERATIONS[1:]),
        float(9 * live.count("nor_conv_3x3") + live.count("nor_conv_1x1")),  # MACs of a cell / (pixels C^2)
        float(len(paths)),
        float(any(set(path) == {"skip_connect"} for path in paths)),
        *(float(conv.count(depth)) for depth in range(4)),
        *(summary for counts in (conv, wide, pool) for summary in _spread(counts)),
        float(sum(count > 0 for count in pool)),
    )
    return np.array(row)


@functools.cache
def _path_counts(choices: tuple[int, ...]) -> NDArray[np.float64]:
    """Counts by the operations on the way, skips left out (path encoding: White et al. 2021, BANANAS)."""
    counts = dict.fromkeys(
        (way for length in range(4) for way in itertools.product((2, 3, 4), repeat=length)), 0.0
    )
    for path in PATHS:
        if all(choices[edge] for edge in path):
            counts[tuple(choices[edge] for edge in path if choices[edge] > 1)] += 1.0
    return np.array(list(counts.values()))


def _spread(counts: Sequence[int]) -> tuple[float, float, float]:
    """Longest, shortest and all together; 0 where there is no path."""
    return float(max(counts, default=0)), float(min(counts, default=0)), float(sum(counts))


# --------------------------------------------------------------------------- layer graph


def _nodes(live: Sequence[str], width: float) -> Iterator[Node]:
    channels = [max(1, round(c * width)) for c, _ in STAGES]
    yield Node("stem", Conv(channels[0]), ("input",))
    yield Node("stem_norm", BatchNorm(), ("stem",))
    current = "stem_norm"
    for stage, count in enumerate(channels):
        if stage:
            name = f"reduce{stage}"
            yield Node(name, Conv(count, stride=(2, 2)), (current,))
            yield Node(f"{name}_norm", BatchNorm(), (name,))
            current = f"{name}_norm"
        for cell in range(5):
            for node in _cell(live, f"s{stage}c{cell}", current, count):
                yield node
                current = node.name
    yield Node("pool", GlobalPool(), (current,))
    yield Node("classifier", Dense(10), ("pool",))


def _cell(live: Sequence[str], name: str, entry: str, channels: int) -> Iterator[Node]:
    """Nodes of one cell, the output last; a cell without a live path passes its input on."""
    at = {0: entry}
    for to in (1, 2, 3):
        terms = []
        for (start, end), operation in zip(EDGES, live, strict=True):
            if end == to and operation != "none":
                nodes = list(_edge(operation, f"{name}e{start}{end}", at[start], channels))
                yield from nodes
                terms.append(nodes[-1].name if nodes else at[start])
        for i, term in enumerate(terms[1:]):
            total = f"{name}n{to}a{i}"
            yield Node(total, Add(), (terms[0], term))
            terms[0] = total
        if terms:
            at[to] = terms[0]
    if at.get(3, entry) != entry and at[3] in (at.get(1), at.get(2)):  # so that the output comes last
        yield Node(f"{name}out", Activation(), (at[3],))


def _edge(operation: str, name: str, entry: str, channels: int) -> Iterator[Node]:
    if operation == "skip_connect":
        return
    if operation == "avg_pool_3x3":
        yield Node(name, Conv(channels, groups=channels), (entry,))
        return
    kernel, pad = (3, 1) if operation == "nor_conv_3x3" else (1, 0)
    yield Node(f"{name}relu", Activation(), (entry,))
    yield Node(name, Conv(channels, (kernel, kernel), padding=(pad,) * 4), (f"{name}relu",))
    yield Node(f"{name}norm", BatchNorm(), (name,))


# --------------------------------------------------------------------------- answers


class Table:
    """Answers trials from published columns, measuring before "training" as the real loop does.

    Args:
        accuracy: Column with the accuracy in per cent.
        costs: Columns of measured costs, in thousandths of an SI unit (ms, mJ); one target each.
        limits: Greatest cost allowed [s or J], by column.
        file: The table.
    """

    def __init__(
        self,
        costs: Sequence[str],
        *,
        accuracy: str = "cifar10_test_acc_200ep",
        limits: Mapping[str, float] | None = None,
        file: Path = TABLE,
    ) -> None:
        self.space = TableSpace()
        frame = pd.read_parquet(file)
        self.frame = frame.set_index(
            pd.Index([self.space.architecture([int(code) for code in row]) for row in frame["op_codes"]])
        )
        self.errors = 1.0 - self.frame[accuracy].to_numpy(np.float64) / 100
        self.costs = self.frame[list(costs)].to_numpy(np.float64) / 1000
        self._row = {architecture: i for i, architecture in enumerate(self.frame.index)}
        self.targets = tuple(Target(column.rsplit("_", 1)[0], "tflite") for column in costs)
        self.metrics = tuple(Metric("latency_p50", (target.name,)) for target in self.targets)
        by_column = dict(zip(costs, self.metrics, strict=True))
        self.limits = tuple(Limit(by_column[column], upper) for column, upper in (limits or {}).items())

    def problem(self, *, cost_objectives: bool = True) -> Problem:
        """Accuracy, the costs where wished, and the limits."""
        costs = self.metrics if cost_objectives else ()
        return Problem((Metric("accuracy", maximise=True), *costs), self.limits)

    def row(self, architecture: Architecture) -> int:
        """Row of an architecture in :attr:`errors` and :attr:`costs`."""
        return self._row[architecture]

    def evaluate(self, trial: Trial) -> Evaluation:
        """The published figures; infeasible or failed trials are not trained."""
        row = self.row(trial.proposal.architecture)
        if not np.isfinite(self.costs[row]).all():
            return Evaluation(trial, "failed", error="the board could not run it")
        measurements = {
            target.name: published(target, float(cost))
            for target, cost in zip(self.targets, self.costs[row], strict=True)
        }
        screened = Evaluation(trial, "infeasible", measurements)
        if any(decide(screened, limit) == "broken" for limit in self.limits):
            return screened
        if trial.proposal.screen_only:
            return dataclasses.replace(screened, state="screened")
        score = Score(1.0 - float(self.errors[row]), EXAMPLES)
        return dataclasses.replace(screened, state="complete", accuracy={"fp32": score})


def published(target: Target, cost: float) -> Measurement:
    """One published figure, which stands for itself."""
    session = Session("model", 0, 0.0, cost, 0, (cost,), None, Conditions(), 0.0)
    return Measurement(
        Artifact("published", "published", "untrained", target.file_format, target.precision, 0),
        target,
        Plan("published", sessions=(1, 1)),
        Environment((("board", target.device),)),
        (session,),
        RanOn(target.runtime, "published", 1, "published"),
        origin="replayed",
    )
