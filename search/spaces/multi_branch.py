"""Blocks of parallel branches, joined by addition or concatenation, with skip connections of any length.

A network is a stem, then stages of blocks, each stage but the first at half the resolution of the one
before, then global pooling and a dense layer.  A block has one or more branches that read the block before
(Inception, Szegedy et al. 2015; ResNeXt, Xie et al. 2017), each one of these:

- ``conv1x1``, ``conv3x3``, ``conv5x5``: convolution, batch norm.
- ``sep3x3``, ``sep5x5``: depthwise convolution, batch norm, activation, 1 x 1 convolution, batch norm.
- ``max_pool3x3``, ``avg_pool3x3``: pooling, 1 x 1 convolution, batch norm.

Branches that are added have the stage's width each; those that are concatenated share it, rounded up to a
multiple of 4 each.  A skip connection adds, before the block's activation, what came out of any block before
it in its stage, of any stage before, or of the stem; where shapes differ through means of squares and a 1 x 1
convolution with batch norm (He et al. 2016, option B, after He et al. 2019, "Bag of tricks", ResNet-D).

The order of branches makes no other network: canonical form sorts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from results.records import Architecture, Option
from results.settings import Settings
from search.blocks import LARGE, SMALLEST, halvings, scaled, shape_at
from search.graph import Graph
from search.graph_features import FeatureMemory, graph_features
from search.network import Activations, Network, Shape
from search.space import Decision, SearchSpace
from search.space_options import names, whole_numbers

OPERATIONS = ("conv1x1", "conv3x3", "conv5x5", "sep3x3", "sep5x5", "max_pool3x3", "avg_pool3x3")
JOINS = ("add", "concat")
ACTIVATIONS = ("relu", "relu6", "hard_swish")


@dataclass(frozen=True)
class Options:
    """What a study may set in its ``[space]`` table, checked.

    Attributes:
        stages: Numbers of stages.
        depths: Numbers of blocks of a stage.
        widths: Channels of stage 1; stage s has ``2**(s - 1)`` times these.
        branches: Numbers of branches of a block.
        operations: Of the branches.
        joins: How several branches are joined.
        activations: Nonlinearities, one for the network.
        longest_skip: Most stages that a skip connection goes back, 0 for those within a stage alone.
        stem_width: Channels of the first convolution.
        stem_stride: 1 or 2.
    """

    stages: tuple[int, ...]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    branches: tuple[int, ...]
    operations: tuple[str, ...]
    joins: tuple[str, ...]
    activations: tuple[Activations, ...]
    longest_skip: int
    stem_width: int
    stem_stride: int

    @classmethod
    def read(cls, options: dict[str, Any], edge: int) -> Options:
        """The options of a study, completed for images whose shorter edge has ``edge`` pixels.

        Raises:
            ConfigError: For an unknown key or a value that cannot be used.
        """
        table = Settings(options, "space 'multi_branch'")
        stride = table.take_count("stem_stride", 2 if edge >= LARGE else 1)
        if stride > 2:
            raise table.error("stem_stride", f"must be 1 or 2, got {stride}")
        left = -(-edge // stride)
        stages = whole_numbers(table, "stages", range(1, halvings(left, SMALLEST) + 2))
        if stages[-1] > halvings(left, 1) + 1:
            most = halvings(left, 1) + 1
            raise table.error(
                "stages", f"must be at most {most} for images of {edge} pixels, got {stages[-1]}"
            )
        taken = cls(
            stages=stages,
            depths=whole_numbers(table, "depths", (1, 2, 3)),
            widths=whole_numbers(table, "widths", (8, 12, 16)),
            branches=whole_numbers(table, "branches", (1, 2, 3)),
            operations=names(table, "operations", OPERATIONS),
            joins=names(table, "joins", JOINS),
            activations=names(table, "activations", ACTIVATIONS),
            longest_skip=table.take_count("longest_skip", stages[-1], low=0),
            stem_width=table.take_count("stem_width", 8),
            stem_stride=stride,
        )
        table.done()
        return taken


@dataclass
class _Made:
    """What is built so far: nodes that a skip connection can start from, with their stages."""

    graph: Graph
    activation: Activations
    sources: dict[str, tuple[str, int]] = field(default_factory=dict)


class Space(SearchSpace):
    """The multi-branch space.

    Samples of the default space for 32 x 32 images have 0.07 to 6 million MACs (median 0.9) and 400 to
    240,000 parameters.

    Args:
        input_shape: ``(channels, height, width)``.
        classes: Number of logits.
        options: See :class:`Options`; a key left out takes its default.

    Raises:
        ConfigError: For an unknown key or a value that cannot be used.
    """

    def __init__(self, *, input_shape: Shape, classes: int, **options: Any) -> None:
        self.input_shape = tuple(input_shape)
        self.classes = classes
        self.options = Options.read(options, min(self.input_shape[1:]))
        settings = {
            "input_shape": list(self.input_shape),
            "classes": classes,
            "stem_width": self.options.stem_width,
            "stem_stride": self.options.stem_stride,
        }
        super().__init__("multi_branch", list(_decisions(self.options)), settings)
        self._features = FeatureMemory()
        places = {decision.name: i for i, decision in enumerate(self.decisions)}
        self._branches = [
            (place, [places[f"{name}{i}"] for i in range(1, self.options.branches[-1] + 1)])
            for name, place in (
                (n.removesuffix("es"), p) for n, p in places.items() if n.endswith("_branches")
            )
        ]

    def canonical(self, choices: tuple[int, ...]) -> tuple[int, ...]:
        """The same choices with the branches of each block in descending order of their options.

        Descending, so that a branch that is added with the first option is the last.
        """
        sorted_choices, applying = list(choices), self.applying(choices)
        for count, branches in self._branches:
            if applying[count]:
                there = branches[: self.options.branches[choices[count]]]
                values = sorted((choices[i] for i in there), reverse=True)
                for i, value in zip(there, values, strict=True):
                    sorted_choices[i] = value
        return tuple(sorted_choices)

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
        chosen: dict[str, Any] = self.describe(architecture)
        graph = Graph(shape_at(self.input_shape, width, resolution))
        made = _Made(graph, cast(Activations, chosen["activation"]))
        stem = graph.convolve(
            "stem", "input", scaled(self.options.stem_width, width), 3, stride=self.options.stem_stride
        )
        last = graph.activate("stem_act", stem, made.activation)
        made.sources["stem"] = (last, 1)
        for stage in range(1, chosen["stages"] + 1):
            channels = scaled(chosen[f"stage{stage}_width"], width)
            for number in range(1, chosen[f"stage{stage}_depth"] + 1):
                name = f"stage{stage}_block{number}"
                last = _block(made, name, last, channels, chosen)
                made.sources[name] = (last, stage)
            made.sources[f"stage{stage}"] = (last, stage)
        return graph.network(last, self.classes)

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """The encoding, then features of the graph, shape ``(k,)``; read-only.

        :func:`search.graph_features.graph_features`, then stages, blocks, branches, concatenations and
        skip connections.
        """
        return self._features.of(architecture, self._all_features)

    def _all_features(self, architecture: Architecture) -> list[float]:
        chosen: dict[str, Any] = self.describe(architecture)
        counts = [option for name, option in chosen.items() if name.endswith("_branches")]
        return [
            *self.encode(architecture),
            *graph_features(self.build(architecture)),
            float(chosen["stages"]),
            float(len(counts)),
            float(sum(counts)),
            float(sum(option == "concat" for option in chosen.values())),
            float(sum(name.endswith("_skip") and option != "none" for name, option in chosen.items())),
        ]


def _block(made: _Made, name: str, source: str, channels: int, chosen: dict[str, Any]) -> str:
    stage = int(name.removeprefix("stage").partition("_")[0])
    stride = 2 if stage > 1 and name.endswith("_block1") else 1
    count = chosen[f"{name}_branches"]
    concat = chosen.get(f"{name}_join") == "concat"
    each = -(-channels // (4 * count)) * 4 if concat else channels
    ends = [
        _branch(made, f"{name}_branch{i}", source, each, (chosen[f"{name}_branch{i}"], stride))
        for i in range(1, count + 1)
    ]
    graph = made.graph
    joined = graph.concat(f"{name}_concat", ends) if concat else graph.total(name, ends)
    if chosen[f"{name}_skip"] != "none":
        joined = graph.total(f"{name}_skip", [joined, _shortcut(made, name, joined, chosen[f"{name}_skip"])])
    return graph.activate(f"{name}_act", joined, made.activation)


def _branch(made: _Made, name: str, source: str, channels: int, operation: tuple[str, int]) -> str:
    graph, (kind, stride) = made.graph, operation
    kernel = int(kind[-1])
    if kind.startswith("conv"):
        return graph.convolve(name, source, channels, kernel, stride=stride)
    if kind.startswith("sep"):
        inner = graph.depthwise(f"{name}_depthwise", source, kernel, stride=stride)
        inner = graph.activate(f"{name}_depthwise_act", inner, made.activation)
    else:
        pool = graph.max_pool if kind.startswith("max") else graph.avg_pool
        inner = pool(f"{name}_pool", source, stride)
    return graph.convolve(name, inner, channels)


def _shortcut(made: _Made, name: str, joined: str, skip: str) -> str:
    """What a skip connection adds, in the shape that it is added to."""
    graph, stage = made.graph, int(name.removeprefix("stage").partition("_")[0])
    source, level = made.sources[f"stage{stage}_{skip}" if skip.startswith("block") else skip]
    channels = graph.shape(joined)[0]
    if level < stage:
        source = graph.shrink(f"{name}_skip_pool", source, 2 ** (stage - level))
    if graph.shape(source)[0] != channels:
        source = graph.convolve(f"{name}_skip_conv", source, channels)
    return source


def _decisions(options: Options) -> Iterator[Decision]:
    yield Decision("stages", options.stages, ordered=True)
    yield Decision("activation", options.activations)
    for stage in range(1, options.stages[-1] + 1):
        exists = ("stages", tuple(n for n in options.stages if n >= stage))
        depth, widths = f"stage{stage}_depth", tuple(w * 2 ** (stage - 1) for w in options.widths)
        yield Decision(depth, options.depths, (exists,), ordered=True)
        yield Decision(f"stage{stage}_width", widths, (exists,), ordered=True)
        for number in range(1, options.depths[-1] + 1):
            there = (depth, tuple(d for d in options.depths if d >= number))
            yield from _block_decisions(options, stage, number, there)


def _block_decisions(
    options: Options, stage: int, number: int, there: tuple[str, tuple[Option, ...]]
) -> Iterator[Decision]:
    name = f"stage{stage}_block{number}"
    yield Decision(f"{name}_branches", options.branches, (there,), ordered=True)
    for branch in range(1, options.branches[-1] + 1):
        counts = tuple(n for n in options.branches if n >= branch)
        yield Decision(f"{name}_branch{branch}", options.operations, ((f"{name}_branches", counts),))
    several = tuple(n for n in options.branches if n > 1)
    if several:
        yield Decision(f"{name}_join", options.joins, ((f"{name}_branches", several),))
    yield Decision(f"{name}_skip", tuple(_skips(options, stage, number)), (there,))


def _skips(options: Options, stage: int, number: int) -> Iterator[str]:
    """Where a skip connection into a block may come from; all of these exist where the block does."""
    yield "none"
    yield from (f"block{earlier}" for earlier in range(number - 1, 0, -1))
    for earlier in range(stage - 1, max(0, stage - 1 - options.longest_skip), -1):
        yield f"stage{earlier}"
    if options.longest_skip >= stage:
        yield "stem"
