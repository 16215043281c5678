"""A run goes on in the space and with the task that it began with, and in nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import STORE, space_of, task_of
from harness.resumption import stored_space, stored_study
from harness.studies_cli import run_config
from harness.study import read_study
from results.store import Store

OWN_SPACE = """
from search.network import Activation, Conv, Dense, GlobalPool, Network, Node
from search.space import Decision, SearchSpace


class Space(SearchSpace):
    def __init__(self, *, input_shape, classes, branches=None, **options):
        self.input_shape, self.classes = input_shape, classes
        named = {**options, **{f"branch.{k}": v for k, v in (branches or {}).items()}}
        decisions = [Decision(name, tuple(values)) for name, values in named.items()]
        super().__init__("own", decisions, {"input_shape": list(input_shape), "classes": classes})

    def build(self, architecture, *, width=1.0, resolution=None):
        channels = 4 + sum(architecture.choices)
        nodes = (
            Node("conv", Conv(channels, (3, 3), (2, 2), (1, 1, 1, 1)), ("input",)),
            Node("act", Activation("relu"), ("conv",)),
            Node("pool", GlobalPool(), ("act",)),
            Node("logits", Dense(self.classes), ("pool",)),
        )
        return Network(self.input_shape, nodes)
"""
OWN_MODULES = """
from torch import nn


def build(classes, width=8, kernel=3, bias=True):
    layers = [nn.Conv2d(1, width, kernel), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width, classes))
"""
SPACES: dict[str, dict[str, Any]] = {
    "chain": {"widths": [8, 16], "depths": [1, 2], "kernels": [3, 5], "activations": ["relu6", "relu"]},
    "mobile": {"squeeze_excite": [False, True], "kernels": [3, 5], "depths": [1, 2], "stem_width": 8},
    "multi_branch": {"joins": ["concat", "add"], "widths": [8, 16], "branches": [1, 2]},
    "cell": {"channels": 4, "kind": "darts", "cells": 3},
    "own.py": {"widths": [2, 4], "kinds": ["b", "a"], "branches": {"pool": [1, 2], "conv": [True, False]}},
    "modules.py:build": {"width": [4, 8], "kernel": [3, 5], "bias": [True, False]},
}
CHOICES = {
    "deployment": {"pi5": {"limits": ["latency_p90 <= 8 ms"]}, "jetson": {}},
    "training": {"weight_decay": [0.0, 0.1], "learning_rate": [0.002, 0.02], "batch_size": [16, 32]},
}
TARGETS = {
    "runtime": ["tflite", "onnxruntime"],
    "precision": ["int8", "fp32"],
    "options": {"threads": [2, 1]},
}


def in_toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {in_toml(v)}" for key, v in value.items()) + " }"
    return json.dumps(value)


def shuffled(draw: st.DrawFn, value: Any) -> Any:
    """The value with the keys of every table in it in another order."""
    if not isinstance(value, Mapping):
        return value
    keys = draw(st.permutations(sorted(value)))
    return {key: shuffled(draw, value[key]) for key in keys}


@st.composite
def studies(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(SPACES)))
    space = {"name": name, **SPACES[name], **(CHOICES if draw(st.booleans()) else {})}
    targets = [{"device": device, **TARGETS} for device in ("pi5", "jetson")]
    lines = [f"{key} = {in_toml(v)}" for key, v in shuffled(draw, space).items()]
    tables = [in_toml(shuffled(draw, target)) for target in targets]
    return "\n".join(
        [
            "targets = [" + ", ".join(tables) + "]",
            '[task]\nname = "digits"\n[strategy]\nname = "random_search"\n[space]',
            *lines,
        ]
    )


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Store]]:
    """A folder with spaces of the user's own, and a store in it."""
    folder = tmp_path_factory.mktemp("resumption")
    (folder / "own.py").write_text(OWN_SPACE)
    (folder / "modules.py").write_text(OWN_MODULES)
    with Store.open(folder / STORE) as store:
        yield folder, store


@given(text=studies(), sorted_keys=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_stored_study_has_the_space_that_it_began_with(
    opened: tuple[Path, Store], text: str, sorted_keys: bool
) -> None:
    """In whatever order the file has its keys; also where the store has them sorted, as it once did."""
    folder, store = opened
    path = folder / "study.toml"
    path.write_text(text)
    study = read_study(path)
    task = task_of(study)
    space = space_of(study, task)
    config = json.loads(json.dumps(run_config(study, task, space), sort_keys=sorted_keys))
    run = store.begin(f"run{len(store.runs())}", config)
    again, found = stored_space(run, stored_study(run, path), task)
    assert found.fingerprint == space.fingerprint
    assert found.decisions == space.decisions
    assert again.targets == study.targets
    assert again.choices == study.choices
    assert sorted_keys or again == study
