"""A user's own ``nn.Module`` as a space: traced into a layer graph, proved, trained, exported, measured."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import cli
from harness.config import STORE, space_of, task_of
from harness.export import export
from harness.study import read_study
from results.errors import ArchitectureError, ConfigError
from results.evaluations import history
from results.store import Store
from search.module_graph import network_of
from search.module_space import module_space
from search.network import costs, initial_weights
from search.training import repeatable

MODELS = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, channels, kernel):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + torch.relu(self.norm(self.conv(x)))

def build(input_shape, classes, width=8, kernel=3, deep=False):
    return nn.Sequential(
        nn.Conv2d(input_shape[0], width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width, momentum=0.05),
        nn.ReLU6(),
        *(Block(width, kernel) for _ in range(2 if deep else 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(width, classes, bias=False),
    )

def fixed():
    return build((1, 8, 8), 10), torch.zeros(1, 1, 8, 8)

def broken(input_shape, classes):
    raise RuntimeError("no weights today")
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "my_models.py"
    path.write_text(MODELS)
    return path


# --------------------------------------------------------------------------- tracing


class Everything(nn.Module):
    """Every kind of operation that a layer stands for, as modules, functions and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same", dilation=2), nn.Hardswish())
        self.branch = nn.Conv2d(8, 8, (1, 3), padding=(0, 1), groups=2, bias=False)
        self.norm = nn.BatchNorm2d(8, eps=1e-3)
        self.maximum, self.mean = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Hardsigmoid())
        self.up = nn.Upsample(size=(12, 12), mode="bilinear")
        self.classify = nn.Sequential(nn.Linear(16, 5), nn.Softmax(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.silu(self.norm(self.branch(x))).relu() + torch.sigmoid(x)
        z = torch.cat((self.maximum(y), self.mean(F.relu6(y))), dim=1)
        z = self.up(z * self.gate(z))
        logits: Tensor = self.classify(torch.flatten(F.adaptive_avg_pool2d(z, 1), 1))
        return logits


def test_every_operation_becomes_a_layer_that_computes_the_same() -> None:
    network = network_of(Everything(), (3, 13, 13))  # it proves itself
    assert network.shapes[network.output] == (5,)
    assert {type(node.layer).__name__ for node in network.nodes} == {
        *("Conv", "BatchNorm", "Activation", "Add", "Multiply", "Concat", "MaxPool", "AvgPool"),
        *("GlobalPool", "Resize", "Flatten", "Dense", "Softmax"),
    }
    assert export(network, initial_weights(network, 0), "tflite").artifact.size_bytes > 0


class Own(nn.Module):
    """A module with a forward of the test's own."""

    def __init__(self, forward: Callable[[Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.linear, self.scale = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2), nn.Parameter()
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self._forward(self, x).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda self, x: torch.sin(x), r"forward\(\): sin is none of the layers"),
        (lambda self, x: torch.cat((x, x), dim=2), r"forward\(\): cat with dim=2 \(supported: 1"),
        (lambda self, x: self.conv(self.conv(x)), "conv is used twice"),
        (lambda self, x: x * self.scale, "tensor of the module's own"),
        (lambda self, x: x + 1, "1 is no tensor"),
        (lambda self, x: x if x.sum() > 0 else -x, "must not depend on the values"),
        (lambda self, x: F.relu(x, True) if self.training else self.conv(x), "other things in training"),
    ],
)
def test_what_is_no_layer_is_named(forward: Callable[[Own, Tensor], Tensor], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        network_of(Own(forward), (3, 6, 6))


@pytest.mark.parametrize(
    ("module", "setting"),
    [
        (nn.MaxPool2d(2, ceil_mode=True), "ceil_mode=True"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
        (nn.BatchNorm2d(3, affine=False), "affine=False"),
        (nn.AdaptiveAvgPool2d(2), "output_size=2"),
    ],
)
def test_settings_that_no_layer_has_are_named(module: nn.Module, setting: str) -> None:
    whole = nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with pytest.raises(ArchitectureError, match=rf"0: {type(module).__name__} with {setting} .supported: "):
        network_of(whole, (3, 7, 7))


# --------------------------------------------------------------------------- the space


def test_lists_are_decisions_and_the_rest_is_fixed(models: Path) -> None:
    kind = module_space(f"{models}:build")
    space = kind(input_shape=(1, 8, 8), classes=10, width=[8, 16], kernel=3, deep=[False, True])
    assert [(d.name, d.options, d.ordered) for d in space.decisions] == [
        ("width", (8, 16), True),
        ("deep", (False, True), False),
    ]
    sizes = {costs(space.build(a)).macs for a in space.architectures()}
    assert len(sizes) == 4
    before = torch.random.get_rng_state()
    space.build(space.sample(np.random.default_rng(0)))
    assert torch.equal(before, torch.random.get_rng_state())


def test_seeded_code_in_other_threads_draws_what_it_would_alone(models: Path) -> None:
    """Modules are built, which draws their weights, while a thread computes as trainings and proofs do."""
    space = module_space(f"{models}:build")(input_shape=(1, 8, 8), classes=10, width=list(range(4, 12)))
    drawn, stop, generator = set(), threading.Event(), torch.get_rng_state()

    def draw() -> None:
        while not stop.wait(0.001):
            with repeatable(5):
                drawn.add(
                    (tuple(torch.rand(4).tolist()), tuple(torch.rand(4).tolist()), torch.get_num_threads())
                )

    thread = threading.Thread(target=draw)
    thread.start()
    for architecture in space.architectures():
        space.build(architecture)
    stop.set()
    thread.join()
    assert len(drawn) == 1
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_function_for_bench_is_a_space_of_one(models: Path) -> None:
    space = module_space(f"{models}:fixed")(input_shape=(1, 8, 8), classes=10)
    (only,) = space.architectures()
    assert space.build(only).shapes[space.build(only).output] == (10,)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("build", {"widht": [8]}, "did you mean 'width'"),
        ("nothing", {}, "has no function 'nothing'"),
        ("build", {"width": [[8]]}, "must be a list of texts"),
    ],
)
def test_what_cannot_be_a_space(models: Path, name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        module_space(f"{models}:{name}")(input_shape=(1, 8, 8), classes=10, **options)
    with pytest.raises(ConfigError, match="no such file"):
        module_space(f"{models.parent}/other.py:build")(input_shape=(1, 8, 8), classes=10)
    with pytest.raises(ConfigError, match="cannot be imported"):
        module_space("no_such_package:build")(input_shape=(1, 8, 8), classes=10)


def test_what_the_function_raises_is_quoted(models: Path) -> None:
    space = module_space(f"{models}:broken")(input_shape=(1, 8, 8), classes=10)
    with pytest.raises(ArchitectureError, match="no weights today"):
        space.build(next(space.architectures()))
    other = module_space(f"{models}:fixed")(input_shape=(1, 8, 8), classes=3)
    with pytest.raises(ArchitectureError, match=r"3 outputs are wanted, the module has \(10,\)"):
        other.build(next(other.architectures()))


STUDY = """
trials = 2
[task]
name = "digits"
[space]
name = "my_models.py:build"
width = [4, 8]
[strategy]
name = "random_search"
[training]
epochs = 1
subset = 0.3
[measurement]
accept_noisy = true
screen = { sessions = [1, 1], session_s = 0.01, warmup_s = 0.002, min_runs = 20 }
confirm = { sessions = [2, 2], agents = 2, session_s = 0.01, warmup_s = 0.002, min_runs = 20 }
[[targets]]
device = "here"
runtime = "tflite"
"""


def test_a_module_is_searched_like_every_other_network(models: Path) -> None:
    folder = models.parent
    study, lab = folder / "study.toml", folder / "lab.toml"
    study.write_text(STUDY)
    lab.write_text(f'[devices.here]\nconnection = "local"\npython = "{sys.executable}"\n')
    read = read_study(study)
    assert read.space.name == f"{models}:build", "stored absolute, so that any folder can resume it"
    assert space_of(read, task_of(read)).decisions[0].name == "width"
    assert cli.main(["search", str(study), "--lab", str(lab), "--runs", str(folder / "runs")]) == 0
    with Store.open(folder / "runs" / "study" / STORE) as store:
        trials = history(store.run("study")).trials
    assert {t.options["width"] for t in trials} == {4, 8}
    assert all(t.state == "complete" and t.exported for t in trials)
