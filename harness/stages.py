"""The stages of a study: prepare, pretrain, search, confirm, report; what is stored already is skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from harness import checkpoints
from harness.board import Board
from harness.deployment import Kind, TrainedFiles, kind_of, kinds_of, worst
from harness.evaluate import Evaluator
from harness.exit_codes import Exit
from harness.export import Exported
from harness.loop import Loop
from harness.measure import Job, measure_together, require_quiet
from harness.model_notes import write_notes
from harness.outcome import write_report
from harness.prepare import prepare
from harness.pretrain import pretrain
from harness.prove import score_on_board
from harness.reference import reference
from harness.relaxation import informed
from harness.rig import Rig
from harness.rung_notes import RungNotes
from harness.speedups import accelerated
from harness.verify import check_on_board
from harness.winners import keep_or_write, known_hashes
from results import table
from results.across_targets import front_across_targets
from results.codec import from_json, to_json
from results.errors import (
    ArchitectureError,
    BoardBusy,
    BoardError,
    CandidateError,
    StoreError,
    TrainingError,
)
from results.evaluations import evaluations, history
from results.records import Evaluation, Measurement, Score, Target, Trial
from results.statistics import judge
from search.learning_curve_stopping import StopsEarly
from search.strategy import Strategy
from search.training import evaluate

T = TypeVar("T")

CONFIRMED_PER_TARGET = 8
"""Candidates of a target's front that are confirmed at the most in one round."""

SCORED_IMAGES = 200
"""Validation images that a board classifies with each confirmed file: a Wilson interval of about 4 points."""

CONFIRM_ROUNDS = 4

CONFIRM_ATTEMPTS = 3
"""Times that a candidate is measured whose confirmations are invalid; the last one is stored as it is."""

_FLOAT_KINDS = (Kind("onnx", "fp32"), Kind("tflite", "fp32"))

QUIET_WAIT_S = 30.0
"""How long the confirmation waits for a busy board to become quiet."""

START_WAIT_S = 10.0
"""The same at the start, where a busy board is only warned of."""


def run_study(rig: Rig, strategy: Strategy, folder: Path) -> None:
    """All stages, one after the other; each result is stored as it comes."""
    warn_of_busy_boards(rig)
    prepare(rig)
    pretrain(rig)
    search(rig, accelerated(rig.study.speedups, informed(rig, strategy), candidates=rig.study.trials))
    try:
        confirm(rig)
    except BoardError:
        write_results(rig, folder)  # what was found so far, with what is confirmed of it
        raise
    write_results(rig, folder)


def warn_of_busy_boards(rig: Rig) -> None:
    """Says at the start on which boards nothing could be confirmed now; the study goes on all the same."""
    if rig.study.accept_noisy or rig.run.get("finished", "search") is not None:
        return
    for name, board in rig.boards.items():
        targets = [target for target in rig.study.targets if target.device == name]
        try:
            require_quiet(board, targets, wait_s=START_WAIT_S)
        except BoardBusy as error:
            rig.watcher.warn(
                f"{error}. The study goes on, but the front on {name} is not confirmed "
                f"unless the board is quiet at the end (exit code {Exit.UNJUDGED:d})"
            )


def search(rig: Rig, strategy: Strategy) -> None:
    """Asks, evaluates and tells until the study's trials are done."""
    speedups = rig.study.speedups
    used = f", speed-ups: {', '.join(speedups.names)}" if speedups.names else ""
    rig.watcher.stage(f"search: {rig.study.trials} trials, strategy {rig.study.strategy.name}{used}")
    started = time.monotonic()
    loop = Loop(
        rig.run,
        rig.space,
        strategy,
        Evaluator(rig, strategy if isinstance(strategy, StopsEarly) else None).evaluate,
        trials=speedups.trainings(rig.study.trials),
        in_flight=rig.study.in_flight,
        busy=rig.host.busy,
        abort=rig.abort,
        watcher=rig.watcher if speedups.ladder is None else RungNotes(rig.watcher),
    )
    loop.search()
    if rig.run.get("finished", "search") is None:
        body: dict[str, Any] = {"wall_s": time.monotonic() - started, "at": time.time()}
        if loop.wanted > 0 and (why := _why_early(rig)):
            body["ended"] = why
        rig.run.append("finished", "search", body)


def _why_early(rig: Rig) -> str:
    """Why a strategy asked for nothing more; empty where all candidates were tried, some less than fully."""
    asked = [from_json(Trial, record.body["trial"]).proposal for record in rig.run.records("asked")]
    if len({p.architecture for p in asked if not p.screen_only}) >= rig.study.trials:
        return ""
    tried = {proposal.architecture for proposal in asked}
    there = len(list(islice(rig.space.architectures(), len(tried) + 1)))
    if there > len(tried):
        return f"the strategy had nothing left to try after {len(tried)} of {rig.study.trials} trials"
    many = "1 network; it was" if there == 1 else f"{there} networks; all were"
    return f"the space has only {many} tried"


@dataclass(frozen=True)
class Member:
    """A member of a target's front that is not confirmed yet."""

    evaluation: Evaluation
    target: Target


def confirm(rig: Rig) -> None:
    """Measures the fronts again with trained weights, until every member of a nominal front is confirmed.

    The front over all targets is one of them where it was asked for.

    A member that turns out worse makes room for others, which are confirmed in the next round.  Members on a
    board that is busy stay as they are, with the reason stored.
    """
    rig.watcher.stage("confirm: measuring the fronts again with trained weights over fresh agents")
    busy: set[str] = set()
    for number in range(CONFIRM_ROUNDS):
        members = [m for target in rig.study.targets for m in _unconfirmed(rig, target)]
        members += [m for m in _unconfirmed_compromises(rig) if m not in members]
        members = [m for m in members if m.target.device not in busy]
        if not members:
            break
        busy |= _confirm_round(rig, members, number)
    for number in sorted({int(r.key.split("/")[0]) for r in rig.run.records("confirmed")}):
        _test(rig, number)


def _unconfirmed(rig: Rig, target: Target) -> list[Member]:
    front = table.pareto(rig.run, target.name)
    front = front[~front["confirmed"]].sort_values("nominal", ascending=False, kind="stable")
    by_number = {e.trial.number: e for e in evaluations(rig.run)}
    known = _judged(rig)
    return [
        Member(by_number[int(number)], target)
        for number in front["trial"][:CONFIRMED_PER_TARGET]
        if f"{number}/{target.name}" not in known
    ]


def _unconfirmed_compromises(rig: Rig) -> list[Member]:
    """Members of the nominal front over all targets, on each target on which they are not confirmed yet."""
    front = [m for m in front_across_targets(history(rig.run)) if m.nominal and not m.confirmed]
    known = _judged(rig)
    return [
        Member(member.known.evaluation(), target)
        for member in front[:CONFIRMED_PER_TARGET]
        for target in rig.targets_of(member.known.trial)
        if f"{member.known.trial.number}/{target.name}" not in known
    ]


def _judged(rig: Rig) -> set[str]:
    """Trials and targets, ``<number>/<target>``, whose confirmation has an outcome."""
    return {r.key for kind in ("confirmed", "refuted") for r in rig.run.records(kind)}


def _confirm_round(rig: Rig, members: list[Member], number: int) -> set[str]:
    """Names of the boards that were busy."""
    busy = set()
    for name, board in rig.boards.items():
        here = [m for m in members if m.target.device == name]
        if here and not rig.study.accept_noisy and not _is_quiet(rig, board, here):
            busy.add(name)
            continue
        for attempt in range(CONFIRM_ATTEMPTS):
            last = attempt == CONFIRM_ATTEMPTS - 1
            here = _confirm_on(rig, board, here, seed=rig.study.seed + number + 100 * attempt, last=last)
    return busy


def _is_quiet(rig: Rig, board: Board, members: list[Member]) -> bool:
    """Whether a board may confirm now; why not is said and stored."""
    try:
        require_quiet(board, [m.target for m in members], wait_s=QUIET_WAIT_S)
    except BoardBusy as error:
        rig.watcher.warn(str(error))
        number = len(rig.run.records("not_confirmed"))
        rig.run.append(
            "not_confirmed", str(number), {"device": board.name, "reason": f"{board.name} {error.message}"}
        )
        return False
    return True


def _confirm_on(rig: Rig, board: Board, members: list[Member], *, seed: int, last: bool) -> list[Member]:
    """Measures members on a board; gives those that were invalid, unless it was the ``last`` attempt."""
    if not members:
        return []
    with rig.host.busy():
        found = [(member, _or_refuted(rig, member, partial(_confirm_job, rig, member))) for member in members]
    pairs = [(member, job) for member, job in found if job is not None]
    if not pairs:
        return []
    agents = pairs[0][1].plan.agents
    rig.watcher.note(f"  {board.name}: {len(pairs)} candidates, {agents} fresh agents or more")
    measure_together(board, [job for _, job in pairs], seed=seed)
    again = []
    for member, job in pairs:
        measurement = _or_refuted(rig, member, partial(_confirmed, rig, board, member, job))
        if measurement is None:
            continue
        if judge(measurement).state == "invalid" and not last:
            again.append(member)
        else:
            rig.run.append("confirmed", _key(member), {"measurement": to_json(measurement)})
    return again


def _key(member: Member) -> str:
    return f"{member.evaluation.trial.number}/{member.target.name}"


def _confirmed(rig: Rig, board: Board, member: Member, job: Job) -> Measurement:
    """What was measured of a member, whose file the board computes right."""
    _check(rig, member, Exported(job.artifact, job.data))
    _score(rig, board, member, Exported(job.artifact, job.data))
    return job.measurement(board.facts, board.origin)


def _or_refuted(rig: Rig, member: Member, step: Callable[[], T]) -> T | None:
    """What a step gives, or None for a member that it is wrong with: the reason is stored."""
    try:
        with rig.blaming(f"trial {member.evaluation.trial.number}"):
            return step()
    except (ArchitectureError, CandidateError) as error:
        rig.keep_traceback(_key(member), error)
        rig.run.append("refuted", _key(member), {"error": str(error)})
        return None


def _score(rig: Rig, board: Board, member: Member, file: Exported) -> None:
    """The score that the board itself reaches on a sample of the validation split; a replay has none."""
    key = f"{member.evaluation.trial.number}/{member.target.name}"
    if board.origin == "replayed" or rig.study.check_outputs == "none" or rig.run.get("scored_on_board", key):
        return
    if rig.task.whole_split:
        return
    plan = rig.study.confirm
    try:
        score = score_on_board(board, member.target, file, plan, rig.task, count=SCORED_IMAGES)
    except TrainingError as error:  # nothing else hangs on this score
        rig.watcher.note(f"  {key} has no score of the board's own: {error}")
        return
    rig.run.append("scored_on_board", key, {"score": to_json(score)})


def _check(rig: Rig, member: Member, file: Exported) -> None:
    trial = member.evaluation.trial
    exported = rig.run.get("exported", f"{trial.number}/{kind_of(member.target).name}")
    if exported is not None:  # every trial on a front was trained and has one
        check_on_board(rig, trial, member.target, file, exported["tolerance"])


def _confirm_job(rig: Rig, member: Member) -> Job:
    file = trained_files(rig, member.evaluation).file(kind_of(member.target))
    beside = reference(member.target.file_format)
    # Where noise is accepted, a busy machine's sessions are kept and marked, not taken again and again.
    plan = replace(rig.study.confirm, strict=not rig.study.accept_noisy)
    return Job(file.artifact, file.data, member.target, plan, reference=beside)


def trained_files(rig: Rig, evaluation: Evaluation) -> TrainedFiles:
    """The files of a trained trial, written from its checkpoint."""
    network = rig.space.build(evaluation.trial.proposal.architecture)
    weights = checkpoints.unpack(rig.store.blob(evaluation.checkpoint or ""))
    return rig.trained_files(network, weights)


def _test(rig: Rig, number: int) -> None:
    """Scores a confirmed trial on the test split, which no decision ever sees.

    Where the metric is undefined there, that is what is stored, with its reason.
    """
    if rig.run.get("tested", str(number)) is not None:
        return
    evaluation = next(e for e in evaluations(rig.run) if e.trial.number == number)
    network = rig.space.build(evaluation.trial.proposal.architecture)
    weights = checkpoints.unpack(rig.store.blob(evaluation.checkpoint or ""))
    files = trained_files(rig, evaluation)
    ways: dict[str, list[Callable[[], Score]]] = {
        "fp32": [lambda: evaluate(network, weights, rig.task, "test")]
    }
    for kind in kinds_of(rig.targets_of(evaluation.trial)):
        if kind.precision != "fp32":
            ways.setdefault(kind.precision, []).append(partial(files.score, kind, "test"))
    accuracy, undefined = {}, {}
    for name, each in ways.items():
        try:
            with rig.blaming(f"trial {number}"):
                accuracy[name] = to_json(worst((score() for score in each), rig.task.maximise))
        except CandidateError as error:
            undefined[name] = str(error)
            rig.watcher.note(f"  trial {number} has no test score ({name}): {error}")
    rig.run.append("tested", str(number), {"accuracy": accuracy, "undefined": undefined})


def write_results(rig: Rig, folder: Path) -> None:
    """Writes the CSVs, pictures, report and the winners' files; everything comes from the store."""
    rig.watcher.stage("report")
    write_report(rig.run, folder)
    winners = {
        int(number)
        for target in rig.study.targets
        for number in table.pareto(rig.run, target.name).query("nominal")["trial"]
    }
    winners |= {m.known.trial.number for m in front_across_targets(history(rig.run)) if m.nominal}
    _write_models(rig, folder / "models", winners)


def _write_models(rig: Rig, models: Path, winners: Collection[int]) -> None:
    """Writes what is not there yet.

    Raises:
        StoreError: If one would not be what was measured; the others are written.  If the folder is a link.
    """
    if models.is_symlink():
        raise StoreError(f"{models} is a link; remove it: a run writes nothing outside its folder")
    known, refused, written = known_hashes(rig.run), [], []
    for evaluation in evaluations(rig.run):
        number = evaluation.trial.number
        if number in winners:
            files = trained_files(rig, evaluation)
            for kind in sorted({*_FLOAT_KINDS, *kinds_of(rig.targets_of(evaluation.trial))}):
                tail = "" if kind.precision == "fp32" else f"-{kind.precision}"
                path = models / f"trial{number}{tail}.{kind.file_format}"
                measured = known.get((str(number), kind), set())
                written.append((number, kind, path))
                if keep_or_write(path, partial(files.file, kind), measured):
                    continue
                if measured:
                    refused.append(path)
                else:
                    rig.watcher.note(f"  {path} is left as it is: it would be written in other bytes now")
    if refused:
        raise StoreError(
            f"not written, for they would not be what was measured: {', '.join(map(str, refused))}; "
            "what is there was left as it is. Another version of Boardwise or another host began this run: "
            "resume it there, or begin a new run"
        )
    write_notes(models, history(rig.run), rig.task, written)
