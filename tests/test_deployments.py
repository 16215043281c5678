"""Deployments of one board side by side: what may be ranked, and what a report says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from results.codec import to_json
from results.deployments import board_front, decisions, factors, same_network
from results.evaluations import history
from results.records import (
    Environment,
    Interval,
    Limit,
    Measurement,
    Metric,
    Option,
    Problem,
    Score,
    Target,
)
from results.report import report
from results.store import Run, Store
from tests.fixtures_results import (
    ask,
    config,
    make_measurement,
    make_session,
    measured,
    told,
    trained,
)

ORT, LITE, FOUR = (
    Target("pi5", "onnxruntime"),
    Target("pi5", "tflite"),
    Target("pi5", "tflite", options=(("threads", 4),)),
)
BOARD = (("kernel", "6.6"), ("model", "Raspberry Pi 5 Model B"))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run in which each trial chooses one of three targets of a board, limit 8 ms."""
    with Store.open(tmp_path / "store.sqlite") as store:
        settings = config((ORT, LITE, FOUR), ())
        costs = Metric("latency_p90", ("pi5",))
        problem = Problem((Metric("accuracy", maximise=True), costs), (Limit(costs, 0.008),))
        yield store.begin("small", settings | {"problem": to_json(problem)})


def figure(target: Target, seconds: float, *, kernel: str = "6.6", started_at: float = 1.7e9) -> Measurement:
    """One figure, replayed, of a board that says which runtime it ran."""
    facts = (("kernel", kernel), BOARD[1], ("provider", f"of {target.name}"), ("runtime", target.runtime))
    session = make_session([seconds], started_at=started_at)
    return make_measurement([session], target=target, origin="replayed", environment=Environment(facts))


def add(run: Run, number: int, measurement: Measurement, accuracy: float) -> None:
    ask(run, number)
    measured(run, number, measurement)
    trained(run, number, accuracy, examples=10**9)
    told(run, number)


def test_candidates_of_all_deployments_make_one_front(run: Run) -> None:
    add(run, 0, figure(ORT, 0.006), 0.95)  # the most accurate
    add(run, 1, figure(LITE, 0.004), 0.90)
    add(run, 2, figure(ORT, 0.005), 0.85)  # slower and worse than trial 1, best of nothing
    add(run, 3, figure(FOUR, 0.002), 0.80)
    add(run, 4, figure(FOUR, 0.009), 0.99)  # above the limit of the device
    known = history(run)
    assert [(m.candidate.known.trial.number, m.target, m.certain) for m in board_front(known, "pi5")] == [
        (0, ORT, True),
        (1, LITE, True),
        (3, FOUR, True),
    ]
    assert board_front(known, "nano") == []
    text = report(known)
    assert "## Which deployment on pi5" in text
    assert "The best accuracy within the limits is that of trial 0 on onnxruntime-fp32-threads1." in text
    assert "| tflite-fp32-threads4 | unknown | unknown | unknown | 2 | 1 | 1 |" in text


def test_another_state_of_the_board_is_not_ranked_with_this_one(run: Run) -> None:
    add(run, 0, figure(ORT, 0.001), 0.99)
    add(run, 1, figure(LITE, 0.004, kernel="6.12", started_at=1.8e9), 0.90)
    assert [m.target for m in board_front(history(run), "pi5")] == [LITE]


def test_one_network_on_every_deployment(run: Run) -> None:
    for target, seconds in ((ORT, 0.003), (LITE, 0.002), (FOUR, 0.001)):
        run.append("prepared", target.name, {"measurement": to_json(figure(target, seconds))})
    known = history(run)
    assert list(same_network(known, "pi5")) == [ORT, LITE, FOUR]
    text = report(known)
    assert "**For one and the same network, tflite-fp32-threads4 is fastest**. That" in text
    assert "| onnxruntime-fp32-threads1 | 3 [3, 3] | 3.00 | 30.0 | 0 | 0 | 0 |" in text
    assert "No full training is within all limits on pi5, whichever the deployment." in text


def test_what_cannot_be_told_apart_is_named(run: Run) -> None:
    near = figure(LITE, 0.002)
    sessions = tuple(make_session([0.002 * f] * 20, agent=i) for i, f in enumerate((1.0, 1.1, 0.95)))
    near = replace(near, sessions=sessions, origin="measured")
    other = replace(near, target=FOUR, sessions=tuple(replace(s) for s in sessions))
    for measurement in (near, other):
        run.append("prepared", measurement.target.name, {"measurement": to_json(measurement)})
    text = report(history(run))
    assert "at 95 % it cannot be told from tflite-fp32-threads4" in text


def test_each_decision_is_compared_with_the_others_equal() -> None:
    def here(runtime: str, precision: str, threads: int, **options: Option) -> Target:
        return Target("pi5", runtime, precision, (("threads", threads), *options.items()))

    old, new = {"package": "onnxruntime==1.23.2"}, {"package": "onnxruntime==1.32.0"}
    times = {
        here("tflite", "fp32", 1): Interval(0.9, 1.0, 1.1),
        here("tflite", "int8", 1): Interval(0.45, 0.5, 0.55),
        here("onnxruntime", "fp32", 1, **old): Interval(3.6, 4.0, 4.4),
        here("onnxruntime", "int8", 1, **old): Interval(0.9, 1.0, 1.1),
        here("onnxruntime", "fp32", 1, **new): Interval(1.8, 2.0, 2.2),
        here("onnxruntime", "int8", 1, **new): Interval(0.45, 0.5, 0.55),
        here("onnxruntime", "int8", 2, **new): Interval(0.45, 0.5, 0.55),
    }
    runtime, threads, precision = factors(times)
    assert (runtime.name, runtime.fastest, runtime.pairs) == ("runtime", "tflite", 2)
    assert {name: ratio.value for name, ratio in runtime.others} == pytest.approx(
        {"onnxruntime==1.32.0": 2**0.5, "onnxruntime==1.23.2": 8**0.5}
    )
    assert (threads.fastest, threads.others[0][0], threads.pairs) == ("1", "2", 1)
    # Both intervals are 10 % wide on the logarithm: together 2**0.5 times that.
    assert threads.others[0][1].high == pytest.approx(1.1 ** (2**0.5))
    assert (precision.fastest, precision.pairs) == ("int8", 3)
    assert precision.others[0][1].value == pytest.approx(32 ** (1 / 3))
    assert decisions(here("tflite", "fp32", 4, xnnpack=False))["runtime"] == "tflite xnnpack=False"
    assert decisions(here("tflite", "fp32", 4, package="==2.14.0"))["runtime"] == "tflite==2.14.0"


def test_nothing_is_compared_where_nothing_else_is_equal() -> None:
    one, other = Target("pi5", "tflite", "int8"), Target("pi5", "onnxruntime", "fp32")
    assert factors({one: Interval(1.0, 1.0, 1.0), other: Interval(2.0, 2.0, 2.0)}) == []


def test_what_precision_costs_in_accuracy(run: Run) -> None:
    for number, (whole, quantised) in enumerate(((0.95, 0.94), (0.90, 0.905))):
        add(run, number, figure(ORT, 0.006), whole)
        score = to_json({"int8": Score(quantised, 1000)})
        run.append("scored", str(number), {"accuracy": score})
    text = "- **accuracy in int8** against float32, the same weights: -0.25 points in the mean of 2 trials"
    assert f"{text}, from -1.00 to +0.50" in report(history(run))


def test_a_target_that_no_trial_chose_has_no_closest_candidates(run: Run) -> None:
    ask(run, 0, **{"deployment.pi5": "onnxruntime-fp32-threads1"})
    measured(run, 0, figure(ORT, 0.006))
    trained(run, 0, 0.9)
    told(run, 0)
    text = report(history(run))
    assert (
        "**The front is empty**: no trial chose this target (1 chose others of pi5)."
        in text.partition(f"## {LITE.name}")[2]
    )
    assert "deployment.pi5" not in text.partition(f"## {ORT.name}")[2].partition("## ")[0]


def test_a_device_with_one_target_has_nothing_to_compare(tmp_path: Path) -> None:
    with Store.open(tmp_path / "other.sqlite") as store:
        assert "Which deployment" not in report(history(store.begin("one", config((LITE,), ()))))
