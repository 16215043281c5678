"""A whole study on an emulated board whose QEMU crashes in the middle: nothing is lost, all is measured."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.emulation.board import EmulatedBoard
from devices.registry import Lab
from harness import cli
from harness.config import STORE
from results.evaluations import evaluations
from results.records import Evaluation
from results.store import Record, Store
from tests.test_resume import count_records

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900), pytest.mark.usefixtures("image_cache")]

STUDY = """
name = "crashes"
seed = 3
trials = 3
[task]
name = "digits"
[space]
name = "chain"
[strategy]
name = "random_search"
[training]
epochs = 1
workers = 1
[measurement]
accept_noisy = true
screen = {{ sessions = [2, 2], session_s = 0.001, warmup_s = 0.0, min_runs = 10 }}
confirm = {{ sessions = [2, 2], agents = 2, session_s = 0.001, warmup_s = 0.0, min_runs = 10 }}
[[targets]]
device = "{device}"
runtime = "tflite"
"""


@pytest.fixture
def board(image_cache: Path) -> Iterator[EmulatedBoard]:
    board = EmulatedBoard(f"pytest-{os.getpid()}-study", "pi4")
    board.start()
    board.stop()  # the study starts it itself
    yield board
    board.remove()


def crash_twice(board: EmulatedBoard, store: Path, crashes: list[int]) -> None:
    """Kills QEMU when it works on the first candidate, and again some records later."""
    wanted = 3
    while len(crashes) < 2:
        time.sleep(0.01)
        stored = count_records(store)
        if stored >= wanted and board.machine.is_alive and board.machine.is_running:
            board.machine.kill()
            crashes.append(stored)
            wanted = stored + 6


def test_crashes_of_qemu_cost_a_study_nothing_but_time(board: EmulatedBoard, tmp_path: Path) -> None:
    lab, study, run = tmp_path / "lab.toml", tmp_path / "study.toml", tmp_path / "runs" / "crashes"
    Lab.load(lab).add(board.entry)
    study.write_text(STUDY.format(device=board.name))
    crashes: list[int] = []
    striker = threading.Thread(target=crash_twice, args=(board, run, crashes), daemon=True)
    striker.start()
    assert cli.main(["search", str(study), "--lab", str(lab), "--runs", str(run.parent)]) == 0
    assert len(crashes) == 2
    striker.join()
    told, records = stored(run)
    assert [one.state for one in told] == ["complete"] * 3
    assert all(len(m.sessions) == 2 for one in told for m in one.measurements.values())
    confirmed = [r for r in records if r.kind == "confirmed"]
    assert confirmed
    assert all(len(r.body["measurement"]["sessions"]) >= 2 for r in confirmed)
    assert not board.is_alive, "the study stops what it started"


def stored(run: Path) -> tuple[list[Evaluation], list[Record]]:
    with Store.open(run / STORE) as store:
        return evaluations(store.run(run.name)), store.run(run.name).records()
