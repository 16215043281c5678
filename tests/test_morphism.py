"""Growing networks: the child computes what the parent computes, whatever a morphism can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from results.errors import ArchitectureError
from results.records import Architecture, Option
from search.module import to_module
from search.morphism import Inherited, grow, map_weights
from search.morphism_norms import settle
from search.network import BatchNorm, Conv, Dense, Dropout, Network, Node, initial_weights
from search.space import SearchSpace
from search.spaces import cell, chain, mobile, multi_branch
from search.training import predict
from tests.fixtures_training import small_network

Weights = dict[str, NDArray[np.float32]]

ROUNDING = 1e-5
"""Of outputs of size 1, float32."""

SHAPE = (3, 16, 16)
MAKERS: Mapping[str, Any] = {
    "chain": lambda: chain.Space(input_shape=SHAPE, classes=5),
    "multi_branch": lambda: multi_branch.Space(input_shape=SHAPE, classes=5),
    "mobile": lambda: mobile.Space(input_shape=SHAPE, classes=5, channels=[8, 16], strides=[1, 2]),
    "cell": lambda: cell.Space(input_shape=SHAPE, classes=5, cells=1, channels=8),
}


@cache
def space(name: str) -> SearchSpace:
    made: SearchSpace = MAKERS[name]()
    return made


def trained_looking(network: Network, seed: int) -> Weights:
    """Weights whose batch norms have scales of both signs, shifts and statistics as after training."""
    rng = np.random.default_rng(seed)
    weights = initial_weights(network, seed)
    for node in network.nodes:
        if isinstance(node.layer, BatchNorm):
            channels = len(weights[f"{node.name}.weight"])
            scale = rng.uniform(0.3, 1.5, channels) * rng.choice([-1, 1], channels, p=[0.2, 0.8])
            weights[f"{node.name}.weight"][:] = scale
            weights[f"{node.name}.bias"][:] = rng.normal(0, 0.3, channels)
            weights[f"{node.name}.running_mean"][:] = rng.normal(0, 0.5, channels)
            weights[f"{node.name}.running_var"][:] = rng.uniform(0.3, 3, channels)
    return weights


def outputs(network: Network, weights: Any, *, training: bool = False) -> NDArray[np.float32]:
    images = np.random.default_rng(9).normal(size=(4, *network.input_shape)).astype(np.float32)
    module = to_module(network, weights).train(training)
    with torch.no_grad():
        made: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
    return made


def difference(parent: Network, weights: Weights, child: Network, made: Inherited) -> float:
    """Largest difference of the outputs, of their size or of 1."""
    before, after = outputs(parent, weights), outputs(child, made.weights)
    return float(np.abs(before - after).max() / max(1.0, float(np.abs(before).max())))


def grows(of: SearchSpace, a: Mapping[str, Option], b: Mapping[str, Option], seed: int = 0) -> Inherited:
    parent, child = of.build(of.from_options(dict(a))), of.build(of.from_options(dict(b)))
    weights = trained_looking(parent, seed)
    made = grow(parent, weights, child, seed=seed)
    assert difference(parent, weights, child, made) < ROUNDING
    assert 0 < made.share_inherited <= 1
    return made


# --------------------------------------------------------------------------- every morphism


CHAIN: dict[str, Option] = {"stage1_block1_type": "plain", "stage1_width": 8}
CHAIN_SKIP: dict[str, Option] = {**CHAIN, "stage1_depth": 2, "stage1_block2_type": "plain"}


@pytest.mark.parametrize("kind", ["plain", "separable"])
def test_deeper(kind: str) -> None:
    made = grows(space("chain"), CHAIN, {**CHAIN, "stage1_depth": 2, "stage1_block2_type": kind})
    assert all(name.startswith("stage1_block2") for name in made.adjusted)
    assert made.adjusted


def test_deeper_by_a_residual_block_whose_activation_changes_what_it_reads() -> None:
    of = space("mobile")
    made = grows(of, {"activation": "hard_swish"}, {"activation": "hard_swish", "stage2_depth": 2})
    assert not made.weights["stage2_block2_project_norm.weight"].any()


@pytest.mark.parametrize("decision", ["stage1_width", "stage2_width"])
def test_wider(decision: str) -> None:
    of = space("chain")
    options = next(d.options for d in of.decisions if d.name == decision)
    a: dict[str, Option] = {"downsamplings": 2, "stage2_block1_type": "inverted", decision: options[0]}
    grows(of, a, {**a, decision: options[-1]})


@pytest.mark.parametrize("kind", ["plain", "separable", "inverted"])
def test_larger_kernels(kind: str) -> None:
    a: dict[str, Option] = {"stage1_block1_type": kind, "stage1_block1_kernel": 3}
    grows(space("chain"), a, {**a, "stage1_block1_kernel": 5})


def test_a_skip_connection_around_a_convolution_that_takes_it_off() -> None:
    made = grows(space("chain"), CHAIN_SKIP, {**CHAIN_SKIP, "stage1_block2_skip": True})
    assert made.adjusted == ("stage1_block2_norm",)


def test_a_new_branch() -> None:
    a: dict[str, Option] = {"stage1_block1_branch1": "sep3x3"}
    made = grows(space("multi_branch"), a, {**a, "stage1_block1_branches": 2, "stage1_block1_join": "add"})
    zeros = [
        name for name, values in made.weights.items() if name.endswith("norm.weight") and not values.any()
    ]
    assert len(zeros) == 1


def test_squeeze_excitation() -> None:
    grows(space("mobile"), {"stage1_squeeze_excite": False}, {"stage1_squeeze_excite": True})


def test_an_edge_of_a_cell_and_a_larger_operation() -> None:
    of = space("cell")
    a: dict[str, Option] = {"edge_0_1": "nor_conv_1x1", "edge_1_3": "skip_connect"}
    grows(of, a, {**a, "edge_0_3": "nor_conv_3x3"})
    grows(of, a, {**a, "edge_0_1": "nor_conv_3x3"})


@pytest.mark.parametrize("name", list(MAKERS))
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10_000), changes=st.integers(1, 3))
def test_whatever_is_called_grown_computes_the_same(name: str, seed: int, changes: int) -> None:
    of, rng = space(name), np.random.default_rng(seed)
    smaller = of.sample(rng)
    parent, child = of.build(smaller), of.build(_larger(of, smaller, rng, changes))
    weights = trained_looking(parent, seed)
    made = map_weights(parent, weights, child, seed=seed)
    assert made.weights.keys() == initial_weights(child, 0).keys()
    assert made.preserved == (made.kind != "overlap")
    if made.preserved:
        assert difference(parent, weights, child, made) < ROUNDING


def test_most_enlargements_are_grown() -> None:
    """So that the test above tests something.  Poolings and skips in cells cannot be grown into."""
    grown = dict.fromkeys(MAKERS, 0)
    for name in MAKERS:
        of = space(name)
        for seed in range(20):
            rng = np.random.default_rng(seed)
            smaller = of.sample(rng)
            larger = of.build(_larger(of, smaller, rng, 1))
            parent = of.build(smaller)
            grown[name] += map_weights(parent, initial_weights(parent, 0), larger).kind == "grown"
    assert all(count >= 4 for count in grown.values()), grown


def _larger(of: SearchSpace, smaller: Architecture, rng: np.random.Generator, changes: int) -> Architecture:
    """Ordered decisions at a higher option, or an operation for none."""
    choices = list(smaller.choices)
    for i in rng.permutation(len(choices)):
        decision, applies = of.decisions[i], of.applying(choices)[i]
        more = decision.ordered or decision.options[choices[i]] in ("none", False, "nor_conv_1x1")
        if applies and more and choices[i] + 1 < len(decision.options) and changes:
            choices[i] = int(rng.integers(choices[i] + 1, len(decision.options)))
            changes -= 1
    return of.architecture(choices)


# --------------------------------------------------------------------------- training goes on


def test_what_is_new_learns_from_the_first_step() -> None:
    of = space("chain")
    a: dict[str, Option] = {"stage1_block1_type": "plain", "stage1_width": 8}
    parent, child = (of.build(of.from_options({**a, "stage1_width": w})) for w in (8, 16))
    made = grow(parent, trained_looking(parent, 0), child)
    module = to_module(child, made.weights).train()
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32))
    module(images).square().mean().backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    reads_new = gradients["classifier.weight"]
    assert reads_new is not None
    assert (reads_new[:, 8:] != 0).any()


def test_settled_batch_norms_compute_the_same_and_nearly_so_in_training() -> None:
    of = space("chain")
    parent, child = (of.build(of.from_options({**CHAIN, "stage1_depth": d})) for d in (1, 2))
    images = np.random.default_rng(9).normal(size=(64, *SHAPE)).astype(np.float32)
    weights = trained_looking(parent, 0)
    all_norms = [node.name for node in parent.nodes if isinstance(node.layer, BatchNorm)]
    weights = settle(parent, weights, all_norms, images)  # as after training: statistics of the data
    made = grow(parent, weights, child)
    settled = settle(child, made.weights, made.adjusted, images)
    assert np.abs(outputs(child, settled) - outputs(parent, weights)).max() < ROUNDING * 10
    wanted = outputs(parent, weights, training=True)
    error = np.abs(outputs(child, settled, training=True) - wanted).max()
    without = np.abs(outputs(child, made.weights, training=True) - wanted).max()
    assert error < without / 2


# --------------------------------------------------------------------------- what no morphism makes


def test_a_layer_that_a_morphism_cannot_take_is_named() -> None:
    of = space("chain")
    a, b = (of.build(of.from_options({"activation": kind})) for kind in ("relu", "hard_swish"))
    with pytest.raises(ArchitectureError, match=r"cannot be grown.*Activation.* cannot make what"):
        grow(a, initial_weights(a, 0), b)


def test_a_convolution_whose_batch_norm_lets_nothing_through_takes_nothing_off() -> None:
    of = space("chain")
    parent, child = (
        of.build(of.from_options({**CHAIN_SKIP, "stage1_block2_skip": s})) for s in (False, True)
    )
    weights = trained_looking(parent, 0)
    weights["stage1_block2_norm.weight"][3] = 1e-6
    with pytest.raises(ArchitectureError, match=r"stage1_block2 cannot make up for a skip"):
        grow(parent, weights, child)
    made = map_weights(parent, weights, child)
    assert made.kind == "overlap"
    assert "stage1_block2" in made.reason


def test_dropout_is_grown_over() -> None:
    """A network grows into one with another rate of dropout, more channels and one dropout more."""
    parent, child = (dropping(width, rate, more) for width, rate, more in ((8, 0.1, False), (12, 0.3, True)))
    weights = trained_looking(parent, 1)
    made = map_weights(parent, weights, child, seed=2)
    assert (made.kind, made.preserved) == ("grown", True), made.reason
    images = np.random.default_rng(0).standard_normal((4, *parent.input_shape), np.float32)
    expected = predict(parent, weights, images)
    assert np.abs(predict(child, made.weights, images) - expected).max() <= ROUNDING * max(
        1, np.abs(expected).max()
    )


def dropping(width: int, rate: float, more: bool) -> Network:
    network = small_network(depth=2, width=width)
    nodes = [
        *network.nodes[:-2],
        Node("drop0", Dropout(rate, "channels"), ("a1",)),
        replace(network.nodes[-2], inputs=("drop0",)),
        Node("drop1", Dropout(0.5), ("pool",)),
        *([Node("drop2", Dropout(0.2), ("drop1",))] if more else []),
        Node("head", Dense(10, bias=False), ("drop2" if more else "drop1",)),
    ]
    return Network(network.input_shape, tuple(nodes))


def test_what_does_not_grow_takes_over_what_fits() -> None:
    wide, narrow = small_network(width=16), small_network(width=8)
    weights = trained_looking(wide, 1)
    made = map_weights(wide, weights, narrow, seed=3)
    assert (made.kind, made.preserved, made.share_inherited) == ("overlap", False, 1.0)
    np.testing.assert_array_equal(made.weights["c1.weight"], weights["c1.weight"][:16, :8])
    big = Network(
        narrow.input_shape,
        tuple(Node(n.name, _with_kernel(n.layer, 5), n.inputs) for n in narrow.nodes),
    )
    smaller = map_weights(big, initial_weights(big, 5), narrow)
    np.testing.assert_array_equal(
        smaller.weights["c0.weight"], initial_weights(big, 5)["c0.weight"][:, :, 1:4, 1:4]
    )


def _with_kernel(layer: Any, edge: int) -> Any:
    if not isinstance(layer, Conv):
        return layer
    return Conv(layer.channels, (edge, edge), layer.stride, (edge // 2,) * 4)


def test_other_names_for_the_same_network() -> None:
    network = small_network()
    other = Network(
        network.input_shape,
        tuple(Node(f"x_{n.name}", n.layer, tuple(_x(i) for i in n.inputs)) for n in network.nodes),
    )
    weights = trained_looking(network, 2)
    made = map_weights(network, weights, other)
    assert (made.kind, made.share_inherited) == ("identical", 1.0)
    np.testing.assert_array_equal(made.weights["x_c1.weight"], weights["c1.weight"])


def _x(name: str) -> str:
    return name if name == "input" else f"x_{name}"


def test_weights_of_another_structure_are_refused() -> None:
    network, other = small_network(depth=2), small_network(depth=3)
    with pytest.raises(ArchitectureError, match=r"weights of another network: .* names differ"):
        map_weights(network, initial_weights(other, 0), other)
    wide = small_network(depth=2, width=24)
    with pytest.raises(ArchitectureError, match=r"c0\.weight has shape"):
        map_weights(network, initial_weights(wide, 0), wide)
