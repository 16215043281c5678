"""Nights judged from stored figures: what each outcome needs, and what the files say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from results import nightly_report
from results.codec import to_json
from results.errors import ConfigError
from results.nights import Judged, Look, accept, judge_nights, look
from results.records import Environment, Interval, Plan
from results.store import Run, Store
from tests.fixtures_results import make_measurement, make_session

OLD = Environment((("kernel", "6.6.31"), ("model", "Raspberry Pi 5")))
NEW = Environment((("kernel", "6.6.51"), ("model", "Raspberry Pi 5")))
SERIES = "detector/pi5-tflite/latency_p50"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Store.open(tmp_path / "store.sqlite") as store:
        yield store.begin("plan", {"kind": "nightly"})


def add(
    run: Run, number: int, z: float, *, again: float | None = None, name: str = "detector", **changes: object
) -> None:
    """A night with one look, and a second one."""
    night = f"night{number:03d}"
    if run.get("night", night) is None:
        run.append("night", night, {})
    for slot, figure in ((0, z), (1, again)):
        if figure is not None:
            values = {
                "night": night,
                "name": name,
                "target": "pi5-tflite",
                "metric": "latency_p50",
                "slot": slot,
                "figure": Interval(*(0.01 * math.exp(figure + d) for d in (-0.01, 0.0, 0.01))),
                "z": figure,
                "environment": OLD,
                "artifact": "ab" * 32,
                "verdict": "valid",
            }
            one = Look(**(values | changes))  # type: ignore[arg-type]
            run.append("looked", f"{night}/{one.series}/{slot}", to_json(one))


def calm(run: Run, nights: int = 14) -> None:
    """A history that goes up and down by 0.3 %."""
    for number in range(nights):
        add(run, number, 0.003 * (-1) ** number)


def newest(run: Run) -> Judged:
    return list(judge_nights(run, {}).values())[-1][0]


def test_the_first_nights_learn_and_the_others_are_judged(run: Run) -> None:
    calm(run, 12)
    outcomes = [judged[0].outcome for judged in judge_nights(run, {}).values()]
    assert outcomes == ["learning"] * 10 + ["fine"] * 2


def test_a_candidate_that_is_confirmed_is_a_regression_until_it_is_accepted(run: Run) -> None:
    calm(run)
    for number in (14, 15):
        add(run, number, 0.05, again=0.05)
        assert newest(run).outcome == "regression"
    assert "+5.1%" in newest(run).text
    assert accept(run, "detector") == [SERIES]
    add(run, 16, 0.051)
    assert newest(run).outcome == "fine"
    add(run, 17, 0.1, again=0.1)
    assert newest(run).outcome == "regression"


def test_a_candidate_that_is_not_confirmed_only_warns(run: Run) -> None:
    calm(run)
    add(run, 14, 0.03, again=0.0)
    assert newest(run).outcome == "unconfirmed"
    add(run, 15, 0.03)
    assert "not measured again" in newest(run).text


def test_a_mended_regression_leaves_no_trace_in_the_history(run: Run) -> None:
    calm(run)
    add(run, 14, 0.05, again=0.05)
    add(run, 15, 0.003)
    assert newest(run).outcome == "fine"
    assert newest(run).finding.nights == 14


def test_another_kernel_begins_a_new_series_and_says_how_far_it_is_away(run: Run) -> None:
    calm(run)
    add(run, 14, 0.2, environment=NEW)
    judged = newest(run)
    assert judged.outcome == "new environment"
    assert "kernel 6.6.31 -> 6.6.51" in judged.text
    assert f"{math.expm1(0.2):+.1%} against the series before" in judged.text
    add(run, 15, 0.2, environment=NEW)
    assert newest(run).outcome == "learning"
    add(run, 16, 0.05, again=0.05)  # the old kernel again: its own history still stands
    assert newest(run).outcome == "regression"


def test_a_bridge_tells_the_step_of_the_environment_from_that_of_the_file(run: Run) -> None:
    calm(run)
    add(run, 14, 0.2, environment=NEW, artifact="cd" * 32)
    bridge = Look(
        "night014", "detector", "pi5-tflite", "latency_p50", 2, Interval(1, 1, 1), 0.02, NEW, "ab", "valid"
    )
    run.append("looked", f"night014/{SERIES}/2", to_json(bridge))
    assert "+2.0% with the file of the night before" in newest(run).text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"verdict": "invalid", "reasons": ("throttled",)}, "throttled"),
        ({"environment": Environment((("emulated", "pi5 qemu"),))}, "emulated"),
    ],
)
def test_what_cannot_be_trusted_is_not_judged(run: Run, changes: dict[str, object], text: str) -> None:
    calm(run)
    add(run, 14, 0.5, again=0.5, **changes)
    assert newest(run).outcome == "not judged"
    assert text in newest(run).text
    add(run, 15, 0.0)
    assert newest(run).finding.nights == 14


def test_an_unknown_name_is_answered_with_the_nearest(run: Run) -> None:
    calm(run, 1)
    with pytest.raises(ConfigError, match="did you mean 'detector'"):
        accept(run, "detektor")


def test_a_look_is_relative_to_the_reference_of_the_same_agents() -> None:
    rows = [make_session([0.004] * 20, agent=a) for a in range(2)]
    rows += [make_session([0.008] * 20, agent=a, role="reference") for a in range(2)]
    measured = make_measurement(rows, plan=Plan("nightly", sessions=(2, 2), agents=2))
    one = look(measured, "latency_p50", night="n", name="a", slot=0)
    assert one is not None
    assert one.z == pytest.approx(math.log(0.5))
    size = look(measured, "size", night="n", name="a", slot=0)
    assert size is not None
    assert size.z == pytest.approx(math.log(123_456))
    assert look(measured, "energy", night="n", name="a", slot=0) is None


def test_files_of_a_night(run: Run, tmp_path: Path) -> None:
    calm(run)
    rng = np.random.default_rng(0)
    for number in range(14):
        add(run, number, float(rng.normal(0, 0.003)), name="classifier")
    add(run, 14, 0.05, again=0.05)
    add(run, 14, 0.0, name="classifier")
    run.append("unmeasured", "night014/gone/pi5-tflite/latency_p50", {"reason": "no such file"})
    paths = nightly_report.write(tmp_path / "out", "plan", judge_nights(run, {}))
    assert [p.name for p in paths] == ["junit.xml", "nightly.md", "nightly.json", "history.csv"]
    suite = ElementTree.parse(paths[0]).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    failed = suite.findall("testcase/failure")
    assert len(failed) == 1
    assert "regression: +5.1%" in str(failed[0].get("message"))
    text = paths[1].read_text()
    assert "3 series: 1 regression, 1 unmeasured, 1 fine." in text
    rows = json.loads(paths[2].read_text())
    assert {row["outcome"] for row in rows} == {"regression", "fine", "unmeasured"}
    history = pd.read_csv(paths[3])
    assert len(history) == 14 * 2 + 3
    assert set(history.columns) == set(rows[0])
