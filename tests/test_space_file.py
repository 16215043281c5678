"""A space in the user's own file: found, used by every part, and its errors told apart from ours."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import cli
from harness.config import space_of, strategy_of
from harness.study import Study, read_study, study_of
from results.errors import ArchitectureError, ConfigError
from search.datasets import load_task
from search.network import costs
from search.space import SearchSpace
from search.training import TrainingJob, train

DOCS = Path(__file__).parents[1] / "docs" / "own-space.md"
CODE = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[0]
STUDY = """
[task]
name = "digits"
[space]
name = "{name}"
{options}
[strategy]
name = "random_search"
[[targets]]
device = "pi5"
runtime = "onnxruntime"
"""


def study(folder: Path, code: str = CODE, options: str = "", name: str = "my_space.py") -> Study:
    (folder / "my_space.py").write_text(code, encoding="utf-8")
    path = folder / "study.toml"
    path.write_text(STUDY.format(name=name, options=options), encoding="utf-8")
    return read_study(path)


def space(folder: Path, code: str = CODE, options: str = "") -> SearchSpace:
    return space_of(study(folder, code, options), load_task("digits"))


def test_the_space_of_the_documentation_is_searched_and_trained(tmp_path: Path) -> None:
    read = study(tmp_path, options="widths = [4, 8]")
    own = space_of(read, load_task("digits"))
    assert own.size() == 16
    assert len(list(own.architectures())) == 12
    strategy = strategy_of(read, own, read.problem("accuracy", maximise=True))
    proposal = strategy.ask(0, [])
    assert proposal is not None
    network = own.build(proposal.architecture)
    assert network.input_shape == (1, 8, 8)
    result = train(TrainingJob(network, "digits", {}, strategy.fidelity, 0, time_limit_s=60.0))
    assert result.score.value > 0.2
    assert own.build(proposal.architecture, resolution=16).input_shape == (1, 16, 16)
    assert costs(own.build(proposal.architecture, width=2.0)).macs > costs(network).macs


def test_the_path_is_stored_absolute_and_read_back(tmp_path: Path) -> None:
    read = study(tmp_path, name="./my_space.py")
    assert read.space.name == str(tmp_path / "my_space.py")
    again = study_of(read.source, tmp_path / "study.toml")
    assert again == read
    task = load_task("digits")
    assert space_of(again, task).fingerprint == space_of(read, task).fingerprint


def test_two_files_of_one_name_are_two_spaces(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first = space(folders[0])
    second = space(folders[1], CODE.replace('"my_space"', '"other"'))
    assert (first.name, second.name) == ("my_space", "other")
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        ("x = 1", "", "defines no class Space that is a search.space.SearchSpace"),
        ("class Space: pass", "", "defines no class Space"),
        ("def Space(): pass", "", "defines no class Space"),
        ("1 / 0", "", r"cannot be executed:\n(.|\n)*ZeroDivisionError"),
        ("class Space(", "", r"cannot be executed:\n(.|\n)*SyntaxError"),
        (CODE.replace("def build", "def built"), "", r"does not define build\(\)"),
        (CODE, "width = 3", r"unknown option 'width'; did you mean 'widths'"),
        (CODE, "widths = 3", r"Space\(\) raised:\n(.|\n)*not iterable"),
        (CODE, "widths = []", "decision 'width' needs options"),
    ],
)
def test_files_that_are_no_space_are_refused(tmp_path: Path, code: str, options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        space(tmp_path, code, options)
    assert "my_space.py" in str(caught.value) or "needs options" in str(caught.value)
    assert not re.search(r"search/\w+\.py|importlib", str(caught.value)), "only the user's lines help"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    read = study(tmp_path, name="other.py")
    with pytest.raises(ConfigError, match=r"other\.py: no such file"):
        space_of(read, load_task("digits"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "chosen = self",
            'chosen = {}["width"]',
            r"my_space\.py: build\(\) raised:\n(.|\n)*KeyError: 'width'",
        ),
        ("return Network(shape, tuple(nodes))", "return nodes", r"build\(\) is to return .* not a list"),
        ("(last,)", '("nowhere",)', "reads 'nowhere', which is not before it"),
    ],
)
def test_what_build_gets_wrong_ends_the_candidate(tmp_path: Path, old: str, new: str, message: str) -> None:
    line = next(line for line in CODE.splitlines() if old in line)
    changed = CODE.replace(line, line.split("chosen")[0] + new) if "chosen" in old else CODE.replace(old, new)
    own: Any = space(tmp_path, changed)
    with pytest.raises(ArchitectureError, match=message) as caught:
        own.build(own.sample(np.random.default_rng(0)))
    said = str(caught.value)
    assert "space_file.py" not in said
    assert "raised" not in said or new in said, "the line of the file"


@pytest.mark.parametrize(("layers", "code"), [(2, 0), (3, 1)])
def test_a_space_that_builds_some_networks_is_searched_and_one_that_builds_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layers: int, code: int
) -> None:
    line = "        channels = max("
    assert line in CODE
    refuses = f"        if chosen['layers'] < {layers}:\n            raise ValueError('too shallow')\n"
    study(tmp_path, CODE.replace(line, refuses + line))
    text = (tmp_path / "study.toml").read_text().replace("pi5", "desk")
    (tmp_path / "study.toml").write_text('name = "picky"\ntrials = 4\n' + text)
    (tmp_path / "lab.toml").write_text(f'[devices.desk]\nconnection = "local"\npython = "{sys.executable}"\n')
    options = ["--lab", str(tmp_path / "lab.toml"), "--runs", str(tmp_path / "runs"), "--accept-noisy"]
    assert cli.main(["search", str(tmp_path / "study.toml"), *options]) == code
    said = capsys.readouterr()
    assert "my_space.py: build() raised" in said.out + said.err
    assert "too shallow" in said.out + said.err
