"""Records and their JSON: what goes in comes out, and nothing else is let in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.codec import digest, from_json, to_json
from results.errors import BoardwiseError, ConfigError, StoreError
from results.records import (
    Conditions,
    Environment,
    Fidelity,
    Interval,
    Limit,
    Measurement,
    Metric,
    Plan,
    Problem,
    Session,
    Target,
    Trial,
)
from tests.fixtures_results import make_evaluation, make_measurement, make_session

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-9, max_value=1e3)


def through_text(value: Any) -> Any:
    """A JSON value as it comes back from the store."""
    return json.loads(json.dumps(to_json(value)))


@given(st.lists(positive, min_size=1), st.integers(0, 9), finite, st.one_of(st.none(), finite))
def test_sessions_come_back_bit_for_bit(
    durations_s: list[float], agent: int, started_at: float, temperature_c: float | None
) -> None:
    conditions = Conditions(temperature_before_c=temperature_c)
    session = make_session(durations_s, agent=agent, started_at=started_at, conditions=conditions)
    assert from_json(Session, through_text(session)) == session


def test_whole_measurements_trials_and_problems_come_back() -> None:
    measurement = make_measurement([make_session([0.004, 0.005])], dropped=("throttled",))
    assert from_json(Measurement, through_text(measurement)) == measurement
    trial = make_evaluation(3).trial
    assert from_json(Trial, through_text(trial)) == trial
    metric = Metric("latency_p90", ("a", "b"), (1.0, 2.0))
    problem = Problem((Metric("accuracy", maximise=True), metric), (Limit(metric, 0.008),))
    assert from_json(Problem, through_text(problem)) == problem


def test_options_of_a_target_keep_their_kinds() -> None:
    target = Target(
        "pi5", "tflite", options=(("xnnpack", True), ("threads", 1), ("scale", 1.0), ("mode", "a"))
    )
    back = from_json(Target, through_text(target))
    assert back == target
    assert [type(v) for _, v in back.options] == [str, float, int, bool]
    assert back.name == "pi5-tflite-fp32-modea-scale1.0-threads1-xnnpackTrue"


def test_names_of_targets_can_be_names_of_files() -> None:
    options = (("delegate", "/usr/lib/libedgetpu.so.1"), ("package", "onnxruntime==1.23.2"))
    name = Target("pi5", "tflite", options=options).name
    assert name == "pi5-tflite-fp32-delegatelibedgetpu.so.1-packageonnxruntime-1.23.2"
    assert Target("pi5", "onnxruntime", options=(("package", "==1.23.2"),)).name.endswith("-package1.23.2")


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Takes a field away."""
    return lambda body: {k: v for k, v in body.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("agent"), "agent"),
        (lambda body: body | {"extra": 1}, r"only the fields of Session, got \"\['extra'\]\""),
        (lambda body: body | {"role": "spy"}, r"Session\.role"),
        (lambda body: body | {"agent": 1.5}, r"Session\.agent: expected int"),
        (lambda body: body | {"agent": True}, r"Session\.agent: expected a number"),
        (lambda body: body | {"load_s": "1"}, r"Session\.load_s: expected float"),
        (lambda body: body | {"load_s": math.inf}, r"Session\.load_s: expected a finite number"),
        (lambda body: body | {"load_s": 10**400}, r"Session\.load_s: expected a finite number"),
        (lambda body: body | {"durations_s": [0.1, None]}, r"Session\.durations_s\[1\]"),
        (lambda body: body | {"durations_s": [0.1, math.nan]}, r"Session\.durations_s\[1\]"),
        (lambda body: body | {"durations_s": [0.1, -0.1]}, "finite and positive"),
        (lambda body: body | {"durations_s": []}, "needs timed runs"),
        (lambda body: body | {"conditions": [1]}, r"Session\.conditions: expected an object"),
        (lambda body: "text", "expected an object"),
    ],
)
def test_what_does_not_fit_is_refused_by_field(change: Callable[[Any], Any], message: str) -> None:
    body = to_json(make_session([0.1, 0.2]))
    with pytest.raises(StoreError, match=message):
        from_json(Session, change(body))


def test_records_that_refuse_themselves_are_store_errors_when_read() -> None:
    with pytest.raises(StoreError, match="low <= value <= high"):
        from_json(Interval, {"low": 2, "value": 1, "high": 3})
    with pytest.raises(StoreError, match=r"Fidelity.*epochs >= 0"):
        from_json(Fidelity, {"epochs": -1})


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1, 2}, b"x", 1j])
def test_values_without_a_json_form_are_refused(value: object) -> None:
    with pytest.raises(StoreError):
        to_json({"a": [value]})


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert Environment((("a", "1"),)).fingerprint != Environment((("a", "2"),)).fingerprint


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fidelity(1, subset=0.0),
        lambda: Plan("screen", sessions=(2, 1)),
        lambda: Plan("confirm", sessions=(2, 4), agents=3),
        lambda: Metric("latency_p90", ("a",), scales=(1.0, 2.0)),
        lambda: Metric("latency_p90", ("a",), scales=(0.0,)),
    ],
)
def test_records_that_make_no_sense_cannot_be_made(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()


def test_every_error_is_ours() -> None:
    assert issubclass(StoreError, BoardwiseError)
    assert issubclass(ConfigError, BoardwiseError)
