"""Pictures and the report: they say what was measured, what was not, and rank nothing that must not be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.text import Annotation

from results import plots
from results.codec import to_json
from results.errors import StoreError
from results.evaluations import history
from results.plots import draw, front_picture
from results.records import Environment, Limit, Metric, Problem, Target
from results.report import report, write_report
from results.store import Run, Store
from results.units import axis_label, show, words
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
    """A run on one target with a limit of 8 ms, nothing asked for yet."""
    return store.begin("small", config((PI,), [Limit(P90, 0.008)]))


def add(
    run: Run, number: int, latency_s: float, accuracy: float, environment: Environment = ENVIRONMENT
) -> None:
    """A complete trial with replayed figures."""
    ask(run, number)
    session = make_session([latency_s], started_at=1_700_000_000.0 + number)
    measured(run, number, make_measurement([session], origin="replayed", environment=environment))
    trained(run, number, accuracy)
    told(run, number)


# --------------------------------------------------------------------------- pictures


def test_a_picture_is_written_whole(store: Store, tmp_path: Path) -> None:
    run = fill(store)
    confirm(run, 4, 0.0035)
    path = tmp_path / "runs" / "front.png"
    front_picture(run, PI.name, path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert [p.name for p in path.parent.iterdir()] == ["front.png"]


def test_a_picture_says_what_it_shows(store: Store) -> None:
    run = fill(store)
    confirm(run, 4, 0.0035)
    figure = draw(history(run), PI.name)
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert "demo: front on pi5 (Raspberry Pi 5 Model B)" in texts
    labels = axes.get_legend_handles_labels()[1]
    for label in ("limit: p90 latency ≤ 8 ms", "certain front, confirmed", "possible front, not confirmed"):
        assert label in labels
    assert axes.get_xlabel() == "p90 latency [ms]"
    assert axes.get_ylabel() == "accuracy (validation)"
    assert "measured" in axes.get_title(loc="left")


def test_long_names_leave_room_for_the_picture(store: Store) -> None:
    problem = Problem((Metric("accuracy", maximise=False), P90), metric="w" * 150)
    run = store.begin("W" * 200, {**config((PI,), ()), "problem": to_json(problem)})
    add(run, 0, 0.004, 0.9)
    figure = draw(history(run), PI.name)
    figure.draw_without_rendering()
    box = figure.axes[0].get_window_extent()
    assert box.width > 0.7 * figure.bbox.width
    assert box.height > 0.6 * figure.bbox.height


def test_a_legend_with_long_names_of_targets_is_within_the_picture(store: Store) -> None:
    other = Target("a-rather-long-name-of-a-board-on-the-desk", "onnxruntime", "fp32", (("threads", 4),))
    limits = tuple(Limit(Metric("latency_p90", (t.name,)), 0.02) for t in (PI, other))
    run = store.begin("demo", config((PI, other), limits))
    add(run, 0, 0.004, 0.9)
    ask(run, 1)
    measured(run, 1, make_measurement([make_session([0.005] * 30)] * 3))
    measured(run, 1, make_measurement([make_session([0.05] * 30)] * 3, target=other))
    told(run, 1, "infeasible")
    figure = draw(history(run), PI.name)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert other.name in " ".join(text.get_text() for text in legend.get_texts())
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_labels_do_not_overlap(store: Store) -> None:
    run = fill(store, trials=60, seed=4)
    figure = draw(history(run), PI.name)
    boxes = [plots._box(figure.axes[0], t) for t in figure.axes[0].texts if isinstance(t, Annotation)]
    assert len(boxes) >= 3
    assert not any(plots._overlap(a, b) for a, b in itertools.combinations(boxes, 2))


def test_replayed_figures_are_called_replayed(run: Run) -> None:
    add(run, 0, 0.004, 0.9)
    assert "replayed" in draw(history(run), PI.name).axes[0].get_title(loc="left")


def test_a_picture_of_nothing_says_so(run: Run, tmp_path: Path) -> None:
    front_picture(run, PI.name, tmp_path / "empty.png")
    texts = [text.get_text() for text in draw(history(run), PI.name).axes[0].texts]
    assert "no full training was measured here" in texts
    add(run, 0, 0.02, 0.9)
    texts = [text.get_text() for text in draw(history(run), PI.name).axes[0].texts]
    assert "no candidate is within all limits" in texts


def test_costs_over_a_wide_range_get_a_logarithmic_axis(run: Run) -> None:
    for number, latency_s in enumerate((0.0001, 0.001, 0.007)):
        add(run, number, latency_s, 0.7 + number / 10)
    assert draw(history(run), PI.name).axes[0].get_xscale() == "log"


def test_pictures_that_cannot_be_written_are_errors(run: Run, tmp_path: Path) -> None:
    (tmp_path / "front.png").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*front\.png"):
        front_picture(run, PI.name, tmp_path / "front.png")
    with pytest.raises(StoreError, match="no target 'nano'"):
        front_picture(run, "nano", tmp_path / "other.png")


# --------------------------------------------------------------------------- report


def test_the_report_of_a_whole_run(store: Store, tmp_path: Path) -> None:
    run = fill(store)
    confirm(run, 4, 0.0035)
    run.append("finished", "search", {"wall_s": 120.0})
    path = write_report(run, tmp_path / "demo")
    assert path == tmp_path / "demo" / "report.md"
    text = path.read_text(encoding="utf-8")
    for part in (
        "p90 latency ≤ 8 ms on pi5-tflite-fp32-threads1",
        "regularized_evolution",
        "Measuring first saved **15 of 37 trainings**",
        "The search took 2.0 minutes",
        f"![Front on {PI.name}](front_{PI.name}.png)",
        f"(pareto_{HOST.name}.csv)",
        "origin: **measured**",
        "| 3 | ExportError: logits differ by up to N from PyTorch's | 12, 25, 38 |",
        "photographs of scikit-learn",
        "All of them have block=separable.",
        "Energy: not measured",
    ):
        assert part in text
    assert "nan" not in text.lower().split()
    assert "replayed" not in text.lower()


def test_a_run_under_way_has_a_report_too(run: Run) -> None:
    ask(run, 0)
    text = report(history(run))
    assert "| 1 | pending | not finished |" in text
    assert "**The front is empty**: no full training was measured here yet; 1 not finished." in text


def test_where_nothing_meets_the_limits_the_closest_are_shown(run: Run) -> None:
    for number, latency_s in enumerate((0.020, 0.010)):
        add(run, number, latency_s, 0.9)
    text = report(history(run))
    assert "**The front is empty**: none of 2 full trainings is within all limits." in text
    assert f"| 1 | latency_p90 10 ms > 8 ms on {PI.name} | 0.25 | width=1 |" in text
    assert "![Front" not in text


def test_other_environments_are_mentioned_and_kept_apart(run: Run) -> None:
    add(run, 0, 0.002, 0.95, Environment((("kernel", "6.6"),)))
    add(run, 1, 0.004, 0.90, Environment((("kernel", "6.12"),)))
    text = report(history(run))
    assert "| 1 | certain |" in text
    assert "| 0 |" not in text
    assert "another environment" in text
    assert "**Replayed** figures" in text


def test_units_are_shown_in_three_digits() -> None:
    assert show("latency_p90", 0.0081234) == "8.12 ms"
    assert show("size", 123_456) == "123 kB"
    assert show("accuracy", 0.9) == "0.900"
    assert (words("macs"), axis_label("macs")) == ("multiply-accumulates", "multiply-accumulates [M]")
    assert axis_label("accuracy") == "accuracy"
