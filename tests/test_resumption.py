"""A run goes on in the space and with the task that it began with, and in nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness import cli
from harness.config import STORE, space_of, task_of
from harness.resumption import BEGUN_WITH, check_unchanged, network_hashes, stored_space, stored_study
from harness.studies_cli import run_config
from harness.study import read_study
from results.codec import to_json
from results.errors import ConfigError, DataError
from results.records import Proposal, Trial
from results.store import Run, Store
from search.code_hashes import ORDER, changed, code_of, definitions
from search.datasets import load_task
from search.task_hashes import TaskHashes
from search.training import loaded_task

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
OWN_TASK = '''
"""Two kinds of stripes."""
import numpy as np

CREDITS = ["nobody"]


def data(shade=200):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 50, (90, 8, 8)).astype("uint8")
    y = np.arange(90) % 2
    x[y == 1, ::2] += np.uint8(shade)
    return {"x_train": x, "y_train": y}


def metric(outputs, targets):
    # the share that is right
    return float((outputs.argmax(1) == targets).mean())
'''
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
@settings(max_examples=36, deadline=None)
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
    if sorted_keys:
        del config[BEGUN_WITH]
    run = store.begin(f"run{len(store.runs())}", config)
    again, found = stored_space(run, stored_study(run, path), task)
    assert found.fingerprint == space.fingerprint
    assert found.decisions == space.decisions
    assert again.targets == study.targets
    assert again.choices == study.choices
    assert sorted_keys or again == study


STUDY = """
name = "mine"
seed = 3
trials = 3
[task]
name = "task.py"
shade = 150
[space]
name = "own.py"
widths = [2, 4]
kinds = ["b", "a"]
[space.training]
learning_rate = [0.002, 0.006]
weight_decay = [0.0, 0.02]
batch_size = [16, 32]
[strategy]
name = "random_search"
[training]
epochs = 1
workers = 1
[measurement]
accept_noisy = true
screen = { sessions = [1, 1], session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
confirm = { sessions = [2, 2], session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
[[targets]]
device = "desk"
runtime = "onnxruntime"
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a user with a finished run of a task and a space of their own."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "own.py").write_text(OWN_SPACE)
    (folder / "task.py").write_text(OWN_TASK)
    (folder / "study.toml").write_text(STUDY)
    desk = f'[devices.desk]\nconnection = "local"\npython = "{sys.executable}"\n'
    (folder / "lab.toml").write_text(f'{desk}directory = "{folder / "agent"}"\n')
    command = ["search", str(folder / "study.toml"), "--lab", str(folder / "lab.toml")]
    assert cli.main([*command, "--runs", str(folder / "runs")]) == 0
    address = folder / "runs" / "mine"
    (folder / "lab.toml").write_text(f'[devices.desk]\nconnection = "replay"\naddress = "{address}"\n')
    return folder


def resume(folder: Path) -> int:
    run = folder / "runs" / "mine"
    return cli.main(["resume", str(run), "--lab", str(folder / "lab.toml"), "--json"])


def written(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of everything that a run has for its reader."""
    run = folder / "runs" / "mine"
    files = [path for path in run.rglob("*") if path.suffix in (".onnx", ".tflite", ".csv", ".md", ".png")]
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}


@pytest.fixture
def edited(finished: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder with one text replaced in one of its files."""
    file, old, new = request.param
    before = (finished / file).read_text()
    assert old in before
    (finished / file).write_text(before.replace(old, new))
    yield finished
    (finished / file).write_text(before)


@pytest.mark.parametrize(
    ("edited", "words"),
    [
        (("own.py", '"relu"', '"silu"'), ["trial 0", "own.py: Space.build"]),
        (("own.py", '"conv"', '"conv1"'), ["trial 0", "Space.build"]),
        (("own.py", "channels = 4 + ", "channels = 4 / 0 + "), ["trial 0", "Space.build"]),
        (("own.py", "tuple(values)", "(*values, 9)"), ["'widths' was [2, 4] and is [2, 4, 9]", "__init__"]),
        (("task.py", "float(", "100 * float("), ["task.py: metric", "scores cannot be compared"]),
        (("task.py", "default_rng(0)", "default_rng(1)"), ["task.py: data"]),
        (("task.py", "def metric", "METRIC = 'share'\n\n\ndef metric"), ["task.py: METRIC"]),
    ],
    indirect=["edited"],
)
def test_what_was_edited_is_named_and_nothing_is_written(
    edited: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(edited)
    assert resume(edited) == 1
    said = capsys.readouterr().err
    for word in [*words, "cannot go on", "the run began 20", "was last saved 20", "begin a new run"]:
        assert word in said, said
    assert written(edited) == before


@pytest.mark.parametrize(
    "edited",
    [
        ("own.py", "channels = 4", "# four at the least\n        channels = (4)"),
        ("task.py", '["nobody"]', '["somebody"]'),
        ("task.py", '"""Two kinds of stripes."""', '"""Stripes,\nof two kinds."""\n\n'),
    ],
    indirect=True,
)
def test_what_changes_nothing_is_no_hindrance(edited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = {name: kept for name, kept in written(edited).items() if name.endswith((".onnx", ".tflite"))}
    assert models
    assert resume(edited) == 0
    assert "changed" not in capsys.readouterr().err
    assert models.items() <= written(edited).items(), "what is there and was measured is not written again"


@pytest.mark.parametrize("edited", [("own.py", '("input",)', '(str("input"),)')], indirect=True)
def test_other_code_of_the_same_networks_is_worth_a_note(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resume(edited) == 0
    said = capsys.readouterr().err
    assert "every network is still what was measured" in said
    assert "Space.build" in said


def test_a_model_file_is_written_again_as_it_was_measured_or_not_at_all(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = next((finished / "runs" / "mine" / "models").glob("*.onnx"))
    measured = model.read_bytes()
    model.unlink()
    assert resume(finished) == 0
    assert model.read_bytes() == measured
    model.unlink()
    monkeypatch.setattr("harness.exporters.onnx._OPSET", 16)  # another version of ours writes other files
    assert resume(finished) == 1
    assert f"{model}; what is there was left as it is" in capsys.readouterr().err
    assert not model.exists()
    model.write_bytes(measured)
    assert resume(finished) == 0
    assert model.read_bytes() == measured


CODE = '''
import math
from os import path


class Kind:
    """What it is."""

    size = 3

    def area(self):
        return self.size**2


def half(x):
    return x / 2


print(half(Kind().area()))
'''


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("import math\nfrom os import path\n", "from os import path\nimport math\n\n", set()),
        ('    """What it is."""\n\n', "", set()),
        ("return x / 2", '"""Half."""\n    return (x /\n        2)  # of it', set()),
        ("class Kind:", "def twice(x): ...\n\n\nclass Kind:", {"twice"}),
        ("size = 3", "size = 4", {"Kind.size"}),
        ("self.size**2", "self.size", {"Kind.area"}),
        ("import math", "import cmath", {"its imports"}),
        ("print(half(", "print(1 + half(", {"other lines"}),
        ("    size = 3\n", "    size = 3\n    unit = 'm'\n", {"Kind.unit", ORDER}),
    ],
)
def test_what_counts_as_a_change_of_code(old: str, new: str, names: set[str]) -> None:
    assert old in CODE
    before, now = definitions(CODE.encode()), definitions(CODE.replace(old, new).encode())
    assert {name for name in {*before, *now} - {""} if before.get(name) != now.get(name)} == names


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        ("A = 1\nB = [2, 3]\n", "B = [2, 3]\nA = 1\n", False),
        ("def f(): return A\nA = g(1)\n", "A = g(1)\ndef f(): return A\n", False),
        ("class C:\n    def a(self): ...\n    b = 1\n", "class C:\n    b = 1\n    def a(self): ...\n", False),
        ("A = 1\nB = A + 1\nA = 5\n", "A = 1\nA = 5\nB = A + 1\n", True),
        ("class P:\n    x: int = 1\n    y: int = 2\n", "class P:\n    y: int = 2\n    x: int = 1\n", True),
        ("seed(0)\nA = draw()\n", "A = draw()\nseed(0)\n", True),
        ("from a import f\ndef f(): ...\n", "def f(): ...\nfrom a import f\n", True),
    ],
)
def test_order_counts_where_it_may_mean_another_thing(before: str, after: str, counts: bool) -> None:
    was, now = definitions(before.encode()), definitions(after.encode())
    assert {name for name in {*was, *now} - {""} if was.get(name) != now.get(name)} == (
        {ORDER} if counts else set()
    )


def test_what_is_imported_by_name_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_by_name.py").write_text("K = 3\n")
    own = tmp_path / "own.py"
    own.write_text("import importlib\n\n\ndef data():\n    importlib.import_module('imported_by_name')\n")
    code = code_of(str(own))
    (tmp_path / "imported_by_name.py").write_text("K = 4\n")
    assert changed(code) == {str(tmp_path / "imported_by_name.py"): ["K"]}


def test_a_run_of_an_earlier_version_goes_on_with_a_note_and_its_networks_are_looked_at(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a run has sorted keys and hashes of nothing but its networks' graphs."""
    run = tmp_path / "runs" / "mine"
    shutil.copytree(finished / "runs" / "mine", run)
    shutil.copy(finished / "lab.toml", tmp_path)
    with closing(sqlite3.connect(run / STORE)) as database:
        (text,) = database.execute("SELECT config FROM runs").fetchone()
        config = json.loads(text)
        del config[BEGUN_WITH], config["study"]["training"]["in_flight"]
        database.execute("UPDATE runs SET config = ?", (json.dumps(config, sort_keys=True),))
        database.commit()
    assert resume(tmp_path) == 0
    assert "an earlier version began this run" in capsys.readouterr().err
    before = (finished / "own.py").read_text()
    (finished / "own.py").write_text(before.replace('"relu"', '"silu"'))
    try:
        assert resume(tmp_path) == 1
    finally:
        (finished / "own.py").write_text(before)
    assert "trial 0" in capsys.readouterr().err


def begun(folder: Path, text: str) -> tuple[Store, Run]:
    """A run whose first trial is built, and nothing more."""
    (folder / "study.toml").write_text(text + '[strategy]\nname = "random_search"\n')
    study = read_study(folder / "study.toml")
    task = task_of(study)
    space = space_of(study, task)
    store = Store.open(folder / STORE)
    run = store.begin("begun", run_config(study, task, space))
    trial = Trial(0, Proposal(space.sample(np.random.default_rng(0)), study.fidelity))
    run.append("asked", "0", {"trial": to_json(trial)})
    run.append("built", "0", network_hashes(space.build(trial.proposal.architecture)))
    return store, run


def checked(run: Run, folder: Path) -> list[str]:
    study = stored_study(run, folder / "study.toml")
    task = task_of(study)
    study, space = stored_space(run, study, task)
    return check_unchanged(run, study, task, space)


TARGET = 'targets = [{ device = "desk", runtime = "onnxruntime" }]\n'
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (60, 8, 8)).astype(np.uint8)


def test_an_archive_with_one_other_label_is_another_data_set(tmp_path: Path) -> None:
    labels = np.arange(60) % 2
    np.savez(tmp_path / "data.npz", x_train=IMAGES, y_train=labels)
    store, run = begun(tmp_path, TARGET + '[task]\nname = "data.npz"\n[space]\nname = "chain"\n')
    with store:
        np.savez_compressed(tmp_path / "data.npz", x_train=IMAGES, y_train=labels)
        assert checked(run, tmp_path) == []
        np.savez(tmp_path / "data.npz", x_train=IMAGES, y_train=np.roll(labels, 1))
        with pytest.raises(ConfigError, match=r"data of task '\S+data.npz' is not what it was: train"):
            checked(run, tmp_path)


def test_a_folder_of_images_with_another_image_is_another_data_set(tmp_path: Path) -> None:
    for i, image in enumerate(IMAGES):
        path = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    store, run = begun(tmp_path, TARGET + '[task]\nname = "pictures/"\n[space]\nname = "chain"\n')
    with store:
        assert checked(run, tmp_path) == []
        Image.fromarray(255 - IMAGES[0]).save(tmp_path / "pictures" / "a" / "0.png")
        with pytest.raises(ConfigError, match="pictures' is not what it was"):
            checked(run, tmp_path)
        Image.fromarray(IMAGES[0]).save(tmp_path / "pictures" / "a" / "0.png")
        (tmp_path / "pictures" / "b").rename(tmp_path / "pictures" / "c")
        with pytest.raises(ConfigError, match=r"classes of task .* were \['a', 'b'\] and are \['a', 'c'\]"):
            checked(run, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        ("nn.ReLU()", "nn.SiLU()", True),
        ("kernel)", "kernel, stride=2)", True),
        ("nn.ReLU()", "nn.ReLU(inplace=True)", False),
    ],
)
def test_a_function_that_builds_other_modules_is_refused(
    tmp_path: Path, old: str, new: str, refused: bool
) -> None:
    (tmp_path / "modules.py").write_text(OWN_MODULES)
    space = '[space]\nname = "modules.py:build"\nwidth = [4, 8]\nbias = [true, false]\n'
    store, run = begun(tmp_path, TARGET + '[task]\nname = "digits"\n' + space)
    with store:
        assert checked(run, tmp_path) == []
        (tmp_path / "modules.py").write_text(OWN_MODULES.replace(old, new))
        if refused:
            with pytest.raises(ConfigError, match=r"than were measured: trial 0; \S+modules.py: build"):
                checked(run, tmp_path)
        else:
            (note,) = checked(run, tmp_path)
            assert "every network is still what was measured" in note


def test_what_a_task_imports_of_the_users_own_is_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "stripes_for_tests"
    package.mkdir()
    (package / "__init__.py").write_text("from . import measures\n")
    (package / "measures.py").write_text("def share(right):\n    return float(right.mean())\n")
    changed = OWN_TASK.replace(
        "float((outputs.argmax(1) == targets).mean())", "share(outputs.argmax(1) == targets)"
    )
    (tmp_path / "task.py").write_text("from stripes_for_tests.measures import share\n" + changed)
    monkeypatch.syspath_prepend(str(tmp_path))
    store, run = begun(tmp_path, TARGET + '[task]\nname = "task.py"\n[space]\nname = "chain"\n')
    with store:
        assert checked(run, tmp_path) == []
        (package / "measures.py").write_text("def share(right):\n    return 100 * float(right.mean())\n")
        with pytest.raises(ConfigError, match=r"measures.py: share"):
            checked(run, tmp_path)


def test_data_that_is_drawn_anew_each_time_is_worth_a_note(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(OWN_TASK.replace("default_rng(0)", "default_rng()"))
    store, run = begun(tmp_path, TARGET + '[task]\nname = "task.py"\n[space]\nname = "chain"\n')
    with store:
        (note,) = checked(run, tmp_path)
    assert "gives other arrays each time" in note


def test_a_process_that_starts_later_does_not_train_on_an_edited_task(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text(OWN_TASK)
    hashes = TaskHashes.of(str(path), load_task(path))
    path.write_text(OWN_TASK.replace("float(", "100 * float("))
    with pytest.raises(DataError, match=r"while the run was under way: \S+task.py: metric"):
        loaded_task(str(path), {}, hashes)
    path.write_text(OWN_TASK + "# nothing\n")
    assert loaded_task(str(path), {"shade": 100}, hashes).name == "task"
