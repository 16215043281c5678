"""What runs in the processes of a training pool: workers, and the guard that ends them with their owner.

Workers are forked by multiprocessing's fork server, which is their parent.  When the main process is
killed, that server lives on as long as a worker does, and a stopped worker (a board is being measured)
would never notice.  Hence the guard: it waits for the end of a pipe that the main process alone holds
open and then kills the workers and the server.  Should the server die alone, the kernel kills the workers:
each has asked for that, unless it was stopped before it could; then it ends when it goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from results.errors import BoardwiseError, DataError, TrainingError
from search.user_code import blamed, whole_traceback

if TYPE_CHECKING:
    from search.training import TrainingJob, TrainingResult

PRELOADED = ("numpy", "torch", "torch.optim", "torch._dynamo")
"""What the fork server imports once for all workers.  Nothing of ours: the server looks into the working
folder first, where a user may well have a ``search.py``.  PyTorch's optimisers load the last one."""

_PR_SET_PDEATHSIG = 1
_FIRST_TO_KILL = "500"
"""Added to a worker's badness (-1000..1000) when the kernel runs out of memory: the search should survive."""


@dataclass(frozen=True)
class Order:
    """Sent to a worker: a job, and how to go about it.

    Attributes:
        job: What to train.
        checkpoint: File that keeps the state.
        every_s: CPU seconds of training between two states that are kept.
        asks: Whether the worker is to wait after every epoch for whether to go on.
    """

    job: TrainingJob
    checkpoint: Path
    every_s: float
    asks: bool = False


@dataclass(frozen=True)
class Coming:
    """Sent to a worker before the first job: what it will train on, so that it can load that meanwhile."""

    task_name: str
    task_options: dict[str, Any]


@dataclass(frozen=True)
class EpochDone:
    """Sent by a worker after each epoch; answered with whether to stop where the order said so."""

    epoch: int
    score: float


@dataclass(frozen=True, eq=False)
class JobFailed:
    """Sent by a worker whose job raised; with the traceback of its cause, which is not sent."""

    error: BoardwiseError
    traceback: str = ""


def guard(owner: Connection) -> None:
    """Runs until the owner's end of the pipe is gone, then kills the fork server and with it all workers.

    Answers each message with the process number of the fork server, so that the owner knows which one
    its workers will have as parent.
    """
    server = os.getppid()
    if b"multiprocessing.forkserver" not in Path(f"/proc/{server}/cmdline").read_bytes():
        return  # it died before this line, and whoever adopted this process is not to be killed
    _die_with(server)
    _ignore_interrupts()
    with contextlib.suppress(EOFError, OSError):
        while True:
            owner.recv_bytes()
            owner.send(server)
    for pid in [*_children(server), server]:
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (the state) on; empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _children(parent: int) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if stat_fields(pid)[1:2] == [str(parent)]]


def work(jobs: Connection, server: int) -> None:
    """Trains what comes in until the pipe ends.

    Args:
        jobs: Pickled orders in; :class:`EpochDone`, then a ``TrainingResult`` or :class:`JobFailed`, out.
        server: Process number of the fork server.
    """
    _die_with(server)
    _ignore_interrupts()
    with contextlib.suppress(OSError):  # where it is not allowed the kernel chooses by itself
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_KILL)
    import search.training  # noqa: F401  before the first job comes, not after

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            order = pickle.loads(jobs.recv_bytes())
            if isinstance(order, Coming):
                load(order)
            else:
                jobs.send(outcome(order, jobs))


def load(coming: Coming) -> None:
    """Loads what will be trained on; what cannot be loaded is said by the first job."""
    from search.training import loaded_task

    with contextlib.suppress(DataError):
        loaded_task(coming.task_name, coming.task_options)


class Channel(Protocol):
    """To whoever gave the order."""

    def send(self, message: EpochDone, /) -> None:
        """Tells of an epoch."""

    def recv(self) -> Any:
        """Whether to stop after it, where the order asks."""


def outcome(order: Order, channel: Channel) -> TrainingResult | JobFailed:
    """Trains; every epoch is told, and answered where the order says so."""
    from search.training import train
    from search.training_checkpoint import Checkpoint

    def on_epoch(epoch: int, score: float) -> bool:
        channel.send(EpochDone(epoch, score))
        return order.asks and bool(channel.recv())

    try:
        with blamed("the training raised", partial(TrainingError, order.job.network.fingerprint)):
            return train(order.job, on_epoch, checkpoint=Checkpoint(order.checkpoint, order.every_s))
    except BoardwiseError as error:
        return JobFailed(error, "" if error.__cause__ is None else whole_traceback(error.__cause__))


def _die_with(server: int) -> None:
    """Asks the kernel to kill this process when its parent, the fork server, dies.

    The request holds from now on only, so whether the parent is still there is checked after it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != server:
        os._exit(1)


def _ignore_interrupts() -> None:
    """Ctrl-C goes to the whole terminal; what becomes of a training is for the main process to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
