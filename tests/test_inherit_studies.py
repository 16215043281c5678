"""Whole studies whose trials begin with inherited or shared weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from harness import cli
from harness.config import STORE
from results.evaluations import history
from results.lineage import lineages
from results.store import Store

_STUDY = """
trials = {trials}
{speedups}
[task]
name = "digits"
[space]
name = "chain"
depths = [1, 2]
widths = [4, 8]
blocks = ["plain"]
[strategy]
{strategy}
[training]
epochs = {epochs}
workers = 1
in_flight = 1
[measurement]
accept_noisy = true
screen = {{ sessions = [2, 2], session_s = 0.005, warmup_s = 0.0, min_runs = 20 }}
confirm = {{ sessions = [2, 2], agents = 2, session_s = 0.005, warmup_s = 0.0, min_runs = 20 }}
[[targets]]
device = "desk"
runtime = "onnxruntime"
"""


def searched(folder: Path, **parts: Any) -> Path:
    """Runs a study; the run's folder."""
    (folder / "heirs.toml").write_text(_STUDY.format(**parts))
    (folder / "lab.toml").write_text(f'[devices.desk]\nconnection = "local"\npython = "{sys.executable}"\n')
    options = ["--lab", str(folder / "lab.toml"), "--runs", str(folder / "runs")]
    assert cli.main(["search", str(folder / "heirs.toml"), *options]) == 0
    return folder / "runs" / "heirs"


def test_evolution_hands_weights_on_and_the_report_counts_them(tmp_path: Path) -> None:
    evolution = 'name = "regularized_evolution"\npopulation = 3\nsample = 2\ninherit = true'
    folder = searched(tmp_path, trials=7, speedups="", strategy=evolution, epochs=1)
    with Store.open(folder / STORE) as store:
        run = store.run("heirs")
        bodies = {int(r.key): r.body for r in run.records("inherited")}
        known = history(run)
    assert set(bodies) == set(range(3, 7))
    behind = lineages(known.trials)
    assert all(behind[n].epochs == 1 + behind[b["parent"]].epochs for n, b in bodies.items())
    report = (folder / "report.md").read_text()
    assert "## Shared and inherited weights" in report
    assert "4 of 4 trainings that did not begin with fresh weights" in report


def test_the_supernet_s_score_is_a_first_rung_from_which_the_best_are_trained(tmp_path: Path) -> None:
    speedups = """
    speedups = ["supernet", { name = "lower_fidelity", rungs = [{ epochs = 0 }], reduction = 2 }]
    pretrain = { epochs = 1, subset = 0.3, correlate = 0 }
    """
    strategy = 'name = "random_search"'
    folder = searched(tmp_path, trials=4, speedups=speedups, strategy=strategy, epochs=2)
    with Store.open(folder / STORE) as store:
        run = store.run("heirs")
        trials = history(run).trials
        kinds = {int(r.key): r.body["kind"] for r in run.records("inherited")}
    scored = [t for t in trials if t.trial.proposal.fidelity.epochs == 0]
    trained = [t for t in trials if t.trial.proposal.fidelity.epochs == 2]
    assert len(scored) == 4
    assert 1 <= len(trained) <= 3
    assert {kinds[t.trial.number] for t in scored} == {"shared"}
    assert {kinds[t.trial.number] for t in trained} == {"identical"}
    assert all(len(t.learning_curve) == 2 for t in trained)
    pareto = (folder / "pareto_desk-onnxruntime-fp32-threads1.csv").read_text()
    on_front = {int(line.split(",")[0]) for line in pareto.splitlines()[1:]}
    assert on_front <= {t.trial.number for t in trained}
