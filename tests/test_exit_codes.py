"""Exit codes through the real command line: what was judged, what was not, and what ended a command."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import bench, cli, stages
from harness.board import Board
from harness.config import STORE
from harness.exit_codes import Exit
from harness.sources import source
from results.codec import to_json
from results.errors import BoardBusy
from results.records import Conditions, Plan, RanOn, Target
from results.store import Store
from tests.fixtures_results import make_measurement, make_session
from tests.fixtures_training import task_file
from tests.tiny_models import onnx_convolution

ROOT = Path(__file__).resolve().parents[1]
STUDY = """
name = "small"
seed = 1
trials = 3
[task]
name = "digits"
[space]
name = "chain"
depths = [1, 2]
[strategy]
name = "random_search"
[training]
epochs = 1
subset = 0.3
workers = 1
[measurement]
screen = { sessions = [1, 1], session_s = 0.005, warmup_s = 0.0, min_runs = 20, retries = 0 }
confirm = { sessions = [2, 2], agents = 2, session_s = 0.005, warmup_s = 0.0, min_runs = 20, retries = 0 }
"""
TARGET = '[[targets]]\ndevice = "{}"\nruntime = "onnxruntime"\n'
DESK, SHELF = "desk-onnxruntime-fp32-threads1", "shelf-onnxruntime-fp32-threads1"


def written(folder: Path, study: str) -> list[str]:
    """Writes a study and a lab of this machine under two names; the arguments of a search."""
    here = f'connection = "local"\npython = "{sys.executable}"\ndirectory = "{folder}'
    (folder / "lab.toml").write_text(f'[devices.desk]\n{here}/desk"\n[devices.shelf]\n{here}/shelf"\n')
    (folder / "study.toml").write_text(study)
    return ["search", str(folder / "study.toml"), *places(folder)]


def places(folder: Path) -> list[str]:
    return ["--lab", str(folder / "lab.toml"), "--runs", str(folder / "runs")]


# --------------------------------------------------------------------------- boards too busy to confirm


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the devices that are busy; those not in it are quiet, however busy this machine is."""
    names = {"shelf"}

    def look(board: Board, targets: Iterable[Target], *, wait_s: float) -> None:
        if board.name in names:
            raise BoardBusy(board.name, "is busy with other work (a test); stop it, or --accept-noisy")

    monkeypatch.setattr(stages, "require_quiet", look)
    return names


def test_a_busy_board_is_told_at_the_start_and_left_unconfirmed(
    tmp_path: Path, busy: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = written(tmp_path, STUDY + TARGET.format("desk") + TARGET.format("shelf"))
    assert cli.main([*command, "--json"]) == Exit.UNJUDGED
    output = capsys.readouterr()
    start, *later = [line for line in output.err.splitlines() if "is busy with other work" in line]
    assert "The study goes on" in start
    assert "--accept-noisy" in start
    assert later
    outcome = json.loads(output.out)
    assert list(outcome["not_confirmed"]) == [SHELF]

    folder = tmp_path / "runs" / "small"
    report = (folder / "report.md").read_text()
    assert "**Not confirmed**: shelf is busy" in report
    assert "boardwise resume small" in report
    desk, shelf = (pd.read_csv(folder / f"pareto_{name}.csv").query("nominal") for name in (DESK, SHELF))
    assert desk["confirmed"].all()
    assert desk["not_confirmed"].isna().all()
    assert not shelf["confirmed"].any()
    assert shelf["not_confirmed"].str.contains("busy").all()
    assert any((folder / "models").glob("*.onnx"))

    busy.clear()
    assert cli.main(["resume", "small", *places(tmp_path)]) == Exit.FINE
    assert "not confirmed" not in capsys.readouterr().out
    assert "Not confirmed" not in (folder / "report.md").read_text()
    assert pd.read_csv(folder / f"pareto_{SHELF}.csv").query("nominal")["confirmed"].all()


def test_noise_that_was_accepted_is_confirmed(tmp_path: Path, busy: set[str]) -> None:
    command = written(tmp_path, STUDY + TARGET.format("shelf"))
    assert cli.main([*command, "--accept-noisy"]) == Exit.FINE


# --------------------------------------------------------------------------- nothing found


def test_limits_that_nothing_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = STUDY.replace("trials = 3", 'trials = 2\nlimits = ["parameters <= 1"]') + TARGET.format("desk")
    assert cli.main([*written(tmp_path, study), "--accept-noisy", "--json"]) == Exit.UNJUDGED
    assert json.loads(capsys.readouterr().out)["fronts"] == {DESK: []}
    assert cli.main(["report", "small", *places(tmp_path)]) == Exit.FINE  # it was asked to write, and did


def test_a_search_in_which_every_training_failed(tmp_path: Path) -> None:
    task = task_file(tmp_path, "def loss(outputs, targets):\n    raise ValueError('mine')")
    study = STUDY.replace('name = "digits"', f'name = "{task}"').replace("trials = 3", "trials = 2")
    assert cli.main([*written(tmp_path, study + TARGET.format("desk")), "--accept-noisy"]) == Exit.UNJUDGED


def test_a_bench_whose_figure_is_invalid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(onnx_convolution())
    target = Target("old", "onnxruntime", options=(("threads", 1),))
    hot = Conditions(throttle_events=1)
    for name, state in (("hot", hot), ("cool", Conditions())):
        known = make_measurement(
            [make_session([0.01] * 40, agent=agent, conditions=state) for agent in range(5)],
            target=target,
            plan=Plan("bench", sessions=(10, 10), agents=5),
            ran_on=RanOn("onnxruntime", "1.20", 1, "CPU"),
            origin="measured",
        )
        known = replace(known, artifact=source(str(model)).artifact)
        store_file = tmp_path / name / STORE
        with Store.open(store_file) as store:
            store.begin("bench", {}).append("benched", "model", {"measurement": to_json(known)})
    lab = [f'[devices.{n}]\nconnection = "replay"\naddress = "{tmp_path / n}"\n' for n in ("hot", "cool")]
    (tmp_path / "lab.toml").write_text("".join(lab))
    words = ["--lab", str(tmp_path / "lab.toml"), "--out", str(tmp_path / "out"), "--json"]
    assert cli.main(["bench", str(model), "--on", "hot", *words]) == Exit.UNJUDGED
    assert json.loads(capsys.readouterr().out)["verdict"] == "invalid"
    assert cli.main(["bench", str(model), "--on", "cool", *words]) == Exit.FINE


def test_figures_of_no_board_say_so_before_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"file": "m.onnx", "device": "old", "origin": "measured", "emulated": "", "latency_p50_ms": 1.0}
    bench.print_row(row, tmp_path / "m.csv")
    assert capsys.readouterr().out.splitlines()[0].strip() == "m.onnx on old"
    for change, said in (({"origin": "replayed"}, "nothing ran"), ({"emulated": "pi4"}, "of a real board")):
        bench.print_row(row | change, tmp_path / "m.csv")
        assert said in capsys.readouterr().out.splitlines()[0]


# --------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    "words",
    [
        "bench model.onnx --on desk --threads 0",
        "bench model.onnx --on desk --sessions 0",
        "bench model.onnx --on desk --sessions many",
        "bench model.onnx --on desk --shape images=1,x",
        "bench model.onnx",
        "compare a.onnx b.onnx --on desk --agents 0",
        "compare a.onnx b.onnx --on desk --threads -1",
        "devices add a/b --local",
        "devices add shelf",
        "devices emulate pi4 --cpus 0",
        "devices emulate pi4 --cpus 2",
        "devices emulate no-such-board",
        "devices setup desk --version 1.0",
        "nightly plan.toml --until 25:99",
        "nightly accept",
        "no-such-command",
    ],
)
def test_wrong_words(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.toml").write_text('[devices.desk]\nconnection = "local"\n')
    (tmp_path / "model.onnx").touch()
    source = '[[sources]]\nname = "m"\nmodel = "model.onnx"\n'
    (tmp_path / "plan.toml").write_text(source + TARGET.format("desk"))
    argv = words.split()
    if argv[0] != "no-such-command":
        argv += ["--lab", str(tmp_path / "lab.toml")]
    try:
        code = cli.main(argv)
    except SystemExit as end:  # how argparse says it
        code = int(end.code or 0)
    assert code == Exit.USAGE
    output = capsys.readouterr()
    assert output.err
    assert not output.out


@pytest.mark.parametrize("words", ["bench missing.onnx --on desk", "report missing", "search missing.toml"])
def test_what_is_not_there(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) == Exit.ERROR


# --------------------------------------------------------------------------- signals


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(store: Path, kind: str, process: subprocess.Popen[Any]) -> None:
    """Returns once a run has stored a record of a kind."""
    ends_at = time.monotonic() + 120
    while time.monotonic() < ends_at and process.poll() is None:
        try:
            with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
                if database.execute("SELECT 1 FROM records WHERE kind = ?", (kind,)).fetchone():
                    return
        except sqlite3.OperationalError:
            pass  # not there yet
        time.sleep(0.005)
    raise AssertionError(f"no {kind!r} record: {process.communicate()}")


@pytest.mark.parametrize(
    ("number", "kind", "to_all"),
    [
        (signal.SIGINT, "trained", True),  # Ctrl-C reaches the training processes as well
        (signal.SIGHUP, "asked", False),
        (signal.SIGTERM, "finished", False),  # in the confirmation
    ],
)
def test_signals(tmp_path: Path, number: signal.Signals, kind: str, to_all: bool) -> None:
    slow = STUDY.replace("sessions = [2, 2]", "sessions = [50, 50]").replace("trials = 3", "trials = 6")
    process = started(tmp_path, *written(tmp_path, slow + TARGET.format("desk")), "--accept-noisy")
    wait_for(tmp_path / "runs" / "small" / STORE, kind, process)
    if to_all:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert f"stopped by {number.name}" in err
    assert "boardwise resume" in err
    assert "Traceback" not in err


def test_an_output_that_nobody_reads() -> None:
    words = ["devices", "emulate", "--list"]
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *words], cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == b""


def test_an_output_that_was_closed_is_no_error() -> None:
    command = f"{sys.executable} -m harness.cli devices emulate --list"
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        done = subprocess.run(f"{command} {closed}", shell=True, cwd=ROOT, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


def test_an_output_on_a_full_disk_is_told_in_a_sentence() -> None:
    command = [sys.executable, "-m", "harness.cli", "devices", "emulate", "--list"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == Exit.ERROR
    assert done.stderr == "boardwise: the output cannot be written: No space left on device\n"


def test_a_command_runs_beside_the_main_thread_too(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(cli.main, ["devices", "emulate", "--list"]).result() == Exit.FINE
    assert capsys.readouterr().out
