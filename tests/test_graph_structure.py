"""Distances of layer graphs: paths, Weisfeiler-Lehman labels, optimal transport; and a search by each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from results.errors import ConfigError
from results.records import Evaluation, Fidelity, Metric, Problem, Score, Target, Trial
from search import graph_structure
from search.graph_structure import STRUCTURES, optimal_transport, paths, structure_of, weisfeiler_lehman
from search.joint import JointSpace
from search.network import Activation, Add, Conv, Dense, GlobalPool, MaxPool, Network, Node, costs
from search.space import SearchSpace
from search.spaces import cell, chain, mobile, multi_branch
from search.strategies import bayesian

Floats = NDArray[np.float64]

SHAPE = (1, 8, 8)
POOL = MaxPool((3, 3), (1, 1), (1, 1, 1, 1))
POINTWISE = Conv(4, (1, 1), padding=(0, 0, 0, 0))
TAIL = (Node("pool", GlobalPool(), ("last",)), Node("out", Dense(2), ("pool",)))

every_structure = pytest.mark.parametrize("name", STRUCTURES)


def distance(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).sum())


def branches(first: str, second: str, *, crossed: bool = False) -> Network:
    """Two ways of two layers each, added; ``crossed`` swaps what comes second."""
    layers: dict[str, Any] = {"conv": Conv(4), "point": POINTWISE, "max": POOL}
    ends = (second, first) if crossed else (first, second)
    nodes = (
        Node("stem", Conv(4), ("input",)),
        Node("a", layers[first], ("stem",)),
        Node("b", layers[second], ("stem",)),
        Node("c", layers[ends[0]], ("a",)),
        Node("d", layers[ends[1]], ("b",)),
        Node("last", Add(), ("c", "d")),
    )
    return Network(SHAPE, (*nodes, *TAIL))


def row(*layers: Any) -> Network:
    """Layers one after the other."""
    nodes, before = [], "input"
    for i, layer in enumerate(layers):
        name = "last" if i == len(layers) - 1 else f"n{i}"
        nodes.append(Node(name, layer, (before,)))
        before = name
    return Network(SHAPE, (*nodes, *TAIL))


def test_sequences_of_operations_by_hand() -> None:
    """Conv, conv, pool, dense: 4 + 3 + 2 + 1 sequences, 3 more from the input; an activation is none."""
    network = row(Conv(4), Activation("relu"), Conv(4))
    assert paths(network).sum() == 4 + 3 + 2 + 1 + 3
    assert np.array_equal(paths(network), paths(row(Conv(8), Conv(4))))
    one_more = paths(row(Conv(4), Conv(4), POOL)) - paths(network)
    assert one_more.sum() == (5 + 4 + 3 + 2 + 3) - 13


@every_structure
def test_the_order_of_branches_makes_no_difference(name: str) -> None:
    measure = STRUCTURES[name]
    assert np.array_equal(measure(branches("conv", "max")), measure(branches("max", "conv")))


def test_wiring_is_told_apart_where_counts_of_layers_are_equal() -> None:
    """Conv-conv and pool-pool against conv-pool twice."""
    straight, crossed = branches("conv", "max"), branches("conv", "max", crossed=True)
    assert distance(paths(straight), paths(crossed)) > 0
    assert distance(weisfeiler_lehman(straight), weisfeiler_lehman(crossed)) > 0


def test_refined_labels_by_hand() -> None:
    """Three rounds of one label per layer; a change in the first layer reaches two layers behind it."""
    first, second = row(Conv(4), Conv(4), POOL, POOL), row(POINTWISE, Conv(4), POOL, POOL)
    assert weisfeiler_lehman(first).sum() == 3 * 6
    changed = 1 + 2 + 3  # labels that differ after 0, 1 and 2 rounds
    assert distance(weisfeiler_lehman(first), weisfeiler_lehman(second)) == 2 * changed


def exact_transport(a: Network, b: Network) -> float:
    """The least cost of making one mass the other, by a linear program over all plans."""
    sides = [_masses(network) for network in (a, b)]
    cost = np.array([[_cost(x[:3], y[:3]) for y in sides[1]] for x in sides[0]])
    n, m = cost.shape
    leaving, arriving = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    bounds = [x[3] for side in sides for x in side]
    found = linprog(cost.ravel(), A_eq=np.vstack([leaving, arriving]), b_eq=bounds)
    assert found.success
    return float(found.fun)


def _masses(network: Network) -> list[tuple[str, str, float, float]]:
    layers = graph_structure._layers(network)
    heavy = sum(layer.mass for layer in layers)
    light = sum(not layer.mass for layer in layers)
    places = graph_structure._places(layers)
    shares = [layer.mass / heavy if layer.mass else 0.1 / light for layer in layers]
    whole = 1.1 if light else 1.0
    return [(x.kind, x.label, p, s / whole) for x, p, s in zip(layers, places, shares, strict=True)]


def _cost(x: tuple[str, str, float], y: tuple[str, str, float]) -> float:
    """4 for another kind, 2 for another layer, 1 for each of halves, quarters and eighths that differ."""
    if x[1] != y[1]:
        return 4.0 * (x[0] != y[0]) + 2.0 + 3.0
    return float(sum(min(int(x[2] * n), n - 1) != min(int(y[2] * n), n - 1) for n in (2, 4, 8)))


def test_the_closed_form_is_the_optimum_of_the_linear_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_structure, "COLUMNS", 2**16)  # so many that no two features share one
    spaces = [chain.Space(input_shape=SHAPE, classes=10), multi_branch.Space(input_shape=SHAPE, classes=10)]
    for seed in range(6):
        space = spaces[seed % 2]
        a, b = (space.build(space.sample(np.random.default_rng([seed, i]))) for i in (0, 1))
        found = distance(optimal_transport(a), optimal_transport(b))
        assert found == pytest.approx(exact_transport(a, b), abs=1e-6)
        assert found > 0


def test_transport_by_hand() -> None:
    """All work in one layer of two kinds: all mass but that of the light layers moves."""
    a, b = row(Conv(64, (3, 3))), row(Conv(64, (1, 1), padding=(0,) * 4))
    heavy = [costs(n).macs for n in (a, b)]
    dense = [2 * 64 / macs for macs in heavy]
    moved = min(1 - dense[0], 1 - dense[1]) / 1.1  # to the other kind of convolution
    arriving = abs(dense[0] - dense[1]) / 1.1  # from the dense layer
    expected = (moved + arriving) * 9.0
    assert distance(optimal_transport(a), optimal_transport(b)) == pytest.approx(expected)


SPACES: list[tuple[Any, dict[str, Any]]] = [
    (chain, {}),
    (multi_branch, {}),
    (mobile, {}),
    (cell, {"cells": 1, "channels": 4}),
    (cell, {"kind": "darts", "cells": 3, "channels": 4}),
]


@every_structure
@pytest.mark.parametrize(("module", "options"), SPACES)
def test_every_space_has_every_distance(module: Any, options: dict[str, Any], name: str) -> None:
    """Symmetric, with the triangle inequality, 0 for equal networks; near networks are nearer on average."""
    space: SearchSpace = module.Space(input_shape=SHAPE, classes=10, **options)
    measure = structure_of(space, name)
    rng = np.random.default_rng(0)
    samples = [space.sample(rng) for _ in range(8)]
    vectors = [measure(a) for a in samples]
    assert all(np.isfinite(v).all() and v.shape == (graph_structure.COLUMNS,) for v in vectors)
    d = np.array([[distance(a, b) for b in vectors] for a in vectors])
    assert (d == d.T).all()
    assert (d[:, None, :] <= d[:, :, None] + d[None, :, :] + 1e-9).all()
    near = [distance(measure(space.mutate(a, rng)), v) for a, v in zip(samples, vectors, strict=True)]
    assert np.mean(near) < d[np.triu_indices(8, 1)].mean()


def joint() -> JointSpace:
    targets = [Target("pi5", runtime) for runtime in ("onnxruntime", "tflite")]
    inner = chain.Space(input_shape=SHAPE, classes=10, depths=[1, 2], widths=[4, 8])
    return JointSpace(inner, deployments={"pi5": targets}, training={"learning_rate": [0.01, 0.1]})


@every_structure
def test_decisions_beside_the_network_count_as_edits(name: str) -> None:
    space = joint()
    measure = structure_of(space, name)
    a = space.sample(np.random.default_rng(0))
    other = space.architecture([*a.choices[:-2], 1 - a.choices[-2], a.choices[-1]])
    assert distance(measure(a), measure(other)) == 2


def test_a_joint_space_has_the_structure_of_its_networks() -> None:
    space = joint()
    a = space.sample(np.random.default_rng(0))
    assert np.array_equal(space.structure(a), space.encode(a))


@every_structure
def test_a_search_by_it_repeats_itself(name: str) -> None:
    space, problem = joint(), Problem((Metric("accuracy", maximise=True),))

    def asked() -> list[tuple[int, ...]]:
        strategy = bayesian.Strategy(
            space, problem, fidelity=Fidelity(epochs=1), seed=1, start=4, distance=name
        )
        found = []
        for n in range(8):
            proposal = strategy.ask(n, ())
            assert proposal is not None
            found.append(proposal.architecture.choices)
            accuracy = 0.5 + 0.01 * (sum(proposal.architecture.choices) % 7)
            score = {"fp32": Score(accuracy, 100)}
            strategy.tell(Evaluation(Trial(n, proposal), "complete", accuracy=score))
        return found

    first = asked()
    assert len(set(first)) == 8
    assert asked() == first


def test_unknown_distances_are_refused() -> None:
    problem = Problem((Metric("accuracy", maximise=True),))
    with pytest.raises(ConfigError, match=r"distance is one of space, paths, .*, got 'euclid'"):
        bayesian.Strategy(joint(), problem, fidelity=Fidelity(epochs=1), seed=1, distance="euclid")
