"""ONNX Runtime's telemetry is off wherever we load it: nothing phones home, nothing stays in ~/.cache."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from devices import smoke
from devices.device import DeviceEntry
from devices.local import LocalConnection
from devices.provision import board_own
from results.records import Artifact
from tests.fixtures_agent import ORT, QUICK, start

ROOT = Path(__file__).resolve().parents[1]
SWITCH = "ORT_DISABLE_TELEMETRY"

ON_THE_HOST = """
import harness.exporters.onnx, harness.module_source, onnxruntime, os, sys
from devices import smoke
onnxruntime.InferenceSession(smoke.model("onnx"), providers=["CPUExecutionProvider"])
"""


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a user's shell: nobody has switched anything off."""
    monkeypatch.delenv(SWITCH, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home without anything in it."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def left(home: Path) -> set[str]:
    """Files that are left in a home, those of Boardwise itself aside."""
    found = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(".cache/boardwise/")}


def test_the_host_leaves_nothing(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ON_THE_HOST],
        env={**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert left(home) == set()


def test_the_agent_leaves_nothing(home: Path) -> None:
    data = smoke.model("onnx")
    sha256 = hashlib.sha256(data).hexdigest()
    with start(home) as agent:
        agent.put(sha256, data)
        assert agent.session(Artifact(sha256, sha256, "", "onnx", "fp32", len(data)), ORT, QUICK).session
    assert left(home) == set()


def test_provisioning_leaves_nothing(home: Path) -> None:
    entry = DeviceEntry(name="desk", connection="local", python=sys.executable)
    with LocalConnection("desk", home=home) as connection:
        assert board_own(connection, entry, "onnxruntime") is not None
    assert left(home) == set()


def test_whatever_imports_the_runtime_in_a_text_of_its_own_switches_it_off() -> None:
    """Scripts for other processes, which do not import the package ``harness``."""
    for folder in ("devices", "harness", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
                if "import" in text and ("InferenceSession(" in text) and "```" not in text:
                    assert SWITCH in text, path.relative_to(ROOT)
