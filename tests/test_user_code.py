"""A user's code that raises whatever there is ends its candidate, or the command, with its own lines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import cli
from harness.config import STORE
from results.store import Store

SPACE = """
from search.network import Conv, Dense, GlobalPool, Network, Node
from search.space import Decision, SearchSpace


class Space(SearchSpace):
    def __init__(self, *, input_shape, classes):
        self.input_shape, self.classes = input_shape, classes
        decisions = [Decision("width", (2, 4), ordered=True), Decision("kernel", (1, 3, 5), ordered=True)]
        super().__init__("own", decisions, {"classes": classes})

    def build(self, architecture, *, width=1.0, resolution=None):
        chosen = self.describe(architecture)
        kernel = chosen["kernel"]
        conv = Conv(chosen["width"], (kernel, kernel), (2, 2), (kernel // 2,) * 4, bias=True)
        nodes = [
            Node("conv", conv, ("input",)),
            Node("pool", GlobalPool(), ("conv",)),
            Node("logits", Dense(self.classes), ("pool",)),
        ]
        return Network(self.input_shape, tuple(nodes))
"""
STUDY = """
name = "own"
trials = {trials}
[task]
name = "{task}"
[space]
name = "own_space.py"
[strategy]
name = "{strategy}"
[training]
epochs = 1
subset = 0.1
workers = 1
[measurement]
accept_noisy = true
screen = {{ sessions = [1, 1], session_s = 0.002, warmup_s = 0.0, min_runs = 10 }}
confirm = {{ sessions = [1, 1], agents = 1, session_s = 0.002, warmup_s = 0.0, min_runs = 10 }}
[[targets]]
device = "desk"
runtime = "onnxruntime"
"""
TASK = """
import numpy as np


def data():
    from sklearn.datasets import load_digits

    digits = load_digits()
    return {"x_train": digits.images[:400].astype("uint8"), "y_train": digits.target[:400]}


"""
BEGINS = "        chosen = self.describe(architecture)\n"


def write(
    folder: Path,
    space: str = SPACE,
    *,
    task: str = "digits",
    strategy: str = "random_search",
    trials: int = 6,
) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "own_space.py").write_text(space)
    (folder / "study.toml").write_text(STUDY.format(task=task, strategy=strategy, trials=trials))


def run(folder: Path, lab: str, *command: str) -> int:
    (folder / "lab.toml").write_text(lab)
    words = command or ("search", str(folder / "study.toml"))
    return cli.main([*words, "--lab", str(folder / "lab.toml"), "--runs", str(folder / "runs")])


def told(folder: Path) -> list[tuple[str, str]]:
    """State and error of each trial."""
    with Store.open(folder / "runs" / "own" / STORE) as store:
        bodies = [r.body for r in store.run("own").records("told")]
    return [(body["state"], body["error"] or "") for body in bodies]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A device that replays what all networks of the space took here."""
    folder = tmp_path_factory.mktemp("recorded")
    write(folder, strategy="grid")
    agent = folder / "agent"
    assert (
        run(
            folder,
            f'[devices.desk]\nconnection = "local"\npython = "{sys.executable}"\ndirectory = "{agent}"\n',
        )
        == 0
    )
    return f'[devices.desk]\nconnection = "replay"\naddress = "{folder / "runs" / "own"}"\n'


@pytest.mark.parametrize("strategy", ["bayesian", "random_search"])
def test_a_build_that_fails_for_some_ends_those(tmp_path: Path, lab: str, strategy: str) -> None:
    broken = SPACE.replace(
        BEGINS, BEGINS + "        if chosen['kernel'] == 3:\n            raise KeyError('mine')\n"
    )
    write(tmp_path, broken, strategy=strategy)
    assert run(tmp_path, lab) == 0
    states = told(tmp_path)
    assert [state for state, _ in states].count("complete") == 4
    assert all(
        "KeyError: .mine." in error.replace(chr(39), ".") for state, error in states if state == "failed"
    )
    assert run(tmp_path, lab, "resume", "own") == 0


def test_where_every_training_fails_the_reason_is_said_once_and_nothing_could_be_judged(
    tmp_path: Path, lab: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "task.py"
    task.write_text(TASK + "def loss(outputs, targets):\n    raise LookupError('no loss today')\n")
    write(tmp_path, task="task.py")
    assert run(tmp_path, lab) == 4
    said = capsys.readouterr().out
    assert said.count("6 of 6 trials failed: the training raised:") == 1
    assert {state for state, _ in told(tmp_path)} == {"failed"}
    assert run(tmp_path, lab, "resume", "own") == 4
    report = (tmp_path / "runs" / "own" / "report.md").read_text()
    assert "the training raised: LookupError: no loss today" in report.partition("## Failures by reason")[2]


def test_a_space_smaller_than_the_trials_is_said(
    tmp_path: Path, lab: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, trials=9)
    assert run(tmp_path, lab) == 0
    text = "ended early: the space has only 6 networks; all were tried"
    assert text in capsys.readouterr().out
    assert text in (tmp_path / "runs" / "own" / "report.md").read_text()
