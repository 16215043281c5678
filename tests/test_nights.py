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
from results.errors import ConfigError, StoreError
from results.looks import Look, file_look, look
from results.nights import Judged, accept, judge_nights, keep_look, standing, take_back
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
                "took_s": 1.0,
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
    assert newest(run).outcome == "mended"
    assert "the regression of night014 is mended" in newest(run).text
    assert newest(run).finding.nights == 14


def test_another_kernel_goes_on_with_the_series_where_it_costs_nothing(run: Run) -> None:
    calm(run)
    add(run, 14, 0.004, environment=NEW)
    assert newest(run).outcome == "new environment"
    assert "kernel 6.6.31 -> 6.6.51" in newest(run).text
    add(run, 15, 0.1, again=0.1, environment=NEW)
    assert newest(run).outcome == "regression"


def test_a_kernel_that_costs_a_third_is_a_regression_until_it_is_accepted(run: Run) -> None:
    calm(run)
    for number in (14, 15, 16):
        add(run, number, 0.26, environment=NEW)
        assert newest(run).outcome == "regression"
        assert "+29.7% against the series before (kernel 6.6.31 -> 6.6.51)" in newest(run).text
        assert "10 ms -> 13 ms" in newest(run).text
    add(run, 17, 0.0)  # the old kernel again
    assert newest(run).outcome == "mended"
    add(run, 18, 0.26, environment=NEW)
    assert newest(run).outcome == "regression"
    accept(run, SERIES)
    add(run, 19, 0.261, environment=NEW)
    assert newest(run).outcome == "fine"


def test_a_step_some_nights_after_an_upgrade_is_told_in_full(run: Run) -> None:
    calm(run)
    for number in range(14, 20):
        add(run, number, 0.003 * (-1) ** number, environment=NEW)
    add(run, 20, math.log(2), again=math.log(2), environment=NEW)
    assert "+100.0% against 6 nights" in newest(run).text
    assert "10 ms -> 20 ms" in newest(run).text


def test_levels_across_environments_are_those_of_the_shift(run: Run) -> None:
    """Of all nights in the new environment, not of the newest alone."""
    calm(run)
    add(run, 14, 0.0, environment=NEW)
    add(run, 15, 0.018, environment=NEW)
    assert "+0.9% against the series before" in newest(run).text
    assert "10 ms -> 10.1 ms" in newest(run).text


def test_a_regression_whose_source_left_the_plan_stands_until_it_is_accepted(run: Run) -> None:
    calm(run)
    add(run, 14, 0.26, again=0.26)
    add(run, 15, 0.0, name="renamed")
    told = list(judge_nights(run, {}).values())[-1]
    assert {one.series: one.outcome for one in told}[SERIES] == "regression"
    assert "not measured since night014: not reached, or no longer in the plan" in told[-1].text
    assert accept(run, "detector") == [SERIES]
    add(run, 16, 0.0, name="renamed")
    assert [one.series for one in list(judge_nights(run, {}).values())[-1]] == [
        SERIES.replace("detector", "renamed")
    ]


def test_another_board_is_never_compared(run: Run) -> None:
    calm(run)
    other = Environment((("kernel", "6.6.31"), ("model", "Raspberry Pi 5"), ("unit", "another")))
    add(run, 14, 1.0, environment=other)
    assert newest(run).outcome == "new board"
    assert newest(run).before is None
    assert "not compared" in newest(run).text
    add(run, 15, 0.0)
    assert newest(run).finding.nights == 14


def test_a_regression_that_could_not_be_looked_at_since_still_stands(run: Run) -> None:
    calm(run)
    add(run, 14, 0.05, again=0.05)
    run.append("night", "night015", {})
    run.append("unmeasured", f"night015/{SERIES}", {"reason": "pi5: is busy"})
    add(run, 16, 0.0, verdict="invalid", reasons=("throttled",))
    other = Environment((("kernel", "6.6.31"), ("model", "Raspberry Pi 5"), ("unit", "another")))
    add(run, 17, 1.0, environment=other)
    for night, why in (("night015", "pi5: is busy"), ("night016", "throttled"), ("night017", "not compared")):
        (judged,) = judge_nights(run, {})[night]
        assert judged.outcome == "regression"
        assert "+5.1% since night014: 10 ms -> 10.5 ms; not measured since night014" in judged.text
        assert why in judged.text
    assert [one.series for one in standing(run)] == [SERIES]
    accept(run, "detector")
    run.append("night", "night018", {})
    run.append("unmeasured", f"night018/{SERIES}", {"reason": "pi5: is busy"})
    assert newest(run).outcome == "unmeasured"


def test_an_improvement_is_told_and_moves_the_baseline(run: Run) -> None:
    calm(run)
    add(run, 14, -0.1, again=-0.1)
    assert newest(run).outcome == "improvement"
    assert "-9.5% against 14 nights" in newest(run).text
    add(run, 15, 0.0, again=0.0)
    assert newest(run).outcome == "regression"


def test_an_acceptance_can_be_taken_back_and_given_again(run: Run) -> None:
    calm(run)
    add(run, 14, 0.05, again=0.05)
    for _ in range(2):
        accept(run, SERIES)
        assert not standing(run)
        assert take_back(run, "detector/pi5-tflite") == [SERIES]
        assert [one.series for one in standing(run)] == [SERIES]
    with pytest.raises(ConfigError, match="known: none"):
        take_back(run, "detector")


def test_of_a_source_only_its_regressions_are_accepted(run: Run) -> None:
    calm(run)
    for number in range(14):
        add(run, number, 0.003 * (-1) ** number, metric="latency_p90")
    add(run, 14, 0.05, again=0.05)
    add(run, 14, 0.0, metric="latency_p90")
    assert accept(run, "detector") == [SERIES]


def test_sizes_stored_with_a_board_go_on_without_one(run: Run) -> None:
    for number in range(12):
        add(run, number, math.log(1e6), metric="size", figure=Interval(1e6, 1e6, 1e6))
    run.append("night", "night012", {})
    keep_look(run, file_look(1_100_000, "cd" * 32, night="night012", name="detector", target="pi5-tflite"))
    assert newest(run).outcome == "regression"
    assert "1000 kB -> 1100 kB" in newest(run).text


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
    body = str(failed[0].text)
    for words in (
        "level before: 10 ms",
        "tonight: 10.5 ms [10.4 ms, 10.6 ms]",
        "measured again: 10.5 ms",
        "kernel",
    ):
        assert words in body
    assert f"boardwise nightly accept {SERIES} --plan plan" in body
    assert {case.get("time") for case in suite.findall("testcase")} == {"2.000", "1.000", "0.000"}
    text = paths[1].read_text()
    assert "3 series: 1 regression, 1 unmeasured, 1 fine." in text
    assert text.count("no such file") == 1
    rows = json.loads(paths[2].read_text())
    assert {row["outcome"] for row in rows} == {"regression", "fine", "unmeasured"}
    history = pd.read_csv(paths[3])
    assert len(history) == 14 * 2 + 3
    assert set(history.columns) == set(rows[0])


def test_what_strangers_wrote_stays_text(run: Run, tmp_path: Path) -> None:
    name = "x\x1b[31m|<img src=x>[a](b)\x00\ufffe"
    calm(run)
    add(run, 14, 0.0, name=name)
    run.append("unmeasured", "night014/y/pi5-tflite/latency_p50", {"reason": "a\n# b\x1b]0;c\x07 <script>"})
    junit, page, _, history = nightly_report.write(tmp_path / "out", "plan", judge_nights(run, {}))
    assert len(ElementTree.parse(junit).getroot().findall("testcase")) == 2
    for path in (junit, page):
        assert not set(path.read_text()) & set("\x1b\x07\x00\ufffe")
    text = page.read_text()
    assert "<script" not in text.replace("\\<", "")
    assert "\n# b" not in text
    assert history.exists()


@pytest.mark.parametrize("night", ["/tmp/elsewhere", "..", "../x", "a/b"])
def test_a_night_that_is_a_path_is_refused(run: Run, tmp_path: Path, night: str) -> None:
    run.append("night", night, {})
    with pytest.raises(StoreError, match="called"):
        judge_nights(run, {})
    with pytest.raises(StoreError, match="no name of a night"):
        nightly_report.write(tmp_path / "out", "plan", {night: []})
    assert not list(tmp_path.glob("out/**/*.xml"))


def test_links_in_place_of_files_are_replaced_and_folders_refused(run: Run, tmp_path: Path) -> None:
    calm(run, 1)
    target = tmp_path / "precious"
    target.write_text("mine")
    own = tmp_path / "out" / "night000"
    own.mkdir(parents=True)
    for path in (own / "junit.xml", own / "nightly.md", own / "nightly.json", own.parent / "history.csv"):
        path.symlink_to(target)
    nightly_report.write(tmp_path / "out", "plan", judge_nights(run, {}))
    assert target.read_text() == "mine"
    assert not any(path.is_symlink() for path in tmp_path.glob("out/**/*"))
    (tmp_path / "linked").symlink_to(tmp_path / "out")
    with pytest.raises(StoreError, match="is a link"):
        nightly_report.write(tmp_path / "linked", "plan", judge_nights(run, {}))


@pytest.mark.parametrize(
    ("kind", "key", "body"),
    [
        ("unmeasured", "nowhere/x", {"reason": "r"}),
        ("unmeasured", "night000/x", {}),
        ("accepted", "night000/x", {}),
        ("accepted", "night000/x", []),
    ],
)
def test_a_record_of_no_night_is_an_error_of_the_store(run: Run, kind: str, key: str, body: object) -> None:
    calm(run, 1)
    run.append(kind, key, body)
    with pytest.raises(StoreError, match="none of a night's"):
        judge_nights(run, {})


@pytest.mark.parametrize(("z", "figure_s"), [(1e300, 0.01), (0.0, 0.0), (0.0, 1e300)])
def test_a_figure_that_cannot_be_is_an_error_of_the_store(run: Run, z: float, figure_s: float) -> None:
    calm(run, 1)
    figure = Interval(figure_s, figure_s, figure_s)
    one = Look("night000", "x", "pi5-tflite", "latency_p50", 0, figure, z, OLD, "ab" * 32, "valid")
    keep_look(run, one)
    with pytest.raises(StoreError, match="nothing measurable"):
        judge_nights(run, {})
