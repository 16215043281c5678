"""Shared weights: every network computes with its part of them, and training them is repeatable."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from results.errors import ConfigError
from search.datasets import load_task
from search.module import to_module
from search.network import costs, weight_shapes
from search.space import Decision, SearchSpace
from search.spaces import cell, chain, mobile, multi_branch
from search.supernet import Path as SupernetPath
from search.supernet import Supernet
from search.supernet_names import shared_names, shared_shapes
from search.supernet_sampling import SAMPLINGS, Sampler, SupernetPlan
from search.supernet_training import path_score, path_weights, train_supernet

SHAPE = (1, 8, 8)
SPACES: dict[str, SearchSpace] = {
    "chain": chain.Space(input_shape=SHAPE, classes=10),
    "multi_branch": multi_branch.Space(input_shape=SHAPE, classes=10),
    "mobile": mobile.Space(input_shape=SHAPE, classes=10, channels=[8, 16], strides=[1, 2]),
    "cell": cell.Space(input_shape=SHAPE, classes=10, cells=1, channels=8),
}
SMALL = chain.Space(input_shape=SHAPE, classes=10, depths=[1, 2], widths=[8, 12], blocks=["plain"])


@pytest.fixture(params=list(SPACES))
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return SPACES[request.param]


def images(count: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    rng = np.random.default_rng(4)
    return torch.from_numpy(rng.normal(size=(count, *shape)).astype(np.float32))


def test_shared_tensors_are_as_large_as_nearly_every_network_needs(space: SearchSpace) -> None:
    shapes = shared_shapes(space, 0)
    rng = np.random.default_rng(99)
    needed, short = 0, 0
    for _ in range(30):
        network = space.build(space.sample(rng))
        own = weight_shapes(network)
        for name, shared in shared_names(network).items():
            needed += 1
            short += shared not in shapes or any(map(int.__gt__, own[name], shapes[shared]))
    assert short / needed < 0.01


def test_a_path_is_the_network_with_slices_of_the_shared_weights(space: SearchSpace) -> None:
    supernet = Supernet.of(space, 0)
    network = space.build(space.sample(np.random.default_rng(3)))
    x = images(16)
    path = SupernetPath(supernet, network)
    made = path(x)
    made.square().sum().backward()  # type: ignore[no-untyped-call]
    used = {name for name, tensor in supernet.tensors.items() if tensor.grad is not None}
    assert used == set(shared_names(network).values()) & supernet.tensors.keys()
    weights = path.weights(x)
    alone = to_module(network, weights)
    assert torch.allclose(alone.train()(x), made, atol=1e-5)
    # With the batch's own statistics (their variance unbiased) it computes the same when it is used.
    assert torch.allclose(alone.eval()(x), made, rtol=0.05, atol=0.05)


def test_widths_kernels_and_depths_are_parts_of_one_tensor() -> None:
    space = SPACES["chain"]
    supernet = Supernet.of(space, 0)
    options: dict[str, Any] = {"stage1_block1_type": "plain"}
    large, small = (
        space.build(space.from_options({**options, "stage1_width": w, "stage1_block1_kernel": k}))
        for w, k in ((24, 5), (8, 3))
    )
    a, b = (supernet.path(network)["stage1_block1.weight"] for network in (large, small))
    assert torch.equal(a[:8, :, 1:4, 1:4], b)
    deep = space.build(space.from_options({**options, "stage1_depth": 2}))
    flat = space.build(space.from_options(options))
    assert shared_names(flat).items() <= shared_names(deep).items()


def test_parallel_choices_have_their_own_weights() -> None:
    space = SPACES["multi_branch"]
    names = set()
    for operation in ("conv1x1", "conv3x3", "sep3x3", "max_pool3x3", "avg_pool3x3"):
        network = space.build(space.from_options({"stage1_block1_branch1": operation}))
        names.add(shared_names(network)["stage1_block1_branch1.weight"])
    assert len(names) == 5


def test_what_no_network_has_shared_is_filled_up() -> None:
    network = SMALL.build(SMALL.from_options({"stage1_width": 24}))
    whole = Supernet.of(SMALL, 0)
    shapes = {n: tuple(t.shape) for n, t in whole.tensors.items() if "stage1" in n}
    shapes = {n: (shape[0] // 2, *shape[1:]) for n, shape in shapes.items()}
    half = Supernet(shapes, 0)
    path = half.path(network)
    assert {n: tuple(t.shape) for n, t in path.items()}.items() <= weight_shapes(network).items()
    shared = shared_names(network)["stage1_block1.weight"]
    kept = half.tensors[shared]
    assert torch.equal(path["stage1_block1.weight"][: len(kept)], kept[:, :8, 1:4, 1:4])


# --------------------------------------------------------------------------- sampling


def test_fair_sampling_gives_every_option_its_turn() -> None:
    decisions = [Decision("a", ("x", "y", "z")), Decision("b", (1, 2, 3)), Decision("c", (0, 1))]

    class Flat(SearchSpace):
        def build(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    space = Flat("flat", decisions)
    for seed in range(5):
        taken = Sampler(space, SupernetPlan(sampling="fair"), seed).draw()
        for i, decision in enumerate(decisions):
            counts = Counter(a.choices[i] for a in taken)
            assert len(counts) == len(decision.options)
            assert max(counts.values()) - min(counts.values()) <= 3 % len(decision.options)


def test_a_sandwich_has_the_largest_and_the_smallest_network() -> None:
    sampler = Sampler(SMALL, SupernetPlan(sampling="sandwich", paths=3), 0)
    for _ in range(5):
        taken = sampler.draw()
        macs = [costs(SMALL.build(architecture)).macs for architecture in taken]
        assert len(taken) == 5
        assert macs[0] == max(macs)
        assert macs[1] == min(macs)


# --------------------------------------------------------------------------- training


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_training_is_repeatable_and_learns(sampling: Any) -> None:
    task = load_task("digits", {})
    plan = SupernetPlan(epochs=2, sampling=sampling, subset=0.2)
    first, second = (train_supernet(SMALL, task, plan, 1) for _ in range(2))
    assert first.weights.keys() == second.weights.keys()
    assert all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert first.losses[1] < first.losses[0]
    other = train_supernet(SMALL, task, plan, 2)
    assert any(not np.array_equal(first.weights[name], other.weights[name]) for name in first.weights)


def test_a_trained_path_is_far_above_chance_without_training_of_its_own() -> None:
    """Chance is 0.1; 0.3 would be reached by it with probability below 1e-9 (180 images, binomial)."""
    task = load_task("digits", {})
    trained = train_supernet(SMALL, task, SupernetPlan(epochs=6, learning_rate=6e-3), 0)
    supernet = Supernet.trained(trained.weights, 0)
    network = SMALL.build(SMALL.from_options({"stage1_width": 24}))
    weights = path_weights(supernet, network, task)
    assert weights.keys() == weight_shapes(network).keys()
    assert path_score(supernet, network, task).value > 0.3


_MEMORY = """
import json, resource
import numpy as np
from search.datasets import load_task
from search.network import *
from search.space import Decision, SearchSpace
from search.supernet_sampling import SupernetPlan
from search.supernet_training import train_supernet

class Wide(SearchSpace):
    def build(self, architecture, *, width=1.0, resolution=None):
        convolution = Conv(int(self.name), (1, 1), padding=(0, 0, 0, 0))
        layers = [convolution, BatchNorm(), Activation(), GlobalPool(), Dense(10)]
        names = ["input", "c", "n", "a", "p", "d"]
        nodes = [Node(name, layer, (before,)) for before, name, layer in zip(names, names[1:], layers)]
        return Network((1, 8, 8), tuple(nodes))

task = load_task("digits", {})
plan = SupernetPlan(epochs=1, subset=0.05)
pages = int(open("/proc/self/statm").read().split()[0])
room = pages * resource.getpagesize() + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
for channels in (8192, 1_000_000):
    try:
        found = train_supernet(Wide(str(channels), [Decision("only", (1,))]), task, plan, 0)
        print(json.dumps([found.batch_size, *found.notes]))
    except Exception as error:
        print(json.dumps([f"{type(error).__name__}: {error}"]))
"""


def test_a_smaller_batch_where_memory_is_short_and_an_error_where_there_is_none() -> None:
    """In a process that may have 400 MiB more; a tensor of 64 images of 8192 channels has 128."""
    root = Path(__file__).resolve().parents[1]
    argv = [sys.executable, "-c", _MEMORY]
    run = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True)
    smaller, none = map(json.loads, run.stdout.splitlines())
    assert smaller[0] in (32, 16)
    assert smaller[1] == "no memory for batches of 64 images: 32 were used"
    assert "TrainingError" in none[0]
    assert "no memory for batches of 8 images" in none[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"sampling": "fare"}, "uniform, fair, sandwich"),
        ({"batch_size": 4}, "batches"),
    ],
)
def test_plans_that_cannot_be_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SupernetPlan(**change)
