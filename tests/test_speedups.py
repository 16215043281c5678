"""Speed-ups in a study: named, composed, counted, reported; with real training, and boards that sleep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.pipeline import SleepingAgent
from devices.device import DeviceEntry
from devices.registry import Lab
from harness import config, stages
from harness.board import Board
from harness.progress import Watcher
from harness.rung_notes import RungNotes
from harness.speedups import Speedups, accelerated, check, speedups_of
from harness.study import Study, study_of
from results import table
from results.codec import to_json
from results.errors import ConfigError
from results.evaluations import History, fully_trained, history
from results.fidelity import INHERITED, levels
from results.records import Fidelity, Metric, Problem, Trial
from results.report import report
from results.speedups import savings
from results.store import Run, Store
from search.datasets import load_task
from search.fidelity import SuccessiveHalving
from search.learning_curve_stopping import StopsEarly
from search.strategies import random_search
from search.weight_sources import StartsFrom
from tests.fixtures_training import task_file
from tests.test_fidelity import SPACE, evaluated, learns, searched

FULL = Fidelity(12)
STUDY: dict[str, Any] = {
    "name": "fast",
    "seed": 3,
    "trials": 9,
    "task": {"name": "digits"},
    "space": {
        "name": "chain",
        "stem_strides": [1],
        "max_downsamplings": 1,
        "depths": [1, 2],
        "widths": [4, 8],
        "kernels": [3],
        "blocks": ["plain"],
        "skips": [False],
        "activations": ["relu"],
    },
    "strategy": {"name": "random_search"},
    "speedups": [
        {"name": "lower_fidelity", "rungs": [{"epochs": 1, "width": 0.5}, {"epochs": 2}]},
        "inheritance",
        "learning_curves",
    ],
    "training": {"epochs": 4, "workers": 2},
    "measurement": {"check_outputs": "none"},
    "targets": [{"device": "board", "runtime": "onnxruntime"}],
}


def named(*entries: Any, full: Fidelity = FULL) -> Speedups:
    return speedups_of(list(entries), full, "study.toml")


# --------------------------------------------------------------------------- named and composed


def test_who_is_promoted_is_for_the_study_to_say() -> None:
    ladder = named({"name": "lower_fidelity", "level": 0.1, "known": 1.0, "keep_weights": False}).ladder
    assert ladder is not None
    assert (ladder.level, ladder.known, ladder.keep_weights) == (0.1, 1.0, False)
    with pytest.raises(ConfigError, match="known"):
        named({"name": "lower_fidelity", "known": 0.0})


def test_what_a_study_may_name() -> None:
    found = named("lower_fidelity", {"name": "learning_curves", "level": 0.1}, "inheritance")
    assert found.names == ("lower_fidelity", "learning_curves", "inheritance")
    assert found.ladder is not None
    assert [rung.epochs for rung in found.ladder.rungs] == [4, 12]
    assert (found.level, found.share) == (0.1, 0.5)
    assert found.trainings(50) == 100
    assert named().names == ()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["lower_fidelty"], "did you mean 'lower_fidelity'"),
        ([3], "names or tables with a name, got 3"),
        (["supernet", "supernet"], "named twice"),
        (["supernet", "inheritance"], "name one of"),
        (
            [{"name": "lower_fidelity", "rungs": [{"epochs": 13}]}],
            r"study.toml speedups: rungs must rise .* 1 \(13 epochs\) is not below 12 epochs; give it less",
        ),
        (
            [{"name": "lower_fidelity", "rungs": [{"epochs": 2, "resolution": 0}]}],
            "resolution must be at least 1",
        ),
        ([{"name": "lower_fidelity", "rungs": [{"epochs": 2, "subset": 1.5}]}], "subset"),
        ([{"name": "lower_fidelity", "rungs": [{"epochs": 2, "width": 2.0}]}], "width"),
        ([{"name": "lower_fidelity", "reduction": 1}], "reduction"),
        ([{"name": "lower_fidelity", "least_epochs": 9}], "leaves no rung below the 12 epochs"),
        (
            [{"name": "lower_fidelity", "brackets": 4}],
            "study.toml speedups: brackets must be at most 2, .* got 4",
        ),
        ([{"name": "learning_curves", "level": 0.9}], "level"),
        ([{"name": "inheritance", "share": 0.1}], "share"),
        ([{"name": "inheritance", "shares": 0.5}], "shares"),
    ],
)
def test_what_it_may_not(entries: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        named(*entries)


def test_a_fidelity_larger_than_the_data_and_a_supernet_that_is_not_there() -> None:
    large = named({"name": "lower_fidelity", "rungs": [{"epochs": 2, "resolution": 16}]})
    words = (
        "study.toml speedups: a rung has a resolution of 16 pixels, but the images of task 'digits' have 8"
    )
    with pytest.raises(ConfigError, match=words):
        check(large, load_task("digits"), pretrains=False)
    with pytest.raises(ConfigError, match=r"add a table \[pretrain\]"):
        check(named("supernet"), load_task("digits"), pretrains=False)
    check(named("supernet"), load_task("digits"), pretrains=True)


def test_each_is_put_around_the_strategy() -> None:
    problem = Problem((Metric("accuracy", maximise=True), Metric("macs")))
    plain = random_search.Strategy(SPACE, problem, fidelity=FULL, seed=1)
    assert accelerated(Speedups(), plain, candidates=5) is plain
    kinds = {
        "lower_fidelity": SuccessiveHalving,
        "learning_curves": StopsEarly,
        "inheritance": StartsFrom,
        "supernet": StartsFrom,
    }
    for name, kind in kinds.items():
        assert type(accelerated(named(name), plain, candidates=5)) is kind


def test_children_begin_with_the_weights_of_a_near_parent() -> None:
    problem = Problem((Metric("accuracy", maximise=True), Metric("macs")))
    plain = random_search.Strategy(SPACE, problem, fidelity=FULL, seed=1)
    strategy = StartsFrom(plain, nearest=2.0)
    first = strategy.ask(0, [])
    assert first is not None
    assert (first.weights_from, first.fidelity) == (None, FULL)
    told = []
    for number in range(20):
        proposal = strategy.ask(number, [])
        assert proposal is not None
        told.append(evaluated(Trial(number, proposal), FULL, learns))
        strategy.tell(told[-1])
    children = [e.trial.proposal for e in told if e.trial.proposal.weights_from is not None]
    assert children
    by_number = {e.trial.number: e.trial.proposal for e in told}
    for child in children:
        parent = by_number[child.weights_from]  # type: ignore[index]
        assert SPACE.distance(child.architecture, parent.architecture) <= 2.0
        assert child.fidelity.epochs == FULL.epochs / 2
    assert {level.epochs for level in levels(e.trial for e in told).values()} == {12}


@pytest.mark.parametrize(
    ("entry", "share"),
    [
        ({"rungs": [{"epochs": 3}, {"epochs": 7}]}, 0.5),
        ({"rungs": [{"epochs": 3}, {"epochs": 7}]}, 0.75),
        ({"rungs": [{"epochs": 2}, {"epochs": 5}], "brackets": 3}, 0.5),
        ({"rungs": [{"epochs": 3, "subset": 0.5}]}, 0.5),
        ({"rungs": [{"epochs": 3, "width": 0.5}]}, 0.5),
    ],
)
def test_children_are_of_the_rung_at_which_they_begin(entry: dict[str, Any], share: float) -> None:
    """Whatever its own epochs, a rung has one level, and the top rung is the full training."""
    problem = Problem((Metric("accuracy", maximise=True), Metric("macs")))
    plain = random_search.Strategy(SPACE, problem, fidelity=FULL, seed=1)
    found = named({"name": "lower_fidelity", **entry}, {"name": "inheritance", "share": share})
    assert found.ladder is not None
    told = searched(accelerated(found, plain, candidates=36))
    reached = levels(e.trial for e in told)
    assert sum(INHERITED in e.trial.proposal.note for e in told) > 5
    for evaluation in told:
        rung = evaluation.trial.proposal.note["rung"]
        assert reached[evaluation.trial.number] == found.ladder.rungs[rung]


def test_a_whole_search_with_all_that_need_no_supernet() -> None:
    problem = Problem((Metric("accuracy", maximise=True), Metric("macs")))
    plain = random_search.Strategy(SPACE, problem, fidelity=FULL, seed=1)
    told = searched(accelerated(named(*STUDY["speedups"][:1], "learning_curves"), plain, candidates=18))
    assert len({e.trial.proposal.architecture for e in told}) == 18


# --------------------------------------------------------------------------- a study


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, Run, Path]]:
    """A study with real trainings on boards that sleep instead of measuring."""
    folder = tmp_path_factory.mktemp("fast")
    with Store.open(folder / "store.sqlite") as store:
        study, run = searched_live(STUDY, folder, store)
        yield study, run, folder


def searched_live(wanted: dict[str, Any], folder: Path, store: Store) -> tuple[Study, Run]:
    """The search of a study, done."""
    study = study_of(wanted, Path("fast.toml"))
    told = {
        "study": wanted,
        "targets": to_json(study.targets),
        "problem": to_json(study.problem("accuracy", maximise=True)),
    }
    run = store.begin("fast", told | {"fidelity": to_json(study.fidelity), "seed": study.seed})
    lab = Lab(folder / "lab.toml", {"board": DeviceEntry("board", "local")})
    with config.open_rig(study, lab, run, Watcher()) as rig:
        busy_s: dict[str, float] = defaultdict(float)
        board = Board("board", lambda: SleepingAgent(0.0, busy_s, "board"), lambda: None, rig.host)
        rig.boards = {"board": board}
        rig.order = study.targets
        strategy = config.strategy_of(study, rig.space, rig.problem)
        stages.search(rig, accelerated(study.speedups, strategy, candidates=study.trials))
    return study, run


def by_rung(known: History) -> dict[int, list[Any]]:
    rows: dict[int, list[Any]] = defaultdict(list)
    for trial in known.trials:
        rows[trial.trial.proposal.note["rung"]].append(trial)
    return rows


def test_the_study_promotes_and_keeps_weights(finished: tuple[Study, Run, Path]) -> None:
    _, run, _ = finished
    rows = by_rung(history(run))
    assert (len(rows[0]), 3 <= len(rows[1]) <= 6, 1 <= len(rows[2]) <= 4) == (9, True, True)
    for trial in rows[2]:
        parent = trial.trial.proposal.weights_from
        body = run.get("inherited", str(trial.trial.number))
        assert body is not None
        assert (body["parent"], body["kind"]) == (parent, "identical")


def test_a_promoted_trial_is_not_measured_again(finished: tuple[Study, Run, Path]) -> None:
    _, run, _ = finished
    starts: dict[Any, set[float]] = defaultdict(set)
    for trial in history(run).trials:
        for measurement in trial.measurements.values():
            starts[trial.trial.proposal.architecture].add(measurement.sessions[0].started_at)
    assert all(len(times) == 1 for times in starts.values())


def test_the_board_measures_the_full_network(finished: tuple[Study, Run, Path]) -> None:
    study, run, _ = finished
    known = history(run)
    narrow = by_rung(known)[0][0]
    space = config.space_of(study, config.task_of(study))
    built = space.build(narrow.trial.proposal.architecture)
    assert narrow.graph == built.fingerprint
    assert narrow.trial.proposal.fidelity.width == 0.5


def test_lower_fidelities_are_on_no_front_and_labelled(finished: tuple[Study, Run, Path]) -> None:
    study, run, _ = finished
    known = history(run)
    full = fully_trained(known)
    front = table.pareto_table(known, study.targets[0].name)
    assert not front.empty
    assert set(front["trial"]) <= full < {t.trial.number for t in known.trials}
    frame: pd.DataFrame = table.trials_table(known)
    assert set(frame[frame["trial"].isin(full)]["level"]) == {"full"}
    assert "1 epoch, width x0.5" in set(frame["level"])


def test_nothing_is_exported_of_what_cannot_be_on_a_front(finished: tuple[Study, Run, Path]) -> None:
    _, run, _ = finished
    known = history(run)
    exported = {t.trial.number for t in known.trials if t.exported}
    assert exported == fully_trained(known)


def test_the_report_says_what_was_saved_and_risked(finished: tuple[Study, Run, Path]) -> None:
    _, run, _ = finished
    known = history(run)
    saved = {saving.name: saving for saving in savings(known)}
    lower = saved["lower_fidelity"]
    networks = {t.trial.proposal.architecture for t in known.trials}
    assert lower.trainings == len(networks) - len(fully_trained(known))
    assert lower.saved_s > 0
    text = report(known)
    assert "## Speed-ups" in text
    assert "lower fidelity" in text
    assert f"{sum(t.training_s for t in known.trials):.0f} s of CPU time" in text
    assert np.isfinite(lower.saved_s)


def test_the_seconds_of_trainings_that_failed_count(tmp_path: Path) -> None:
    code = """
        from search.training_run import one_cycle
        LARGE = 1000
        def train(module, run):
            one_cycle(module, run)
            if sum(p.numel() for p in module.parameters()) > LARGE:
                raise ValueError("as large as that")
    """
    widths = {**STUDY["space"], "depths": [1], "max_downsamplings": 0, "widths": [4, 16]}
    wanted = {**STUDY, "trials": 2, "task": {"name": task_file(tmp_path, code)}, "space": widths}
    with Store.open(tmp_path / "store.sqlite") as store:
        _, run = searched_live(wanted | {"speedups": []}, tmp_path, store)
        known = history(run)
        (failed,) = (t for t in known.trials if t.state == "failed")
        (complete,) = (t for t in known.trials if t.state == "complete")
        assert failed.error is not None
        assert "as large as that" in failed.error
        assert failed.training_s == failed.evaluation().training_s > 0
        assert complete.training_s > 0
        seconds = table.trials_table(known).set_index("trial")["training_s"]
        assert seconds[failed.trial.number] == failed.training_s


class Notes(Watcher):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.numbers: list[int] = []

    def told(self, evaluation: Any) -> None:
        self.numbers.append(evaluation.trial.number)

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_the_rank_correlation_is_said_while_the_search_runs() -> None:
    problem = Problem((Metric("accuracy", maximise=True), Metric("macs")))
    plain = random_search.Strategy(SPACE, problem, fidelity=FULL, seed=1)
    told = searched(accelerated(named({"name": "lower_fidelity", "reduction": 2}), plain, candidates=24))
    notes = Notes()
    watcher = RungNotes(notes)
    for evaluation in told:
        watcher.told(evaluation)
    assert notes.numbers == [e.trial.number for e in told]
    assert "2 epochs predict 3 epochs with Kendall's tau 1.00 [0." in notes.lines[0]
    assert len(notes.lines) >= 3


def test_trainings_to_expect() -> None:
    assert named("lower_fidelity").expected_trainings(9) == 12
    assert named("learning_curves").expected_trainings(9) == 9
