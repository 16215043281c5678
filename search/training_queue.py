"""Trainings that wait for a worker: the part of a training pool that does not care what a worker is.

One thread per worker takes one job after another.  A job whose worker dies is tried again; it has failed
after two deaths in a row between which it came no further.
"""

from __future__ import annotations

import abc
import atexit
import contextlib
import itertools
import logging
import pickle
import queue
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from results.errors import ConfigError, TrainingError
from search.datasets import located
from search.training import TrainingJob, TrainingResult
from search.training_checkpoint import EVERY_S
from search.training_processes import PoolClosed
from search.training_run import OnEpoch
from search.training_worker import Coming, EpochDone, JobFailed, Order

_logger = logging.getLogger(__name__)

_ATTEMPTS = 2
"""Deaths in a row after which a job is given up that came no further between them."""


class WorkerDied(Exception):
    """A worker ended in the middle of a job, after epoch ``epoch`` of it and ``spent_s`` CPU seconds."""

    def __init__(self, reason: str, epoch: int, spent_s: float = 0.0) -> None:
        super().__init__(reason)
        self.epoch = epoch
        self.spent_s = spent_s


class WorkerRaised(Exception):
    """Stands for what a job raised in its worker: the traceback there."""


@dataclass(frozen=True, eq=False)
class Queued:
    """A job that waits or runs."""

    order: Order
    payload: bytes
    on_epoch: OnEpoch | None
    future: Future[TrainingResult]

    @property
    def candidate(self) -> str:
        """Name of what is trained, in errors."""
        return self.order.job.network.fingerprint

    @property
    def time_limit_s(self) -> float:
        """CPU time of the job [s]."""
        return self.order.job.time_limit_s

    def discard_checkpoint(self) -> None:
        """Removes what was kept of the training."""
        self.order.checkpoint.unlink(missing_ok=True)

    def show(self, message: EpochDone) -> bool:
        """Tells whoever watches; whether they want it to stop.  If they fail, the training goes on."""
        if self.on_epoch is None:
            return False
        try:
            return bool(self.on_epoch(message.epoch, message.score))
        except Exception:
            _logger.exception("the display of epoch %d failed", message.epoch)
            return False


Outcome = TrainingResult | JobFailed


class Slot(Protocol):
    """A worker that is replaced when it dies; used by one thread."""

    def prepare(self, coming: Coming | None) -> None:
        """Starts the worker before there is a job, and has it load the data; what fails is tried again."""

    def attempt(self, item: Queued) -> Outcome:
        """Runs a job from where it was kept.

        Raises:
            WorkerDied: If the worker ended before the job did.
            OSError: If there is no worker to be had.
            TrainingError: If the worker had to be ended.
            PoolClosed: If the pool was closed meanwhile.
        """

    def discard(self) -> None:
        """Ends the worker."""


class TrainingQueue(abc.ABC):
    """Jobs and the threads that hand them to workers; a context manager.

    Args:
        workers: Trainings at a time; at least 1.
        coming: Name and options of the task that will be trained on.  The workers are started at once then,
            and load it while nothing is to be trained yet.
        checkpoint_every_s: CPU seconds of training between two states that are kept, each after an epoch.

    Raises:
        ConfigError: For fewer workers than one.
    """

    def __init__(
        self,
        workers: int,
        *,
        coming: tuple[str, Mapping[str, Any]] | None = None,
        checkpoint_every_s: float = EVERY_S,
    ) -> None:
        if workers < 1:
            raise ConfigError(f"a training pool needs at least 1 worker, got {workers}")
        self._coming = None if coming is None else Coming(located(coming[0]), dict(coming[1]))
        self._every_s = checkpoint_every_s
        self._folder = tempfile.TemporaryDirectory(prefix="boardwise-training-")
        self._numbers = itertools.count()
        self._queue: queue.SimpleQueue[Queued | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"training-{i}", daemon=True) for i in range(workers)
        ]
        atexit.register(self.close)
        for thread in self._threads:
            thread.start()

    def submit(
        self, job: TrainingJob, on_epoch: OnEpoch | None = None, *, may_stop: bool = False
    ) -> Future[TrainingResult]:
        """Queues a job.

        Args:
            job: What to train.
            on_epoch: Called in a thread of this process with the number of epochs done and the validation
                score.  Epochs that were not kept when the worker was killed are done, and told, again.
            may_stop: Whether a training is ended where ``on_epoch`` gives True; it waits for the answer.

        Returns:
            A future that raises what :func:`search.training.train` raises, and ``TrainingError`` too for
            a job whose worker was killed twice.  It can be cancelled while it waits.

        Raises:
            RuntimeError: If the pool is closed.
        """
        job = replace(job, task_name=located(job.task_name))
        future: Future[TrainingResult] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the training pool is closed")
            checkpoint = Path(self._folder.name) / f"{next(self._numbers)}.pt"
            order = Order(job, checkpoint, self._every_s, may_stop)
            self._queue.put(Queued(order, pickle.dumps(order), on_epoch, future))
        return future

    @abc.abstractmethod
    def pause(self) -> None:
        """Stops all workers on this machine where they are; when it returns, none of them runs.

        Calls may be nested.  Time limits count CPU time, so a pause costs a training nothing.
        """

    @abc.abstractmethod
    def resume(self) -> None:
        """Lets the workers go on when every :meth:`pause` has had its resume.

        Raises:
            RuntimeError: If the pool is not paused.
        """

    @abc.abstractmethod
    def _slot(self) -> Slot:
        """A place for a worker."""

    @abc.abstractmethod
    def _kill(self) -> None:
        """Ends all workers at once; their jobs are cancelled."""

    @abc.abstractmethod
    def _release(self) -> None:
        """Gives back what the workers needed, when all of them are gone."""

    def close(self) -> None:
        """Kills the workers and waits until they are gone; running and waiting jobs are cancelled."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._cancel_waiting()
            for _ in self._threads:
                self._queue.put(None)
            self._kill()
            atexit.unregister(self.close)
        for thread in self._threads:
            thread.join()
        self._release()
        self._folder.cleanup()

    def _cancel_waiting(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if item is not None:
                    item.future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ one thread per worker

    def _serve(self) -> None:
        """Keeps one worker and gives it one job after another."""
        slot = self._slot()
        slot.prepare(self._coming)
        while (item := self._queue.get()) is not None:
            if not item.future.set_running_or_notify_cancel():
                continue
            try:
                result = _persistent(slot, item)
            except PoolClosed:
                item.future.set_exception(CancelledError())
            except Exception as error:  # noqa: BLE001  whoever waits must hear of it, or waits for ever
                item.future.set_exception(error)
            else:
                if isinstance(result, JobFailed):
                    result.error.__cause__ = WorkerRaised(result.traceback) if result.traceback else None
                    item.future.set_exception(result.error)
                else:
                    item.future.set_result(result)
            item.discard_checkpoint()
        slot.discard()


def _persistent(slot: Slot, item: Queued) -> Outcome:
    """The outcome of a job.

    Raises:
        TrainingError: If its worker died twice and came no further between, or it had to be ended.
        PoolClosed: If the pool was closed meanwhile.
    """
    deaths = furthest = 0
    spent_s = 0.0
    while True:
        try:
            return slot.attempt(item)
        except (WorkerDied, OSError) as death:
            slot.discard()
            epoch = 0
            if isinstance(death, WorkerDied):
                epoch = death.epoch
                spent_s += death.spent_s
            deaths = 1 if epoch > furthest else deaths + 1
            furthest = max(furthest, epoch)
            if deaths == _ATTEMPTS:
                raise TrainingError(
                    item.candidate,
                    f"its training process ended {_ATTEMPTS} times, last: {death}",
                    spent_s,
                ) from death
        except TrainingError:
            slot.discard()
            raise
