"""What broke a limit is named with its figure, and an empty front says why: in the terminal, the report, the
tables and the picture."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness import terminal
from harness.outcome import print_outcome
from harness.progress import LiveWatcher
from results import table
from results.codec import to_json
from results.empty_front import closest, why_empty
from results.evaluations import history
from results.limits import broken, exceeded, sentence
from results.plots import draw
from results.records import Architecture, Fidelity, Limit, Metric, Problem, Proposal, Target, Trial
from results.report import report
from results.store import Run, Store
from tests.fixtures_results import (
    PI,
    ask,
    config,
    make_evaluation,
    make_measurement,
    make_session,
    measured,
    told,
    trained,
)

LATENCY = Limit(Metric("latency_p90", (PI.name,)), 0.005)
SIZE = Limit(Metric("size", (PI.name,)), 50_000.0)
MACS = Limit(Metric("macs"), 150e3)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A fresh store."""
    with Store.open(tmp_path / "store.sqlite") as opened:
        yield opened


@pytest.fixture
def run(store: Store) -> Run:
    """A run on one target with limits of 5 ms, 50 kB and a network of many operations."""
    return store.begin("small", config((PI,), [LATENCY, SIZE, replace(MACS, upper=1e9)]))


def screened(run: Run, number: int, latency_s: float, size_bytes: int, *, target: Target = PI) -> None:
    """Appends a replayed measurement of a trial."""
    known = make_measurement([make_session([latency_s])], origin="replayed", target=target)
    measured(run, number, replace(known, artifact=replace(known.artifact, size_bytes=size_bytes)))


def said_at_the_end(run: Run) -> str:
    file = io.StringIO()
    console = terminal.console(file)
    console.width = 250
    print_outcome(run, Path("runs/small"), [], console)
    return file.getvalue()


def test_a_limit_is_told_with_its_figure() -> None:
    evaluation = make_evaluation(network={"macs": 150_000.4})
    assert sentence(evaluation, MACS) == "macs 0.1500004 M > 0.15 M"
    assert sentence(evaluation, replace(MACS, upper=1e3)) == "macs 0.15 M > 0.001 M"
    assert sentence(evaluation, replace(MACS, upper=1e9)) == "macs 0.15 M <= 1000 M"
    assert exceeded(evaluation, [MACS]) == broken(evaluation, [MACS]) == [MACS]


def test_what_broke_is_named_everywhere_and_not_the_latency_that_was_kept(run: Run) -> None:
    ask(run, 0)
    screened(run, 0, 0.004, 61_234)
    told(run, 0, "infeasible")
    ask(run, 1)
    screened(run, 1, 0.006, 40_000)
    told(run, 1, "infeasible")
    size = f"size 61.2 kB > 50 kB on {PI.name}"
    latency = f"latency_p90 6 ms > 5 ms on {PI.name}"
    known = history(run)
    assert list(table.trials(run)["broken"]) == [size, latency]
    text = report(known)
    assert f"| 1 | file size ≤ 50 kB on {PI.name} | trial 0: {size} |" in text
    assert f"| 1 | p90 latency ≤ 5 ms on {PI.name} | trial 1: {latency} |" in text
    said = said_at_the_end(run)
    assert "no full training was measured here; 2 broke a limit for certain, so never trained" in said
    assert f"closest: trial 1: {latency}" in said
    assert f"closest: trial 0: {size}" in said
    labels = draw(known, PI.name).axes[0].get_legend_handles_labels()[1]
    assert "not trained, over file size limit (1)" in labels
    assert "not trained, over the limit drawn (1)" in labels


def test_a_trained_candidate_over_a_size_limit_is_not_over_the_latency_drawn(run: Run) -> None:
    for number, (latency_s, size_bytes) in enumerate([(0.004, 61_000), (0.004, 40_000)]):
        ask(run, number)
        screened(run, number, latency_s, size_bytes)
        trained(run, number, 0.9)
        told(run, number)
    labels = draw(history(run), PI.name).axes[0].get_legend_handles_labels()[1]
    assert "over file size limit" in labels


def test_a_line_of_the_terminal_names_the_trial_and_what_broke(run: Run) -> None:
    ask(run, 9)
    screened(run, 9, 0.004, 61_234)
    told(run, 9, "infeasible")
    file = io.StringIO()
    console = terminal.console(file)
    console.width = 250
    known = history(run)
    watcher = LiveWatcher(known.problem, (PI,), 10, console)
    watcher.told(known.trials[0].evaluation())
    (line,) = file.getvalue().splitlines()
    assert line.split()[:2] == ["9", "1/10"]
    assert "4 ms ±0% met" in line
    assert f"broken: size 61.2 kB > 50 kB on {PI.name}" in line


# --------------------------------------------------------------------------- empty fronts


def test_an_interrupted_run_of_lower_fidelity_says_that_nothing_is_fully_trained_yet(run: Run) -> None:
    for number in range(3):
        trial = Trial(number, Proposal(Architecture("space", (number,)), Fidelity(2)))
        run.append("asked", str(number), {"trial": to_json(trial), "options": {"width": number}})
        screened(run, number, 0.00058, 40_000)
        trained(run, number, 0.7)
        if number < 2:
            told(run, number)
    known = history(replace_fidelity(run))
    reason = "no full training was measured here yet; 2 trained shorter or on less, or ended early"
    assert why_empty(known, PI).startswith(reason)
    assert "1 not finished" in why_empty(known, PI)
    assert closest(known, PI, 5) == []  # they keep the limits
    assert reason in report(known)


def replace_fidelity(run: Run) -> Run:
    """The run as one whose full training has 6 epochs."""
    run.config["fidelity"] = to_json(Fidelity(6))  # type: ignore[index]
    return run


def test_a_target_without_full_trainings_does_not_show_those_of_others(store: Store) -> None:
    ort, lite, four = (
        Target("here", "onnxruntime"),
        Target("here", "tflite"),
        Target("here", "tflite", options=(("threads", 4),)),
    )
    cost = Metric("latency_p90", ("here",))
    problem = Problem((Metric("accuracy", maximise=True), cost), (Limit(cost, 0.001),))
    run = store.begin("joint", config((ort, lite, four), ()) | {"problem": to_json(problem)})
    for number, (target, latency_s, state) in enumerate(
        [(ort, 0.000747, "complete"), (ort, 0.0009, "complete"), (lite, 0.002, "infeasible")]
    ):
        ask(run, number, **{"deployment.here": target.name.removeprefix("here-")})
        screened(run, number, latency_s, 40_000, target=target)
        if state == "complete":
            trained(run, number, 0.9)
        told(run, number, state)
    known = history(run)
    assert why_empty(known, four) == "no trial chose this target (3 chose others of here)"
    assert closest(known, four, 5) == []
    assert "no full training was measured here; 1 broke a limit" in why_empty(known, lite)
    assert [each.breaks for each in closest(known, lite, 5)] == ["latency_p90 2 ms > 1 ms on here"]
    said = said_at_the_end(run)
    assert f"{four.name}: the front is empty: no trial chose this target" in said
    assert "0.747" not in said.split(f"{lite.name}: the front is empty")[1]


def test_the_closest_come_first(run: Run) -> None:
    for number, latency_s in enumerate((0.020, 0.009, 0.012)):
        ask(run, number)
        screened(run, number, latency_s, 40_000)
        told(run, number, "infeasible")
    found = closest(history(run), PI, 2)
    assert [each.known.trial.number for each in found] == [1, 2]
    assert [each.violation for each in found] == pytest.approx([0.8, 1.4])
