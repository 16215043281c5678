"""The chain space: what its decisions mean, its sizes, its options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from results.errors import ArchitectureError, ConfigError
from search.blocks import halvings, scaled
from search.network import Activation, Add, BatchNorm, Conv, Dense, GlobalPool, Layer, Network, costs
from search.spaces.chain import Space

RGB32 = (3, 32, 32)
DIGITS = (1, 8, 8)
NORM, RELU, RELU6, SWISH = BatchNorm(), Activation("relu"), Activation("relu6"), Activation("hard_swish")


def space(input_shape: tuple[int, ...] = RGB32, **options: Any) -> Space:
    return Space(input_shape=input_shape, classes=10, **options)


def built(chain: Space, **options: Any) -> Network:
    return chain.build(chain.from_options(options))


def layers(network: Network) -> list[Layer]:
    return [node.layer for node in network.nodes]


def convolution(channels: int, kernel: int, stride: int = 1, groups: int = 1) -> Conv:
    pad = kernel // 2
    return Conv(channels, (kernel, kernel), (stride, stride), (pad, pad, pad, pad), groups)


def strides(network: Network) -> list[int]:
    return [layer.stride[0] for layer in layers(network) if isinstance(layer, Conv)]


def test_the_smallest_network_layer_by_layer() -> None:
    network = built(space(stem_strides=[1, 2]))
    assert layers(network) == [
        *(convolution(8, 3), NORM, RELU),
        *(convolution(4, 3), NORM, RELU),
        *(convolution(8, 3, stride=2), NORM, RELU),
        GlobalPool(),
        Dense(10),
    ]
    assert network.shapes["stage1_block1_act"] == (8, 16, 16)


def test_each_type_of_block_with_a_skip() -> None:
    network = built(
        space(depths=[4], activations=["relu6"], widths=[8]),
        stem_stride=2,
        stage1_block1_type="plain",
        stage1_block2_type="plain",
        stage1_block2_skip=True,
        stage1_block3_type="separable",
        stage1_block3_kernel=5,
        stage1_block3_skip=True,
        stage1_block4_type="inverted",
        stage1_block4_expansion=4,
        stage1_block4_skip=True,
    )
    assert layers(network) == [
        *(convolution(8, 3, stride=2), NORM, RELU6),
        *(convolution(16, 3), NORM, RELU6),
        *(convolution(16, 3), NORM, Add(), RELU6),
        *(convolution(16, 5, groups=16), NORM, RELU6, convolution(16, 1), NORM, Add(), RELU6),
        *(convolution(64, 1), NORM, RELU6, convolution(64, 3, groups=64), NORM, RELU6),
        *(convolution(16, 1), NORM, Add()),
        GlobalPool(),
        Dense(10),
    ]
    added = {node.name: node.inputs for node in network.nodes if isinstance(node.layer, Add)}
    assert added == {
        "stage1_block2_skip": ("stage1_block2_norm", "stage1_block1_act"),
        "stage1_block3_skip": ("stage1_block3_pointwise_norm", "stage1_block2_act"),
        "stage1_block4_skip": ("stage1_block4_project_norm", "stage1_block3_act"),
    }


def test_stages_place_the_strides() -> None:
    chain = space(depths=[1, 2], stem_strides=[1, 2])
    full = {"stem_stride": 1, "downsamplings": 2, "stage0_depth": 2, "stage1_depth": 1, "stage2_depth": 2}
    assert strides(built(chain, **full)) == [1, 1, 1, 2, 2, 1]
    half = {"stem_stride": 2, "downsamplings": 2, "stage1_depth": 2, "stage2_depth": 1}
    assert strides(built(chain, **half)) == [2, 1, 1, 2]
    assert "stage0_depth" not in chain.describe(chain.from_options(half))


def test_stages_double_the_width() -> None:
    chain = space(widths=[4, 10], stem_strides=[1])
    assert [d.options for d in chain.decisions if d.name.endswith("_width")] == [
        (4, 10),
        (8, 20),
        (16, 40),
        (32, 80),
    ]


def test_a_choice_of_activation_for_the_network_or_for_each_block() -> None:
    shared = built(space(), activation="hard_swish")
    assert {layer for layer in layers(shared) if isinstance(layer, Activation)} == {SWISH}
    chain = space(activation_per="block", stem_strides=[1])
    each = built(
        chain,
        activation="relu6",
        stage0_block1_activation="relu",
        stage1_block1_type="inverted",
        stage1_block1_activation="hard_swish",
    )
    kinds = [layer for layer in layers(each) if isinstance(layer, Activation)]
    assert kinds == [RELU6, RELU, SWISH, SWISH]


@pytest.mark.parametrize(
    ("edge", "smallest", "count"), [(32, 3, 3), (8, 3, 1), (28, 3, 3), (1, 1, 0), (7, 1, 3)]
)
def test_halvings(edge: int, smallest: int, count: int) -> None:
    assert halvings(edge, smallest) == count


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 5), (2, 3, 3), DIGITS, (3, 28, 20), (3, 96, 96)])
def test_no_sample_fails_whatever_the_image(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    most = halvings(min(shape[1:]), 1)
    for chain in (space(shape), space(shape, max_downsamplings=most, kernels=[1, 7], activation_per="block")):
        for _ in range(40):
            a = chain.sample(rng)
            network = chain.build(a)
            assert network.shapes["pool"][0] >= 4
            assert min(network.shapes[network.nodes[-3].name]) >= 1
            assert strides(network).count(2) == chain.describe(a)["downsamplings"]
            chain.build(a, width=0.3, resolution=1)


def test_every_network_of_a_small_space_is_another() -> None:
    chain = space(
        DIGITS, depths=[1, 2], widths=[4], kernels=[3], blocks=["plain", "inverted"], activations=["relu"]
    )
    # A block: plain, or inverted with two expansions: 3.  A stage: 3 + 3 * 3 * 2 skips = 21.
    # Stem with stride 2: stage 1 alone; with stride 1: stages 0 and 1.
    listed = list(chain.architectures())
    assert len(listed) == 21 + 21 * 21
    assert len({chain.build(a).fingerprint for a in listed}) == len(listed)


def test_the_default_reaches_from_tiny_to_several_million_macs() -> None:
    chain = space()
    rng = np.random.default_rng(0)
    sizes = [costs(chain.build(chain.sample(rng))) for _ in range(300)]
    macs = np.asarray([size.macs for size in sizes])
    parameters = np.asarray([size.parameters for size in sizes])
    # Percentiles of 1,500 other samples: MACs 0.16, 1.3 and 5.9 million, parameters 0.9, 11 and 138
    # thousand (5, 50 and 95 %).
    assert np.percentile(macs, 5) < 0.3e6
    assert 0.8e6 < np.median(macs) < 2e6
    assert 4e6 < np.percentile(macs, 95) < 8e6
    assert np.percentile(parameters, 5) < 1500
    assert np.percentile(parameters, 95) > 50_000


@pytest.mark.parametrize(
    ("channels", "width", "want"),
    [(10, 1.0, 10), (8, 0.5, 4), (8, 0.01, 4), (24, 0.5, 12), (20, 0.5, 8), (28, 0.5, 16), (8, 2.0, 16)],
)
def test_channels_are_rounded_to_multiples_of_four(channels: int, width: float, want: int) -> None:
    assert scaled(channels, width) == want


def test_width_and_resolution_by_hand() -> None:
    chain = space((3, 32, 64), stem_width=16, widths=[8])
    a = chain.from_options({"stem_stride": 2})
    network = chain.build(a, width=0.5, resolution=16)
    assert network.input_shape == (3, 16, 32)
    assert network.shapes["stem"] == (8, 8, 16)
    assert network.shapes["stage1_block1"] == (8, 8, 16)


@pytest.mark.parametrize("arguments", [{"width": 0.0}, {"width": -1.0}, {"resolution": 0}])
def test_widths_and_resolutions_that_are_none_are_refused(arguments: dict[str, Any]) -> None:
    chain = space()
    with pytest.raises(ArchitectureError, match="no network has width"):
        chain.build(chain.from_options({}), **arguments)


def test_features_by_hand() -> None:
    chain = space()
    a = chain.from_options(
        {
            "stem_stride": 2,
            "stage1_depth": 2,
            "stage1_width": 16,
            "stage1_block1_type": "separable",
            "stage1_block2_skip": True,
            "stage1_block2_kernel": 5,
        }
    )
    size = costs(chain.build(a))
    encoding, graph = np.split(chain.features(a), [len(chain.encode(a))])
    assert np.array_equal(encoding, chain.encode(a))
    assert 10 ** graph[:3] == pytest.approx([size.macs, size.parameters, size.activation_bytes])
    # convolutions, halvings, blocks; plain, separable, inverted; skips, kernel, mean and last width
    assert graph[3:].tolist() == [4, 1, 2, 0.5, 0.5, 0, 0.5, 4, 4, 4]
    assert chain.features(a) is chain.features(a)
    with pytest.raises(ValueError, match="read-only"):
        chain.features(a)[0] = 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": [4]}, "unknown key 'width'; did you mean 'widths'"),
        ({"widths": []}, r"widths must be a list of whole numbers, each once and at least one, got \[\]"),
        ({"widths": [4, 4]}, "widths must be a list of whole numbers"),
        ({"widths": [4.5]}, "widths must be a list of whole numbers"),
        ({"widths": [True]}, "widths must be a list of whole numbers"),
        ({"widths": 4}, "widths must be a list, got 4"),
        ({"widths": [0]}, "widths must be at least 1, got 0"),
        ({"depths": [0, 1]}, "depths must be at least 1, got 0"),
        ({"kernels": [3, 4]}, "kernels must be odd.* got 4"),
        ({"expansions": [1, 2]}, "expansions must be at least 2, got 1"),
        ({"blocks": ["seperable"]}, "blocks unknown name 'seperable'; did you mean 'separable'"),
        ({"activations": ["gelu"]}, "activations unknown name 'gelu'"),
        ({"activations": [3]}, "activations must be a list of names"),
        ({"activation_per": "layer"}, "activation_per unknown name 'layer'"),
        ({"skips": [0, 1]}, "skips must be a list of true and false"),
        ({"stem_width": 0}, "stem_width must be at least 1, got 0"),
        ({"stem_strides": [1, 3]}, "stem_strides must be of 1 and 2, got 3"),
        ({"stem_strides": [2], "max_downsamplings": 0}, r"stem_strides must be \[1\]"),
        ({"max_downsamplings": 6}, "max_downsamplings must be at most 5 for images of 32 pixels, got 6"),
        ({"max_downsamplings": -1}, "max_downsamplings must be at least 0, got -1"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"space 'chain': {message}"):
        space(**options)


def test_the_stem_halves_large_images_unless_told_otherwise() -> None:
    assert space(RGB32).options.stem_strides == (2,)
    assert space(DIGITS).options.stem_strides == (1, 2)
    assert space((1, 4, 40)).options.stem_strides == (1,)
    assert space(RGB32, stem_strides=[2, 1]).options.stem_strides == (1, 2)


def test_options_narrow_the_space() -> None:
    chain = space(
        depths=[2],
        widths=[8],
        kernels=[3],
        blocks=["plain"],
        activations=["relu"],
        skips=[True],
        stem_strides=[2],
        max_downsamplings=1,
    )
    (only,) = chain.architectures()
    assert chain.describe(only) == {
        "stem_stride": 2,
        "downsamplings": 1,
        "activation": "relu",
        "stage1_depth": 2,
        "stage1_width": 16,
        "stage1_block1_type": "plain",
        "stage1_block1_kernel": 3,
        "stage1_block2_type": "plain",
        "stage1_block2_kernel": 3,
        "stage1_block2_skip": True,
    }
    assert (
        space(skips=[False], max_downsamplings=0).describe(
            space(skips=[False], max_downsamplings=0).from_options({"stage0_depth": 2})
        )["downsamplings"]
        == 0
    )
