"""The part of a report on what a differentiable search found, and whether its table of blocks held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.evaluations import History, TrialRecords
from results.markdown import escape, table
from results.records import Measurement
from results.statistics import latency
from results.units import show


def relaxation(known: History, pretrained: Sequence[Mapping[str, Any]]) -> list[str]:
    """What architecture weights favour, and its sum of blocks beside its time as a whole.

    Args:
        known: The run.
        pretrained: Records of the stage ``pretrain``; those of other strategies are passed over.
    """
    found = [part for body in pretrained if "sum_of_blocks_s" in body for part in _found(known, body)]
    return ["## What the architecture weights favour", *found] if found else []


def _found(known: History, body: Mapping[str, Any]) -> list[str]:
    plan, search, sums_s = body["plan"], body["found"], body["sum_of_blocks_s"]
    epochs = len(search["curve"])
    lines = [
        f"- **Learnt** by {escape(plan['method'])} on halves of the training split, {epochs} of "
        f"{plan['epochs']} epochs in {search['search_s']:.0f} s of CPU time, beside the trainings of the "
        "trials",
        f"- **Latency** in the loss: {escape(plan['latency_form'])}, weight {plan['latency_weight']:g}"
        if plan["latency_weight"]
        else "- **Latency** was not in the loss",
    ]
    if search["stopped"]:
        reason = escape(search["stopped"])
        lines.append(f"- **Stopped early**: {reason}; the weights are those of the epoch before")
    choices = tuple(body["architecture"]["choices"])
    tried = [t for t in known.trials if t.trial.proposal.architecture.choices == choices]
    trial = max(tried, key=lambda t: len(t.measurements), default=None)
    if trial is not None:
        options = ", ".join(f"{name} {option}" for name, option in trial.options.items())
        lines.append(f"- **Selected**: trial {trial.trial.number} ({escape(options)})")
    return ["\n".join(lines), *_sums(trial, sums_s)]


def _sums(trial: TrialRecords | None, sums_s: Mapping[str, float]) -> list[str]:
    """Sum of blocks beside the measurement of the whole, which alone is the network's time."""
    rows = []
    for target, sum_s in sums_s.items():
        measurement = _measured(trial, target)
        figure = latency(measurement, 0.5) if measurement is not None else None
        whole = "not measured" if figure is None else show("latency_p50", figure.value)
        share = "" if figure is None else f"{sum_s / figure.value - 1:+.0%}"
        rows.append((target, show("latency_p50", sum_s), whole, share))
    note = (
        "The sum is modelled from blocks that were measured one by one; only the whole network's is its time."
    )
    return [table(("target", "sum of blocks", "measured", "sum to measured"), rows), note]


def _measured(trial: TrialRecords | None, target: str) -> Measurement | None:
    if trial is None:
        return None
    return trial.confirmed.get(target) or trial.measurements.get(target)
