"""The front over all targets: who is on it, what is ranked, and that it is confirmed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from harness import cli
from results import table
from results.across_targets import front_across_targets
from results.codec import to_json
from results.evaluations import history
from results.records import Environment, Limit, Metric, Problem
from results.report import report
from results.store import Run, Store
from tests.fixtures_results import (
    HOST,
    PI,
    ask,
    config,
    make_measurement,
    make_session,
    measured,
    told,
    trained,
)

P90 = {target: Metric("latency_p90", (target.name,)) for target in (PI, HOST)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.sqlite") as opened:
        yield opened


@pytest.fixture
def run(store: Store) -> Run:
    """A run whose objectives are the latencies of two targets, with a limit of 8 ms on one."""
    problem = Problem((Metric("accuracy", maximise=True), *P90.values()), (Limit(P90[PI], 0.008),))
    return store.begin("each", config((PI, HOST), ()) | {"problem": to_json(problem)})


def add(run: Run, number: int, pi_s: float, host_s: float, accuracy: float = 0.9, **changes: object) -> None:
    ask(run, number)
    for target, seconds in ((PI, pi_s), (HOST, host_s)):
        session = make_session([seconds], started_at=1.7e9 + number)
        measured(
            run, number, make_measurement([session], target=target, **({"origin": "replayed"} | changes))
        )
    trained(run, number, accuracy, examples=10**9)
    told(run, number)


def confirm(run: Run, number: int, **seconds: float) -> None:
    for target in (PI, HOST):
        if target.device in seconds:
            session = make_session([seconds[target.device]], started_at=1.7e9 + number)
            found = make_measurement([session], target=target, origin="replayed")
            measured(run, number, found, kind="confirmed")


def members(run: Run) -> dict[int, bool]:
    """Whether each member of the nominal front is confirmed, by number."""
    front = front_across_targets(history(run))
    return {m.known.trial.number: m.confirmed for m in front if m.nominal}


def test_a_compromise_is_on_the_front_of_all_targets_and_of_none_alone(run: Run) -> None:
    add(run, 0, 0.002, 0.007)
    add(run, 1, 0.007, 0.002)
    add(run, 2, 0.003, 0.003)  # the compromise
    add(run, 3, 0.004, 0.004)  # worse than that everywhere
    add(run, 4, 0.009, 0.001)  # over the limit
    for target, fastest in ((PI, 0), (HOST, 4)):
        assert list(table.pareto(run, target.name).query("nominal")["trial"]) == [fastest]
    assert members(run) == {0: False, 1: False, 2: False}
    text = report(history(run))
    assert "## All targets together" in text
    assert "| 2 | certain |" in text


def test_it_is_confirmed_where_it_is_on_every_target(run: Run) -> None:
    add(run, 0, 0.002, 0.007)
    add(run, 1, 0.003, 0.003)
    confirm(run, 1, **{PI.device: 0.0031})
    assert members(run) == {0: False, 1: False}
    confirm(run, 1, **{HOST.device: 0.0071})
    assert members(run) == {0: False}, "confirmed figures count"
    run.append("refuted", f"0/{HOST.name}", {"error": "it crashed"})
    assert members(run) == {1: True}


def test_only_the_newest_environment_of_every_target_is_ranked(run: Run) -> None:
    add(run, 0, 0.001, 0.001)
    add(run, 1, 0.003, 0.003, environment=Environment((("kernel", "7.0"),)))
    assert members(run) == {1: False}


def test_the_worst_of_the_targets_needs_no_such_front(store: Store, tmp_path: Path) -> None:
    run = store.begin("worst", config((PI, HOST), ()))
    add(run, 0, 0.002, 0.007)
    assert front_across_targets(history(run)) == []
    assert "All targets together" not in report(history(run))
    assert table.ACROSS_TARGETS_CSV not in [path.name for path in table.write_csvs(run, tmp_path)]


STUDY = """
name = "each"
seed = 2
trials = 5
across_targets = "each"
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
accept_noisy = true
screen = { sessions = [1, 1], session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
confirm = { sessions = [2, 2], agents = 2, session_s = 0.005, warmup_s = 0.0, min_runs = 20 }
[[targets]]
device = "desk"
runtime = ["onnxruntime", "tflite"]
"""


def test_a_study_confirms_the_front_over_all_targets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, study = tmp_path / "lab.toml", tmp_path / "study.toml"
    lab.write_text(f'[devices.desk]\nconnection = "local"\npython = "{sys.executable}"\n')
    study.write_text(STUDY)
    assert cli.main(["search", str(study), "--lab", str(lab), "--runs", str(tmp_path / "runs")]) == 0
    assert "front of all targets together: trials" in " ".join(capsys.readouterr().out.split())
    folder = tmp_path / "runs" / "each"
    front = pd.read_csv(folder / table.ACROSS_TARGETS_CSV).query("nominal")
    assert len(front)
    assert front["confirmed"].all()
    assert front["accuracy_test"].notna().all()
    own = pd.read_csv(folder / "trials.csv").set_index("trial")
    costs = [c for c in front if c.startswith("desk-") and not c.endswith(("_low", "_high", "_verdict"))]
    assert len(costs) == 2
    for column in costs:  # in ms like those of the screen, which differ by the trained weights at the most
        assert column.endswith("_latency_p90_ms")
        assert (front[column] / own[column].loc[front["trial"]].to_numpy()).between(0.02, 50).all()
    for number in front["trial"]:
        assert (folder / "models" / f"trial{number}.onnx").is_file()
