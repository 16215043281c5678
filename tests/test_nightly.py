"""Nights and comparisons by the command line, measured for real on this machine."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from harness import cli
from harness.export import export
from harness.nightly import beside, next_time
from harness.nightly_plan import read_plan
from harness.sources import source
from results.codec import to_json
from results.errors import ConfigError
from results.looks import Look
from results.nights import keep_look
from results.records import Environment, Interval, Target
from results.store import Store
from search.network import initial_weights
from search.spaces.chain import Space
from tests.fixtures_results import make_measurement, make_session

TARGET = Target("desk", "onnxruntime")

PLAN = """
name = "small"
metrics = ["latency_p50", "size"]
[thresholds]
latency_p50 = 0.05
[measurement]
nightly = { sessions = [3, 3], agents = 3, session_s = 0.01, warmup_s = 0.0, min_runs = 20, retries = 0 }
[[sources]]
name = "small"
model = "small.onnx"
[[sources]]
name = "broken"
model = "broken.onnx"
[[targets]]
device = "desk"
runtime = "onnxruntime"
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of which one has 16 times the pixels."""
    folder = tmp_path_factory.mktemp("nightly")
    for name, side in (("small", 16), ("big", 64)):
        space = Space(input_shape=(1, side, side), classes=10)
        network = space.build(space.sample(np.random.default_rng(0)))
        (folder / f"{name}.onnx").write_bytes(export(network, initial_weights(network, 0), "onnx").data)
    return folder


@pytest.fixture(scope="module")
def folder(models: Path) -> Path:
    """The models, and a lab file with this machine."""
    lab = str(models / "lab.toml")
    assert cli.main(["devices", "add", "desk", "--local", "--python", sys.executable, "--lab", lab]) == 0
    return models


def run(folder: Path, *words: str) -> int:
    return cli.main([*words, "--lab", str(folder / "lab.toml"), "--runs", str(folder / "runs")])


def test_a_night_is_measured_judged_and_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = folder / "plan.toml"
    plan.write_text(PLAN.replace('[[sources]]\nname = "broken"\nmodel = "broken.onnx"\n', ""))
    assert run(folder, "nightly", str(plan), "--accept-noisy", "--json") == 0
    rows = {row["metric"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"latency_p50", "size"}
    assert all(row["outcome"] == "learning" for row in rows.values())
    assert 0 < rows["latency_p50"]["figure_low"] <= rows["latency_p50"]["figure"]
    assert rows["size"]["figure"] == (folder / "small.onnx").stat().st_size
    assert len(list((folder / "runs" / "nightly" / "small").glob("*/junit.xml"))) == 1
    assert run(folder, "nightly", "accept", "small") == 0
    assert "accepted: small/desk-onnxruntime-fp32-threads1/latency_p50" in capsys.readouterr().out


def test_a_missing_source_ends_the_night_with_its_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = folder / "missing.toml"
    plan.write_text(PLAN)
    assert run(folder, "nightly", str(plan), "--accept-noisy") == 1
    assert "broken.onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[[targets]]\ndevice = "desk"\nruntime = "tflite"\n', "runs .tflite files, and no source is one"),
        ('[[sources]]\nname = "lite"\nmodel = "some.tflite"\n', "no target runs files such as some.tflite"),
    ],
    ids=["target", "source"],
)
def test_what_the_plan_would_never_measure_is_refused(
    folder: Path, tmp_path: Path, more: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    only = PLAN.replace('[[sources]]\nname = "broken"\nmodel = "broken.onnx"\n', "")
    (tmp_path / "plan.toml").write_text(only.replace("small.onnx", str(folder / "small.onnx")) + more)
    assert run(folder, "nightly", str(tmp_path / "plan.toml")) == 1
    assert said in capsys.readouterr().err


def test_what_is_not_reached_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from harness import nightly

    plan = folder / "late.toml"
    plan.write_text(
        PLAN.replace('name = "small"\nm', 'name = "late"\nm', 1).replace("broken.onnx", "big.onnx")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nightly, "next_time", lambda text, now: now.timestamp() - 1)
        assert run(folder, "nightly", str(plan), "--accept-noisy", "--until", "06:00") == 4
    out = capsys.readouterr().out
    assert "4 series: 2 unmeasured, 2 learning" in out  # sizes are those of the files
    assert out.count("not reached before the end of the night") == 1


@contextmanager
def busy_machine() -> Iterator[None]:
    """Other work on every CPU of this machine."""
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def test_a_night_on_a_busy_board_says_so_at_once_and_once_and_keeps_the_sizes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness import nightly

    plan = folder / "busy.toml"
    plan.write_text(
        PLAN.replace('name = "small"\nm', 'name = "busy"\nm', 1)
        .replace("broken.onnx", "big.onnx")
        .replace('["latency_p50", "size"]', '["latency_p50", "latency_p90", "size"]')
    )
    with pytest.MonkeyPatch.context() as patch, busy_machine():
        patch.setattr(nightly, "QUIET_WAIT_S", 6.0)
        assert run(folder, "nightly", str(plan)) == 4
    told = capsys.readouterr()
    assert told.err.count("waiting up to 6 s") == 1
    assert told.out.count("is busy with other work") == 1
    assert "6 series: 4 unmeasured, 2 learning" in told.out
    (junit,) = (folder / "runs" / "nightly" / "busy").glob("*/junit.xml")
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("errors"), suite.get("skipped")) == ("4", "2")
    (page,) = (folder / "runs" / "nightly" / "busy").glob("*/nightly.md")
    assert page.read_text().count("is busy with other work") == 1


def test_sizes_alone_take_no_board(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = folder / "sizes.toml"
    text = PLAN.replace('name = "small"\nm', 'name = "sizes"\nm', 1).replace("broken.onnx", "big.onnx")
    plan.write_text(text.replace('["latency_p50", "size"]', '["size"]'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.config.board_of", None)
        assert run(folder, "nightly", str(plan), "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["figure"] for row in rows] == [
        (folder / name).stat().st_size for name in ("small.onnx", "big.onnx")
    ]


# --------------------------------------------------------------------------- accept


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    """Two plans with a regression of 10 % in their newest night; both watch a "detector"."""
    with Store.open(tmp_path / "runs" / "nightly" / "store.sqlite") as store:
        for plan, names in (("day", ["detector", "classifier"]), ("night", ["detector", "segmenter"])):
            opened = store.begin(plan, {"kind": "nightly"})
            for number in range(15):
                night = f"n{number:02d}"
                opened.append("night", night, {"thresholds": {}})
                for name in names:
                    z = 0.1 if number == 14 else 0.003 * (-1) ** number
                    figure = Interval(*(0.01 * math.exp(z + d) for d in (-0.01, 0.0, 0.01)))
                    facts = Environment((("kernel", "6.6"),))
                    for slot in (0, 1) if number == 14 else (0,):
                        one = Look(
                            night, name, "pi5", "latency_p50", slot, figure, z, facts, "ab" * 32, "valid"
                        )
                        keep_look(opened, one)
    return tmp_path


def accept(folder: Path, *words: str) -> int:
    return cli.main(["nightly", "accept", *words, "--runs", str(folder / "runs")])


def test_a_step_is_accepted_in_the_plan_that_is_meant_and_can_be_taken_back(
    plans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accept(plans, "detector") == 1
    told = capsys.readouterr().err
    assert "is in the plans day, night" in told
    assert "--plan" in told
    assert accept(plans, "detector", "--plan", "night") == 0
    told = capsys.readouterr().out
    assert "accepted: detector/pi5/latency_p50 (plan night): +10.5% against 14 nights" in told
    assert "10 ms -> 11.1 ms" in told
    assert accept(plans, "--undo", "detector") == 0
    assert "taken back: detector/pi5/latency_p50 (plan night)" in capsys.readouterr().out
    assert accept(plans, "--undo", "detector") == 1
    assert accept(plans, "segmenter") == 0
    assert "segmenter/pi5/latency_p50 (plan night)" in capsys.readouterr().out


def test_a_misspelt_name_is_answered_with_the_nearest_of_all_plans(
    plans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong, near in (("segmentor", "'segmenter'"), ("clasifier", "'classifier'")):
        assert accept(plans, wrong) == 1
        assert f"did you mean {near}" in capsys.readouterr().err
    assert accept(plans, "detector", "--plan", "nigth") == 1
    assert "did you mean 'night'" in capsys.readouterr().err


def test_accepting_where_there_are_no_nights_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accept(tmp_path, "detector") == 1
    assert "holds no nights yet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["accept"], ["accept", "a", "b"], ["a.toml", "b"], ["a.toml", "--undo"]])
def test_words_that_make_no_command_are_a_usage_error(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["nightly", *words])
    assert stopped.value.code == 2


def test_two_files_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, big = str(folder / "small.onnx"), str(folder / "big.onnx")
    code = run(folder, "compare", small, big, "--on", "desk", "--agents", "3", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["ratio"]["value"] > 2  # 16 times the pixels
    assert found["agents"] == 3
    if code == 0:
        assert found["verdict"] == "different"
        assert "big.onnx takes" in found["sentence"]
        assert "times as long as small.onnx" in found["sentence"]
    else:  # on a very busy machine
        assert (code, found["verdict"]) == (4, "cannot tell")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('model = "small.onnx"', 'model = "~nobody-here/x"', "model is no path"),
        ('model = "small.onnx"', f'model = "{"x" * 300}"', "model is no path"),
        ('name = "broken"', 'name = "a\\u001b[31m"', "printable text"),
        ('model = "small.onnx"', 'modell = "small.onnx"', "exactly one of model, run, space"),
        ('name = "broken"', 'name = "small"', "two sources are called 'small'"),
        ('metrics = ["latency_p50", "size"]', 'metrics = ["latency"]', "'latency'"),
        ("latency_p50 = 0.05", "latency_p5 = 0.05", "latency_p5"),
        ('runtime = "onnxruntime"', 'runtime = "onnx"', "'onnx'"),
    ],
)
def test_bad_plans_are_refused_by_key(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "plan.toml"
    assert old in PLAN
    path.write_text(PLAN.replace(old, new))
    with pytest.raises(ConfigError, match=words):
        read_plan(path)


def test_winners_and_architectures_are_sources_too(tmp_path: Path, models: Path) -> None:
    winning = tmp_path / "runs" / "demo" / "models"
    winning.mkdir(parents=True)
    (winning / "trial7.onnx").write_bytes((models / "small.onnx").read_bytes())
    space = Space(input_shape=(1, 16, 16), classes=10)
    options = space.describe(space.sample(np.random.default_rng(0)))
    decisions = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    path = tmp_path / "plan.toml"
    path.write_text(f"""
[[sources]]
name = "winners"
run = "runs/demo"
[[sources]]
name = "known"
space = {{ name = "chain", input_shape = [1, 16, 16], classes = 10, architecture = {{ {decisions} }} }}
[[targets]]
device = "desk"
runtime = "onnxruntime"
""")
    winners, known = read_plan(path).sources
    assert [item.name for item in winners.items("onnx")] == ["winners.trial7"]
    (built,) = known.items("onnx")
    network = space.build(space.sample(np.random.default_rng(0)))
    assert built.file.artifact.graph == export(network, initial_weights(network, 0), "onnx").artifact.graph
    assert known.items("tflite")[0].file.artifact.file_format == "tflite"
    with pytest.raises(ConfigError, match=r"holds no \.tflite file"):
        winners.items("tflite")


def test_the_end_of_the_night_is_the_next_time_the_clock_shows() -> None:
    evening = datetime(2026, 3, 4, 22, 30, tzinfo=UTC)
    assert next_time("06:00", evening) == datetime(2026, 3, 5, 6, 0, tzinfo=UTC).timestamp()
    assert next_time("23:00", evening) == datetime(2026, 3, 4, 23, 0, tzinfo=UTC).timestamp()
    with pytest.raises(ConfigError, match="write it like 06:00"):
        next_time("6 o'clock", evening)


# --------------------------------------------------------------------------- nights of a replayed board


class Replayed:
    """A board whose nights are given: how long the model and the reference take, and which kernel it has."""

    def __init__(self, folder: Path, model: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.artifacts = {"model": source(str(model)).artifact, "reference": beside(TARGET).artifact}
        self.rng = np.random.default_rng(0)
        text = PLAN.replace('[[sources]]\nname = "broken"\nmodel = "broken.onnx"\n', "")
        text = text.replace('model = "small.onnx"', f'model = "{model}"')
        (folder / "plan.toml").write_text(text.replace(', "size"]', "]"))
        (folder / "lab.toml").write_text(
            f'[devices.desk]\nconnection = "replay"\naddress = "{folder / "board"}"\n'
        )
        names = (f"2026-{number:03d}" for number in range(1000))
        patch.setattr("harness.nightly.time.strftime", lambda *_: next(names))  # a night a second otherwise

    def night(self, model_s: float, reference_s: float, kernel: str = "6.6") -> tuple[int, dict[str, object]]:
        """Exit code and row of the only series."""
        shutil.rmtree(self.folder / "board", ignore_errors=True)
        with Store.open(self.folder / "board" / "store.sqlite") as store:
            stored = store.begin("board", {})
            for role, duration_s in (("model", model_s), ("reference", reference_s)):
                noise = self.rng.normal(0, 0.0005)
                rows = [
                    make_session(duration_s * np.exp(noise + self.rng.normal(0, 0.01, 30)), agent=agent)
                    for agent in range(3)
                ]
                measured = make_measurement(
                    rows,
                    target=TARGET,
                    artifact=self.artifacts[role],
                    environment=Environment((("kernel", kernel), ("model", "Pi"), ("unit", "17"))),
                )
                stored.append("measured", role, {"measurement": to_json(measured)})
        code = run(self.folder, "nightly", str(self.folder / "plan.toml"), "--json")
        (path,) = sorted(self.folder.glob("runs/nightly/small/*/nightly.json"))[-1:]
        (row,) = json.loads(path.read_text())
        return code, row


@pytest.fixture
def board(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Replayed:
    found = Replayed(tmp_path, models / "small.onnx", monkeypatch)
    for _ in range(12):
        code, row = found.night(0.010, 0.020)
        assert (code, row["outcome"]) in ((0, "learning"), (0, "fine"))
    return found


def test_an_upgrade_that_slows_all_is_red_until_it_is_accepted(
    board: Replayed, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        code, row = board.night(0.013, 0.026, kernel="6.12")
        assert (code, row["outcome"]) == (3, "regression")
        assert "kernel 6.6 -> 6.12" in str(row["text"])
        assert "10 ms -> 13 ms" in str(row["text"])
    capsys.readouterr()
    assert accept(board.folder, "small") == 0
    assert "10 ms -> 13 ms" in capsys.readouterr().out
    assert board.night(0.013, 0.026, kernel="6.12")[0] == 0
    assert accept(board.folder, "--undo", "small") == 0
    code, row = board.night(0.013, 0.026, kernel="6.12")
    assert (code, row["outcome"]) == (3, "regression")
    code, row = board.night(0.010, 0.020, kernel="6.12")
    assert (code, row["outcome"]) == (0, "mended")


def test_an_improvement_is_told_and_its_loss_is_a_regression(board: Replayed) -> None:
    code, row = board.night(0.009, 0.020)
    assert (code, row["outcome"]) == (0, "improvement")
    assert row["shift"] == pytest.approx(-0.1, abs=0.02)
    for _ in range(3):
        assert board.night(0.009, 0.020)[1]["outcome"] == "fine"
    for _ in range(3):
        code, row = board.night(0.010, 0.020)
        assert (code, row["outcome"]) == (3, "regression")
