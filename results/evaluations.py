"""Trials and their evaluations, rebuilt from the records of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from results import shapes
from results.codec import from_json
from results.errors import StoreError
from results.fidelity import is_full, levels
from results.records import (
    LATEST_S,
    Artifact,
    Evaluation,
    Fidelity,
    Measurement,
    Option,
    Problem,
    Score,
    Target,
    Trial,
)
from results.store import Record, Run

MOST = 1e18
"""More operations, parameters or bytes than a network can have."""

SHORTEST_S, LONGEST_S = 1e-15, 1e9
"""Beyond what a run can take."""

WIDEST = 1e3
"""More than the logarithm of a time can vary."""


@dataclass
class TrialRecords:
    """All records of one trial.

    Attributes:
        trial: The trial as it was asked for.
        options: Options by decision, of those that apply.
        asked_at: Host's wall clock, seconds since the epoch.
        state: Final state; ``pending`` until it is told.
        error: Why it failed.
        told_at: Host's wall clock, or None.
        graph: Hash of the structure; empty before it is built.
        network: Costs of the network.
        measurements: By target name, from before the training; the last one counts.
        accuracy: Validation score by precision.
        learning_curve: Validation score after each epoch.
        checkpoint: Hash of the trained weights.
        training_s: CPU time of the training, also of one that failed.
        stopped: Forecast for which the training was ended early, or None.
        exported: Trained files, by ``<format>-<precision>``.
        confirmed: By target name, with trained weights over fresh agents.
        refuted: Why a trained file could not be confirmed, by target name.
        tested: Score on the test split by precision.
        undefined: Why there is no such score, by precision.
        on_board: Score of a sample of the validation split, computed on the board, by target name.
    """

    trial: Trial
    options: Mapping[str, Option]
    asked_at: float
    state: str = "pending"
    error: str | None = None
    told_at: float | None = None
    graph: str = ""
    network: dict[str, float] = field(default_factory=dict)
    measurements: dict[str, Measurement] = field(default_factory=dict)
    accuracy: dict[str, Score] = field(default_factory=dict)
    learning_curve: tuple[float, ...] = ()
    checkpoint: str | None = None
    training_s: float = 0.0
    stopped: Mapping[str, Any] | None = None
    exported: dict[str, Artifact] = field(default_factory=dict)
    confirmed: dict[str, Measurement] = field(default_factory=dict)
    refuted: dict[str, str] = field(default_factory=dict)
    tested: dict[str, Score] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    on_board: dict[str, Score] = field(default_factory=dict)

    def evaluation(self) -> Evaluation:
        """What the strategy is told.

        Raises:
            StoreError: If the trial is not in its final state.
        """
        state: Any = self.state
        if state == "pending":
            raise StoreError(f"trial {self.trial.number} is not in its final state")
        return Evaluation(
            trial=self.trial,
            state=state,
            measurements=dict(self.measurements),
            accuracy=dict(self.accuracy),
            network=dict(self.network),
            learning_curve=self.learning_curve,
            checkpoint=self.checkpoint,
            training_s=self.training_s,
            error=self.error,
            stopped=self.stopped is not None,
        )


@dataclass(frozen=True)
class History:
    """A run as its records tell it.

    Attributes:
        name: Name of the run.
        config: What it was begun with.
        targets: Where it was measured.
        problem: Objectives and limits.
        trials: In the order of their numbers.
        prepared: The one network that was measured on every target before the search, by target name.
        refused: Why a device's part of the fronts was not confirmed the last time, by device name.
    """

    name: str
    config: Mapping[str, Any]
    targets: tuple[Target, ...]
    problem: Problem
    trials: tuple[TrialRecords, ...]
    prepared: Mapping[str, Measurement] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def target(self, name: str) -> Target:
        """The target of that name.

        Raises:
            StoreError: If the run has none.
        """
        for target in self.targets:
            if target.name == name:
                return target
        known = ", ".join(t.name for t in self.targets)
        raise StoreError(f"run {self.name!r} has no target {name!r}; it has {known}")


def history(run: Run) -> History:
    """Reads all records of a run.

    Raises:
        StoreError: If a record does not have the shape that it should have.
    """
    trials: dict[int, TrialRecords] = {}
    prepared: dict[str, Measurement] = {}
    everything = list(shapes.records(run))
    for record in everything:
        with shapes.naming(run, record):
            if record.kind == "asked":
                trial = from_json(Trial, record.body["trial"])
                if record.key != str(trial.number):
                    raise StoreError(f"its trial has the number {trial.number}")
                trials[trial.number] = TrialRecords(trial, record.body["options"], record.at)
            elif record.kind == "prepared":
                prepared[record.key] = _measurement(record)
    by_key = {str(number): trial for number, trial in trials.items()}
    for record in everything:
        read = _READERS.get(record.kind)
        if read is not None:
            number, _, rest = record.key.partition("/")
            with shapes.naming(run, record):
                if number not in by_key:
                    raise StoreError("it belongs to no trial")
                read(by_key[number], record, rest)
    targets, problem = _wanted(run)
    return History(
        name=run.name,
        config=run.config,
        targets=targets,
        problem=problem,
        trials=tuple(trials[number] for number in sorted(trials)),
        prepared=prepared,
        refused={r.body["device"]: r.body["reason"] for r in everything if r.kind == "not_confirmed"},
    )


def _wanted(run: Run) -> tuple[tuple[Target, ...], Problem]:
    """Targets, objectives and limits of a run, its configuration looked at."""
    try:
        shapes.check(shapes.CONFIG, run.config)
        targets = tuple(from_json(Target, t) for t in run.config["targets"])
        return targets, stored_problem(run.config)
    except StoreError as error:
        raise StoreError(f"run {run.name!r}, its configuration: {error}") from error


def stored_problem(config: Mapping[str, Any]) -> Problem:
    """Objectives and limits of a run, of its configuration.

    A run from before the metric was a part of them was searched as if more were better; what its task says
    counts here.
    """
    problem = from_json(Problem, config["problem"])
    if "metric" in config["problem"]:
        return problem
    task = config.get("task", {})
    first = replace(problem.objectives[0], maximise=bool(task.get("maximise", True)))
    return replace(
        problem,
        objectives=(first, *problem.objectives[1:]),
        metric=str(task.get("metric", problem.metric)),
    )


def evaluations(run: Run) -> list[Evaluation]:
    """Evaluations of the trials that were told, in the order of their numbers."""
    return [known.evaluation() for known in history(run).trials if known.state != "pending"]


def full_fidelity(known: History) -> Fidelity | None:
    """The study's full training; None where a run does not say."""
    said = known.config.get("fidelity")
    return from_json(Fidelity, said) if said else None


def fully_trained(known: History) -> set[int]:
    """Numbers of the complete trials of the full level: others are never ranked with them."""
    full = full_fidelity(known)
    reached = levels(t.trial for t in known.trials)
    return {
        t.trial.number
        for t in known.trials
        if t.state == "complete"
        and (full is None or is_full(reached[t.trial.number], full))
        and t.stopped is None
    }


def _measurement(record: Record) -> Measurement:
    """A stored measurement; refuses figures with which nothing can be computed, as no board gives them."""
    found = from_json(Measurement, record.body["measurement"])
    for session in found.sessions:
        within = min(session.durations_s) >= SHORTEST_S and max(session.durations_s) <= LONGEST_S
        if not within or session.runs_per_sample < 1 or not 0 <= session.started_at <= LATEST_S:
            raise StoreError("a session's runs or its time cannot be")
    if not 0 <= found.plan.spread <= WIDEST or not 0 <= found.plan.agent_spread <= WIDEST:
        raise StoreError(f"plan {found.plan.name!r}: its spread cannot be")
    return found


def _measured(known: TrialRecords, record: Record, rest: str) -> None:
    target = rest.rsplit("/", 2)[0]
    known.measurements[target] = _measurement(record)


def _built(known: TrialRecords, record: Record, _: str) -> None:
    known.network = {k: float(v) for k, v in record.body["network"].items()}
    if odd := [name for name, cost in known.network.items() if not 0 <= cost <= MOST]:
        raise StoreError(f"network: {odd[0]} cannot be {known.network[odd[0]]}")
    known.graph = str(record.body["graph"])


def _trained(known: TrialRecords, record: Record, _: str) -> None:
    body = record.body
    known.accuracy = _scores(body)
    known.learning_curve = tuple(float(x) for x in body["learning_curve"])
    known.checkpoint = body["checkpoint"]
    known.training_s = float(body["training_s"])
    known.stopped = body.get("stopped")


def _exported(known: TrialRecords, record: Record, rest: str) -> None:
    known.exported[rest] = from_json(Artifact, record.body["artifact"])


def _scored(known: TrialRecords, record: Record, _: str) -> None:
    known.accuracy |= _scores(record.body)


def _told(known: TrialRecords, record: Record, _: str) -> None:
    known.state = str(record.body["state"])
    known.error = record.body["error"]
    known.training_s = float(record.body.get("training_s", known.training_s))
    known.told_at = record.at


def _confirmed(known: TrialRecords, record: Record, rest: str) -> None:
    known.confirmed[rest] = _measurement(record)


def _refuted(known: TrialRecords, record: Record, rest: str) -> None:
    known.refuted[rest] = str(record.body["error"])


def _on_board(known: TrialRecords, record: Record, rest: str) -> None:
    known.on_board[rest] = from_json(Score, record.body["score"])


def _tested(known: TrialRecords, record: Record, _: str) -> None:
    known.tested = _scores(record.body)
    known.undefined = {name: str(reason) for name, reason in record.body.get("undefined", {}).items()}


def _scores(body: Any) -> dict[str, Score]:
    return {precision: from_json(Score, score) for precision, score in body["accuracy"].items()}


_READERS = {
    "measured": _measured,
    "built": _built,
    "trained": _trained,
    "exported": _exported,
    "scored": _scored,
    "told": _told,
    "confirmed": _confirmed,
    "refuted": _refuted,
    "tested": _tested,
    "scored_on_board": _on_board,
}
