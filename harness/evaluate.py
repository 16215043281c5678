"""The blocking steps of one trial: build, screen, train, export, check.

Each step's result goes to the store before the next begins, in order and without waiting for the disk; all
of it is durable before the trial is told.  A step that the store already has is not done again, so a run that
was killed goes on where it was.  A trial that certainly breaks a limit is never
trained.  This is the only place that turns a candidate's error into a failed trial.
"""

from __future__ import annotations

import threading
import time

from harness.deployment import Kind, graph_costs, kind_of, kinds_of, require_room, untrained_file
from harness.export import Exported
from harness.measure import Job, measure
from harness.resumption import network_hashes
from harness.rig import Progressing, Rig
from harness.train import Trainer
from harness.verify import Prover
from results.codec import from_json, to_json
from results.errors import ArchitectureError, CandidateError, TrainingError
from results.fidelity import is_full, levels
from results.front import own_limits
from results.records import Evaluation, Limit, Measurement, State, Target, Trial
from results.statistics import decide, judge, value
from search.host_memory import require_host_room
from search.learning_curve_stopping import StopsEarly
from search.network import Network, initial_weights

SCREENS = 3
"""Times that a candidate is measured whose measurements are invalid, before it is given up as unmeasured."""

NEAR = 0.1
"""A noisy figure within this share of a limit gets more sessions before it decides anything."""


class Unmeasured(Exception):
    """A board gave nothing but invalid measurements of a candidate."""


class Evaluator:
    """Takes trials through their steps; may be called from several threads, one trial each.

    Args:
        rig: What the study has in use.
        stopping: Tells which trainings are hopeless; None where all are trained to their end.
    """

    def __init__(self, rig: Rig, stopping: StopsEarly | None = None) -> None:
        self.rig = rig
        self._trainer = Trainer(rig, stopping)
        self._prover = Prover(rig)
        self._screened: dict[tuple[str, str], Measurement] = {}
        self._lock = threading.Lock()
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
            with self.rig.blaming(f"trial {trial.number}"):
                return known.evaluation(*self._outcome(known))
        except (CandidateError, ArchitectureError) as error:
            if isinstance(error, TrainingError):
                known.training_s += error.training_s
            self.rig.keep_traceback(str(trial.number), error)
            return known.evaluation("failed", str(error))

    def _outcome(self, known: Progressing) -> tuple[State, str | None]:
        try:
            return self._steps(known), None
        except Unmeasured as reason:
            return "unmeasured", str(reason)

    def _steps(self, known: Progressing) -> State:
        rig = self.rig
        limits = [x for x in rig.study.limits if not x.metric.targets]
        with rig.host.busy():
            network = rig.space.build(known.trial.proposal.architecture)
            known.network = graph_costs(network, rig.targets_of(known.trial), limits)
            if self._broken(known, limits):
                self._built(known, network)
                return "infeasible"
            files = self._untrained_files(known, network)
        if self._broken(known, limits):
            return "infeasible"
        for target in rig.targets_of(known.trial):
            known.measurements[target.name] = self._screen(known, target, files[kind_of(target)])
            rig.watcher.measured(known.trial, known.measurements[target.name])
            if self._broken(known, self._limits(target)):
                return "infeasible"
        if known.trial.proposal.screen_only:
            return "screened"
        trained = self._trainer.network(known.trial, network)
        weights = self._trainer.train(known, trained)
        if self._is_provable(known):
            self._prover.prove(known, trained, weights)
        return "complete"

    def _limits(self, target: Target) -> list[Limit]:
        return list(own_limits(self.rig.problem, target))

    def _broken(self, known: Progressing, limits: list[Limit]) -> bool:
        evaluation = known.evaluation("complete")
        return any(decide(evaluation, limit) == "broken" for limit in limits)

    # ------------------------------------------------------------------ build

    def _built(self, known: Progressing, network: Network) -> None:
        if self.rig.run.get("built", str(known.trial.number)) is None:
            body = {"network": known.network, **network_hashes(network)}
            self.rig.run.append_later("built", str(known.trial.number), body)

    def _untrained_files(self, known: Progressing, network: Network) -> dict[Kind, Exported]:
        require_host_room(network)
        weights = initial_weights(network, self.rig.study.seed)
        kinds = kinds_of(self.rig.targets_of(known.trial))
        files = {kind: untrained_file(network, weights, kind, self.rig.metadata) for kind in kinds}
        known.network |= {kind.size_key: float(file.artifact.size_bytes) for kind, file in files.items()}
        self._built(known, network)
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


def _is_near(evaluation: Evaluation, limit: Limit) -> bool:
    figure = value(evaluation, limit.metric)
    return figure is not None and abs(figure.value - limit.upper) <= NEAR * limit.upper
