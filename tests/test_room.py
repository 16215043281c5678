"""A file that a board's memory cannot hold is refused before it is sent."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from devices.agent_client import AgentClient
from devices.agent_replies import BoardFacts
from harness import cli
from harness.deployment import require_room
from results.errors import OutOfMemory
from results.records import Artifact
from tests.tiny_models import onnx_convolution


def facts(memory_bytes: int) -> Any:
    return SimpleNamespace(memory_bytes=memory_bytes)


def artifact(precision: str) -> Artifact:
    return Artifact("ab" * 32, "graph", "weights", "onnx", precision, 6_000_000)


@pytest.mark.parametrize(
    ("precision", "memory_bytes", "fits"),
    [
        ("fp32", 10_000_000, True),
        ("fp32", 9_999_999, False),
        ("int8", 7_000_000, True),
        ("int8", 6_999_999, False),
        ("fp32", 0, True),  # a board that does not tell
    ],
)
def test_file_and_activations_count(precision: str, memory_bytes: int, fits: bool) -> None:
    if fits:
        require_room(artifact(precision), facts(memory_bytes), 4_000_000)
    else:
        with pytest.raises(OutOfMemory, match=r"MB of memory in all: it was not sent there"):
            require_room(artifact(precision), facts(memory_bytes), 4_000_000)


def test_nothing_is_sent_to_a_board_that_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real agent, of which only the size of its memory is made up."""
    lab, model, sent = tmp_path / "lab.toml", tmp_path / "model.onnx", []
    lab.write_text(f'[devices.here]\nconnection = "local"\npython = "{sys.executable}"\n')
    model.write_bytes(onnx_convolution())
    probe = AgentClient.probe

    def small(self: AgentClient) -> BoardFacts:
        return dataclasses.replace(probe(self), memory_bytes=100)

    monkeypatch.setattr(AgentClient, "probe", small)
    monkeypatch.setattr(AgentClient, "put", lambda self, sha256, data: sent.append(sha256))
    arguments = ["bench", str(model), "--on", "here", "--lab", str(lab), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 1
    assert "of memory in all: it was not sent there" in capsys.readouterr().err
    assert sent == []
