"""Trainings in actors of a Ray cluster; the interface and the results of the training pool.

With the environment's ``RAY_ADDRESS`` it uses that cluster, otherwise it starts Ray on this machine.  Each
worker is an actor with one core.  A job gives the same bytes as in a process of :mod:`search.training_pool`,
on the same kind of processor.

What is different: a worker that is killed goes on from what was kept only if its replacement is on the same
machine, elsewhere it begins again; code that does not come back is not noticed; a pause stops the workers
on this machine, the others disturb no board here.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from results.errors import ConfigError
from search.training_checkpoint import EVERY_S
from search.training_processes import Pausable, PoolClosed
from search.training_queue import Outcome, Queued, Slot, TrainingQueue, WorkerDied
from search.training_worker import Coming, EpochDone, load, outcome

_THREADS = 3
"""Of an actor: one trains, one waits for the next message, one takes answers."""


def _ray() -> Any:
    """The library, which is not installed with Boardwise.

    Raises:
        ConfigError: If it is not there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to its makers otherwise
    try:
        import ray
    except ImportError as error:
        raise ConfigError("trainings with Ray need the package ray: pip install 'boardwise[ray]'") from error
    return ray


class Actor:
    """What runs in a worker: one training at a time, whose messages are fetched one by one."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def where(self) -> tuple[str, int]:
        """Node and process number."""
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    def prepare(self, coming: bytes) -> None:
        """Loads what will be trained on."""
        load(pickle.loads(coming))

    def train(self, payload: bytes) -> None:
        """Trains; what comes of it is fetched with :meth:`message`."""
        order = pickle.loads(payload)
        order.checkpoint.parent.mkdir(exist_ok=True)  # on a machine that is not the owner's
        self._messages.put(outcome(order, self))
        order.checkpoint.unlink(missing_ok=True)

    def message(self) -> Any:
        """The next message of the training: :class:`EpochDone`, in the end a result or ``JobFailed``."""
        return self._messages.get()

    def answer(self, stop: bool) -> None:
        """Says whether to stop after the epoch that was told."""
        self._answers.put(stop)

    def send(self, message: EpochDone) -> None:
        """For :func:`search.training_worker.outcome`."""
        self._messages.put(message)

    def recv(self) -> bool:
        """For :func:`search.training_worker.outcome`."""
        return self._answers.get()


class RayPool(TrainingQueue):
    """A number of actors that train, one thread each.

    A context manager.  Arguments and errors: :class:`search.training_queue.TrainingQueue`.

    Raises:
        ConfigError: If Ray is not installed.
    """

    def __init__(
        self,
        workers: int,
        *,
        coming: tuple[str, Mapping[str, Any]] | None = None,
        checkpoint_every_s: float = EVERY_S,
    ) -> None:
        self._actors = _Actors(_ray(), workers)
        super().__init__(workers, coming=coming, checkpoint_every_s=checkpoint_every_s)

    def pause(self) -> None:
        self._actors.pause()

    def resume(self) -> None:
        self._actors.resume()

    def _slot(self) -> Slot:
        return _Slot(self._actors)

    def _kill(self) -> None:
        self._actors.kill()

    def _release(self) -> None:
        self._actors.release()


class _Actors(Pausable):
    """The actors of a pool: started, stopped for a while, killed; all under one lock."""

    def __init__(self, ray: Any, workers: int) -> None:
        super().__init__()
        self.ray = ray
        self._living: dict[Any, int | None] = {}
        self._closed = False
        self._ours = not ray.is_initialized()
        if self._ours:
            cores = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers}
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", **cores)
        self._here = ray.get_runtime_context().get_node_id()

    @property
    def closed(self) -> bool:
        """Whether the actors were killed for good."""
        return self._closed

    def start(self) -> Any:
        """A new actor; stopped at once if the pool is paused and it is on this machine."""
        with self._lock:
            if self._closed:
                raise PoolClosed
            actor = self.ray.remote(Actor).options(num_cpus=1, max_concurrency=_THREADS).remote()
            node, pid = self.ray.get(actor.where.remote())
            self._living[actor] = pid if node == self._here else None
            if self._pauses:
                self._signal(signal.SIGSTOP)
            return actor

    def end(self, actor: Any) -> None:
        """Kills one actor."""
        with self._lock:
            if actor in self._living:
                del self._living[actor]
                self.ray.kill(actor)

    def kill(self) -> None:
        """Kills all actors; none is started afterwards."""
        with self._lock:
            self._closed = True
            self._signal(signal.SIGKILL)  # what is stopped does not hear Ray
            for actor in self._living:
                self.ray.kill(actor)

    def release(self) -> None:
        """Shuts Ray down if this pool started it."""
        with self._lock:
            self._living.clear()
            if self._ours and self.ray.is_initialized():
                self.ray.shutdown()

    def _pids(self) -> list[int]:
        return [pid for pid in self._living.values() if pid is not None]


class _Slot:
    """An actor that is replaced when it dies."""

    def __init__(self, actors: _Actors) -> None:
        self._actors = actors
        self._actor: Any = None
        self._epoch = 0

    def prepare(self, coming: Coming | None) -> None:
        with contextlib.suppress(PoolClosed, WorkerDied), self._deaths():
            actor = self._living()
            if coming is not None:
                actor.prepare.remote(pickle.dumps(coming))

    def discard(self) -> None:
        if self._actor is not None:
            self._actors.end(self._actor)
            self._actor = None

    def _living(self) -> Any:
        if self._actor is None:
            self._actor = self._actors.start()
        return self._actor

    def attempt(self, item: Queued) -> Outcome:
        get, self._epoch = self._actors.ray.get, 0
        with self._deaths():
            actor = self._living()
            actor.train.remote(item.payload)
            while isinstance(message := get(actor.message.remote()), EpochDone):
                self._epoch = message.epoch
                stop = item.show(message)
                if item.order.asks:
                    actor.answer.remote(stop)
            return message  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _deaths(self) -> Iterator[None]:
        """Ray's errors as those of a worker; PoolClosed where it was killed with the pool."""
        try:
            yield
        except self._actors.ray.exceptions.RayError as error:
            if self._actors.closed:
                raise PoolClosed from error
            raise WorkerDied(str(error).partition("\n")[0], self._epoch) from error
