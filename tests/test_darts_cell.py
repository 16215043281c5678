"""The cells of DARTS: which are the same, and that the networks are the published ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from results.errors import ConfigError
from results.records import Architecture
from search.darts_cell import OPERATIONS, normal_form, relabelled
from search.layers import AvgPool, Concat, Conv, MaxPool
from search.network import costs
from search.spaces.cell import Space

SEP3, SEP5, DIL3, DIL5 = "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"
MAX, AVG, SKIP = "max_pool_3x3", "avg_pool_3x3", "skip_connect"
SECOND_ORDER = {  # the cells that Liu et al. found with second-order DARTS: their figures 4 and 5
    "normal": [(SEP3, 0, SEP3, 1), (SEP3, 0, SEP3, 1), (SKIP, 0, SEP3, 1), (SKIP, 0, DIL3, 2)],
    "reduction": [(MAX, 0, MAX, 1), (MAX, 1, SKIP, 2), (MAX, 0, SKIP, 2), (MAX, 1, SKIP, 2)],
}


def space(**options: Any) -> Space:
    return Space(input_shape=(3, 32, 32), classes=10, **{"kind": "darts", **options})


def published(darts: Space) -> Architecture:
    options: dict[str, Any] = {}
    for kind, nodes in SECOND_ORDER.items():
        for place, (first, a, second, b) in enumerate(nodes, start=2):
            name = f"{kind}_node{place}"
            options |= {f"{name}_inputs": f"{a}+{b}", f"{name}_first": first, f"{name}_second": second}
    return darts.from_options(options)


def test_the_published_network_has_the_published_parameters() -> None:
    darts = space(channels=36, cells=20)
    size = costs(darts.build(published(darts)))
    assert size.parameters == 3_349_342  # "3.3 M" in table 1; by their code to the last digit


def test_operations_by_hand() -> None:
    darts = space(cells=3, channels=8)
    network = darts.build(published(darts))
    layers = {node.name: node.layer for node in network.nodes}
    assert [n.split("_")[0] for n, layer in layers.items() if isinstance(layer, Concat)] == [
        "cell1",
        "cell2",
        "cell3",
    ]
    assert network.shapes["stem_norm"] == (24, 32, 32)
    assert [network.shapes[f"cell{i}_concat"] for i in (1, 2, 3)] == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]
    dilated = [layer for layer in layers.values() if isinstance(layer, Conv) and layer.dilation == (2, 2)]
    assert dilated == [Conv(8, (3, 3), padding=(2,) * 4, groups=8, dilation=(2, 2))]
    strides = [
        layer.stride for n, layer in layers.items() if isinstance(layer, MaxPool) and n.startswith("cell2")
    ]
    assert strides == [(2, 2)] * 5
    means = [n for n, layer in layers.items() if isinstance(layer, AvgPool)]
    assert means == ["cell3_input0_means"]  # cell 2 halved the image, so what cell 3 reads first is larger


def test_a_skip_from_an_input_of_a_reduction_cell_halves_it() -> None:
    darts = space(cells=3, channels=8, operations=[SKIP])
    network = darts.build(darts.from_options({}))
    assert network.shapes["cell2_node2_a_norm"] == (16, 16, 16)
    small = Space(input_shape=(1, 5, 3), classes=2, kind="darts", cells=3, channels=4)
    small.build(small.sample(np.random.default_rng(0)))


def test_nodes_in_another_order_are_the_same_cell() -> None:
    first = ((0, 1, 3, 4), (0, 1, 5, 6), (1, 3, 0, 1), (0, 2, 2, 3))
    # Nodes 2 and 3 change places, and so do those that read them, 4 and 5.
    second = ((0, 1, 5, 6), (0, 1, 3, 4), (0, 3, 2, 3), (1, 2, 0, 1))
    assert normal_form(first) == normal_form(second)
    assert second in set(relabelled(first))
    assert normal_form(first) != normal_form(((0, 1, 3, 4), (0, 1, 5, 6), (1, 2, 0, 1), (0, 2, 2, 3)))
    assert len(list(relabelled(((0, 1, 0, 0),) * 4))) == 24
    assert len(list(relabelled(((0, 1, 0, 0), (0, 2, 0, 0), (0, 3, 0, 0), (0, 4, 0, 0))))) == 1


def test_every_order_gives_the_same_architecture() -> None:
    darts = space(cells=3)
    a = darts.architecture([0, 0, 1, 0, 2, 3, 0, 4, 5, 0, 6, 0] * 2)  # all nodes read the inputs
    same = darts.equivalents(a.choices)
    assert len(same) == 24 + 24 - 1
    assert {darts.architecture(choices) for choices in same} == {a}


def test_operations_have_the_names_of_darts() -> None:
    assert set(OPERATIONS) == {SEP3, SEP5, DIL3, DIL5, MAX, AVG, SKIP}


def test_fewer_cells_than_three_are_refused() -> None:
    with pytest.raises(ConfigError, match="cells must be at least 3, got 2"):
        space(cells=2)
    with pytest.raises(ConfigError, match="kind unknown name 'dart'; did you mean 'darts'"):
        space(kind="dart")
