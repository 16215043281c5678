"""The section of a report on weights that trainings began with: other trials', or those of a supernet."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from results import shapes
from results.codec import from_json
from results.evaluations import History, history
from results.fidelity import PREDICTS
from results.lineage import lineages, own_epochs
from results.markdown import escape, table
from results.rank_correlation import LEAST, kendall
from results.records import Interval, Score
from results.store import Run

SHOWN = 12

_KINDS = {
    "identical": "the same network, trained further",
    "grown": "grown from the parent by a morphism: begins with what the parent computes",
    "overlap": "what fits of the parent; no morphism leads there",
    "shared": "the network's part of the supernet's weights",
}


def weight_sharing(run: Run) -> list[str]:
    """The section; empty where every training began with fresh weights and there is no supernet."""
    known = history(run)
    numbers = {str(t.trial.number): t.trial.number for t in known.trials}
    bodies = {r.key: r.body for r in shapes.records(run, "inherited")}
    inherited = {numbers[key]: body for key, body in bodies.items() if key in numbers}
    parts = [*_supernet(run), *_inherited(known, inherited)]
    return ["## Shared and inherited weights", *parts] if parts else []


def rank_correlation(run: Run) -> tuple[int, Interval | None]:
    """Number of networks scored under shared weights and trained alone, and Kendall's tau of the two."""
    bodies = [record.body for record in shapes.records(run, "correlated")]
    shared, alone = ([from_json(Score, b[key]).value for b in bodies] for key in ("shared", "alone"))
    return len(bodies), kendall(shared, alone)


def misranking(run: Run) -> str:
    """What to do where shared weights certainly do not rank networks; empty where they may.

    Certainly: all of the 95 % interval of Kendall's tau is below what a rung is to reach
    (:data:`results.fidelity.PREDICTS`).
    """
    _, tau = rank_correlation(run)
    if tau is None or tau.high >= PREDICTS:
        return ""
    return (
        f"shared weights do not rank networks here: Kendall's tau with trainings alone is {tau.value:.2f} "
        f"[{tau.low:.2f}, {tau.high:.2f}] (95 %), all of it below {PREDICTS:g}. Rely neither on a first rung "
        "of their scores nor on weights from them: leave 'supernet' and rungs with epochs = 0 out of "
        "'speedups', or train them longer (epochs in [pretrain])"
    )


def _supernet(run: Run) -> list[str]:
    body = next((r.body for r in shapes.records(run, "pretrained") if r.key == "supernet"), None)
    if body is None:
        return []
    plan = body["plan"]
    lines = [
        f"- **Supernet**: {plan['epochs']} epochs, {escape(plan['sampling'])} sampling, batches of "
        f"{body['batch_size']} images, {body['training_s']:.0f} s of CPU time",
        *(f"- **Not as planned**: {escape(note)}" for note in body["notes"]),
        *_agreement(run),
    ]
    return ["\n".join(lines)]


def _agreement(run: Run) -> list[str]:
    bodies = [record.body for record in shapes.records(run, "correlated")]
    if not bodies:
        return ["- **How well it ranks** was not measured: `correlate = 0`"]
    count, tau = rank_correlation(run)
    seconds = sum(float(body["training_s"]) for body in bodies)
    if tau is None:
        figure = f"not known: it takes {LEAST} networks or more that differ"
    else:
        figure = f"{tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]"
    return [
        f"- **How well it ranks**: Kendall's tau (95 % interval) of scores under shared weights and those "
        f"of {count} random networks trained alone for {bodies[0]['epochs']} epochs each ({seconds:.0f} s of "
        f"CPU time): {figure}",
        *(f"- **Not to be relied on**: {escape(text)}" for text in [misranking(run)] if text),
    ]


def _inherited(known: History, inherited: Mapping[int, Mapping[str, Any]]) -> list[str]:
    if not inherited:
        return []
    rows = []
    for kind, meaning in _KINDS.items():
        shares = [float(body["share"]) for body in inherited.values() if body["kind"] == kind]
        if shares:
            rows.append((kind, len(shares), f"{statistics.fmean(shares):.0%}", meaning))
    header = ("weights", "trainings", "share taken over, mean", "meaning")
    return [table(header, rows), *_behind(known, inherited)]


def _behind(known: History, inherited: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Own and inherited training of those trials that inherited, the best first."""
    behind = lineages(known.trials)
    trained = [t for t in known.trials if t.trial.number in inherited and t.trial.number in behind]
    trained = [t for t in trained if "fp32" in t.accuracy]
    trained.sort(key=lambda t: t.accuracy["fp32"].value, reverse=known.problem.maximise)
    rows: list[Sequence[Any]] = []
    for trial in trained[:SHOWN]:
        number = trial.trial.number
        body, whole = inherited[number], behind[number]
        own = own_epochs(trial)
        total = f"{whole.epochs} epochs, {whole.training_s:.1f} s" + (" + supernet" if whole.supernet else "")
        rows.append((number, body["parent"], body["kind"], f"{own} epochs, {trial.training_s:.1f} s", total))
    if not rows:
        return []
    note = (
        f"{len(rows)} of {len(trained)} trainings that did not begin with fresh weights. Scores are "
        "those of all training behind them, ancestors' counted:"
    )
    return [note, table(("trial", "parent", "weights", "own training", "with its ancestors'"), rows)]
