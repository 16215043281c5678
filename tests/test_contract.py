"""Every strategy in every space: objectives of two devices, a limit, failed, late and unmeasured trials."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from harness import plugins
from results.errors import ConfigError
from results.records import (
    Architecture,
    Evaluation,
    Fidelity,
    Limit,
    Metric,
    Problem,
    Proposal,
    Score,
    Target,
    Trial,
)
from results.statistics import decide
from search import candidates
from search.joint import JointSpace, targets_of
from search.network import Network, costs
from search.novelty import every_architecture
from search.space import SearchSpace
from search.spaces import cell
from search.strategies import bayesian
from search.strategy import Strategy
from tests.table_space import published
from tests.test_spaces import TREE

FIDELITY = Fidelity(epochs=1)
SHAPE = (1, 8, 8)
SEEDS = (1, 2)
ASKS, LATE = 10, 3
"""Trials asked for, and how many are under way at once."""

POOLS = {"POOL": 60, "NEIGHBOURS": 60, "DOUBLE_EDITS": 20, "CROSSOVERS": 15, "RANDOM": 40}
EVOLVED = 2
"""Candidates that a model looks at here: its time depends on how many, what it promises does not."""

PI, NANO = Target("pi5", "onnxruntime"), Target("nano", "tflite")
PI_LITE = Target("pi5", "tflite", "int8")

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "chain": ("chain", {"depths": [1, 2], "widths": [4, 8]}),
    "multi_branch": ("multi_branch", {"stages": [1, 2], "depths": [1, 2]}),
    "mobile": ("mobile", {"depths": [1, 2]}),
    "cell": ("cell", {"cells": 1, "channels": 4}),
    "darts": ("cell", {"kind": "darts", "cells": 3, "channels": 4}),
}
CASES = (*OPTIONS, "tree", "joint")


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in POOLS.items():
        monkeypatch.setattr(candidates, name, number)
    monkeypatch.setattr(bayesian, "BEST", EVOLVED)


@cache
def space_of(case: str) -> SearchSpace:
    if case == "tree":
        return TREE
    if case == "joint":
        deployments = {"pi5": [PI, PI_LITE]}
        return JointSpace(space_of("chain"), deployments=deployments, training={"learning_rate": [0.01, 0.1]})
    name, options = OPTIONS[case]
    module = importlib.import_module(f"search.spaces.{name}")
    space: SearchSpace = module.Space(input_shape=SHAPE, classes=10, **options)
    return space


def problem_of(case: str) -> Problem:
    """Accuracy and the latencies of two devices, the second limited."""
    names = ("pi5" if case == "joint" else PI.name, NANO.name)
    first, second = (Metric("latency_p50", (name,)) for name in names)
    return Problem((Metric("accuracy", maximise=True), first, second), (Limit(second, _limit_s(case)),))


@cache
def _limit_s(case: str) -> float:
    """What three of ten random networks keep."""
    space = space_of(case)
    rng = np.random.default_rng(0)
    return float(np.quantile([_work(space, space.sample(rng))[1] for _ in range(30)], 0.3))


def _work(space: SearchSpace, architecture: Architecture) -> tuple[float, float]:
    """Seconds on two devices: one is slow at arithmetic, the other at moving data."""
    cost = costs(space.build(architecture))
    return 1e-9 * cost.macs + 1e-8 * cost.parameters, 1e-10 * cost.macs + 1e-7 * cost.activation_bytes


def evaluated(space: SearchSpace, problem: Problem, trial: Trial) -> Evaluation:
    """As a board and a training would: now and then one fails, or the board is lost."""
    if trial.number % 7 == 5:
        return Evaluation(trial, "failed", error="out of memory")
    if trial.number % 7 == 6:
        return Evaluation(trial, "unmeasured", error="the board was away")
    architecture = trial.proposal.architecture
    pi_s, nano_s = _work(space, architecture)
    figures = {NANO: nano_s, PI: pi_s, PI_LITE: pi_s / 2}
    wanted = (PI, PI_LITE, NANO) if isinstance(space, JointSpace) else (PI, NANO)
    measurements = {
        target.name: published(target, figures[target]) for target in targets_of(space, architecture, wanted)
    }
    screened = Evaluation(trial, "infeasible", measurements)
    if any(decide(screened, limit) == "broken" for limit in problem.limits):
        return screened
    if trial.proposal.screen_only:
        return Evaluation(trial, "screened", measurements)
    accuracy = 0.5 + 0.4 * pi_s / (pi_s + 1e-4) + 0.01 * (sum(architecture.choices) % 5)
    precisions = {"fp32": Score(accuracy, 1000), "int8": Score(accuracy - 0.01, 1000)}
    return Evaluation(trial, "complete", measurements, accuracy=precisions)


def strategy_of(name: str, case: str, seed: int) -> Strategy | None:
    """None where the space is too large for it (grid)."""
    kind: Callable[..., Strategy] = plugins.load("strategies", name).Strategy
    options = {"bayesian": {"start": 4, "shortlist": 2}, "nsga2": {"population": 4}}.get(name, {})
    options = options | ({"population": 4, "sample": 2} if name == "regularized_evolution" else {})
    try:
        return kind(space_of(case), problem_of(case), fidelity=FIDELITY, seed=seed, **options)
    except ConfigError:
        assert name == "grid"
        return None


def run(strategy: Strategy, case: str) -> tuple[list[Proposal], list[Evaluation]]:
    """Asks with some trials under way, told in the order of their numbers; what was asked and told."""
    space, problem = space_of(case), problem_of(case)
    pending: list[Trial] = []
    asked: list[Proposal] = []
    told: list[Evaluation] = []
    while len(asked) < ASKS:
        proposal = strategy.ask(len(asked), tuple(pending))
        if proposal is not None:
            pending.append(Trial(len(asked), proposal))
            asked.append(proposal)
        elif not pending:
            break
        if proposal is None or len(pending) == LATE:
            told.append(evaluated(space, problem, pending.pop(0)))
            strategy.tell(told[-1])
    return asked, told


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", plugins.known("strategies"))
def test_the_same_seed_and_the_same_tells_give_the_same_asks(name: str, case: str, seed: int) -> None:
    first, second = strategy_of(name, case, seed), strategy_of(name, case, seed)
    if first is None or second is None:
        return
    asked, told = run(first, case)
    assert asked == run(second, case)[0]
    resumed = strategy_of(name, case, seed)
    assert resumed is not None
    for evaluation in told:
        resumed.tell(evaluation)
    under_way = tuple(Trial(n, p) for n, p in enumerate(asked) if n >= len(told))
    following = first.ask(len(asked), under_way)
    assert following == first.ask(len(asked), under_way) == resumed.ask(len(asked), under_way)
    space = space_of(case)
    for proposal in asked:
        space.check(proposal.architecture)
        assert space.from_options(space.describe(proposal.architecture)) == proposal.architecture
    trained = [p.architecture for p in asked if not p.screen_only]
    assert len(set(trained)) == len(trained)
    states = {e.state for e in told}
    assert {"failed", "unmeasured"} <= states
    assert "infeasible" in states or name != "random_search"


@pytest.mark.parametrize("case", CASES)
def test_shapes_found_while_a_network_is_built_are_those_of_its_layers(case: str) -> None:
    space = space_of(case)
    rng = np.random.default_rng(0)
    for _ in range(5):
        network = space.build(space.sample(rng))
        assert Network(network.input_shape, network.nodes).shapes == network.shapes


REACHABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "chain": (
        "chain",
        {"depths": [1, 2], "widths": [4], "kernels": [3], "activations": ["relu"], "max_downsamplings": 1},
    ),
    "multi_branch": (
        "multi_branch",
        {"stages": [1], "depths": [1, 2], "widths": [4], "branches": [1, 2], "activations": ["relu"]}
        | {"operations": ["conv3x3", "max_pool3x3"]},
    ),
    "mobile": (
        "mobile",
        {"depths": [1, 2], "widths": [100], "kernels": [3, 5], "expansions": [3], "activations": ["relu"]}
        | {"channels": [8], "strides": [1]},
    ),
    "cell": ("cell", {"operations": ["none", "skip_connect", "nor_conv_3x3"]}),
}


@pytest.mark.parametrize("case", REACHABLE)
def test_mutants_of_mutants_are_the_whole_space(case: str) -> None:
    """Of all networks that are known, mutants are drawn, until every network of a small space is."""
    name, options = REACHABLE[case]
    module = importlib.import_module(f"search.spaces.{name}")
    space: SearchSpace = module.Space(input_shape=SHAPE, classes=10, **options)
    everything = set(every_architecture(space))
    rng = np.random.default_rng(0)
    seen = {space.sample(rng)}
    for _ in range(60):
        seen |= {space.mutate(parent, rng) for parent in sorted(seen, key=lambda a: a.choices)}
        if len(seen) == len(everything):
            break
    assert seen == everything


def test_mutants_of_mutants_are_all_cells_of_darts() -> None:
    """The normal and the reduction cells of one long walk; a change of one leaves the other as it is."""
    space = cell.Space(input_shape=SHAPE, classes=10, kind="darts", operations=["skip_connect"])
    everything = set(map(_cells, every_architecture(space)))
    rng = np.random.default_rng(0)
    current = space.sample(rng)
    walked = [_cells(current)]
    for _ in range(3000):
        current = space.mutate(current, rng)
        walked.append(_cells(current))
    for half in (0, 1):
        assert {pair[half] for pair in walked} == {pair[half] for pair in everything}
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in itertools.pairwise(walked))


def _cells(architecture: Architecture) -> tuple[tuple[int, ...], tuple[int, ...]]:
    middle = len(architecture.choices) // 2
    return architecture.choices[:middle], architecture.choices[middle:]
