"""A run that is killed again and again asks for the same architectures and ends with the same fronts."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cli
from harness.config import STORE
from results.store import Store
from tests.affinity import on_cores

KILLS = 20
STUDY = """
name = "small"
seed = 3
trials = 10
limits = ["macs <= 150 k"]
[task]
name = "digits"
[space]
name = "chain"
[strategy]
name = "regularized_evolution"
population = 4
sample = 2
[training]
epochs = 1
workers = 2
[measurement]
accept_noisy = true
screen = { sessions = [2, 2], session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
confirm = { sessions = [2, 2], agents = 2, session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
[[targets]]
device = "desk"
runtime = "onnxruntime"
[[targets]]
device = "desk"
runtime = "tflite"
"""
TARGETS = ("desk-onnxruntime-fp32-threads1", "desk-tflite-fp32-threads1")


def start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "harness.cli", *command, "--lab", str(folder / "lab.toml")]
    root = Path(__file__).resolve().parents[1]
    with (folder / "output.log").open("ab") as log:
        return subprocess.Popen([*argv, "--runs", str(folder / "runs")], cwd=root, stdout=log, stderr=log)


def search(folder: Path, lab: str) -> Path:
    """Runs the study undisturbed; returns the run's folder."""
    folder.mkdir()
    (folder / "lab.toml").write_text(lab)
    (folder / "study.toml").write_text(STUDY)
    runs = ["--lab", str(folder / "lab.toml"), "--runs", str(folder / "runs")]
    assert cli.main(["search", str(folder / "study.toml"), *runs]) == 0
    return folder / "runs" / "small"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was measured for real on this machine."""
    folder = tmp_path_factory.mktemp("resume") / "recorded"
    lab = f'[devices.desk]\nconnection = "local"\npython = "{sys.executable}"\n'
    return search(folder, lab)


@pytest.fixture(scope="module")
def replay_lab(recorded: Path) -> str:
    return f'[devices.desk]\nconnection = "replay"\naddress = "{recorded}"\n'


@pytest.fixture(scope="module")
def undisturbed(recorded: Path, replay_lab: str) -> Path:
    return search(recorded.parents[2] / "undisturbed", replay_lab)


def asks(folder: Path) -> list[object]:
    with Store.open(folder / STORE) as store:
        return [r.body["trial"] for r in store.run("small").records("asked")]


def count_records(folder: Path) -> int:
    """Number of records, read from outside while the run writes."""
    if not (folder / STORE).exists():
        return 0
    try:
        with sqlite3.connect(f"file:{folder / STORE}?mode=ro", uri=True, timeout=5) as database:
            return int(database.execute("SELECT COUNT(*) FROM records").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # its tables are being made
    finally:
        if "database" in locals():
            database.close()


def descendants(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found |= {int(stat.parent.name), *descendants(int(stat.parent.name))}
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_at(process: subprocess.Popen[bytes], folder: Path, records: int, delay_s: float) -> bool:
    """Kills -9 once so many records are stored; False if it ended before."""
    while process.poll() is None:
        if count_records(folder) >= records:
            time.sleep(delay_s)
            children = descendants(process.pid)
            process.send_signal(signal.SIGKILL)
            process.wait()
            deadline = time.monotonic() + 60
            while any(map(alive, children)):
                assert time.monotonic() < deadline, "a killed run leaves processes behind"
                time.sleep(0.01)
            return True
        time.sleep(0.002)
    return False


def test_a_replay_asks_for_what_was_recorded(recorded: Path, undisturbed: Path) -> None:
    assert asks(undisturbed) == asks(recorded)
    assert len(asks(recorded)) == 10


def test_killed_at_any_moment_nothing_is_lost_and_nothing_changes(
    undisturbed: Path, replay_lab: str, recorded: Path
) -> None:
    folder = recorded.parents[2] / "killed"
    folder.mkdir()
    (folder / "lab.toml").write_text(replay_lab)
    (folder / "study.toml").write_text(STUDY)
    run = folder / "runs" / "small"
    rng = random.Random(1)
    moments = sorted(rng.sample(range(1, count_records(undisturbed)), KILLS))
    kinds: set[str] = set()
    kills = 0
    for number, records in enumerate(moments):
        begun = (run / STORE).exists() and count_records(run) > 0
        command = ("resume", str(run)) if begun or number else ("search", str(folder / "study.toml"))
        before = stored(run)
        kills += kill_at(start(folder, *command), run, records, rng.uniform(0, 0.05))
        after = stored(run)
        assert after[: len(before)] == before, "what was stored stays as it was"
        kinds |= {kind for kind, _ in after[-1:]}
    assert kills >= KILLS // 2, (folder / "output.log").read_text()
    assert len(kinds) >= 4, f"the kills fell only after {kinds}"
    assert start(folder, "resume", str(run)).wait() == 0, (folder / "output.log").read_text()
    assert asks(run) == asks(undisturbed)
    for target in TARGETS:
        name = f"pareto_{target}.csv"
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be taken from one")
def test_other_cores_ask_for_the_same_candidates(undisturbed: Path, replay_lab: str, recorded: Path) -> None:
    """Begun on two cores, gone on with on one."""
    folder = recorded.parents[2] / "fewer-cores"
    folder.mkdir()
    (folder / "lab.toml").write_text(replay_lab)
    (folder / "study.toml").write_text(STUDY.replace("workers = 2\n", ""))
    run = folder / "runs" / "small"
    with on_cores(2):
        begun = start(folder, "search", str(folder / "study.toml"))
    assert kill_at(begun, run, records=count_records(undisturbed) // 4, delay_s=0.0)
    assert len(asks(run)) < 10
    with on_cores(1):
        assert start(folder, "resume", str(run)).wait() == 0, (folder / "output.log").read_text()
    assert asks(run) == asks(undisturbed)


def stored(run: Path) -> list[tuple[str, str]]:
    if not (run / STORE).exists():
        return []
    with Store.open(run / STORE) as store:
        names = store.runs()
        return [(r.kind, r.key) for r in store.run("small").records()] if "small" in names else []


@pytest.fixture
def heeded_signals() -> Iterator[None]:
    """What runs in the background or under nohup ignores some signals, and so would its children."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_run_cleanly(
    number: signal.Signals, recorded: Path, undisturbed: Path, replay_lab: str
) -> None:
    folder = recorded.parents[2] / f"signal{int(number)}"
    folder.mkdir()
    # On the real connection, so that an agent is running when the signal comes.
    lab = f'[devices.desk]\nconnection = "local"\npython = "{sys.executable}"\n'
    (folder / "lab.toml").write_text(lab)
    (folder / "study.toml").write_text(STUDY)
    run = folder / "runs" / "small"
    process = start(folder, "search", str(folder / "study.toml"))
    while process.poll() is None and count_records(run) < 15:
        time.sleep(0.005)
    children = descendants(process.pid)
    assert children
    os.kill(process.pid, number)
    assert process.wait(timeout=60) == 128 + number, (folder / "output.log").read_text()
    said = (folder / "output.log").read_text()
    assert number.name in said
    assert "boardwise resume" in said
    assert "Traceback" not in said
    deadline = time.monotonic() + 30
    while any(map(alive, children)):
        assert time.monotonic() < deadline, "an ended run leaves processes behind"
        time.sleep(0.01)
