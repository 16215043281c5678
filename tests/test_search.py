"""A whole study by the command line over a real SSH connection: everything in it is real, and small."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from devices.registry import Lab
from examples.private_sshd import PrivateSshd
from harness import cli
from harness.config import STORE, measurements_of
from results.records import Measurement
from results.store import Run, Store
from search.datasets import load_task

STUDY = """
name = "small"
seed = 5
trials = 8
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
epochs = 2
workers = 2
[measurement]
check_outputs = "all"
accept_noisy = true
screen = { sessions = [2, 3], session_s = 0.02, warmup_s = 0.005, min_runs = 20 }
confirm = { sessions = [3, 3], agents = 3, session_s = 0.02, warmup_s = 0.005, min_runs = 20 }
[[targets]]
device = "desk"
runtime = "onnxruntime"
limits = ["latency_p90 <= 500 ms"]
[[targets]]
device = "desk"
runtime = "tflite"
limits = ["latency_p90 <= 500 ms"]
"""
ORT, TFLITE = "desk-onnxruntime-fp32-threads1", "desk-tflite-fp32-threads1"


def add_desk(server: PrivateSshd, folder: Path) -> Path:
    """A lab file with this machine as a device over SSH."""
    lab = folder / "lab.toml"
    Lab.load(lab).known_hosts.write_text(server.known_hosts.read_text())
    command = ["devices", "add", "desk", server.address, "--identity-file", str(server.identity_file)]
    assert cli.main([*command, "--python", sys.executable, "--lab", str(lab)]) == 0
    return lab


@pytest.fixture(scope="module")
def finished(shared_sshd: PrivateSshd, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run, with its lab file two levels up."""
    folder = tmp_path_factory.mktemp("study")
    (shared_sshd.folder / "home of a login").mkdir(exist_ok=True)
    lab = add_desk(shared_sshd, folder)
    study = folder / "study.toml"
    study.write_text(STUDY)
    assert cli.main(["search", str(study), "--lab", str(lab), "--runs", str(folder / "runs")]) == 0
    return folder / "runs" / "small"


def records(folder: Path, kind: str) -> dict[str, dict[str, object]]:
    with Store.open(folder / STORE) as store:
        return {r.key: r.body for r in store.run(folder.name).records(kind)}


def test_every_trial_ends_and_what_breaks_a_limit_is_never_trained(finished: Path) -> None:
    told = records(finished, "told")
    assert sorted(told, key=int) == [str(i) for i in range(8)]
    trained, built = records(finished, "trained"), records(finished, "built")
    for number, body in told.items():
        macs = built[number]["network"]["macs"]  # type: ignore[index]
        assert body["state"] == ("complete" if macs <= 150_000 else "infeasible")
        assert (number in trained) == (body["state"] == "complete")
    assert 0 < len(trained) < 8, "the seed is chosen so that some break the limit and some do not"


def test_files_are_proved_here_and_on_the_board(finished: Path) -> None:
    complete = set(records(finished, "trained"))
    assert set(records(finished, "exported")) == {
        f"{n}/{f}-fp32" for n in complete for f in ("onnx", "tflite")
    }
    checked = records(finished, "checked")
    assert set(checked) == {f"{n}/{t}" for n in complete for t in (ORT, TFLITE)}
    assert all(body["argmax_agreement"] == 1.0 for body in checked.values())


def test_fronts_are_confirmed_over_fresh_agents(finished: Path) -> None:
    for target in (ORT, TFLITE):
        front = pd.read_csv(finished / f"pareto_{target}.csv")
        assert front.loc[front["nominal"], "confirmed"].all()
        assert front["accuracy_test"].notna().all()
        # The board itself classified a sample of the validation split, as well as this host did all of it.
        confirmed = front[front["confirmed"]]
        assert (confirmed["accuracy_board_low"] <= confirmed["accuracy_validation_high"]).all()
        assert (confirmed["accuracy_board_high"] >= confirmed["accuracy_validation_low"]).all()
        for name in ("accuracy_test", "latency_p50_ms", "latency_p90_ms"):
            assert (front[f"{name}_low"] <= front[name]).all()
            assert (front[name] <= front[f"{name}_high"]).all()
        assert front["accuracy_test_high"].max() <= 1.0
    confirmed = records(finished, "confirmed")
    for body in confirmed.values():
        assert {s["agent"] for s in body["measurement"]["sessions"]} == {0, 1, 2}  # type: ignore[index]


def test_winners_run_and_are_as_accurate_as_the_csv_says(finished: Path) -> None:
    front = pd.read_csv(finished / f"pareto_{ORT}.csv").query("nominal")
    test = load_task("digits", {}).splits().test
    for row in front.to_dict("records"):
        session = onnxruntime.InferenceSession(finished / "models" / f"trial{row['trial']}.onnx")
        right = [
            int(session.run(None, {"input": image[None]})[0].argmax()) == label
            for image, label in zip(test.images, test.labels, strict=True)
        ]
        assert np.mean(right) == pytest.approx(row["accuracy_test"], abs=0.005)
        assert (finished / "models" / f"trial{row['trial']}.tflite").is_file()


def test_everything_a_reader_needs_is_there(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"report.md", "trials.csv", f"front_{ORT}.png", f"front_{TFLITE}.png", STORE} <= names
    trials = pd.read_csv(finished / "trials.csv")
    assert list(trials["trial"]) == list(range(8))


def test_raw_samples_are_stored(finished: Path) -> None:
    measurements = measurements_of(finished)
    assert all(isinstance(m, Measurement) and m.origin == "measured" for m in measurements)
    assert all(len(s.durations_s) >= 20 for m in measurements for s in m.sessions)


def test_resuming_a_finished_run_changes_nothing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = finished.parents[1] / "lab.toml"
    before = len(_all_records(finished))
    assert cli.main(["resume", str(finished), "--lab", str(lab), "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert set(outcome["fronts"]) == {ORT, TFLITE}
    assert len(_all_records(finished)) == before


def _all_records(folder: Path) -> list[object]:
    with Store.open(folder / STORE) as store:
        run: Run = store.run(folder.name)
        return list(run.records())


def test_report_is_written_again_from_the_store(finished: Path) -> None:
    before = (finished / f"pareto_{ORT}.csv").read_bytes()
    (finished / f"pareto_{ORT}.csv").unlink()
    assert cli.main(["report", "small", "--runs", str(finished.parent)]) == 0
    assert (finished / f"pareto_{ORT}.csv").read_bytes() == before


def test_a_taken_name_gets_a_number_and_a_second_search_is_told_who_holds_the_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = finished.parents[1] / "lab.toml"
    with Store.open(finished / STORE) as store, store.claim("small"):
        assert cli.main(["resume", str(finished), "--lab", str(lab)]) == 1
    said = capsys.readouterr().err
    assert "small" in said
    assert f"process {os.getpid()}" in said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('device = "desk"', 'device = "dask"', ["'dask'", "'desk'"]),
        (
            'name = "regularized_evolution"',
            'name = "regularised_evolution"',
            ["study.toml: [strategy]", "'regularized_evolution'"],
        ),
        ("population = 4", "populaton = 4", ["'populaton'", "'population'"]),
        ('name = "digits"', 'name = "digit"', ["study.toml: [task]", "'digit'", "digits"]),
        ('name = "chain"', 'name = "chian"', ["'chian'", "'chain'"]),
        ('name = "chain"', 'name = "chain"\nkernel = [3]', ["study.toml: [space]", "'kernel'", "'kernels'"]),
        (
            'name = "chain"',
            'name = "chain"\nkernels = []',
            ["study.toml: [space]", "kernels", "[]", "at least one"],
        ),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, words: list[str]
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY.replace(old, new, 1))
    lab = finished.parents[1] / "lab.toml"
    assert cli.main(["search", str(study), "--lab", str(lab), "--runs", str(tmp_path / "runs")]) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert not (tmp_path / "runs").exists()


def test_dry_run_says_what_it_costs_and_runs_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    lab = finished.parents[1] / "lab.toml"
    command = [
        "search",
        str(study),
        "--lab",
        str(lab),
        "--runs",
        str(tmp_path / "runs"),
        "--dry-run",
        "--json",
    ]
    assert cli.main(command) == 0
    costs = json.loads(capsys.readouterr().out)
    assert costs["trials"] == 8
    assert costs["boards"]["desk"]["board_s_at_most"] > 0
    assert costs["training_cpu_s_modelled"] > 0
    assert not (tmp_path / "runs").exists()


def test_limits_that_nobody_meets_end_with_the_closest(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.toml"
    impossible = STUDY.replace("trials = 8", "trials = 3").replace('limits = ["macs <= 150 k"]', "")
    study.write_text(impossible.replace("latency_p90 <= 500 ms", "latency_p90 <= 1 us"))
    lab = finished.parents[1] / "lab.toml"
    assert cli.main(["search", str(study), "--lab", str(lab), "--runs", str(tmp_path / "runs")]) == 4
    said = capsys.readouterr().out
    assert "the front is empty" in said
    assert "3 broke a limit for certain" in said
    assert "closest:" in said
    assert not records(tmp_path / "runs" / "small", "trained")
