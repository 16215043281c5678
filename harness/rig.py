"""What a study has in use while it runs, and what is known of a trial under way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.board import Board, Stopped
from harness.deployment import TrainedFiles
from harness.file_metadata import FILE_METADATA, NONE, Metadata
from harness.host import Host
from harness.progress import Watcher
from harness.study import Study, problem_of
from results.errors import BoardwiseError, OutOfMemory, StepFailed
from results.records import Evaluation, Measurement, Plan, Problem, Score, State, Target, Trial
from results.statistics import Spread
from results.store import Run, Store
from results.tracebacks import RAISED
from search.host_memory import is_out_of_memory
from search.joint import targets_of
from search.network import Network
from search.space import SearchSpace
from search.tasks import Task
from search.training_queue import TrainingQueue
from search.user_code import from_outside, last_lines, whole_traceback

Weights = Mapping[str, NDArray[np.float32]]


@dataclass
class Rig:
    """Everything that a study has in use while it runs."""

    study: Study
    store: Store
    run: Run
    space: SearchSpace
    task: Task
    pool: TrainingQueue
    boards: Mapping[str, Board]
    host: Host
    watcher: Watcher
    spread: dict[str, Spread] = field(default_factory=dict)
    order: tuple[Target, ...] = ()
    aborted: bool = False

    @property
    def problem(self) -> Problem:
        """What the study is after."""
        return problem_of(self.study, self.task)

    def abort(self) -> None:
        """Makes everything under way end soon, in whatever thread it is."""
        self.aborted = True
        for board in self.boards.values():
            board.stop()
        self.pool.close()

    @contextmanager
    def blaming(self, candidate: str) -> Iterator[None]:
        """Makes what a step raises, and nobody foresaw, the fault of its candidate; not of what was aborted.

        Raises:
            OutOfMemory: In place of an error for want of memory.
            StepFailed: In place of anything else, which is its cause.
        """
        try:
            yield
        except (BoardwiseError, Stopped):
            raise
        except BaseException as error:
            if self.aborted or from_outside(error):
                raise
            if is_out_of_memory(error):
                text = "a step of it needs more memory than this machine has"
                raise OutOfMemory(candidate, text) from error
            text = f"a step raised (the whole traceback is in tracebacks.txt):\n{last_lines(error)}"
            raise StepFailed(candidate, text) from error

    def keep_traceback(self, key: str, error: BaseException) -> None:
        """Stores where an error came from that stands for another's, which is none of ours."""
        cause = error.__cause__
        if cause is not None and not isinstance(cause, BoardwiseError) and not self.run.get(RAISED, key):
            self.run.append_soon(RAISED, key, {"traceback": whole_traceback(cause)})

    def targets_of(self, trial: Trial) -> tuple[Target, ...]:
        """Where a trial is measured, the cheapest first: on all targets but those that it did not choose."""
        return targets_of(self.space, trial.proposal.architecture, self.order or self.study.targets)

    @property
    def metadata(self) -> Metadata:
        """What the model files of the run say of themselves."""
        found: Metadata = self.run.config.get(FILE_METADATA, NONE)
        return found

    def trained_files(self, network: Network, weights: Weights) -> TrainedFiles:
        """The files of a network with trained weights."""
        return TrainedFiles(network, weights, self.task, self.study.calibration, self.metadata)

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
