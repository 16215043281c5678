"""The mobile space: what its decisions mean, its sizes, its options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.export import export, run_on_host
from results.errors import ConfigError
from search.module import to_module
from search.network import (
    Activation,
    Add,
    BatchNorm,
    Conv,
    Dense,
    GlobalPool,
    Layer,
    Multiply,
    Network,
    Resize,
    costs,
    initial_weights,
)
from search.spaces.mobile import Space

RGB32 = (3, 32, 32)
NORM, SWISH = BatchNorm(), Activation("hard_swish")


def space(input_shape: tuple[int, ...] = RGB32, **options: Any) -> Space:
    return Space(input_shape=input_shape, classes=10, **options)


def built(mobile: Space, **options: Any) -> Network:
    return mobile.build(mobile.from_options(options))


def layers(network: Network) -> list[Layer]:
    return [node.layer for node in network.nodes]


def convolution(channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = False) -> Conv:
    return Conv(channels, (kernel, kernel), (stride, stride), (kernel // 2,) * 4, groups, bias=bias)


def test_a_network_layer_by_layer() -> None:
    mobile = space(channels=[24], strides=[2], activations=["hard_swish"])
    network = built(
        mobile,
        resolution=32,
        width=100,
        stage1_depth=2,
        stage1_squeeze_excite=True,
        stage1_block1_kernel=5,
        stage1_block1_expansion=4,
        stage1_block2_expansion=3,
    )

    def squeeze(channels: int) -> list[Layer]:
        return [
            GlobalPool(keep_dims=True),
            *(convolution(channels // 4 // 4 * 4, bias=True), Activation("relu")),
            *(convolution(channels, bias=True), Activation("hard_sigmoid"), Multiply()),
        ]

    assert layers(network) == [
        *(convolution(16, 3, stride=2), NORM, SWISH),
        *(convolution(64), NORM, SWISH, convolution(64, 5, 2, groups=64), NORM, SWISH),
        *(*squeeze(64), convolution(24), NORM),
        *(convolution(72), NORM, SWISH, convolution(72, 3, 1, groups=72), NORM, SWISH),
        *(*squeeze(72), convolution(24), NORM, Add()),
        *(convolution(96), NORM, SWISH, GlobalPool(), Dense(10)),
    ]
    inputs = {node.name: node.inputs for node in network.nodes}
    assert inputs["stage1_block2_add"] == ("stage1_block2_project_norm", "stage1_block1_project_norm")
    assert inputs["stage1_block1_squeeze_multiply"][0] == "stage1_block1_depthwise_act"


def test_strides_fit_the_image() -> None:
    assert space((1, 8, 8)).options.strides == (1, 1, 2)
    assert space(RGB32).options.strides == (1, 2, 2)
    assert space((3, 64, 64)).options.strides == (2, 2, 2)
    large = space((3, 224, 224)).options
    assert (large.strides, large.channels) == ((2, 2, 2, 1, 2), (24, 40, 80, 112, 160))
    assert large.resolutions == (168, 224)
    assert space((1, 8, 8)).options.resolutions == (8,)


def test_the_network_works_at_the_resolution_chosen() -> None:
    mobile = space((3, 32, 64), resolutions=[16, 32])
    small, full = built(mobile, resolution=16), built(mobile, resolution=32)
    assert small.input_shape == full.input_shape == (3, 32, 64)
    assert small.nodes[0].layer == Resize((16, 32), "bilinear")
    assert not any(isinstance(layer, Resize) for layer in layers(full))
    assert small.shapes["stem"][1:] == (8, 16)
    assert costs(small).parameters == costs(full).parameters
    assert costs(full).macs > 3.5 * costs(small).macs
    at_half = mobile.build(mobile.from_options({"resolution": 16}), resolution=16)
    assert (at_half.input_shape, at_half.shapes["stem"][1:]) == ((3, 16, 32), (4, 8))


def test_width_is_a_share_of_all_channels() -> None:
    mobile = space(widths=[50, 100], stem_width=16)
    assert [built(mobile, width=w).shapes["stem"][0] for w in (50, 100)] == [8, 16]
    assert [built(mobile, width=w).shapes["stage3_block1_project"][0] for w in (50, 100)] == [40, 80]


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_files_compute_what_the_module_does(file_format: str) -> None:
    mobile = space((3, 16, 16), resolutions=[12], squeeze_excite=[True])
    network = built(mobile)
    weights = initial_weights(network, 0)
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = to_module(network, weights).eval()(torch.from_numpy(images)).numpy()
    logits = run_on_host(export(network, weights, file_format), images)
    assert np.allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (3, 33, 20), (1, 1, 64), (3, 96, 96)])
def test_no_sample_fails_whatever_the_image(shape: tuple[int, ...]) -> None:
    mobile, rng = space(shape), np.random.default_rng(0)
    for _ in range(15):
        a = mobile.sample(rng)
        mobile.build(a)
        mobile.build(a, width=0.3, resolution=1)


def test_every_network_of_a_small_space_is_another() -> None:
    mobile = space(
        (1, 8, 8),
        **{"channels": [8], "strides": [2], "depths": [1, 2], "kernels": [3], "expansions": [2, 3]},
        activations=["relu"],
        resolutions=[6, 8],
    )
    listed = list(mobile.architectures())
    assert len(listed) == 2 * 3 * 2 * (2 + 4)  # resolutions, widths, squeeze-excite; one or two blocks
    assert len({mobile.build(a).fingerprint for a in listed}) == len(listed)


def test_features_by_hand() -> None:
    mobile = space(channels=[24, 40], strides=[1, 2])
    a = mobile.from_options({"stage1_depth": 2, "stage2_squeeze_excite": True})
    size = costs(mobile.build(a))
    graph = mobile.features(a)[len(mobile.encode(a)) :]
    assert 10 ** graph[:3] == pytest.approx([size.macs, size.parameters, size.activation_bytes])
    # convolutions: stem, 3 blocks of 3, 2 of squeeze-excite, head; the skip leaves out 3; add and multiply
    assert graph[3:7].tolist() == [13, 13, 8, 2]
    assert graph[10:].tolist() == [3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": [3]}, "unknown key 'kernel'; did you mean 'kernels'"),
        ({"kernels": [4]}, "kernels must be odd.* got 4"),
        ({"resolutions": [16, 64]}, "resolutions must be at most 32, the edge of the images, got 64"),
        ({"widths": [99, 100]}, r"widths must differ by a multiple of 4 channels, got \[99, 100\]"),
        ({"strides": [1, 3]}, "strides must be 1 or 2, got 3"),
        ({"stem_stride": 4}, "stem_stride must be 1 or 2, got 4"),
        ({"strides": []}, "strides must be a list of whole numbers from 1"),
        ({"channels": [24, "40"]}, "channels must be a list of whole numbers from 1"),
        ({"channels": [24]}, r"channels must be one for each of the 3 strides, got \[24\]"),
        ({"squeeze_excite": [1]}, "squeeze_excite must be a list of true and false"),
        ({"depths": [0]}, "depths must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"space 'mobile': {message}"):
        space(**options)
