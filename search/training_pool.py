"""Trainings in processes of their own, several at a time, that can be stopped while a board measures.

Processes come from multiprocessing's fork server with PyTorch loaded (30 ms each instead of 2.5 s, and
memory shared).  A worker that is killed is started again and its job goes on from the last epoch that was
kept (:mod:`search.training_checkpoint`).  Workers end with the process that owns the pool, however that one
ends (:mod:`search.training_worker`).
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import pickle
import queue
import signal
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from results.errors import ConfigError, TrainingError
from search.datasets import located
from search.training import TrainingJob, TrainingResult
from search.training_checkpoint import EVERY_S
from search.training_processes import PoolClosed, Processes, Worker
from search.training_run import OnEpoch
from search.training_worker import Coming, EpochDone, JobFailed, Order, stat_fields

_logger = logging.getLogger(__name__)

_TICK_S = 1.0
_ATTEMPTS = 2
"""Deaths in a row after which a job is given up that came no further between them."""
_GRACE_S = 10.0
"""CPU time that a job gets on top of 1.2 times its limit before it is killed from outside."""
_STALLED_TICKS = 600
"""Ticks without any CPU time after which a training is taken to hang."""


class _WorkerDied(Exception):
    """The process of a worker ended in the middle of a job, after epoch ``epoch`` of it."""

    def __init__(self, reason: str, epoch: int) -> None:
        super().__init__(reason)
        self.epoch = epoch


@dataclass(frozen=True, eq=False)
class _Queued:
    """A job that waits or runs."""

    order: Order
    payload: bytes
    on_epoch: OnEpoch | None
    future: Future[TrainingResult]

    @property
    def candidate(self) -> str:
        return self.order.job.network.fingerprint

    @property
    def time_limit_s(self) -> float:
        return self.order.job.time_limit_s

    def discard_checkpoint(self) -> None:
        self.order.checkpoint.unlink(missing_ok=True)


class TrainingPool:
    """A number of processes that train, one thread each.

    A context manager; a pool that nobody closes is closed when the interpreter ends.

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
        self._queue: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()
        self._processes = Processes()
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
            self._queue.put(_Queued(order, pickle.dumps(order), on_epoch, future))
        return future

    def pause(self) -> None:
        """Stops all workers where they are; when it returns, none of them runs.

        Calls may be nested.  Time limits count CPU time, so a pause costs a training nothing.
        """
        self._processes.pause()

    def resume(self) -> None:
        """Lets the workers go on when every :meth:`pause` has had its resume.

        Raises:
            RuntimeError: If the pool is not paused.
        """
        self._processes.resume()

    def close(self) -> None:
        """Kills the workers and waits until they are gone; running and waiting jobs are cancelled."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._cancel_waiting()
            for _ in self._threads:
                self._queue.put(None)
            self._processes.kill()
            atexit.unregister(self.close)
        for thread in self._threads:
            thread.join()
        self._processes.end_guard()
        self._folder.cleanup()

    def _cancel_waiting(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if item is not None:
                    item.future.cancel()

    def __enter__(self) -> TrainingPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ one thread per worker

    def _serve(self) -> None:
        """Keeps one worker and gives it one job after another."""
        slot = _Slot(self._processes)
        with contextlib.suppress(PoolClosed, OSError, EOFError):  # tried again when there is a job
            slot.worker()
        if self._coming is not None:
            slot.prepare(self._coming)
        while (item := self._queue.get()) is not None:
            if not item.future.set_running_or_notify_cancel():
                continue
            try:
                result = slot.run(item)
            except PoolClosed:
                item.future.set_exception(CancelledError())
            except Exception as error:  # noqa: BLE001  whoever waits must hear of it, or waits for ever
                item.future.set_exception(error)
            else:
                if isinstance(result, JobFailed):
                    item.future.set_exception(result.error)
                else:
                    item.future.set_result(result)
            item.discard_checkpoint()
        slot.discard()


class _Slot:
    """A worker that is replaced when it dies."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._worker: Worker | None = None

    def worker(self) -> Worker:
        """A worker that lives, as far as can be told."""
        if self._worker is not None and not self._processes.alive(self._worker):
            self.discard()
        if self._worker is None:
            self._worker = self._processes.start()
        return self._worker

    def prepare(self, coming: Coming) -> None:
        """Starts the worker before there is a job; the first job does so if it fails."""
        with contextlib.suppress(PoolClosed, OSError):
            self.worker().connection.send_bytes(pickle.dumps(coming))

    def discard(self) -> None:
        """Ends the worker and frees what it held."""
        if self._worker is not None:
            self._processes.end(self._worker)
            self._worker = None

    def run(self, item: _Queued) -> TrainingResult | JobFailed:
        """The outcome of a job.

        Raises:
            TrainingError: If its worker was killed twice and came no further between, or it had to be killed.
            PoolClosed: If the pool was closed meanwhile.
        """
        deaths = furthest = 0
        while True:
            try:
                return self._attempt(self.worker(), item)
            except (_WorkerDied, OSError, EOFError) as death:
                self.discard()
                epoch = death.epoch if isinstance(death, _WorkerDied) else 0
                deaths = 1 if epoch > furthest else deaths + 1
                furthest = max(furthest, epoch)
                if deaths == _ATTEMPTS:
                    raise TrainingError(
                        item.candidate,
                        f"its training process ended {_ATTEMPTS} times, last: {death}; a training that needs "
                        "more memory than the machine has ends like this",
                    ) from death
            except TrainingError:
                self.discard()
                raise

    def _attempt(self, worker: Worker, item: _Queued) -> TrainingResult | JobFailed:
        watch = _Watch(worker.process.pid or 0, item)
        epoch = 0
        try:
            worker.connection.send_bytes(item.payload)
            while True:
                while not worker.connection.poll(_TICK_S):
                    if not self._processes.paused:
                        watch.tick()
                message = worker.connection.recv()
                if not isinstance(message, EpochDone):
                    return message  # type: ignore[no-any-return]
                epoch = message.epoch
                stop = _show(item.on_epoch, message)
                if item.order.asks:
                    worker.connection.send(stop)
        except (EOFError, OSError) as error:
            raise _WorkerDied(_how_it_ended(self._processes.exitcode(worker)), epoch) from error


def _show(on_epoch: OnEpoch | None, message: EpochDone) -> bool:
    """Tells whoever watches; whether they want it to stop.  If they fail, the training goes on."""
    if on_epoch is None:
        return False
    try:
        return bool(on_epoch(message.epoch, message.score))
    except Exception:
        _logger.exception("the display of epoch %d failed", message.epoch)
        return False


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit status {exitcode}"


class _Watch:
    """Notices a job whose own code does not come back: a training checks its limit between batches only.

    Args:
        pid: Process of the worker.
        item: Its job.
    """

    def __init__(self, pid: int, item: _Queued) -> None:
        self._pid = pid
        self._item = item
        self._started_s = self._last_s = _cpu_s(pid)
        self._still = 0
        self._limit_s = 1.2 * item.time_limit_s + _GRACE_S

    def tick(self) -> None:
        """Called every second in which the worker said nothing and was not stopped.

        Raises:
            TrainingError: If the job is far over its time limit, or does nothing at all.
        """
        now_s = _cpu_s(self._pid)
        self._still = self._still + 1 if now_s == self._last_s else 0
        self._last_s = now_s
        if now_s - self._started_s > self._limit_s:
            limit_s = self._item.time_limit_s
            raise TrainingError(
                self._item.candidate, f"longer than the time limit of {limit_s:g} s of CPU time; killed"
            )
        if self._still >= _STALLED_TICKS:
            raise TrainingError(
                self._item.candidate, f"used no CPU for {_STALLED_TICKS * _TICK_S:g} s, so it hangs; killed"
            )


def _cpu_s(pid: int) -> float:
    fields = stat_fields(pid)
    ticks = int(fields[11]) + int(fields[12]) if fields else 0
    return ticks / os.sysconf("SC_CLK_TCK")
