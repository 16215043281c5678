"""A run as tables: every trial, and each target's front; as DataFrames and as CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from results import energy, loading, scores
from results.across_targets import front_across_targets, spans_targets
from results.conditions import summary
from results.confirmation import why
from results.evaluations import History, TrialRecords, fully_trained, history
from results.fidelity import describe_fidelity, levels
from results.front import Candidate, Member, front, limits_of
from results.limits import broken, sentences
from results.output import inert, write_whole
from results.records import UNTRAINED, Evaluation, Interval, Measurement, Option, Problem, Score, Target
from results.statistics import (
    decide,
    judge,
    latency,
    latency_ratio,
    model_sessions,
    peak_memory,
    value,
    violation,
)
from results.store import Run
from results.units import Where, cost_column, score, score_column

COUNTS = ("size_bytes", "size_bytes_onnx", "size_bytes_tflite", "macs", "parameters", "peak_memory_bytes")
"""Columns of whole numbers that may be missing."""

ACROSS_TARGETS_CSV = "pareto_all_targets.csv"

_FRONT_COLUMNS = """
trial front nominal confirmed not_confirmed limits architecture {scores} latency_p50_ms latency_p50_ms_low
latency_p50_ms_high latency_p90_ms latency_p90_ms_low latency_p90_ms_high latency_ratio load_ms cold_ms
load_note size_bytes peak_memory_bytes energy_mj energy_mj_low energy_mj_high energy_net_mj energy_note
verdict verdict_reasons conditions plan sessions agents runs device board emulated runtime runtime_version
precision threads provider origin measured_at environment weights artifact_sha256 macs parameters
trained_sha256
"""

_SPLITS: tuple[Where, ...] = ("test", "validation", "board")


# --------------------------------------------------------------------------- trials


def trials(run: Run) -> pd.DataFrame:
    """One row per trial that was asked for, in whatever state, in the order of their numbers.

    Latency and limits of each target stand in columns that begin with the target's name; figures are
    those of the screen, before training.
    """
    return trials_table(history(run))


def trials_table(known: History) -> pd.DataFrame:
    """As :func:`trials`, from records that were read already."""
    reached = _levels(known)
    return _frame(
        [_trial_row(trial, known) | {"level": reached.get(trial.trial.number)} for trial in known.trials]
    )


def _trial_row(trial: TrialRecords, known: History) -> dict[str, Any]:
    proposal = trial.trial.proposal
    row: dict[str, Any] = {
        "trial": trial.trial.number,
        "state": trial.state,
        "architecture": describe(trial.options),
        **_judged_columns(trial, known.problem),
        "violation": None,
        "broken": None,
        "macs": trial.network.get("macs"),
        "parameters": trial.network.get("parameters"),
        **{k: v for k, v in trial.network.items() if k.startswith("size_bytes_")},
    }
    if trial.state in ("complete", "infeasible"):
        evaluation, limits = trial.evaluation(), known.problem.limits
        row["violation"] = violation(evaluation, limits)
        row["broken"] = sentences(evaluation, broken(evaluation, limits))
    for target in known.targets:
        row |= _target_columns(trial, known, target)
    return row | {
        "epochs": proposal.fidelity.epochs,
        "subset": proposal.fidelity.subset,
        "width": proposal.fidelity.width,
        "resolution": proposal.fidelity.resolution,
        "weights_from": proposal.weights_from,
        "training_s": trial.training_s if trial.accuracy or trial.training_s else None,
        "asked_at": iso(trial.asked_at),
        "told_at": None if trial.told_at is None else iso(trial.told_at),
        "graph": trial.graph,
        "error": trial.error,
    }


def _judged_columns(trial: TrialRecords, problem: Problem) -> dict[str, Any]:
    """The score by which a trial is ranked, the worst of its targets' precisions, and which that is."""
    used = {m.target.precision for m in trial.measurements.values()}
    used = used if problem.objectives[0].targets else {"fp32"}
    scores = trial.accuracy
    names = used & scores.keys() or scores.keys()  # a trial that failed may have been scored in float32 alone
    worst = min if problem.maximise else max
    name = worst(sorted(names), key=lambda precision: scores[precision].value, default=None)
    score = None if name is None else scores[name]
    return {**_score_columns(score_column(problem.metric, "validation"), score), "precision": name}


def _levels(known: History) -> dict[int, str]:
    """Of each trained trial whether it may be ranked: ``full``, or at which lower level its score is."""
    full, reached = fully_trained(known), levels(t.trial for t in known.trials)
    names = {}
    for trial in known.trials:
        number = trial.trial.number
        if trial.state == "complete":
            ended = f"ended after {len(trial.learning_curve)} epochs"
            lower = ended if trial.stopped else describe_fidelity(reached[number])
            names[number] = "full" if number in full else lower
    return names


def _target_columns(trial: TrialRecords, known: History, target: Target) -> dict[str, Any]:
    measurement = trial.measurements.get(target.name)
    here = {} if measurement is None else {target.name: measurement}
    evaluation = Evaluation(trial.trial, "complete", here, trial.accuracy, trial.network)
    decisions = [decide(evaluation, limit) for limit in limits_of(known.problem, target)]
    worst = next((d for d in ("broken", "unknown", "unclear") if d in decisions), "met")
    p50, p90 = (None, None) if measurement is None else (latency(measurement, 0.5), latency(measurement, 0.9))
    return {
        **_columns(f"{target.name}_latency_p50_ms", p50, 1e3),
        **_columns(f"{target.name}_latency_p90_ms", p90, 1e3),
        f"{target.name}_limits": worst,
        f"{target.name}_verdict": None if measurement is None else judge(measurement).state,
    }


# --------------------------------------------------------------------------- fronts


def pareto(run: Run, target_name: str) -> pd.DataFrame:
    """One row per member of a target's certain and possible front, best score first.

    The task's metric stands there as computed on the validation split, by which the front was chosen, on the
    test split once it was scored there, and by the board (:func:`results.units.score_column`).  See
    :mod:`results.front`.

    Raises:
        StoreError: If the run has no such target.
    """
    return pareto_table(history(run), target_name)


def pareto_table(known: History, target_name: str) -> pd.DataFrame:
    """As :func:`pareto`, from records that were read already."""
    target, metric = known.target(target_name), known.problem.metric
    rows = [_member_row(known, member, target) for member in front(known, target_name)]
    frame = _frame(rows) if rows else pd.DataFrame(columns=front_columns(metric))
    return frame.astype({"trial": "int64", "nominal": bool, "confirmed": bool})


def front_columns(metric: str) -> list[str]:
    """Columns of :func:`pareto` where the task's metric has this name, for fronts without members too."""
    names = [score_column(metric, where) for where in _SPLITS]
    scores = " ".join(name + end for name in names for end in ("", "_low", "_high"))
    return _FRONT_COLUMNS.format(scores=scores).split()


def _member_row(run: History, member: Member, target: Target) -> dict[str, Any]:
    candidate, metric = member.candidate, run.problem.metric
    known = candidate.known
    return {
        "trial": known.trial.number,
        "front": member.place,
        "nominal": member.nominal,
        "confirmed": candidate.confirmed,
        "not_confirmed": why(run, target) if member.nominal and not candidate.confirmed else None,
        "limits": member.limits,
        "architecture": describe(known.options),
        **_score_columns(score_column(metric, "test"), known.tested.get(target.precision)),
        **_score_columns(score_column(metric, "validation"), known.accuracy.get(target.precision)),
        **_score_columns(score_column(metric, "board"), known.on_board.get(target.name)),
        **measurement_row(candidate.measurement, weights="trained"),
        "macs": known.network.get("macs"),
        "parameters": known.network.get("parameters"),
        "trained_sha256": _trained_sha256(candidate),
    }


def _trained_sha256(candidate: Candidate) -> str | None:
    """Hash of the file with trained weights; a screen measured another one, of the same structure."""
    measured = candidate.measurement.artifact
    if candidate.confirmed:
        return measured.sha256
    exported = candidate.known.exported.get(f"{measured.file_format}-{measured.precision}")
    return None if exported is None else exported.sha256


def across_targets_table(known: History) -> pd.DataFrame:
    """One row per member of the front over all targets (:mod:`results.across_targets`), best score first.

    Costs stand in columns ``<target>_<metric>_<unit>``.
    """
    ranked_by, *costs = known.problem.objectives
    rows = []
    for member in front_across_targets(known):
        trial, own = member.known, member.evaluation
        tested = value(replace(own, accuracy=trial.tested), ranked_by)
        row: dict[str, Any] = {
            "trial": trial.trial.number,
            "front": member.place,
            "nominal": member.nominal,
            "confirmed": member.confirmed,
            "limits": member.limits,
            "architecture": describe(trial.options),
            **_columns(score_column(known.problem.metric, "test"), tested, 1.0),
            **_columns(score_column(known.problem.metric, "validation"), member.figures[0], 1.0),
        }
        for cost, figure in zip(costs, member.figures[1:], strict=True):
            name, scale = cost_column(cost.name)
            row |= _columns("_".join((*cost.targets, name)), figure, scale)
        rows.append(row | {f"{t}_verdict": judge(m).state for t, m in own.measurements.items()})
    frame = _frame(rows) if rows else pd.DataFrame(columns=["trial", "nominal", "confirmed"])
    return frame.astype({"trial": "int64", "nominal": bool, "confirmed": bool})


def score_cell(row: Mapping[Any, Any], metric: str, where: Where) -> str:
    """A score in a row of :func:`pareto` as people read it."""
    name = score_column(metric, where)
    if pd.isna(row[name]):
        return "unknown"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    ends = "no interval" if pd.isna(low) else f"{score(low)}, {score(high)}"
    return f"{score(row[name])} [{ends}]"


def measurement_row(measurement: Measurement, *, weights: str = "as given") -> dict[str, Any]:
    """The columns that a measurement fills, in the order of the CSV files.

    Args:
        measurement: The measurement.
        weights: What the file's weights are; of a user's own file no more is known than that it has some.
            Initial ones, of a screen, are called so in any case.
    """
    verdict, memory = judge(measurement), peak_memory(measurement)
    sessions, joules = model_sessions(measurement), energy.energy(measurement)
    environment, ran_on, artifact = measurement.environment, measurement.ran_on, measurement.artifact
    return {
        **_columns("latency_p50_ms", latency(measurement, 0.5), 1e3),
        **_columns("latency_p90_ms", latency(measurement, 0.9), 1e3),
        "latency_ratio": latency_ratio(measurement),
        "load_ms": _milli(loading.load_s(measurement)),
        "cold_ms": _milli(loading.cold_s(measurement)),
        "load_note": loading.note(measurement),
        "size_bytes": artifact.size_bytes,
        "peak_memory_bytes": None if memory is None else memory.value,
        **_columns("energy_mj", None if joules is None else joules.gross, 1e3),
        "energy_net_mj": _milli(None if joules is None else _middle(joules.net)),
        "energy_note": energy.note(measurement),
        "verdict": verdict.state,
        "verdict_reasons": "; ".join(verdict.reasons),
        "conditions": summary(measurement),
        "plan": measurement.plan.name,
        "sessions": len(sessions),
        "agents": len({s.agent for s in sessions}),
        "runs": sum(len(s.durations_s) for s in sessions),
        "device": measurement.target.device,
        "board": environment.get("model"),
        "emulated": environment.get("emulated", ""),
        "runtime": ran_on.runtime,
        "runtime_version": ran_on.version,
        "precision": artifact.precision,
        "threads": ran_on.threads,
        "provider": ran_on.provider,
        "origin": measurement.origin,
        "measured_at": iso(min(s.started_at for s in sessions)) if sessions else None,
        "environment": environment.fingerprint[:12],
        "weights": UNTRAINED if artifact.weights == UNTRAINED else weights,
        "artifact_sha256": artifact.sha256,
    }


# --------------------------------------------------------------------------- files


def write_csvs(run: Run, folder: Path) -> list[Path]:
    """Writes ``trials.csv``, a ``pareto_<target>.csv`` for each target and of all together; paths.

    Raises:
        StoreError: If the folder cannot be written to.
    """
    known = history(run)
    written = [_write(folder / "trials.csv", trials_table(known))]
    for target in known.targets:
        written.append(_write(folder / f"pareto_{target.name}.csv", pareto_table(known, target.name)))
    if spans_targets(known.problem):
        written.append(_write(folder / ACROSS_TARGETS_CSV, across_targets_table(known)))
    return written


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with equal columns as a CSV file, whole or not at all.

    Raises:
        StoreError: If it cannot be written.
    """
    _write(path, _frame(rows))


def _write(path: Path, frame: pd.DataFrame) -> Path:
    texts = {str(name): column.map(inert) for name, column in frame.items() if column.dtype.kind == "O"}
    frame = frame.assign(**texts).rename(columns=inert)
    write_whole(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
    return path


# --------------------------------------------------------------------------- cells


def describe(options: Mapping[str, Option]) -> str:
    """An architecture in one line: the options taken."""
    return " ".join(f"{name}={option}" for name, option in options.items())


def iso(seconds: float) -> str:
    """A time in seconds since the epoch as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _score_columns(name: str, score: Score | None) -> dict[str, float | None]:
    return _columns(name, None if score is None else scores.interval(score), 1.0)


def _columns(name: str, interval: Interval | None, factor: float) -> dict[str, float | None]:
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {
        name: interval.value * factor,
        f"{name}_low": interval.low * factor if interval.is_known else None,
        f"{name}_high": interval.high * factor if interval.is_known else None,
    }


def _milli(value: float | None) -> float | None:
    return None if value is None else 1e3 * value


def _middle(interval: Interval | None) -> float | None:
    return None if interval is None else interval.value


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows))
    whole = {name: frame[name].astype("Float64").round().astype("Int64") for name in COUNTS if name in frame}
    return frame.assign(**whole)
