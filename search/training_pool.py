"""Trainings in processes of their own, several at a time, that can be stopped while a board measures.

Processes come from multiprocessing's fork server with PyTorch loaded (30 ms each instead of 2.5 s, and
memory shared).  A worker that is killed is started again and its job goes on from the last epoch that was
kept (:mod:`search.training_checkpoint`).  Workers end with the process that owns the pool, however that one
ends (:mod:`search.training_worker`).
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Mapping
from typing import Any

from results.errors import TrainingError
from search.host_memory import out_of_memory_kills
from search.training_checkpoint import EVERY_S
from search.training_processes import PoolClosed, Processes, Worker, how_it_ended
from search.training_queue import Outcome, Queued, Slot, TrainingQueue, WorkerDied
from search.training_worker import Coming, EpochDone, stat_fields

_TICK_S = 1.0
_GRACE_S = 10.0
"""CPU time that a job gets on top of 1.2 times its limit before it is killed from outside."""
_STALLED_TICKS = 600
"""Ticks without any CPU time after which a training is taken to hang."""


class TrainingPool(TrainingQueue):
    """A number of processes that train, one thread each.

    A context manager; a pool that nobody closes is closed when the interpreter ends.  Arguments and errors:
    :class:`search.training_queue.TrainingQueue`.
    """

    def __init__(
        self,
        workers: int,
        *,
        coming: tuple[str, Mapping[str, Any]] | None = None,
        checkpoint_every_s: float = EVERY_S,
    ) -> None:
        self._processes = Processes()
        super().__init__(workers, coming=coming, checkpoint_every_s=checkpoint_every_s)

    def pause(self) -> None:
        self._processes.pause()

    def resume(self) -> None:
        self._processes.resume()

    def _slot(self) -> Slot:
        return _Slot(self._processes)

    def _kill(self) -> None:
        self._processes.kill()

    def _release(self) -> None:
        self._processes.end_guard()


class _Slot:
    """A worker that is replaced when it dies."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._worker: Worker | None = None

    def prepare(self, coming: Coming | None) -> None:
        with contextlib.suppress(PoolClosed, OSError, EOFError):  # tried again when there is a job
            worker = self._living()
            if coming is not None:
                worker.connection.send_bytes(pickle.dumps(coming))

    def discard(self) -> None:
        if self._worker is not None:
            self._processes.end(self._worker)
            self._worker = None

    def _living(self) -> Worker:
        """A worker that lives, as far as can be told."""
        if self._worker is not None and not self._processes.alive(self._worker):
            self.discard()
        if self._worker is None:
            self._worker = self._processes.start()
        return self._worker

    def attempt(self, item: Queued) -> Outcome:
        try:
            worker = self._living()
        except EOFError as error:
            raise OSError("the fork server of the training pool died") from error
        watch = _Watch(worker.process.pid or 0, item)
        epoch, kills = 0, out_of_memory_kills()
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
                stop = item.show(message)
                if item.order.asks:
                    worker.connection.send(stop)
        except (EOFError, OSError) as error:
            memory = out_of_memory_kills() > kills
            reason = how_it_ended(self._processes.exitcode(worker), for_memory=memory)
            raise WorkerDied(reason, epoch, watch.spent_s) from error


class _Watch:
    """Notices a job whose own code does not come back: a training checks its limit between batches only.

    Args:
        pid: Process of the worker.
        item: Its job.
    """

    def __init__(self, pid: int, item: Queued) -> None:
        self._pid = pid
        self._item = item
        self._started_s = self._last_s = _cpu_s(pid)
        self._still = 0
        self._limit_s = 1.2 * item.time_limit_s + _GRACE_S

    @property
    def spent_s(self) -> float:
        """CPU time of the job when it was last looked at [s]."""
        return self._last_s - self._started_s

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
            text = f"longer than the time limit of {limit_s:g} s of CPU time; killed"
            raise TrainingError(self._item.candidate, text, self.spent_s)
        if self._still >= _STALLED_TICKS:
            text = f"used no CPU for {_STALLED_TICKS * _TICK_S:g} s, so it hangs; killed"
            raise TrainingError(self._item.candidate, text, self.spent_s)


def _cpu_s(pid: int) -> float:
    fields = stat_fields(pid)
    ticks = int(fields[11]) + int(fields[12]) if fields else 0
    return ticks / os.sysconf("SC_CLK_TCK")
