"""The blocking steps of one trial: build, screen, train, export, check.

Each step's result is stored before the next begins, and a step that the store already has is not done
again; so a run that was killed goes on where it was.  A trial that certainly breaks a limit is never
trained.  This is the only place that turns a candidate's error into a failed trial.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import checkpoints
from harness.board import Board
from harness.deployment import Kind, TrainedFiles, kind_of, kinds_of, require_room, untrained_file, worst
from harness.export import Exported
from harness.host import Host
from harness.inherit import inherited
from harness.measure import Job, measure
from harness.progress import Watcher
from harness.prove import compare_on_board
from harness.study import Study
from harness.training_watch import TrainingWatch
from harness.trainings import TRAINING, SharedTrainings, training_key
from results.blobs import name_of
from results.codec import from_json, to_json
from results.errors import ArchitectureError, CandidateError
from results.fidelity import is_full, levels
from results.front import own_limits
from results.records import Evaluation, Limit, Measurement, Option, Plan, Score, State, Target, Trial
from results.statistics import Spread, decide, judge, value
from results.store import Run, Store
from search.joint import JointSpace, recipe_of, targets_of
from search.learning_curve_stopping import StopsEarly
from search.network import Network, costs, initial_weights
from search.space import SearchSpace
from search.tasks import Task
from search.training import TrainingJob, predict
from search.training_pool import TrainingPool

CHECKED_IMAGES = 8
"""Real images on which a trained file is compared with PyTorch."""

SCREENS = 3
"""Times that a candidate is measured whose measurements are invalid, before it is given up as unmeasured."""

NEAR = 0.1
"""A noisy figure within this share of a limit gets more sessions before it decides anything."""

Weights = Mapping[str, NDArray[np.float32]]


class Unmeasured(Exception):
    """A board gave nothing but invalid measurements of a candidate."""


@dataclass
class Rig:
    """Everything that a study has in use while it runs."""

    study: Study
    store: Store
    run: Run
    space: SearchSpace
    task: Task
    pool: TrainingPool
    boards: Mapping[str, Board]
    host: Host
    watcher: Watcher
    spread: dict[str, Spread] = field(default_factory=dict)
    order: tuple[Target, ...] = ()

    def abort(self) -> None:
        """Makes everything under way end soon, in whatever thread it is."""
        for board in self.boards.values():
            board.stop()
        self.pool.close()

    def targets_of(self, trial: Trial) -> tuple[Target, ...]:
        """Where a trial is measured, the cheapest first: on all targets but those that it did not choose."""
        return targets_of(self.space, trial.proposal.architecture, self.order or self.study.targets)

    def screen_plan(self, target: Target) -> Plan:
        """The plan of a screen, leaning on the spread that the target showed before."""
        return self.spread.get(target.name, Spread()).into(self.study.screen)


@dataclass
class Progressing:
    """What is known of a trial so far."""

    trial: Trial
    measurements: dict[str, Measurement] = field(default_factory=dict)
    accuracy: dict[str, Score] = field(default_factory=dict)
    network: dict[str, float] = field(default_factory=dict)
    learning_curve: tuple[float, ...] = ()
    checkpoint: str | None = None
    training_s: float = 0.0
    stopped: bool = False

    def evaluation(self, state: State, error: str | None = None) -> Evaluation:
        """The trial in its final state."""
        return Evaluation(
            trial=self.trial,
            state=state,
            measurements=dict(self.measurements),
            accuracy=dict(self.accuracy),
            network=dict(self.network),
            learning_curve=self.learning_curve,
            checkpoint=self.checkpoint,
            training_s=self.training_s,
            error=error,
            stopped=self.stopped,
        )


class Evaluator:
    """Takes trials through their steps; may be called from several threads, one trial each.

    Args:
        rig: What the study has in use.
        stopping: Tells which trainings are hopeless; None where all are trained to their end.
    """

    def __init__(self, rig: Rig, stopping: StopsEarly | None = None) -> None:
        self.rig = rig
        self._stopping = stopping
        self._screened: dict[tuple[str, str], Measurement] = {}
        self._lock = threading.Lock()
        self._torch = threading.Lock()  # it seeds generators of the whole process
        self._trainings = SharedTrainings(rig.run)
        for record in rig.run.records("measured"):
            measurement = from_json(Measurement, record.body["measurement"])
            if judge(measurement).state != "invalid":
                self._remember(measurement)

    def evaluate(self, trial: Trial) -> Evaluation:
        """All steps of a trial.

        Raises:
            BoardError: If a board stays away; the trial is not in a final state then.
            Stopped: If the run was asked to stop.
        """
        known = Progressing(trial)
        try:
            return known.evaluation(self._steps(known))
        except (CandidateError, ArchitectureError) as error:
            return known.evaluation("failed", str(error))
        except Unmeasured as reason:
            return known.evaluation("unmeasured", str(reason))

    def _steps(self, known: Progressing) -> State:
        rig = self.rig
        with rig.host.busy():
            network = rig.space.build(known.trial.proposal.architecture)
            files = self._untrained_files(known, network)
        if self._broken(known, [x for x in rig.study.limits if not x.metric.targets]):
            return "infeasible"
        for target in rig.targets_of(known.trial):
            known.measurements[target.name] = self._screen(known, target, files[kind_of(target)])
            rig.watcher.measured(known.trial, known.measurements[target.name])
            if self._broken(known, self._limits(target)):
                return "infeasible"
        if known.trial.proposal.screen_only:
            return "screened"
        trained = self._trained_network(known.trial, network)
        weights = self._train(known, trained)
        if self._is_provable(known):
            self._prove(known, trained, weights)
        return "complete"

    def _limits(self, target: Target) -> list[Limit]:
        return list(own_limits(self.rig.study.problem, target))

    def _broken(self, known: Progressing, limits: list[Limit]) -> bool:
        evaluation = known.evaluation("complete")
        return any(decide(evaluation, limit) == "broken" for limit in limits)

    # ------------------------------------------------------------------ build

    def _untrained_files(self, known: Progressing, network: Network) -> dict[Kind, Exported]:
        weights = initial_weights(network, self.rig.study.seed)
        kinds = kinds_of(self.rig.targets_of(known.trial))
        files = {kind: untrained_file(network, weights, kind) for kind in kinds}
        cost = costs(network)
        known.network = {
            "macs": float(cost.macs),
            "parameters": float(cost.parameters),
            "activation_bytes": float(cost.activation_bytes),
        } | {kind.size_key: float(file.artifact.size_bytes) for kind, file in files.items()}
        if self.rig.run.get("built", str(known.trial.number)) is None:
            body = {"network": known.network, "graph": network.fingerprint}
            self.rig.run.append_later("built", str(known.trial.number), body)
        return files

    # ------------------------------------------------------------------ screen

    def _screen(self, known: Progressing, target: Target, file: Exported) -> Measurement:
        for number in range(SCREENS):
            measurement = self._screen_once(known, target, file, number)
            verdict = judge(measurement)
            if verdict.state != "invalid":
                self._remember(measurement)
                return measurement
        raise Unmeasured(
            f"{target.name}: measured {SCREENS} times, never validly: {'; '.join(verdict.reasons)}"
        )

    def _screen_once(self, known: Progressing, target: Target, file: Exported, number: int) -> Measurement:
        key = f"{known.trial.number}/{target.name}/screen/{number}"
        stored = self.rig.run.get("measured", key)
        if stored is not None:
            return from_json(Measurement, stored["measurement"])
        with self._lock:
            twin = self._screened.get((file.artifact.graph, target.name))
        started = time.monotonic()
        measurement = twin or self._measured(known, target, file)
        body = {"measurement": to_json(measurement), "wall_s": time.monotonic() - started}
        self.rig.run.append_soon("measured", key, body)
        return measurement

    def _measured(self, known: Progressing, target: Target, file: Exported) -> Measurement:
        board = self.rig.boards[target.device]
        require_room(file.artifact, board.facts, known.network["activation_bytes"])
        return measure(board, self._job(known.trial, target, file))

    def _job(self, trial: Trial, target: Target, file: Exported) -> Job:
        limits = self._limits(target)

        def undecided(measurement: Measurement) -> bool:
            evaluation = Evaluation(trial, "complete", {target.name: measurement})
            if any(decide(evaluation, limit) == "unclear" for limit in limits):
                return True
            near = any(_is_near(evaluation, limit) for limit in limits)
            return near and judge(measurement).state == "noisy"

        return Job(file.artifact, file.data, target, self.rig.screen_plan(target), undecided)

    def _remember(self, measurement: Measurement) -> None:
        if measurement.plan.name == "screen":
            with self._lock:
                self._screened[(measurement.artifact.graph, measurement.target.name)] = measurement

    # ------------------------------------------------------------------ train

    def _trained_network(self, trial: Trial, network: Network) -> Network:
        """What is trained of a network: itself, or narrower or for smaller images at a lower fidelity."""
        fidelity, full = trial.proposal.fidelity, self.rig.study.fidelity
        if (fidelity.width, fidelity.resolution) == (full.width, full.resolution):
            return network
        with self.rig.host.busy():
            return self.rig.space.build(
                trial.proposal.architecture, width=fidelity.width, resolution=fidelity.resolution
            )

    def _is_provable(self, known: Progressing) -> bool:
        """Whether files are written of a trained network: of what may be on a front.

        Of others only where precisions besides float32 have to be scored, for which their files are needed.
        """
        if any(kind.precision != "fp32" for kind in kinds_of(self.rig.targets_of(known.trial))):
            return True
        return self._may_be_on_a_front(known)

    def _may_be_on_a_front(self, known: Progressing) -> bool:
        if not self.rig.study.speedups.names:
            return True
        asked = [from_json(Trial, r.body["trial"]) for r in self.rig.run.records("asked")]
        level = levels(asked)[known.trial.number]
        return is_full(level, self.rig.study.fidelity) and not known.stopped

    def _train(self, known: Progressing, network: Network) -> Weights:
        body, weights = self.rig.run.get("trained", str(known.trial.number)), None
        if body is None:
            body, weights = self._trained(known, network)
        if weights is None:
            weights = checkpoints.unpack(self.rig.store.blob(body["checkpoint"]))
        known.accuracy = {name: from_json(Score, score) for name, score in body["accuracy"].items()}
        known.learning_curve = tuple(body["learning_curve"])
        known.checkpoint = body["checkpoint"]
        known.training_s = body["training_s"]
        known.stopped = "stopped" in body
        return weights

    def _trained(self, known: Progressing, network: Network) -> tuple[dict[str, Any], Weights | None]:
        """What training gave; where other trials may have the same network, each is trained once.

        The weights are None where another trial's training gave them: they are in the store.
        """
        rig, trial = self.rig, known.trial
        settings = recipe_of(rig.space, trial.proposal.architecture)
        if not isinstance(rig.space, JointSpace):
            job = self._job_of(trial, network, settings, training_seed(rig.study.seed, trial.number))
            return self._training(known, job, {})
        key = training_key(network, trial.proposal, settings)
        job = self._job_of(trial, network, settings, training_seed(rig.study.seed, int(key[:12], 16)))
        own: list[Weights] = []

        def train() -> dict[str, Any]:
            body, weights = self._training(known, job, {TRAINING: key})
            own.append(weights)
            return body

        body = self._trainings.body(key, train)
        if not own:
            rig.run.append("trained", str(trial.number), body)
        return body, own[0] if own else None

    def _job_of(self, trial: Trial, network: Network, settings: dict[str, Option], seed: int) -> TrainingJob:
        study = self.rig.study
        return TrainingJob(
            network=network,
            task_name=study.task.name,
            task_options=dict(study.task.options),
            fidelity=trial.proposal.fidelity,
            seed=seed,
            time_limit_s=study.training_limit_s,
            settings=settings,
        )

    def _training(
        self, known: Progressing, job: TrainingJob, extra: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Weights]:
        """Trains and stores what came out; the proof of the files need not wait until that is durable."""
        with self.rig.host.busy(), self._torch:
            job = replace(job, weights=inherited(self.rig, known.trial, job.network))
        watch = TrainingWatch(known.evaluation("complete"), self.rig.watcher, self._stopping)
        started = time.monotonic()
        result = self.rig.pool.submit(job, watch, may_stop=self._stopping is not None).result()
        wall_s = time.monotonic() - started
        data = checkpoints.pack(result.weights)
        body = {
            "accuracy": {"fp32": to_json(result.score)},
            "learning_curve": list(result.curve),
            "checkpoint": name_of(data),
            "training_s": result.training_s,
            "wall_s": wall_s,
            **watch.record(result),
            **extra,
        }
        self.rig.run.append_soon("trained", str(known.trial.number), body, blob=data)
        return body, result.weights

    # ------------------------------------------------------------------ prove

    def _prove(self, known: Progressing, network: Network, weights: Weights) -> None:
        """Compares the trained files with PyTorch on this host, and on the boards where asked for.

        Files that do not compute in float32 are scored, too, on this host and on the validation split.
        """
        run, targets = self.rig.run, self.rig.targets_of(known.trial)
        kinds = kinds_of(targets)
        stored = {kind: run.get("exported", f"{known.trial.number}/{kind.name}") for kind in kinds}
        bodies: dict[Kind, dict[str, Any]] = {kind: body for kind, body in stored.items() if body is not None}
        unchecked = targets if self.rig.study.check_outputs == "all" else ()
        if len(bodies) < len(kinds) or not all(is_checked(self.rig, known.trial, t) for t in unchecked):
            files = TrainedFiles(network, weights, self.rig.task, self.rig.study.calibration)
            with self.rig.host.busy():
                images = self.rig.task.splits().validation.take(CHECKED_IMAGES)
                with self._torch:
                    logits = predict(network, weights, images)
                for kind in kinds:
                    if kind not in bodies:
                        bodies[kind] = self._export(known.trial, files, kind, images, logits)
            for target in unchecked:
                kind = kind_of(target)
                check_on_board(self.rig, known.trial, target, files.file(kind), bodies[kind]["tolerance"])
        known.accuracy |= self._scored(known.trial, bodies)

    def _scored(self, trial: Trial, bodies: Mapping[Kind, Any]) -> dict[str, Score]:
        """Scores of the precisions other than float32: the worst over the formats."""
        scores: dict[str, list[Score]] = {}
        for kind, body in bodies.items():
            if body["score"] is not None:
                scores.setdefault(kind.precision, []).append(from_json(Score, body["score"]))
        accuracy = {name: worst(each, self.rig.task.maximise) for name, each in scores.items()}
        if accuracy and self.rig.run.get("scored", str(trial.number)) is None:
            self.rig.run.append_later("scored", str(trial.number), {"accuracy": to_json(accuracy)})
        return accuracy

    def _export(
        self,
        trial: Trial,
        files: TrainedFiles,
        kind: Kind,
        images: NDArray[np.float32],
        logits: NDArray[np.float32],
    ) -> dict[str, Any]:
        """Proves one file, scores it where it does not compute in float32, and stores both."""
        proof = files.prove(kind, images, logits)
        body = {
            "artifact": to_json(files.file(kind).artifact),
            **to_json(proof.comparison),
            "tolerance": proof.tolerance,
            "score": None if kind.precision == "fp32" else to_json(files.score(kind, "validation")),
        }
        self.rig.run.append_later("exported", f"{trial.number}/{kind.name}", body)
        return body


def is_checked(rig: Rig, trial: Trial, target: Target) -> bool:
    """Whether the board's outputs of a trial need no (further) look; a replay computes nothing."""
    if rig.study.check_outputs == "none" or rig.boards[target.device].origin == "replayed":
        return True
    return rig.run.get("checked", f"{trial.number}/{target.name}") is not None


def check_on_board(rig: Rig, trial: Trial, target: Target, file: Exported, tolerance: float) -> None:
    """Compares a trained file's outputs on the board with this host's, unless that was done.

    Args:
        rig: What the study has in use.
        trial: Whose file it is.
        target: Where it runs.
        file: The file.
        tolerance: Largest difference between two machines that is rounding.

    Raises:
        WrongOutput: If they differ by more than rounding.
    """
    if not is_checked(rig, trial, target):
        images = rig.task.splits().validation.take(CHECKED_IMAGES)
        board, plan = rig.boards[target.device], rig.study.screen
        found = compare_on_board(board, target, file, plan, images, tolerance=tolerance)
        rig.run.append("checked", f"{trial.number}/{target.name}", to_json(found))


def _is_near(evaluation: Evaluation, limit: Limit) -> bool:
    figure = value(evaluation, limit.metric)
    return figure is not None and abs(figure.value - limit.upper) <= NEAR * limit.upper


def training_seed(seed: int, number: int) -> int:
    """Seed of the training of a trial: a function of the study's seed and the trial's number."""
    return int(np.random.default_rng((seed, number, 1)).integers(2**31))
