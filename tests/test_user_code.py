"""A user's code that raises whatever there is ends its candidate, or the command, with its own lines."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import cli, evaluate, plugins
from harness.config import STORE
from results.errors import ArchitectureError, ConfigError, DataError, TrainingError
from results.records import Architecture, Fidelity
from results.store import Store
from search.module_space import module_space
from search.network import Dense, GlobalPool, Network, Node
from search.space import SearchSpace
from search.space_file import space_file
from search.training import TrainingJob, train

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


def test_a_build_that_fails_for_some_ends_those(tmp_path: Path, lab: str) -> None:
    broken = SPACE.replace(
        BEGINS, BEGINS + "        if chosen['kernel'] == 3:\n            raise KeyError('mine')\n"
    )
    write(tmp_path, broken, strategy="bayesian")  # it looks at networks before it asks for one
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
    write(tmp_path, task="task.py", trials=3)
    assert run(tmp_path, lab) == 4
    said = capsys.readouterr().out
    assert said.count("3 of 3 trials failed: the training raised:") == 1
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


# --------------------------------------------------------------------------- every kind, everywhere

KINDS = {
    "a key": "raise KeyError('mine')",
    "an exit": "import sys; sys.exit(0)",
    "an interrupt": "raise KeyboardInterrupt",
    "the end of a generator": "raise GeneratorExit",
    "the end of an iterator": "raise StopIteration",
    "no memory": "raise MemoryError",
    "recursion": "boom()",
    "no Exception": "raise type('Mine', (BaseException,), {})",
    "unprintable": "raise type('Mine', (Exception,), {'__str__': lambda self: 1 / 0})",
    "unpicklable": "raise ValueError(lambda: 0)",
    "of ours, derived": "from results.errors import TrainingError as E; raise type('E', (E,), {})('a', 'b')",
    "a long line": "raise ValueError('x' * 10**7)",
    "many lines": "raise ValueError('x\\n' * 10**5)",
    "not text": "raise ValueError('\\udc80')",
}
MODEL = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.last = nn.Linear(1, classes)

    def forward(self, x):
        return self.last(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def build(classes):
    return Net(classes)
"""
OWN = """
    def features(self, architecture):
        return [1.0]

    def canonical(self, choices):
        return choices
"""


def the_space(path: Path) -> SearchSpace:
    return space_file(path)(input_shape=(1, 8, 8), classes=10)


def an_architecture(space: SearchSpace) -> Architecture:
    return Architecture(space.fingerprint, (0,) * len(space.decisions))


def trained(path: Path) -> object:
    network = Network(
        (1, 8, 8), (Node("pool", GlobalPool(), ("input",)), Node("logits", Dense(10), ("pool",)))
    )
    return train(TrainingJob(network, str(path), {}, Fidelity(1, subset=0.1), seed=0))


Place = tuple[str, str, Callable[[Path], object], type[Exception]]
PLACES: dict[str, Place] = {
    "a space": (SPACE, "class Space", space_file, ConfigError),
    "Space()": (SPACE, "        self.input_shape", the_space, ConfigError),
    "build()": (
        SPACE,
        "        chosen = ",
        lambda path: (s := the_space(path)).build(an_architecture(s)),
        ArchitectureError,
    ),
    "features()": (
        SPACE + OWN,
        "        return [1.0]",
        lambda path: (s := the_space(path)).features(an_architecture(s)),
        ConfigError,
    ),
    "canonical()": (
        SPACE + OWN,
        "        return choices",
        lambda path: the_space(path).architecture((0, 0)),
        ConfigError,
    ),
    "a module": (MODEL, "class Net", lambda path: module_of(path), ConfigError),
    "a function": (
        MODEL,
        "    return Net",
        lambda path: (s := module_of(path)).build(an_architecture(s)),
        ArchitectureError,
    ),
    "forward()": (
        MODEL,
        "        return self.last(",
        lambda path: (s := module_of(path)).build(an_architecture(s)),
        ArchitectureError,
    ),
    "a task": (TASK, "def data", trained, DataError),
    "data()": (TASK, "    digits = ", trained, DataError),
    "loss()": (TASK + "def loss(outputs, targets):\n    return 0\n", "    return 0", trained, TrainingError),
    "metric()": (
        TASK + "def metric(outputs, targets):\n    return 0\n",
        "    return 0",
        trained,
        TrainingError,
    ),
    "a method": (
        MODEL.replace("def forward", "def train(self, mode=True):\n        return self\n\n    def forward"),
        "        return self\n",
        lambda path: (s := module_of(path)).build(an_architecture(s)),
        ArchitectureError,
    ),
    "train()": (TASK + "def train(module, run):\n    return 0\n", "    return 0", trained, TrainingError),
}


def module_of(path: Path) -> SearchSpace:
    return module_space(f"{path}:build")(input_shape=(1, 8, 8), classes=10)


@pytest.mark.parametrize(
    ("place", "kind"),
    [(p, k) for p in PLACES for k in KINDS if p in ("build()", "metric()") or k in ("a key", "no Exception")],
)
def test_whatever_is_raised_wherever_becomes_an_error_with_the_users_line(
    tmp_path: Path, place: str, kind: str
) -> None:
    code, line, use, error = PLACES[place]
    own = tmp_path / "own.py"
    indent = " " * (len(line) - len(line.lstrip()))
    own.write_text(f"def boom():\n    {KINDS[kind]}\n\n" + code.replace(line, f"{indent}boom()\n{line}", 1))
    with ThreadPoolExecutor(1) as thread, pytest.raises(error) as caught:
        thread.submit(use, own).result()  # beside the main thread no signal raises anything
    said = str(caught.value)
    assert "own.py" in said
    assert ", in boom" in said
    assert "/search/" not in said
    assert len(said) < 4000
    assert said.encode()
    assert str(pickle.loads(pickle.dumps(caught.value))) == said


WRONG = {
    "canonical() a list": (
        "canonical()",
        "        return list(choices)",
        "a tuple of 2 option numbers; of .* made",
    ),
    "canonical() too short": ("canonical()", "        return choices[:1]", r"it made \(0,\)"),
    "canonical() out of range": ("canonical()", "        return (0, 7)", r"it made \(0, 7\)"),
    "canonical() text": ("canonical()", "        return ('a', 'b')", "option numbers"),
    "canonical() never still": (
        "canonical()",
        "        return (1 - choices[0], 0)",
        r"stands for itself; of \(0, 0\) it made \(1, 0\), and of that \(0, 0\)",
    ),
    "features() not finite": ("features()", "        return [float('nan')]", r"finite.*\[nan\] of \(0, 0\)"),
    "features() two axes": ("features()", "        return [[1.0]]", "in one dimension"),
    "features() text": (
        "features()",
        "        return 'abc'",
        "numbers, an array of one dimension:\n(.|\n)*'abc'",
    ),
    "build() None": ("build()", "        return None", "return a search.network.Network, not a NoneType"),
    "loss() None": ("loss()", "    return None", "tensor with a single number, it returned a NoneType"),
    "loss() a vector": ("loss()", "    return outputs[:, 0]", r"a Tensor of shape \(\d+,\)"),
    "loss() constant": ("loss()", "    return outputs.detach().sum()", "so that it has a gradient"),
    "metric() None": ("metric()", "    return None", "metric.. is to return a number, it returned None"),
    "metric() text": ("metric()", "    return '0.5'", "metric.. is to return a number, it returned '0.5'"),
    "metric() an array": (
        "metric()",
        "    return outputs",
        "metric.. is to return a number, it returned array",
    ),
    "train() in half": ("train()", "    module.half()", "Half"),
    "train() takes apart": ("train()", "    module._modules.clear()", "KeyError: 'logits'"),
    "data() ragged": (
        "data()",
        "    return {'x_train': [[1], [1, 2]], 'y_train': [0, 1]}",
        r"what data\(\) returned cannot be used:\nValueError",
    ),
    "data() numbered": ("data()", "    return {1: [], 'y_train': []}", "unknown array '1'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_function_wrongly_returns_is_said(tmp_path: Path, what: str) -> None:
    place, instead, message = WRONG[what]
    code, line, use, error = PLACES[place]
    own = tmp_path / "own.py"
    own.write_text(code.replace(line, f"{instead}\n{line}", 1))
    with pytest.raises(error, match=f"(?s){message}") as caught:
        use(own)
    assert "/search/" not in str(caught.value)


def test_features_of_another_length_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(SPACE + OWN.replace("[1.0]", "[1.0] * (1 + architecture.choices[0])"))
    space = the_space(own)
    assert len(space.features(space.architecture((0, 1)))) == 1
    with pytest.raises(ConfigError, match=r"own\.py: features\(\).*it returned 1, and now 2 of \(1, 0\)"):
        space.features(space.architecture((1, 0)))
    again = the_space(own)
    assert len(again.features(again.architecture((1, 0)))) == 2, "another space has another length"


# --------------------------------------------------------------------------- whole commands


@pytest.fixture
def entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], Path]]:
    """Installs a module as a plug-in of a folder and a name; gives its file."""

    def install(folder: str, name: str, code: str) -> Path:
        site = tmp_path / "installed"
        info = site / "own_plugin-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-plugin\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[boardwise.{folder}]\n{name} = own_plugin_{name}\n")
        file = site / f"own_plugin_{name}.py"
        if code:
            file.write_text(code)
        monkeypatch.syspath_prepend(site)
        plugins._entry_points.cache_clear()
        return file

    yield install
    plugins._entry_points.cache_clear()


STRATEGY = """
from search.strategies import random_search


class Strategy(random_search.Strategy):
    def ask(self, number, pending):
        if number == 2:
            raise LookupError("asked too much")
        return super().ask(number, pending)
"""


@pytest.mark.parametrize("kind", ["LookupError", "KeyboardInterrupt"])
def test_a_strategy_that_raises_ends_the_command_and_goes_on_when_it_is_mended(
    tmp_path: Path,
    lab: str,
    entry_point: Callable[[str, str, str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.delitem(sys.modules, "own_plugin_raising", raising=False)
    file = entry_point("strategies", "raising", STRATEGY.replace("LookupError", kind))
    write(tmp_path, strategy="raising", trials=4)
    for command in ((), ("resume", "own")):
        assert run(tmp_path, lab, *command) == 1
        said = capsys.readouterr().err
        assert "own_plugin_raising.py" in said
        assert said.rstrip().endswith(f"{kind}: asked too much")
        assert "Traceback" not in said
        assert len(told(tmp_path)) < 4
    file.write_text(STRATEGY.replace("raise LookupError", "LookupError"))
    del sys.modules["own_plugin_raising"]
    assert run(tmp_path, lab, "resume", "own") == 0
    assert len(told(tmp_path)) == 4


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "No module named 'own_plugin_mine'"),
        ("raise SystemExit", "SystemExit"),
        ("x = 1", "defines no class Strategy with all methods of a search.strategy.Strategy"),
        (STRATEGY.replace("raise LookupError(", "return ("), r"it returned 'asked too much'"),
    ],
)
def test_a_plugin_that_is_none_ends_the_command(
    tmp_path: Path,
    lab: str,
    entry_point: Callable[[str, str, str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    message: str,
) -> None:
    monkeypatch.delitem(sys.modules, "own_plugin_mine", raising=False)
    entry_point("strategies", "mine", code)
    write(tmp_path, strategy="mine")
    assert run(tmp_path, lab) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_an_error_that_nobody_foresaw_ends_its_candidate_and_is_kept(
    tmp_path: Path, lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = evaluate.untrained_file
    calls = []

    def sometimes(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise UnicodeError("nobody foresaw this")
        if len(calls) == 3:
            raise MemoryError
        return real(*args)

    monkeypatch.setattr(evaluate, "untrained_file", sometimes)
    write(tmp_path)
    assert run(tmp_path, lab) == 0
    states = told(tmp_path)
    assert [state for state, _ in states] == ["complete", "failed", "failed", *["complete"] * 3]
    assert "UnicodeError: nobody foresaw this" in states[1][1]
    assert "needs more memory than this machine has" in states[2][1]
    kept = (tmp_path / "runs" / "own" / "tracebacks.txt").read_text()
    assert "test_user_code.py" in kept
    assert "in sometimes" in kept
    assert run(tmp_path, lab, "resume", "own") == 0


def test_a_network_too_large_for_this_machine_is_refused_before_it_is_drawn(
    tmp_path: Path, lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, SPACE.replace("(2, 4)", "(2, 4, 10**12)"), trials=9, strategy="grid")
    assert run(tmp_path, lab) == 0
    states = told(tmp_path)
    assert [state for state, _ in states].count("complete") == 6
    assert all("of memory at the least, and this machine has" in error for state, error in states if error)

    other = tmp_path / "limited"
    write(other, SPACE.replace("(2, 4)", "(2, 4, 10**12)"), trials=9, strategy="bayesian")
    study = other / "study.toml"
    study.write_text(study.read_text().replace("[task]", 'limits = ["parameters <= 10 k"]\n[task]', 1))
    assert run(other, lab) == 0
    assert {state for state, _ in told(other)} == {"complete", "infeasible"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nn.Linear(1, classes)", "nn.Linear(10**6, 10**7)", r"own\.py:build needs 1\.6e\+05 GB"),
        (
            "nn.Linear(1, classes)",
            "nn.Parameter(nn.init.torch.ones(size=(10**6, 10**7)))",
            r"needs 1\.6e\+05",
        ),
        (
            "pool2d(x,",
            "pool2d(nn.functional.interpolate(x, scale_factor=10**5),",
            r"interpolate needs 5.12e.03 GB",
        ),
    ],
)
def test_a_module_too_large_for_this_machine_is_refused_before_it_is_made(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    own = tmp_path / "own.py"
    own.write_text(MODEL.replace(old, new))
    space = module_of(own)
    with pytest.raises(ArchitectureError, match=f"{message}.* of memory at the least"):
        space.build(an_architecture(space))
