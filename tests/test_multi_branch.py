"""The multi-branch space: what its decisions mean, which networks are the same, its options."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from results.errors import ConfigError
from search.network import Activation, Add, AvgPool, Concat, Conv, Network, costs
from search.spaces.multi_branch import OPERATIONS, Space

RGB32 = (3, 32, 32)


def space(input_shape: tuple[int, ...] = RGB32, **options: Any) -> Space:
    return Space(input_shape=input_shape, classes=10, **options)


def built(multi: Space, **options: Any) -> Network:
    return multi.build(multi.from_options(options))


def convolutions(network: Network, prefix: str) -> dict[str, tuple[int, int, int, int]]:
    """Channels, kernel, stride and groups by name of the convolutions whose names begin so."""
    return {
        node.name: (node.layer.channels, node.layer.kernel[0], node.layer.stride[0], node.layer.groups)
        for node in network.nodes
        if isinstance(node.layer, Conv) and node.name.startswith(prefix)
    }


def test_branches_of_each_kind_are_added() -> None:
    multi = space(branches=[7], depths=[1], widths=[12], stages=[2])
    branches = {f"stage2_block1_branch{i}": op for i, op in enumerate(reversed(OPERATIONS), start=1)}
    network = built(multi, stage2_block1_join="add", **branches)
    assert convolutions(network, "stage2") == {
        "stage2_block1_branch1": (24, 1, 1, 1),
        "stage2_block1_branch2": (24, 1, 1, 1),
        "stage2_block1_branch3_depthwise": (12, 5, 2, 12),
        "stage2_block1_branch3": (24, 1, 1, 1),
        "stage2_block1_branch4_depthwise": (12, 3, 2, 12),
        "stage2_block1_branch4": (24, 1, 1, 1),
        "stage2_block1_branch5": (24, 5, 2, 1),
        "stage2_block1_branch6": (24, 3, 2, 1),
        "stage2_block1_branch7": (24, 1, 2, 1),
    }
    assert sum(isinstance(n.layer, Add) for n in network.nodes if n.name.startswith("stage2")) == 6
    assert network.shapes["stage2_block1_act"] == (24, 8, 8)


def test_branches_that_are_concatenated_share_the_width() -> None:
    multi = space(branches=[1, 3], depths=[1], widths=[16], stages=[1])
    network = built(multi, stage1_block1_branches=3, stage1_block1_join="concat")
    assert [c[0] for c in convolutions(network, "stage1").values()] == [
        8,
        8,
        8,
    ]  # 16 / 3, up to a multiple of 4
    joined = next(node for node in network.nodes if isinstance(node.layer, Concat))
    assert joined.inputs == tuple(f"stage1_block1_branch{i}_norm" for i in (1, 2, 3))
    assert network.shapes["stage1_block1_act"] == (24, 16, 16)
    assert "stage1_block1_join" not in multi.describe(multi.from_options({"stage1_block1_branches": 1}))


def test_skips_of_any_length() -> None:
    multi = space(depths=[2], widths=[8], stages=[3], branches=[1])
    network = built(
        multi,
        stage1_block1_skip="stem",
        stage1_block2_skip="block1",
        stage2_block2_skip="stage1",
        stage3_block1_skip="stem",
        stage3_block2_skip="stage2",
    )
    inputs = {node.name: node.inputs for node in network.nodes}
    assert inputs["stage1_block1_skip_sum1"] == ("stage1_block1_branch1_norm", "stem_act")
    assert inputs["stage1_block2_skip_sum1"] == ("stage1_block2_branch1_norm", "stage1_block1_act")
    assert inputs["stage2_block2_skip_pool"] == ("stage1_block2_act",)
    assert inputs["stage2_block2_skip_conv"] == ("stage2_block2_skip_pool",)
    assert inputs["stage3_block1_skip_pool"] == ("stem_act",)
    pools = {n.name: n.layer.stride for n in network.nodes if isinstance(n.layer, AvgPool)}
    assert pools == {
        "stage2_block2_skip_pool": (2, 2),
        "stage3_block1_skip_pool": (4, 4),
        "stage3_block2_skip_pool": (2, 2),
    }
    assert network.shapes["stage3_block1_skip_conv"] == (32, 4, 4)


def test_where_skips_may_come_from_is_an_option() -> None:
    options = {d.name: d.options for d in space(longest_skip=1, depths=[2], stages=[3]).decisions}
    assert options["stage3_block2_skip"] == ("none", "block1", "stage2")
    assert options["stage1_block1_skip"] == ("none", "stem")
    options = {d.name: d.options for d in space(longest_skip=0, depths=[2], stages=[2]).decisions}
    assert options["stage2_block1_skip"] == ("none",)
    options = {d.name: d.options for d in space(depths=[1], stages=[3]).decisions}
    assert options["stage3_block1_skip"] == ("none", "stage2", "stage1", "stem")


def test_branches_in_another_order_are_the_same_network() -> None:
    multi = space(branches=[3], depths=[1], stages=[1], activations=["relu"], widths=[8])
    ops = ("conv1x1", "sep5x5", "conv3x3")
    same = {
        multi.from_options({f"stage1_block1_branch{i}": op for i, op in enumerate(order, start=1)})
        for order in itertools.permutations(ops)
    }
    assert len(same) == 1
    assert list(multi.describe(same.pop()).values())[5:8] == ["sep5x5", "conv3x3", "conv1x1"]


def test_every_network_of_a_small_space_is_listed_once() -> None:
    multi = space(
        depths=[1], widths=[8], stages=[1], activations=["relu6"], operations=["conv1x1", "conv3x3", "sep3x3"]
    )
    # One branch: 3; two: 6 sets, two joins; three: 10 sets, two joins.  With and without skip.
    listed = list(multi.architectures())
    assert len(listed) == 2 * (3 + 2 * 6 + 2 * 10)
    networks = [multi.build(a) for a in listed]
    assert len({network.fingerprint for network in networks}) == len(listed)
    assert {n.layer.kind for n in networks[0].nodes if isinstance(n.layer, Activation)} == {"relu6"}


def test_mutation_reaches_every_network() -> None:
    multi = space(depths=[1], widths=[8], stages=[1], activations=["relu"], operations=["conv1x1", "conv3x3"])
    everything, rng = set(multi.architectures()), np.random.default_rng(0)
    current = multi.sample(rng)
    seen = {current}
    # 32 networks, each at most a few steps away with probability > 1 % (3,000 steps: missed with < 1e-12).
    for _ in range(3000):
        current = multi.mutate(current, rng)
        seen.add(current)
    assert seen == everything


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (3, 33, 20), (1, 1, 64), (3, 96, 96)])
def test_no_sample_fails_whatever_the_image(shape: tuple[int, ...]) -> None:
    multi, rng = space(shape), np.random.default_rng(0)
    for _ in range(25):
        a = multi.sample(rng)
        multi.build(a)
        multi.build(a, width=0.3, resolution=1)


def test_features_by_hand() -> None:
    multi = space(depths=[1, 2], widths=[8], stages=[1, 2])
    a = multi.from_options(
        {
            "stages": 2,
            "stage1_depth": 2,
            "stage1_block2_branches": 3,
            "stage1_block2_join": "concat",
            "stage2_block1_skip": "stage1",
        }
    )
    size = costs(multi.build(a))
    graph = multi.features(a)[len(multi.encode(a)) :]
    assert 10 ** graph[:3] == pytest.approx([size.macs, size.parameters, size.activation_bytes])
    # convolutions (stem, 1, 3, 1, and one on the skip), longest and shortest way, joins (concat, add)
    assert graph[3:7].tolist() == [7, 4, 4, 2]
    assert graph[10:].tolist() == [2, 3, 5, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branch": [1]}, "unknown key 'branch'; did you mean 'branches'"),
        ({"branches": [0, 1]}, "branches must be at least 1, got 0"),
        ({"operations": ["conv7x7"]}, "operations unknown name 'conv7x7'"),
        ({"joins": ["sum"]}, "joins unknown name 'sum'"),
        ({"stages": [1, 6]}, "stages must be at most 5 for images of 32 pixels, got 6"),
        ({"stem_stride": 3}, "stem_stride must be 1 or 2, got 3"),
        ({"longest_skip": -1}, "longest_skip must be at least 0, got -1"),
        ({"widths": [8.0]}, "widths must be a list of whole numbers"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"space 'multi_branch': {message}"):
        space(**options)
