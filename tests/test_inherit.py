"""Trials that begin with weights of other trials or of the supernet: what they get, and what is stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import checkpoints, config
from harness.config import STORE
from harness.host import Host
from harness.inherit import inherited
from harness.pretrain import pretrain, stored_supernet
from harness.progress import Watcher
from harness.rig import Rig
from harness.speedups import check
from harness.study import Study, problem_of, study_of
from results.codec import to_json
from results.errors import ConfigError, StoreError, TrainingError
from results.evaluations import history
from results.lineage import lineages
from results.records import Fidelity, Option, Proposal, Score, Trial
from results.store import Run, Store
from results.weight_sharing import misranking, rank_correlation, weight_sharing
from search.module import to_module
from search.network import Network, initial_weights
from search.supernet_sampling import SupernetPlan
from search.training_pool import TrainingPool

STUDY: dict[str, Any] = {
    "name": "heirs",
    "seed": 3,
    "task": {"name": "digits"},
    "space": {"name": "chain", "depths": [1, 2], "widths": [8, 12], "blocks": ["plain"]},
    "strategy": {"name": "random_search"},
    "training": {"epochs": 1, "workers": 1},
    "targets": [{"device": "desk", "runtime": "onnxruntime"}],
}
PRETRAIN = {"epochs": 2, "subset": 0.3, "correlate": 5}


def study(**more: Any) -> Study:
    return study_of({**STUDY, **more}, Path("study.toml"))


@pytest.fixture(scope="module")
def pool() -> Iterator[TrainingPool]:
    with TrainingPool(1) as made:
        yield made


def rig_of(folder: Path, wanted: Study, pool: TrainingPool) -> Rig:
    store = Store.open(folder / STORE)
    name = "heirs"
    known = name in store.runs()
    run = store.run(name) if known else store.begin(name, _config(wanted))
    task = config.task_of(wanted)
    space = config.space_of(wanted, task)
    return Rig(wanted, store, run, space, task, pool, {}, Host(), Watcher())


def _config(wanted: Study) -> dict[str, Any]:
    parts = {
        "targets": wanted.targets,
        "problem": problem_of(wanted, config.task_of(wanted)),
        "fidelity": wanted.fidelity,
    }
    return {"study": dict(wanted.source), **{name: to_json(part) for name, part in parts.items()}}


@pytest.fixture
def rig(tmp_path: Path, pool: TrainingPool) -> Iterator[Rig]:
    made = rig_of(tmp_path, study(), pool)
    yield made
    made.store.close()


def stored(rig: Rig, kind: str, key: str) -> Any:
    body = rig.run.get(kind, key)
    assert body is not None
    return body


def ask(rig: Rig, number: int, options: dict[str, Option], weights_from: int | str | None = None) -> Trial:
    architecture = rig.space.from_options(options)
    trial = Trial(number, Proposal(architecture, Fidelity(1), weights_from))
    body = {"trial": to_json(trial), "options": to_json(options), "asked_at": 0.0}
    rig.run.append("asked", str(number), body)
    return trial


def store_training(run: Run, store: Store, number: int, weights: Any, seconds: float = 1.0) -> None:
    body = {
        "accuracy": {"fp32": to_json(Score(0.5, 100))},
        "learning_curve": [0.4],
        "checkpoint": store.put_blob(checkpoints.pack(weights)),
        "training_s": seconds,
        "wall_s": seconds,
    }
    run.append("trained", str(number), body)


def trained_trial(rig: Rig, number: int, options: dict[str, Option], **more: Any) -> tuple[Network, Any]:
    trial = ask(rig, number, options, **more)
    network = rig.space.build(trial.proposal.architecture)
    weights = initial_weights(network, number)
    store_training(rig.run, rig.store, number, weights)
    return network, weights


# --------------------------------------------------------------------------- from trials


def test_fresh_weights_are_the_training_s_own_affair(rig: Rig) -> None:
    trial = ask(rig, 0, {})
    assert inherited(rig, trial, rig.space.build(trial.proposal.architecture)) is None
    assert not rig.run.records("inherited")


def test_the_same_network_goes_on_with_its_weights(rig: Rig) -> None:
    network, weights = trained_trial(rig, 0, {})
    made = inherited(rig, ask(rig, 1, {}, 0), network)
    assert made is not None
    assert made.keys() == weights.keys()
    assert all(np.array_equal(made[name], weights[name]) for name in weights)
    assert stored(rig, "inherited", "1")["kind"] == "identical"


def test_a_deeper_network_begins_with_what_its_parent_computes(rig: Rig) -> None:
    parent, weights = trained_trial(rig, 0, {})
    trial = ask(rig, 1, {"stage1_depth": 2}, 0)
    child = rig.space.build(trial.proposal.architecture)
    made = inherited(rig, trial, child)
    assert made is not None
    images = torch.from_numpy(rig.task.splits().validation.take(8))
    with torch.no_grad():
        before, after = to_module(parent, weights).eval()(images), to_module(child, made).eval()(images)
    assert torch.allclose(before, after, atol=1e-4)
    body = stored(rig, "inherited", "1")
    assert (body["parent"], body["kind"], body["preserved"]) == (0, "grown", True)
    assert 0 < body["share"] < 1
    again = inherited(rig, trial, child)  # as when a run is resumed: the same to the bit
    assert again is not None
    assert all(np.array_equal(made[name], again[name]) for name in made)


def test_what_no_morphism_makes_takes_over_what_fits_and_says_why(rig: Rig) -> None:
    trained_trial(rig, 0, {"stage1_width": 24})
    trial = ask(rig, 1, {"stage1_width": 16}, 0)
    inherited(rig, trial, rig.space.build(trial.proposal.architecture))
    body = stored(rig, "inherited", "1")
    assert (body["kind"], body["preserved"]) == ("overlap", False)
    assert "cannot be grown" in body["reason"]


def test_lineages_count_every_epoch_and_second(rig: Rig) -> None:
    trained_trial(rig, 0, {})
    trained_trial(rig, 1, {"stage1_depth": 2}, weights_from=0)
    trained_trial(rig, 2, {"stage1_depth": 2}, weights_from=1)
    trained_trial(rig, 3, {}, weights_from="supernet")
    found = lineages(history(rig.run).trials)
    assert found[2].ancestors == (1, 0)
    assert (found[2].epochs, found[2].training_s) == (3, 3.0)
    assert (found[3].ancestors, found[3].supernet) == ((), True)
    assert not found[2].supernet


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (7, "trial 7, but there is no such trial"),
        (1, "trial 1, but it was not trained"),
        (2, "checkpoint of trial 2 does not fit: .* names differ"),
        ("supernet", r"none was trained: add \[pretrain\]"),
        ("somewhere", "'somewhere': a trial or 'supernet'"),
    ],
)
def test_weights_that_are_not_there_fail_the_trial_with_a_reason(
    rig: Rig, source: int | str, words: str
) -> None:
    ask(rig, 1, {})
    ask(rig, 2, {})
    deep = rig.space.build(rig.space.from_options({"stage1_depth": 2}))
    store_training(rig.run, rig.store, 2, initial_weights(deep, 0))
    trial = ask(rig, 3, {}, source)
    with pytest.raises(TrainingError, match=words):
        inherited(rig, trial, rig.space.build(trial.proposal.architecture))


def test_a_checkpoint_that_the_store_has_lost_is_named(rig: Rig) -> None:
    network, _ = trained_trial(rig, 0, {})
    ask(rig, 1, {})
    body = {**stored(rig, "trained", "0"), "checkpoint": "0" * 64}
    rig.run.append("trained", "1", body)
    with pytest.raises(StoreError, match="checkpoint of trial 1 cannot be read"):
        inherited(rig, ask(rig, 2, {}, 1), network)


# --------------------------------------------------------------------------- from the supernet


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, pool: TrainingPool) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    rig = rig_of(folder, study(pretrain=PRETRAIN), pool)
    pretrain(rig)
    rig.store.close()
    return folder


def test_a_supernet_is_trained_once_and_compared_with_trainings_alone(
    pretrained: Path, pool: TrainingPool
) -> None:
    rig = rig_of(pretrained, study(pretrain=PRETRAIN), pool)
    before = [(record.kind, record.key, record.body) for record in rig.run.records()]
    pretrain(rig)
    assert [(r.kind, r.key, r.body) for r in rig.run.records()] == before
    assert len(rig.run.records("correlated")) == 5
    count, tau = rank_correlation(rig.run)
    assert count == 5
    assert tau is not None
    text = "\n".join(weight_sharing(rig.run))
    assert "2 epochs, uniform sampling" in text
    assert "those of 5 random networks trained alone for 1 epochs each" in text
    assert f"{tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]" in text
    rig.store.close()


def test_a_network_that_cannot_be_scored_is_left_out_of_the_comparison(
    pretrained: Path, pool: TrainingPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pretrained, tmp_path / "again")
    more = study(pretrain={**PRETRAIN, "correlate": 7})
    rig = rig_of(tmp_path / "again", more, pool)

    def undefined(*args: object) -> Score:
        raise TrainingError("candidate", "the metric 'own' gave nan")

    monkeypatch.setattr("harness.pretrain.path_score", undefined)
    for _ in range(2):
        pretrain(rig)
        assert [r.key for r in rig.run.records("not_correlated")] == ["5", "6"]
        assert len(rig.run.records("correlated")) == 5
    rig.store.close()


class Notes(Watcher):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def store_correlation(rig: Rig, shared: Sequence[float]) -> None:
    """A supernet and what its scores of networks are that have 0.5, 0.51, ... when they are trained alone."""
    network = rig.space.build(rig.space.from_options({}))
    body = {
        "plan": to_json(SupernetPlan()),
        "seed": 3,
        "checkpoint": rig.store.put_blob(checkpoints.pack(initial_weights(network, 0))),
        "losses": [1.0],
        "training_s": 1.0,
        "batch_size": 64,
        "notes": [],
    }
    rig.run.append("pretrained", "supernet", body)
    for i, score in enumerate(shared):
        body = {"shared": to_json(Score(score, 100)), "alone": to_json(Score(0.5 + i / 100, 100))}
        rig.run.append("correlated", str(i), {**body, "epochs": 1, "training_s": 1.0})


@pytest.mark.parametrize(
    ("shared", "misleads"),
    [
        ((0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1), True),  # tau -1
        ((0.3, 0.4, 0.2, 0.5, 0.1, 0.6, 0.15, 0.55), False),  # tau 0.21 [-0.40, 0.69]
        ((0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), False),  # tau 1
        ((0.7, 0.6, 0.5, 0.4), False),  # too few to tell
    ],
)
def test_where_shared_weights_do_not_rank_the_run_and_the_report_say_so(
    tmp_path: Path, pool: TrainingPool, shared: Sequence[float], misleads: bool
) -> None:
    wanted = study(pretrain={**PRETRAIN, "correlate": len(shared)})
    rig = rig_of(tmp_path, wanted, pool)
    store_correlation(rig, shared)
    rig.watcher = notes = Notes()
    pretrain(rig)
    texts = ["\n".join(notes.texts), "\n".join(weight_sharing(rig.run))]
    for text in texts:
        assert ("shared weights do not rank networks here" in text) == misleads
        assert ("out of 'speedups'" in text) == misleads
    assert bool(misranking(rig.run)) == misleads
    rig.store.close()


def test_the_same_seed_trains_the_same_supernet(pretrained: Path, tmp_path: Path, pool: TrainingPool) -> None:
    first = rig_of(pretrained, study(pretrain=PRETRAIN), pool)
    again = rig_of(tmp_path, study(pretrain={**PRETRAIN, "correlate": 0}), pool)
    pretrain(again)
    bodies = [stored(rig, "pretrained", "supernet") for rig in (first, again)]
    assert bodies[0]["checkpoint"] == bodies[1]["checkpoint"]
    assert "`correlate = 0`" in "\n".join(weight_sharing(again.run))
    for rig in (first, again):
        rig.store.close()


def test_a_trial_takes_its_part_of_the_supernet(pretrained: Path, tmp_path: Path, pool: TrainingPool) -> None:
    rig = rig_of(pretrained, study(pretrain=PRETRAIN), pool)
    supernet = stored_supernet(rig)
    assert supernet is not None
    trial = ask(rig, 0, {"stage1_depth": 2}, "supernet")
    network = rig.space.build(trial.proposal.architecture)
    made = inherited(rig, trial, network)
    assert made is not None
    shared = supernet.weights["stage1_block2@conv.weight"]
    np.testing.assert_array_equal(made["stage1_block2.weight"], shared[:16, :16, 1:4, 1:4])
    assert stored(rig, "inherited", "0")["kind"] == "shared"
    rig.store.close()


def test_the_report_says_where_memory_was_short(rig: Rig) -> None:
    note = "no memory for batches of 64 images: 32 were used"
    body = {"plan": to_json(SupernetPlan()), "seed": 0, "training_s": 1.0, "batch_size": 32, "notes": [note]}
    rig.run.append("pretrained", "supernet", body)
    text = "\n".join(weight_sharing(rig.run))
    assert f"**Not as planned**: {note}" in text
    assert "batches of 32 images" in text


def test_a_damaged_supernet_is_named(rig: Rig) -> None:
    rig.run.append("pretrained", "supernet", {"checkpoint": rig.store.put_blob(b"no archive"), "seed": 0})
    with pytest.raises(StoreError, match="supernet's checkpoint cannot be read"):
        stored_supernet(rig)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"epoch": 3}, "'epoch'"),
        ({"sampling": "fare"}, "fair"),
        ({"batch_size": 2}, "at least 8"),
        ({"correlate": -1}, "correlate"),
    ],
)
def test_tables_that_cannot_be_are_refused(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        study(pretrain=table)


def test_a_rung_of_no_epochs_needs_shared_weights() -> None:
    wanted = study(speedups=[{"name": "lower_fidelity", "rungs": [{"epochs": 0}]}])
    with pytest.raises(ConfigError, match="name the speed-up 'supernet'"):
        check(wanted.speedups, config.task_of(wanted), pretrains=False)
