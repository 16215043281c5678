"""Mistakes in files and names are told before seconds are spent on imports, and by an error of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from results.errors import ConfigError
from results.settings import Settings
from results.store import Store

HEAVY = ("torch", "pandas", "scipy", "sklearn", "matplotlib", "onnxruntime")
STUDY = """
trials = 1
task = { name = "digits" }
space = { name = "chain" }
strategy = { name = "random_search" }
targets = [{ device = "desk", runtime = "onnxruntime" }]
"""
NIGHTLY = """
[[sources]]
name = "one"
model = "one.onnx"
[[targets]]
device = "desk"
runtime = "onnxruntime"
"""
SCRIPT = f"""
import sys
from harness.cli import main
code = main(sys.argv[1:])
print("heavy:", *(name for name in {HEAVY!r} if name in sys.modules))
sys.exit(code)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file that is no TOML, an empty lab, and a store that is none."""
    (tmp_path / "bad.toml").write_text("[training\nepochs = 3\n")
    (tmp_path / "empty.toml").write_text("")
    (tmp_path / "runs" / "damaged").mkdir(parents=True)
    (tmp_path / "runs" / "damaged" / "store.sqlite").write_text("no database at all" * 100)
    with Store.open(tmp_path / "runs" / "nightly" / "store.sqlite"):
        pass
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("search bad.toml", "bad.toml: not valid TOML"),
        ("search bad.toml --dry-run", "bad.toml: not valid TOML"),
        ("search empty.toml --lab bad.toml", "bad.toml: not valid TOML"),
        ("nightly bad.toml", "bad.toml: not valid TOML"),
        ("nightly missing.toml", "missing.toml: no such file"),
        ("report dameged", "damaged"),
        ("report damaged", "no SQLite file"),
        ("resume dameged", "damaged"),
        ("resume damaged", "no SQLite file"),
        ("bench model.onnx --on nobody --lab empty.toml", "nobody"),
        ("compare a.onnx b.onnx --on nobody --lab empty.toml", "nobody"),
    ],
)
def test_a_mistake_is_told_before_anything_heavy_is_imported(command: str, said: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert done.stdout == "heavy:\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("search study.toml", "study.toml"),
        (
            "search space.toml --lab lab.toml",
            "space.toml: [space]: unknown space 'chian'; did you mean 'chain'",
        ),
        ("search strategy.toml --lab lab.toml", "strategy.toml: [strategy]: unknown strategy 'randm_search'"),
        ("search device.toml --lab lab.toml", "lab.toml: unknown device 'dsek'; did you mean 'desk'"),
        ("nightly plan.toml --lab lab.toml", "unknown device 'dsek'; did you mean 'desk'"),
        ("nightly key.toml --lab lab.toml", "key.toml: unknown key 'source'"),
        ("bench missing.onnx --on desk --lab lab.toml", "missing.onnx cannot be read: no such file"),
        ("compare a:b missing.tflite --on desk --lab lab.toml", "missing.tflite cannot be read"),
        ("devices check desk --lab bad.toml", "bad.toml: not valid TOML"),
        ("nightly accept nobody", "nobody"),
    ],
)
def test_what_takes_a_closer_look_is_told_before_pytorch_is_imported(
    command: str, said: str, folder: Path
) -> None:
    (folder / "study.toml").write_text("[study]\nnme = 'x'\n")
    (folder / "lab.toml").write_text("[devices.desk]\nconnection = 'local'\n")
    for name, old, new in (
        ("space", "chain", "chian"),
        ("strategy", "random_search", "randm_search"),
        ("device", "desk", "dsek"),
    ):
        (folder / f"{name}.toml").write_text(STUDY.replace(old, new))
    (folder / "plan.toml").write_text(NIGHTLY.replace("desk", "dsek"))
    (folder / "key.toml").write_text(NIGHTLY.replace("[sources]", "[source]"))
    words = [sys.executable, "-c", SCRIPT, *command.split()]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert not {"torch", "pandas", "sklearn", "matplotlib"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("x = " + "{a=" * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ("x = " + "9" * 5000, "not valid TOML"),
        ("x = '\xff'", "not valid TOML"),
        ("x = 1e", "not valid TOML"),
    ],
)
def test_toml_that_cannot_be_read_is_an_error_of_the_file(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=f"study.toml: .*{said}"):
        Settings.read(path)
    assert main(["devices", "list", "--lab", str(path)]) == 1


@pytest.mark.parametrize("kind", [int, float])
@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, str(2**63)])
def test_a_number_beyond_all_bounds_is_refused_by_its_key(kind: type, number: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(f"trials = {number}\n")
    with pytest.raises(ConfigError, match=r"study\.toml: trials is a number too large"):
        Settings.read(path).take("trials", kind)
