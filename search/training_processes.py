"""The processes of a training pool: started, stopped for a while, killed.

What they run is in :mod:`search.training_worker`.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker, spawn
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

from search.training_worker import PRELOADED, guard, stat_fields, work

_REAP_LIMIT_S = 1.0
_ATTEMPTS = 2
_TRAINING, _GUARD = "boardwise-training", "boardwise-guard"


class PoolClosed(Exception):
    """No process is started any more."""


@dataclass(frozen=True, eq=False)
class Worker:
    """A process that trains, or the guard, and this process's end of the pipe to it."""

    process: ForkServerProcess
    connection: Connection


class Pausable(abc.ABC):
    """Workers of this machine that are stopped for a while; pauses may be nested."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pauses = 0

    @property
    def paused(self) -> bool:
        """Whether the workers are stopped now."""
        return self._pauses > 0

    def pause(self) -> None:
        """Stops the workers, unless they are stopped already."""
        with self._lock:
            self._pauses += 1
            if self._pauses == 1:
                self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Takes one pause back; the workers go on after the last."""
        with self._lock:
            if not self._pauses:
                raise RuntimeError("the training pool is not paused")
            self._pauses -= 1
            if not self._pauses:
                self._signal(signal.SIGCONT)

    @abc.abstractmethod
    def _pids(self) -> list[int]:
        """Process numbers of the workers on this machine."""

    def _signal(self, number: signal.Signals) -> None:
        pids = self._pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGSTOP:
            wait_until_stopped(pids)


class Processes(Pausable):
    """The processes of a pool: started, stopped for a while, killed; all under one lock."""

    def __init__(self) -> None:
        super().__init__()
        self._context = multiprocessing.get_context("forkserver")
        _leave_main_out()
        self._context.set_forkserver_preload(list(PRELOADED))
        self._running: set[ForkServerProcess] = set()
        self._guard: Worker | None = None
        self._closed = False

    def start(self) -> Worker:
        """A new worker; stopped at once if the pool is paused.

        Raises:
            PoolClosed: After :meth:`kill`.
        """
        with self._lock:
            if self._closed:
                raise PoolClosed
            server = self._guarded()
            ours, theirs = self._context.Pipe()
            with theirs:
                process = self._context.Process(
                    target=work, args=(theirs, server), name=_TRAINING, daemon=True
                )
                process.start()
            self._running.add(process)
            if self._pauses:
                self._signal(signal.SIGSTOP)
            return Worker(process, ours)

    def _guarded(self) -> int:
        """Process number of the fork server, which a guard watches over."""
        for _ in range(_ATTEMPTS):
            if self._guard is None:
                ours, theirs = self._context.Pipe()
                with theirs:
                    process = self._context.Process(target=guard, args=(theirs,), name=_GUARD, daemon=True)
                    with _without_interrupts():  # the fork server, which this starts, too
                        process.start()
                self._guard = Worker(process, ours)
            try:
                self._guard.connection.send_bytes(b"who")
                return int(self._guard.connection.recv())
            except (EOFError, OSError):  # it died with an earlier fork server
                self.end_guard()
        raise OSError("the fork server of the training pool does not stay alive")

    def _pids(self) -> list[int]:
        return [process.pid for process in self._running if process.is_alive() and process.pid]

    def kill(self) -> None:
        """Kills all workers; none is started afterwards."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def alive(self, worker: Worker) -> bool:
        """Whether a worker has not ended."""
        with self._lock:
            return worker.process.is_alive()

    def exitcode(self, worker: Worker) -> int | None:
        """How a worker ended that closed its pipe; None if it has not yet ended."""
        with self._lock:
            worker.process.join(_REAP_LIMIT_S)
            return worker.process.exitcode

    def end(self, worker: Worker) -> None:
        """Kills one worker and waits until it is gone."""
        with self._lock:
            _end(worker)
            self._running.discard(worker.process)
            worker.process.close()

    def end_guard(self) -> None:
        """Ends the guard, which would take the end of the pipe for the end of this process."""
        with self._lock:
            if self._guard is not None:
                _end(self._guard)
                self._guard.process.close()
                self._guard = None


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started meanwhile never gets the terminal's Ctrl-C, not even before it can ignore it."""
    resource_tracker.ensure_running()  # which would let them through again when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@functools.cache
def _leave_main_out() -> None:
    """Keeps processes of these names from running the program's main module once more before they begin.

    A script that calls us and has no ``if __name__ == "__main__":`` would start a search in each of them.
    They need nothing of it; multiprocessing itself has no way to say so.
    """
    prepared = spawn.get_preparation_data

    def without_main(name: str) -> dict[str, Any]:
        data: dict[str, Any] = prepared(name)
        if name in (_TRAINING, _GUARD):
            data = {key: value for key, value in data.items() if not key.startswith("init_main_")}
        return data

    spawn.get_preparation_data = without_main


def _end(worker: Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def how_it_ended(exitcode: int | None, *, for_memory: bool) -> str:
    """What is known of the end of a process.

    Args:
        exitcode: As :mod:`multiprocessing` gives it: less than 0 for a signal, None if it still runs.
        for_memory: Whether the kernel killed a process for want of memory meanwhile.
    """
    if exitcode is None:
        return "it closed its connection and still ran"
    if exitcode >= 0:
        return f"it ended itself with exit status {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:  # a real-time signal
        name = f"signal {-exitcode}"
    if exitcode != -signal.SIGKILL:
        return f"killed by {name}"
    if for_memory:
        return f"killed by {name}: the kernel was out of memory"
    return f"killed by {name}; too little memory is the most common cause, but the kernel tells of none"


def wait_until_stopped(pids: list[int], limit_s: float = 1.0) -> None:
    """Returns when no thread of the processes runs (a signal takes effect a moment after it is sent)."""
    end = time.monotonic() + limit_s
    for pid in pids:
        while (fields := stat_fields(pid)) and fields[0] not in "TtZX" and time.monotonic() < end:
            time.sleep(0.0005)
