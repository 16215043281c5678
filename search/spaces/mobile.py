"""Inverted bottlenecks with depth, expansion, kernel, squeeze-excite, width and resolution to choose.

Cai et al. 2020 (ICLR), "Once-for-all: train one network and specialize it for efficient deployment",
section 3.2, over the blocks of MobileNetV3 (Howard et al. 2019): a stem, then stages of inverted
bottlenecks whose first block has the stage's stride, then a 1 x 1 convolution, global pooling and a dense
layer.  Each block has a kernel and an expansion of its own; its input is added where shapes agree.

Deviations: squeeze-excitation is a choice of every stage (there: given); the dense layer follows the pooling
directly (there: another 1 x 1 convolution between them); stages, widths and strides are fitted to small
images unless the study gives them.

``resolution`` is where the network works.  Its input stays the task's, so that everything else need not know:
where they differ, the first layer resizes (bilinear), on the board too, and is measured with the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.records import Architecture
from results.settings import Settings
from search.blocks import LARGE, SMALLEST, halvings, scaled, shape_at
from search.graph import Graph
from search.graph_features import FeatureMemory, graph_features
from search.network import Activations, Add, Conv, GlobalPool, Multiply, Network, Resize, Shape
from search.space import Decision, SearchSpace
from search.space_options import flags, kernels, names, whole_numbers

CHANNELS = (24, 40, 80, 112, 160)
"""Channels of the stages of MobileNetV3-Large, as once-for-all networks have them at width 100 %."""

STRIDES = (2, 2, 2, 1, 2)
"""Their strides, where the image is large enough."""

ACTIVATIONS = ("relu", "relu6", "hard_swish")


@dataclass(frozen=True)
class Options:
    """What a study may set in its ``[space]`` table, checked.

    Attributes:
        resolutions: Shorter edges of the image that the network works on [pixels].
        widths: Multipliers of the channels, in per cent.
        depths: Numbers of blocks of a stage.
        kernels: Edges of the depthwise kernels, odd.
        expansions: Inner channels of a block as multiples of those that enter.
        squeeze_excite: Whether a stage's blocks have it; both for a choice.
        activations: Nonlinearities, one for the network.
        channels: Of each stage at 100 %.
        strides: Of each stage's first block.
        stem_width: Channels of the first convolution at 100 %.
        stem_stride: 1 or 2.
    """

    resolutions: tuple[int, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    squeeze_excite: tuple[bool, ...]
    activations: tuple[Activations, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    stem_width: int
    stem_stride: int

    @classmethod
    def read(cls, options: dict[str, Any], edge: int) -> Options:
        """The options of a study, completed for images whose shorter edge has ``edge`` pixels.

        Raises:
            ConfigError: For an unknown key or a value that cannot be used.
        """
        table = Settings(options, "space 'mobile'")
        stem_stride = table.take_count("stem_stride", 2 if edge >= LARGE else 1)
        strides = _default_strides(halvings(edge, SMALLEST) - (stem_stride - 1))
        strides = _list(table, "strides", strides)
        taken = cls(
            resolutions=whole_numbers(table, "resolutions", _default_resolutions(edge)),
            widths=whole_numbers(table, "widths", (50, 75, 100)),
            depths=whole_numbers(table, "depths", (1, 2, 3)),
            kernels=kernels(table, "kernels", (3, 5, 7)),
            expansions=whole_numbers(table, "expansions", (3, 4, 6)),
            squeeze_excite=flags(table, "squeeze_excite"),
            activations=names(table, "activations", ACTIVATIONS),
            channels=_list(table, "channels", CHANNELS[: len(strides)]),
            strides=strides,
            stem_width=table.take_count("stem_width", 16),
            stem_stride=stem_stride,
        )
        table.done()
        taken._check(table, edge)
        return taken

    def _check(self, table: Settings, edge: int) -> None:
        for key, strides in (("stem_stride", (self.stem_stride,)), ("strides", self.strides)):
            if max(strides) > 2:
                raise table.error(key, f"must be 1 or 2, got {max(strides)}")
        if len(self.channels) != len(self.strides):
            message = f"must be one for each of the {len(self.strides)} strides, got {list(self.channels)}"
            raise table.error("channels", message)
        base = (self.stem_width, *self.channels)
        if len({tuple(scaled(c, w / 100) for c in base) for w in self.widths}) < len(self.widths):
            raise table.error("widths", f"must differ by a multiple of 4 channels, got {list(self.widths)}")
        if self.resolutions[-1] > edge:
            message = f"must be at most {edge}, the edge of the images, got {self.resolutions[-1]}"
            raise table.error("resolutions", message)


def _list(table: Settings, key: str, default: Sequence[int]) -> tuple[int, ...]:
    """Whole numbers from 1, which may repeat."""
    values = table.take(key, list, list(default))
    if not values or any(type(v) is not int or v < 1 for v in values):
        raise table.error(key, f"must be a list of whole numbers from 1, got {values!r}")
    return tuple(values)


def _default_strides(left: int) -> tuple[int, ...]:
    """Strides for an image that may be halved ``left`` times more: three stages, five in large images."""
    if left >= sum(stride == 2 for stride in STRIDES):
        return STRIDES
    return (1,) * (3 - left) + (2,) * left


def _default_resolutions(edge: int) -> tuple[int, ...]:
    """The image's own, and three quarters of it where that leaves something to see."""
    return (edge,) if edge < LARGE else (edge * 3 // 4, edge)


class Space(SearchSpace):
    """The mobile space.

    Samples of the default space for 32 x 32 images have 0.5 to 12 million MACs (median 3.3) and 20,000 to
    550,000 parameters; for 96 x 96, 3 to 48 million (median 16) and 0.1 to 2.6 million.

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
            "channels": list(self.options.channels),
            "strides": list(self.options.strides),
            "stem_width": self.options.stem_width,
            "stem_stride": self.options.stem_stride,
        }
        super().__init__("mobile", list(_decisions(self.options)), settings)
        self._features = FeatureMemory()

    def build(
        self, architecture: Architecture, *, width: float = 1.0, resolution: int | None = None
    ) -> Network:
        """The layer graph.

        Args:
            architecture: A point of this space.
            width: Another multiplier of the channel numbers, which become multiples of 4.
            resolution: Shorter edge of the input in pixels; None for the space's own.  The edge that the
                network works on changes by the same factor.

        Raises:
            ArchitectureError: If the architecture is not of this space.
        """
        chosen: dict[str, Any] = self.describe(architecture)
        shape = shape_at(self.input_shape, width, resolution)
        own = min(self.input_shape[1:])
        edge = max(1, round(chosen["resolution"] * (resolution or own) / own))
        graph, source = Graph(shape), "input"
        if chosen["resolution"] != own:
            _, height, across = shape_at(shape, width, edge)
            source = graph.add("resize", Resize((height, across), "bilinear"), source)
        factor, activation = width * chosen["width"] / 100, chosen["activation"]
        stem = scaled(self.options.stem_width, factor)
        last = graph.convolve("stem", source, stem, 3, stride=self.options.stem_stride)
        last = graph.activate("stem_act", last, activation)
        for stage, stride in enumerate(self.options.strides, start=1):
            channels = scaled(self.options.channels[stage - 1], factor)
            for number in range(1, chosen[f"stage{stage}_depth"] + 1):
                block = _Block(f"stage{stage}_block{number}", channels, stride if number == 1 else 1, stage)
                last = _inverted(graph, block, last, chosen)
        last = graph.convolve("head", last, 4 * graph.shape(last)[0])
        return graph.network(graph.activate("head_act", last, activation), self.classes)

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """The encoding, then features of the graph, shape ``(k,)``; read-only.

        :func:`search.graph_features.graph_features`, then blocks, and stages with squeeze-excitation.
        """
        return self._features.of(architecture, self._all_features)

    def _all_features(self, architecture: Architecture) -> list[float]:
        chosen: dict[str, Any] = self.describe(architecture)
        return [
            *self.encode(architecture),
            *graph_features(self.build(architecture)),
            float(sum(chosen[f"stage{s}_depth"] for s in range(1, len(self.options.strides) + 1))),
            float(sum(option for name, option in chosen.items() if name.endswith("_squeeze_excite"))),
        ]


@dataclass(frozen=True)
class _Block:
    name: str
    channels: int
    stride: int
    stage: int


def _inverted(graph: Graph, block: _Block, source: str, chosen: dict[str, Any]) -> str:
    name, activation = block.name, chosen["activation"]
    inner = chosen[f"{name}_expansion"] * graph.shape(source)[0]
    last = graph.activate(f"{name}_expand_act", graph.convolve(f"{name}_expand", source, inner), activation)
    last = graph.depthwise(f"{name}_depthwise", last, chosen[f"{name}_kernel"], stride=block.stride)
    last = graph.activate(f"{name}_depthwise_act", last, activation)
    if chosen[f"stage{block.stage}_squeeze_excite"]:
        last = _squeeze_excite(graph, f"{name}_squeeze", last)
    last = graph.convolve(f"{name}_project", last, block.channels)
    if graph.shape(last) != graph.shape(source) or block.stride > 1:
        return last
    return graph.add(f"{name}_add", Add(), last, source)


def _squeeze_excite(graph: Graph, name: str, source: str) -> str:
    """Hu et al. 2018 with a quarter of the channels inside, gated as in MobileNetV3 (section 5.3)."""
    channels = graph.shape(source)[0]
    small = graph.add(f"{name}_pool", GlobalPool(keep_dims=True), source)
    small = graph.add(f"{name}_reduce", _pointwise(scaled(channels, 0.25)), small)
    small = graph.add(f"{name}_expand", _pointwise(channels), graph.activate(f"{name}_reduce_act", small))
    gate = graph.activate(f"{name}_gate", small, "hard_sigmoid")
    return graph.add(f"{name}_multiply", Multiply(), source, gate)


def _pointwise(channels: int) -> Conv:
    return Conv(channels, (1, 1), padding=(0, 0, 0, 0), bias=True)


def _decisions(options: Options) -> Iterator[Decision]:
    yield Decision("resolution", options.resolutions, ordered=True)
    yield Decision("width", options.widths, ordered=True)
    yield Decision("activation", options.activations)
    for stage in range(1, len(options.strides) + 1):
        depth = f"stage{stage}_depth"
        yield Decision(depth, options.depths, ordered=True)
        yield Decision(f"stage{stage}_squeeze_excite", options.squeeze_excite)
        for number in range(1, options.depths[-1] + 1):
            there = (depth, tuple(d for d in options.depths if d >= number))
            name = f"stage{stage}_block{number}"
            yield Decision(f"{name}_kernel", options.kernels, (there,), ordered=True)
            yield Decision(f"{name}_expansion", options.expansions, (there,), ordered=True)
