"""A runtime that dies on one file: its child dies, the verdict says so, and the study goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import cli
from harness.config import STORE
from results.evaluations import history
from results.store import Store

STUDY = """
name = "crash"
seed = 4
trials = 4
[task]
name = "digits"
[space]
name = "chain"
depths = [1]
widths = [8, 32]
blocks = ["plain"]
[strategy]
name = "random_search"
[training]
epochs = 1
subset = 0.3
workers = 1
[measurement]
accept_noisy = true
screen = { sessions = [1, 1], session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
confirm = { sessions = [2, 2], agents = 2, session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
[[targets]]
device = "desk"
runtime = "onnxruntime"
options = { package = "==9.9.9" }
"""

# The real ONNX Runtime, which segfaults on files of more than LARGEST bytes, as a broken kernel may.
BREAKABLE = """
import importlib, os, signal, sys
own = os.path.dirname(__file__)
sys.path.remove(own)
del sys.modules["onnxruntime"]
library = importlib.import_module("onnxruntime")
class Session(library.InferenceSession):
    def __init__(self, path, *given, **named):
        if os.path.getsize(path) > LARGEST:
            os.kill(os.getpid(), signal.SIGSEGV)
        super().__init__(path, *given, **named)
library.InferenceSession = Session
"""


def test_a_file_that_crashes_the_runtime_fails_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = tmp_path / "board"
    package = board / "1" / "runtimes" / "onnxruntime-9.9.9"
    info = package / "onnxruntime-9.9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 9.9.9\n")
    (package / "onnxruntime.py").write_text(BREAKABLE.replace("LARGEST", "20000"))
    lab, study = tmp_path / "lab.toml", tmp_path / "study.toml"
    lab.write_text(
        f'[devices.desk]\nconnection = "local"\npython = "{sys.executable}"\ndirectory = "{board}"\n'
    )
    study.write_text(STUDY)
    assert cli.main(["search", str(study), "--lab", str(lab), "--runs", str(tmp_path / "runs")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the process ended with SIGSEGV; another network is taken" in said, "the first one to be measured"
    with Store.open(tmp_path / "runs" / "crash" / STORE) as store:
        trials = history(store.run("crash")).trials
    broken = [trial for trial in trials if trial.network["size_bytes_onnx"] > 20000]
    assert 0 < len(broken) < len(trials)
    for trial in trials:
        if trial in broken:
            assert trial.state == "failed"
            assert trial.error is not None
            assert "SIGSEGV" in trial.error
            assert not trial.accuracy, "never trained"
        else:
            assert trial.state == "complete"
    report = (tmp_path / "runs" / "crash" / "report.md").read_text()
    assert "## Failures by reason" in report
    assert "SIGSEGV" in report.partition("## Failures by reason")[2]
