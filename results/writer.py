"""One thread that writes: what several threads ask for at once becomes one durable transaction."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import sqlalchemy as sa

from results.database import translated
from results.errors import BoardwiseError, StoreError

T = TypeVar("T")
Write = Callable[[sa.Connection], Any]


class Writer:
    """Runs writes in the order in which they come, those that are waiting together in one transaction.

    An own thread, because SQLite has one writer anyway, and because a commit costs a flush of the disk that
    boards on several threads then share (group commit).

    Args:
        engine: The database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[tuple[Write, Future[Any]] | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        # A daemon: everything that anybody was told is durable already, so nothing is lost if it is cut off.
        self._thread = threading.Thread(target=self._work, name="boardwise-store", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether it takes no more writes."""
        return self._closed

    def do(self, write: Callable[[sa.Connection], T]) -> T:
        """The result of ``write`` after its transaction is on the disk.

        Args:
            write: Called on the writer's thread; may be called again if the transaction fails for
                another write's sake, and may raise StoreError before it has changed anything.

        Raises:
            StoreError: From ``write``, or because the database refused, or because the store is closed.
        """
        return self.put(write).result()

    def put(self, write: Callable[[sa.Connection], T]) -> Future[T]:
        """Asks for a write and does not wait for it; otherwise as :meth:`do`."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise StoreError("the store is closed")
            self._queue.put((write, future))
        return future

    def close(self) -> None:
        """Finishes what was asked for and ends the thread; may be called twice."""
        with self._lock:
            if not self._closed:
                self._queue.put(None)
            self._closed = True
        self._thread.join()

    def _work(self) -> None:
        batch: list[tuple[Write, Future[Any]]] = []
        ended = False
        try:
            while not ended:
                batch, ended = self._next_batch()
                self._commit(batch)
        except BaseException:
            self._abandon(batch)
            raise

    def _abandon(self, batch: list[tuple[Write, Future[Any]]]) -> None:
        """Nobody waits forever for a writer that a mistake of ours has ended."""
        with self._lock:
            self._closed = True
            while not self._queue.empty():
                batch += [item for item in (self._queue.get(),) if item is not None]
        for _, future in batch:
            if not future.done():
                future.set_exception(StoreError("the store's writer ended unexpectedly; see the traceback"))

    def _next_batch(self) -> tuple[list[tuple[Write, Future[Any]]], bool]:
        """All that waits, at least one; whether the end was among it."""
        batch: list[tuple[Write, Future[Any]]] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if self._queue.empty():
                return batch, False
            item = self._queue.get()
        return batch, True

    def _commit(self, batch: list[tuple[Write, Future[Any]]]) -> None:
        if not batch:
            return
        try:
            outcomes = self._transaction([write for write, _ in batch])
        except StoreError as error:
            outcomes = [error] * len(batch) if len(batch) == 1 else self._one_by_one(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BoardwiseError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _one_by_one(self, batch: list[tuple[Write, Future[Any]]]) -> list[Any]:
        """One transaction each, so that a row too large for the disk does not take its neighbours along."""
        outcomes: list[Any] = []
        for write, _ in batch:
            try:
                outcomes += self._transaction([write])
            except StoreError as error:
                outcomes.append(error)
        return outcomes

    def _transaction(self, writes: list[Write]) -> list[Any]:
        """Result of each write, or the StoreError it raised, after one commit."""
        outcomes: list[Any] = []
        with translated(self._engine.url), self._engine.begin() as connection:
            for write in writes:
                try:
                    outcomes.append(write(connection))
                except StoreError as error:
                    outcomes.append(error)
        return outcomes
