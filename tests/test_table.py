"""Tables of a run: every trial, each target's front, and the rule that only comparable figures are ranked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from results import loading, table
from results.errors import StoreError
from results.evaluations import evaluations, history
from results.records import Conditions, Environment, Interval, Limit, Metric, Score, Target
from results.statistics import value
from results.store import Run, Store
from tests.fixtures_results import (
    ENVIRONMENT,
    HOST,
    PI,
    ask,
    config,
    confirm,
    fill,
    make_measurement,
    make_session,
    measured,
    told,
    trained,
)

P90 = Metric("latency_p90", (PI.name,))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A fresh store."""
    with Store.open(tmp_path / "store.sqlite") as opened:
        yield opened


@pytest.fixture
def run(store: Store) -> Run:
    """A run on one target with a limit of 8 ms."""
    return store.begin("demo", config((PI,), [Limit(P90, 0.008)]))


def add(run: Run, number: int, latency_s: float, accuracy: float, **changes: Any) -> None:
    """A complete trial whose latency is known exactly (replayed from a table)."""
    ask(run, number)
    changes = {"origin": "replayed"} | changes
    measured(run, number, make_measurement([make_session([latency_s])], **changes))
    trained(run, number, accuracy, examples=10**9)
    told(run, number)


def rows(frame: pd.DataFrame) -> list[tuple[int, str, bool]]:
    """Trial, front and whether it is on the nominal front, in order."""
    return list(zip(frame["trial"], frame["front"], frame["nominal"], strict=True))


# --------------------------------------------------------------------------- evaluations


def test_evaluations_are_rebuilt_from_the_records(run: Run) -> None:
    ask(run, 0)
    measurement = make_measurement([make_session([0.004] * 20)])
    measured(run, 0, measurement)
    trained(run, 0, 0.9)
    told(run, 0)
    ask(run, 1)
    told(run, 1, "failed", "no room")
    ask(run, 2)
    first, second = evaluations(run)
    assert first.state == "complete"
    assert first.measurements == {PI.name: measurement}
    assert first.accuracy == {"fp32": Score(0.9, 1000)}
    assert (first.learning_curve, first.checkpoint, first.training_s) == ((0.45, 0.9), "cd" * 32, 12.5)
    assert first.network["macs"] == 1e6
    assert (second.trial.number, second.state, second.error) == (1, "failed", "no room")
    assert [t.state for t in history(run).trials] == ["complete", "failed", "pending"]
    with pytest.raises(StoreError, match="not in its final state"):
        history(run).trials[2].evaluation()


def test_the_last_of_several_measurements_counts(run: Run) -> None:
    ask(run, 0)
    for number, median_s in enumerate((0.004, 0.005)):
        body = {"measurement": make_measurement([make_session([median_s])], origin="replayed"), "wall_s": 1.0}
        run.append("measured", f"0/{PI.name}/search/{number}", body)
    told(run, 0)
    assert value(evaluations(run)[0], P90) == Interval(0.005, 0.005, 0.005)


def test_a_record_of_no_trial_is_refused(run: Run) -> None:
    told(run, 7)
    with pytest.raises(StoreError, match="belongs to no trial"):
        history(run)


# --------------------------------------------------------------------------- trials


def test_every_trial_has_a_row(store: Store) -> None:
    frame = table.trials(fill(store))
    assert list(frame["trial"]) == list(range(40))
    assert set(frame["state"]) == {"complete", "infeasible", "failed"}
    broken = frame[frame["state"] == "infeasible"]
    assert (broken[f"{PI.name}_limits"] == "broken").all()
    assert (broken[f"{HOST.name}_limits"] == "unknown").all()
    assert broken["accuracy_validation"].isna().all()
    assert (broken["violation"] > 0).all()
    assert frame[frame["state"] == "failed"]["error"].str.contains("ExportError").all()


def test_a_pending_trial_has_a_row_too(run: Run) -> None:
    ask(run, 0, depth=3, width=16)
    (row,) = table.trials(run).to_dict("records")
    assert (row["trial"], row["state"], row["architecture"]) == (0, "pending", "depth=3 width=16")


def test_a_run_without_trials_has_an_empty_table(run: Run) -> None:
    assert table.trials(run).empty
    assert table.pareto(run, PI.name).empty


# --------------------------------------------------------------------------- fronts


def test_the_front_of_exact_figures(run: Run) -> None:
    for number, (latency_s, accuracy) in enumerate(
        [(0.004, 0.90), (0.002, 0.80), (0.005, 0.85), (0.007, 0.95), (0.009, 0.99)]
    ):
        add(run, number, latency_s, accuracy)
    frame = table.pareto(run, PI.name)
    assert [trial for trial, _, nominal in rows(frame) if nominal] == [3, 0, 1]  # 4 is over 8 ms
    assert list(frame["latency_p90_ms"]) == pytest.approx([7.0, 4.0, 2.0])
    assert (frame["origin"] == "replayed").all()


def test_a_limit_in_doubt_is_on_no_certain_front_and_rules_nobody_out(run: Run) -> None:
    ask(run, 0)
    measured(run, 0, make_measurement([make_session([m] * 20) for m in (0.0078, 0.0079, 0.0080)]))
    trained(run, 0, 0.95, examples=10**9)
    told(run, 0)
    ask(run, 1)
    measured(run, 1, make_measurement([make_session([m] * 20) for m in (0.00795, 0.00795, 0.00795)]))
    trained(run, 1, 0.80, examples=10**9)
    told(run, 1)
    frame = table.pareto(run, PI.name).set_index("trial")
    assert (frame.loc[0, "limits"], frame.loc[0, "front"]) == ("unclear", "possible")
    assert (frame.loc[1, "limits"], frame.loc[1, "front"]) == ("met", "possible")


def test_an_invalid_measurement_is_on_no_certain_front(run: Run) -> None:
    throttled = make_session([0.004] * 20, conditions=Conditions(throttle_events=2))
    ask(run, 0)
    measured(run, 0, make_measurement([throttled] * 3))
    trained(run, 0, 0.9)
    told(run, 0)
    (row,) = table.pareto(run, PI.name).to_dict("records")
    assert (row["front"], row["verdict"]) == ("possible", "invalid")
    assert "throttled (3 of 3 sessions)" in row["verdict_reasons"]


def test_confirmed_figures_replace_the_screen_and_decide(run: Run) -> None:
    add(run, 0, 0.004, 0.9, origin="measured", plan=None)
    add(run, 1, 0.005, 0.8)
    again = make_measurement(
        [make_session([0.0079 + a / 1e6] * 20, agent=a) for a in range(3)], origin="replayed"
    )
    measured(run, 1, again, kind="confirmed")
    run.append("tested", "1", {"accuracy": {"fp32": Score(0.75, 4000)}})
    (row,) = table.pareto(run, PI.name).to_dict("records")  # trial 0: one run has no 90th percentile
    assert row["trial"] == 1
    assert row["confirmed"]
    assert row["latency_p90_ms"] == pytest.approx(7.9, abs=0.01)
    assert (row["accuracy_test"], row["accuracy_validation"]) == (0.75, 0.8)
    assert row["accuracy_test_low"] < 0.75 < row["accuracy_test_high"]


def test_what_is_confirmed_over_the_limit_leaves_the_front(run: Run) -> None:
    add(run, 0, 0.004, 0.9)
    add(run, 1, 0.005, 0.8)
    measured(run, 0, make_measurement([make_session([0.009])], origin="replayed"), kind="confirmed")
    assert list(table.pareto(run, PI.name)["trial"]) == [1]


def test_what_could_not_be_confirmed_leaves_the_front(run: Run) -> None:
    add(run, 0, 0.004, 0.9)
    run.append("refuted", f"0/{PI.name}", {"error": "crashed"})
    assert table.pareto(run, PI.name).empty


def test_figures_of_different_environments_are_never_ranked(run: Run) -> None:
    newer = Environment((*ENVIRONMENT.facts, ("kernel", "6.12")))
    add(run, 0, 0.001, 0.99)  # would dominate all, but on another kernel
    add(run, 1, 0.0005, 0.70)
    add(run, 2, 0.002, 0.80)
    session = make_session([0.004], started_at=1_800_000_000.0)
    for number, accuracy in ((3, 0.9), (4, 0.8)):
        ask(run, number)
        measured(run, number, make_measurement([session], origin="replayed", environment=newer))
        trained(run, number, accuracy, examples=10**9)
        told(run, number)
    frame = table.pareto(run, PI.name)
    assert rows(frame) == [
        (3, "certain", True),
        (0, "other environment", False),
        (1, "other environment", False),
    ]


def test_measured_and_replayed_figures_are_never_ranked(run: Run) -> None:
    add(run, 0, 0.001, 0.99)
    ask(run, 1)
    rows_ = [make_session([0.004] * 20, started_at=1_800_000_000.0)] * 3
    measured(run, 1, make_measurement(rows_))
    trained(run, 1, 0.9)
    told(run, 1)
    assert [(t, f) for t, f, _ in rows(table.pareto(run, PI.name))] == [
        (1, "certain"),
        (0, "other environment"),
    ]


def test_limits_of_the_network_hold_on_every_target(store: Store) -> None:
    run = store.begin("small", config((PI,), [Limit(Metric("parameters"), 20_000)]))
    add(run, 0, 0.004, 0.8)  # 20,000 parameters
    add(run, 1, 0.004, 0.9)  # 20,001
    assert list(table.pareto(run, PI.name)["trial"]) == [0]


def test_an_unknown_target_is_named(run: Run) -> None:
    with pytest.raises(StoreError, match=f"has no target 'nano'; it has {PI.name}"):
        table.pareto(run, "nano")


def test_accuracy_of_another_precision_never_stands_in(store: Store) -> None:
    int8 = Target("pi5", "tflite", "int8")
    run = store.begin("int8", config((int8,), []))
    add(run, 0, 0.004, 0.9, target=int8)
    assert table.pareto(run, int8.name).empty


def test_a_front_row_says_what_ran_where_and_how_well_it_is_known(store: Store) -> None:
    run = fill(store)
    confirm(run, 4, 0.0035)
    frame = table.pareto(run, PI.name).set_index("trial")
    row = frame.loc[4]
    assert bool(row["confirmed"])
    assert (row["runtime"], row["runtime_version"], row["threads"]) == ("tflite (real)", "2.1.0", 1)
    assert row["board"] == "Raspberry Pi 5 Model B"
    assert row["latency_p50_ms_low"] < row["latency_p50_ms"] < row["latency_p50_ms_high"]
    assert row["latency_p50_ms"] == pytest.approx(3.5, rel=0.02)
    assert (row["sessions"], row["agents"], row["runs"], row["plan"]) == (10, 5, 1000, "confirm")
    assert row["conditions"] == "governor performance, 45-48 °C"
    assert row["energy_note"] == "not measured: no power meter was read"
    assert row["measured_at"] == "2023-11-14T23:13:20Z"
    assert (row["weights"], row["artifact_sha256"], row["trained_sha256"]) == (
        "trained",
        "04" * 32,
        "04" * 32,
    )
    assert set(frame["front"]) <= {"certain", "possible"}
    assert (frame["limits"] == "met").sum() > 0


# --------------------------------------------------------------------------- files


def test_csv_files_hold_what_the_tables_hold(store: Store, tmp_path: Path) -> None:
    run = fill(store)
    folder = tmp_path / "runs" / "demo"
    paths = table.write_csvs(run, folder)
    names = ["trials.csv", f"pareto_{PI.name}.csv", f"pareto_{HOST.name}.csv"]
    assert [path.name for path in paths] == names
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)
    read, made = pd.read_csv(paths[1]), table.pareto(run, PI.name)
    assert list(read.columns) == list(made.columns) == table.front_columns("accuracy")
    for column in ("accuracy_validation", "latency_p90_ms_low", "macs", "size_bytes"):
        assert list(read[column]) == pytest.approx(list(made[column].astype(float)), rel=1e-5)
    assert "e+" not in paths[0].read_text()


def test_an_empty_front_has_all_columns(run: Run, tmp_path: Path) -> None:
    _, path = table.write_csvs(run, tmp_path)
    frame = pd.read_csv(path)
    assert list(frame.columns) == table.front_columns("accuracy")
    assert frame.empty


def test_a_csv_that_cannot_be_written_leaves_the_old_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "trials.csv").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*trials\.csv"):
        table.write_csvs(run, tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".trials")]


def test_a_measurement_alone_makes_a_row(tmp_path: Path) -> None:
    measurement = make_measurement([make_session([0.004] * 20)] * 3)
    reference = make_session([0.008] * 20, role="reference")
    artifact = replace(measurement.artifact, weights="")
    measurement = replace(measurement, sessions=(*measurement.sessions, reference), artifact=artifact)
    row = table.measurement_row(measurement)
    assert (row["sessions"], row["latency_ratio"], row["verdict"]) == (3, pytest.approx(0.5), "valid")
    assert (row["load_ms"], row["cold_ms"], row["load_note"]) == (10.0, 20.0, "")
    assert row["weights"] == "as given", "nothing is known of the weights of a user's own file"
    table.write_csv(tmp_path / "bench.csv", [{"file": "a.onnx", **row}])
    assert pd.read_csv(tmp_path / "bench.csv").loc[0, "file"] == "a.onnx"


@pytest.mark.parametrize(("clock", "valid"), [("virtual", False), ("wall", True)])
def test_load_and_first_run_are_not_valid_in_virtual_time(clock: str, valid: bool) -> None:
    label = Environment((("emulated", f"pi4,qemu-7.2.22,{clock}-time"),))
    measurement = make_measurement([make_session([0.004] * 20)] * 3, environment=label)
    row = table.measurement_row(measurement)
    assert (row["load_ms"], row["cold_ms"]) == ((10.0, 20.0) if valid else (None, None))
    assert row["load_note"] == ("" if valid else loading.NOT_VALID)
    assert measurement.sessions[0].load_s == 0.01, "what was measured stays"
