"""Stacks of convolution blocks: depth, width, kernels, block types, where to downsample.

A network is a stem, then one stage of blocks per resolution, then global pooling and a dense layer.
Stages are numbered by how often the image was halved before: stage 0 works at full resolution (there
is one where the stem has stride 1), stage 2 at a quarter.  Where to downsample follows from how many
stages there are and how many blocks each has: the first block of a stage has stride 2, unless the stem
did that.  So every placement has one encoding, and none halves an image that is too small for it.

Blocks of a stage share its width, as in MnasNet (Tan et al. 2019) and the spaces after it.  A skip is a
choice exactly where shapes agree: in all blocks of a stage but the first.  Blocks: :mod:`search.blocks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log2, log10
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from results.records import Architecture, Option
from results.settings import Settings
from search.blocks import LARGE, SMALLEST, Block, BlockType, GraphBuilder, halvings, scaled, shape_at
from search.graph_features import FeatureMemory
from search.network import Activations, Conv, Network, Shape, costs
from search.space import Decision, SearchSpace
from search.space_options import flags, kernels, names, whole_numbers

_BLOCKS: tuple[BlockType, ...] = get_args(BlockType)
_ACTIVATIONS: tuple[Activations, ...] = ("relu", "relu6", "hard_swish")  # cheap on every board


@dataclass(frozen=True)
class Options:
    """What a study may set in its ``[space]`` table, checked.

    Attributes:
        depths: Numbers of blocks of a stage.
        widths: Channels of stage 0, were there one; stage s has ``2**s`` times these, so that stages cost
            about the same.
        kernels: Edges of the kernels, odd.
        blocks: Types of blocks.
        expansions: Of inverted blocks.
        activations: Nonlinearities.
        activation_per: ``network`` for one choice shared by all blocks, ``block`` for one each; the
            stem has its own then.
        skips: ``(False, True)`` for a choice, one of them for no or all possible skips.
        stem_width: Channels of the first convolution.
        stem_strides: Strides of the first convolution, of 1 and 2.
        max_downsamplings: Most halvings of the image, that of the stem included.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    kernels: tuple[int, ...]
    blocks: tuple[BlockType, ...]
    expansions: tuple[int, ...]
    activations: tuple[Activations, ...]
    activation_per: str
    skips: tuple[bool, ...]
    stem_width: int
    stem_strides: tuple[int, ...]
    max_downsamplings: int

    @classmethod
    def read(cls, options: dict[str, Any], edge: int) -> Options:
        """The options of a study, completed for images whose shorter edge has ``edge`` pixels.

        Raises:
            ConfigError: For an unknown key or a value that cannot be used.
        """
        table = Settings(options, "space 'chain'")
        most = table.take_count("max_downsamplings", halvings(edge, SMALLEST), low=0)
        if most > halvings(edge, 1):
            message = f"must be at most {halvings(edge, 1)} for images of {edge} pixels, got {most}"
            raise table.error("max_downsamplings", message)
        taken = cls(
            depths=whole_numbers(table, "depths", (1, 2, 3)),
            widths=whole_numbers(table, "widths", (4, 8, 12)),
            kernels=kernels(table, "kernels", (3, 5)),
            blocks=names(table, "blocks", _BLOCKS),
            expansions=whole_numbers(
                table, "expansions", (2, 4), low=2
            ),  # 1 would be nearly a separable block
            activations=names(table, "activations", _ACTIVATIONS),
            activation_per=table.take_name("activation_per", ("network", "block"), "network"),
            skips=flags(table, "skips"),
            stem_width=table.take_count("stem_width", 8),
            stem_strides=whole_numbers(table, "stem_strides", _stem_strides(edge, most)),
            max_downsamplings=most,
        )
        table.done()
        taken._check(table)
        return taken

    def _check(self, table: Settings) -> None:
        if self.stem_strides[-1] > 2:
            raise table.error("stem_strides", f"must be of 1 and 2, got {self.stem_strides[-1]}")
        if 2 in self.stem_strides and not self.max_downsamplings:
            raise table.error("stem_strides", "must be [1] where max_downsamplings is 0")


def _stem_strides(edge: int, most: int) -> tuple[int, ...]:
    if not most:
        return (1,)
    return (2,) if edge >= LARGE else (1, 2)


class Space(SearchSpace):
    """The chain space.

    Samples of the default space for 32 x 32 images have 0.09 to 16 million MACs (median 1.3) and 500 to
    500,000 parameters.

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
        }
        super().__init__("chain", list(_decisions(self.options)), settings)
        self._features = FeatureMemory()

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
        chosen = self.describe(architecture)
        graph = GraphBuilder(shape_at(self.input_shape, width, resolution))
        stem_stride, activation = cast(tuple[int, Activations], (chosen["stem_stride"], chosen["activation"]))
        graph.stem(scaled(self.options.stem_width, width), stem_stride, activation)
        for block in self._blocks(chosen, width):
            graph.block(block)
        return graph.network(self.classes)

    def _blocks(self, chosen: dict[str, Any], width: float) -> Iterator[Block]:
        for stage in range(self.options.max_downsamplings + 1):
            halves = stage > 1 or (stage == 1 and chosen["stem_stride"] == 1)
            for number in range(1, chosen.get(f"stage{stage}_depth", 0) + 1):
                name = f"stage{stage}_block{number}"
                yield Block(
                    name,
                    chosen[f"{name}_type"],
                    scaled(chosen[f"stage{stage}_width"], width),
                    chosen[f"{name}_kernel"],
                    stride=2 if halves and number == 1 else 1,
                    activation=chosen.get(f"{name}_activation", chosen["activation"]),
                    skip=chosen.get(f"{name}_skip", False),
                    expansion=chosen.get(f"{name}_expansion", 1),
                )

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """The encoding, then features of the graph, shape ``(k,)``; read-only.

        Of the graph: log10 of MACs, of parameters and of activation bytes; depth in convolutions;
        halvings; number of blocks; share of each type of block; share of blocks with a skip; mean edge
        of the kernels; mean and last of log2 of the blocks' channels.
        """
        return self._features.of(architecture, lambda a: [*self.encode(a), *self._graph_features(a)])

    def _graph_features(self, architecture: Architecture) -> list[float]:
        network, chosen = self.build(architecture), self.describe(architecture)
        blocks = list(self._blocks(chosen, 1.0))
        cost = costs(network)
        widths = [log2(block.channels) for block in blocks]
        return [
            *(log10(number) for number in (cost.macs, cost.parameters, cost.activation_bytes)),
            sum(isinstance(node.layer, Conv) for node in network.nodes),
            float(chosen["downsamplings"]),
            len(blocks),
            *(sum(block.kind == kind for block in blocks) / len(blocks) for kind in _BLOCKS),
            sum(block.skip for block in blocks) / len(blocks),
            sum(block.kernel for block in blocks) / len(blocks),
            sum(widths) / len(widths),
            widths[-1],
        ]


def _decisions(options: Options) -> Iterator[Decision]:
    most = options.max_downsamplings
    yield Decision("stem_stride", options.stem_strides, ordered=True)
    yield Decision("downsamplings", tuple(range(1, most + 1)) if most else (0,), ordered=True)
    yield Decision("activation", options.activations)
    if 1 in options.stem_strides:
        yield from _stage(options, 0, ("stem_stride", (1,)))
    for stage in range(1, most + 1):
        yield from _stage(options, stage, ("downsamplings", tuple(range(stage, most + 1))))


def _stage(options: Options, stage: int, exists: tuple[str, tuple[Option, ...]]) -> Iterator[Decision]:
    depth = f"stage{stage}_depth"
    widths = tuple(width * 2**stage for width in options.widths)
    yield Decision(depth, options.depths, (exists,), ordered=True)
    yield Decision(f"stage{stage}_width", widths, (exists,), ordered=True)
    for number in range(1, options.depths[-1] + 1):
        there = (depth, tuple(d for d in options.depths if d >= number))
        yield from _block(options, f"stage{stage}_block{number}", there, first=number == 1)


def _block(
    options: Options, name: str, there: tuple[str, tuple[Option, ...]], *, first: bool
) -> Iterator[Decision]:
    yield Decision(f"{name}_type", options.blocks, (there,))
    yield Decision(f"{name}_kernel", options.kernels, (there,), ordered=True)
    if "inverted" in options.blocks:
        inverted = (f"{name}_type", ("inverted",))
        yield Decision(f"{name}_expansion", options.expansions, (inverted,), ordered=True)
    if not first:
        yield Decision(f"{name}_skip", options.skips, (there,))
    if options.activation_per == "block":
        yield Decision(f"{name}_activation", options.activations, (there,))
