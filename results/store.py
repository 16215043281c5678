"""The append-only store: what a run asked for, measured and trained, and the files behind it.

Three tables that are never altered: ``runs``, ``records`` and ``blobs``.  In a SQLite file (WAL, every commit
flushed) what was appended outlives a ``kill -9`` and a power cut; a PostgreSQL server by its URL works
alike.  Files over 256 KiB lie beside the SQLite file, under ``blobs/``.

Repeating an append is a no-op, another body under the same key is an error: so a step that is repeated
after a crash can neither be lost nor counted twice.  Bodies are JSON, and are brought to today's shape when
they are read (:mod:`results.upgrades`).

A store belongs to the process that opened it: a forked child must not use it (SQLite's locks do not survive a
fork), and processes that are to outlive this one must not be forked from it (they would keep a claimed
run locked).  Children of a fork server, as :mod:`multiprocessing` calls it, inherit neither.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from results import blobs
from results.claim import claim_file, claim_row
from results.codec import to_json
from results.database import (
    BLOBS,
    RECORDS,
    RUNS,
    insert_new,
    open_engine,
    open_engine_to_read,
    refuse_network_file_system,
    translated,
)
from results.errors import StoreError, unknown_name
from results.records import LATEST_S
from results.upgrades import SCHEMA, upgrade
from results.writer import Writer

BLOB_IN_TABLE_BYTES = 256 * 1024
"""Larger blobs become files: from about 100 kB on they are faster (sqlite.org/intern-v-extern-blob.html)."""

T = TypeVar("T")

_RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Record:
    """A stored record.

    Attributes:
        seq: Number in the order of appending, over all runs of the store.
        kind: Kind, such as ``measured``.
        key: Key, unique within run and kind.
        body: JSON value.
        at: Host's wall clock when it was appended, seconds since the epoch.
    """

    seq: int
    kind: str
    key: str
    body: Any
    at: float


class Run:
    """One run in a store; from :meth:`Store.begin` or :meth:`Store.run`.

    Attributes:
        name: Name of the run.
        config: What it was begun with.
        begun_at: Host's wall clock when it was begun, seconds since the epoch.
    """

    def __init__(
        self, store: Store, identity: int, name: str, config: dict[str, Any], begun_at: float
    ) -> None:
        self.name = name
        self.config = config
        self.begun_at = begun_at
        self.store = store
        self._id = identity
        self._later: list[dict[str, Any]] = []
        self._later_lock = threading.Lock()
        self._underway: list[Future[None]] = []

    def append(self, kind: str, key: str, body: Any) -> None:
        """Stores a record; durable when this returns.  The same again is a no-op.

        Args:
            kind: Kind of the record.
            key: Unique within run and kind.
            body: JSON value; records of :mod:`results.records` become objects.

        Raises:
            StoreError: If another body is stored under the key, ``body`` is no JSON value, or the
                database refuses.
        """
        with self._later_lock:
            before, self._underway = self._underway, []
        for future in before:  # nothing follows in the store what failed to get there
            future.result()
        self._put(kind, key, body, b"").result()

    def append_soon(self, kind: str, key: str, body: Any, blob: bytes = b"") -> None:
        """Stores a record and a blob that it speaks of, without waiting; cannot be read before it is durable.

        Whatever is appended after it is durable after it.  An error is raised by the next :meth:`append`,
        which then stores nothing.

        Args:
            kind: Kind of the record.
            key: Unique within run and kind.
            body: JSON value.
            blob: Stored first, under its SHA-256.
        """
        future = self._put(kind, key, body, blob)
        with self._later_lock:
            self._underway.append(future)

    def _put(self, kind: str, key: str, body: Any, blob: bytes) -> Future[None]:
        with self._later_lock:
            rows, self._later = [*self._later, self._row(kind, key, body)], []

        def write(connection: sa.Connection) -> None:
            if blob:
                self.store.insert_blob(connection, blob)
            for row in rows:
                self._insert(connection, row)

        return self.store.put(write)

    def append_later(self, kind: str, key: str, body: Any) -> None:
        """Stores a record together with the next :meth:`append`, in one transaction; cannot be read before.

        For what can be computed again, in place of a flush to disk of its own.
        """
        row = self._row(kind, key, body)
        with self._later_lock:
            self._later.append(row)

    def _row(self, kind: str, key: str, body: Any) -> dict[str, Any]:
        text = _canonical(body)
        return {"run": self._id, "kind": kind, "key": key, "schema": SCHEMA, "at": time.time(), "body": text}

    def _insert(self, connection: sa.Connection, row: dict[str, Any]) -> None:
        kind, key = row["kind"], row["key"]
        if insert_new(connection, RECORDS, row):
            return
        if _canonical(self._body(connection, kind, key)) != row["body"]:
            raise StoreError(
                f"run {self.name!r} holds another {kind!r} record under {key!r}; nothing was changed"
            )

    def get(self, kind: str, key: str) -> Any | None:
        """Body of a record; None where there is none."""
        with self.store.reading() as connection:
            return self._body(connection, kind, key)

    def _body(self, connection: sa.Connection, kind: str, key: str) -> Any | None:
        query = sa.select(RECORDS.c.schema, RECORDS.c.body).where(
            RECORDS.c.run == self._id, RECORDS.c.kind == kind, RECORDS.c.key == key
        )
        row = connection.execute(query).one_or_none()
        return None if row is None else self._read(kind, key, row.schema, row.body)

    def _read(self, kind: Any, key: Any, schema: Any, text: Any) -> Any:
        try:
            return _read(kind, schema, text)
        except StoreError as error:
            raise StoreError(f"run {self.name!r}, record {kind!r} {key!r}: {error}") from error

    def _record(self, row: Any) -> Record:
        body = self._read(row.kind, row.key, row.schema, row.body)
        # SQLite keeps what it is given, whatever the column's type.
        if not isinstance(row.kind, str) or not isinstance(row.key, str) or not _is_time(row.at):
            named = f"record {row.kind!r} {row.key!r}"
            raise StoreError(f"run {self.name!r}, {named}: it is damaged: kind, key or time is none")
        return Record(row.seq, row.kind, row.key, body, row.at)

    def records(self, kind: str | None = None) -> list[Record]:
        """Records in the order in which they were appended, of one kind or of all."""
        query = sa.select(RECORDS).where(RECORDS.c.run == self._id).order_by(RECORDS.c.seq)
        if kind is not None:
            query = query.where(RECORDS.c.kind == kind)
        with self.store.reading() as connection:
            rows = connection.execute(query).all()
        return [self._record(row) for row in rows]


class Store:
    """An open store; use :meth:`open`, and close it (it is a context manager).  Safe between threads."""

    def __init__(self, engine: sa.Engine, folder: Path | None) -> None:
        self._engine = engine
        self._folder = folder
        self._process = os.getpid()
        self._writer = Writer(engine)

    @classmethod
    def open(cls, where: str | Path) -> Store:
        """Opens a store, and makes it where there is none.

        Args:
            where: Path of a SQLite file on a local disk, or a ``postgresql://`` URL.

        Raises:
            StoreError: If it cannot be opened, is damaged, belongs to another program or a newer
                version, or lies on a network file system.
        """
        if isinstance(where, str) and "://" in where:
            return cls(_open_server(where), None)
        path = Path(where).absolute()
        refuse_network_file_system(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder {path.parent}: {error.strerror}") from error
        engine = open_engine(sa.URL.create("sqlite", database=str(path)))
        blobs.flush_folder(path.parent)
        return cls(engine, path.parent / "blobs")

    @classmethod
    def open_to_read(cls, path: Path) -> Store:
        """Opens a SQLite file and changes nothing in it or beside it.

        Raises:
            StoreError: If it cannot be opened, is damaged, or belongs to another program or a newer version.
        """
        path = path.absolute()
        refuse_network_file_system(path)
        return cls(open_engine_to_read(sa.URL.create("sqlite", database=str(path))), path.parent / "blobs")

    def begin(self, name: str, config: dict[str, Any]) -> Run:
        """Begins a run.

        Args:
            name: A name that is free: letters, digits, ``_``, ``-`` and ``.``.
            config: JSON object that :attr:`Run.config` will give, its keys in the same order.

        Raises:
            StoreError: If the name is taken or cannot be used.
        """
        if not _RUN_NAME.fullmatch(name):
            raise StoreError(f"a run cannot be called {name!r}; use letters, digits, '_', '-' and '.'")
        # In its own order: the decisions of a space follow that of the keys.
        row = {"name": name, "schema": SCHEMA, "config": _text(config), "at": time.time()}

        def write(connection: sa.Connection) -> None:
            if not insert_new(connection, RUNS, row):
                raise StoreError(f"there is a run {name!r} already; resume it, or take another name")

        self.write(write)
        return self.run(name)

    def run(self, name: str) -> Run:
        """The run of that name.

        Raises:
            StoreError: If there is none, with the nearest names.
        """
        with self.reading() as connection:
            row = connection.execute(sa.select(RUNS).where(RUNS.c.name == name)).one_or_none()
        if row is None:
            raise StoreError(unknown_name("run", name, self.runs()))
        try:
            config = _read("run", row.schema, row.config)
        except StoreError as error:
            raise StoreError(f"run {name!r}, its configuration: {error}") from error
        if not isinstance(config, dict) or not _is_time(row.at):
            raise StoreError(f"run {name!r} is damaged: its configuration is no object, or its time none")
        return Run(self, row.id, row.name, config, row.at)

    def runs(self) -> list[str]:
        """Names of the runs, oldest first."""
        with self.reading() as connection:
            return list(connection.scalars(sa.select(RUNS.c.name).order_by(RUNS.c.id)))

    def put_blob(self, data: bytes) -> str:
        """Stores bytes under their SHA-256, which it gives back; durable when this returns."""
        return self.write(lambda connection: self.insert_blob(connection, data))

    def insert_blob(self, connection: sa.Connection, data: bytes) -> str:
        """Stores bytes under their SHA-256 within a change of the database; for :class:`Run`."""
        sha256 = blobs.name_of(data)
        if self._folder is not None and len(data) > BLOB_IN_TABLE_BYTES:
            blobs.write(blobs.path_of(self._folder, sha256), data)
        else:
            insert_new(connection, BLOBS, {"sha256": sha256, "data": data})
        return sha256

    def blob(self, sha256: str) -> bytes:
        """The bytes with this SHA-256.

        Raises:
            StoreError: If they are not there, or were changed since.
        """
        data = self._blob(sha256)
        if data is None:  # it may be on its way
            self.write(lambda connection: None)
            data = self._blob(sha256)
        if data is None:
            raise StoreError(f"the store has no blob {sha256}")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StoreError(f"blob {sha256} is damaged: its content has another hash")
        return bytes(data)

    def _blob(self, sha256: str) -> bytes | None:
        with self.reading() as connection:
            data: bytes | None = connection.scalar(sa.select(BLOBS.c.data).where(BLOBS.c.sha256 == sha256))
        if data is None and self._folder is not None:
            data = blobs.read(blobs.path_of(self._folder, sha256))
        return data

    def claim(self, run_name: str) -> AbstractContextManager[None]:
        """Context in which this process alone works on the run; reading needs no claim.

        Raises:
            StoreError: On entering, if somebody else does; the message says who.
        """
        if self._folder is None:
            return claim_row(self._engine, run_name)
        return claim_file(Path(f"{self._engine.url.database}.{run_name}.lock"), run_name)

    def write(self, change: Callable[[sa.Connection], T]) -> T:
        """Result of a change of the database, once it is durable; for :class:`Run`."""
        return self.put(change).result()

    def put(self, change: Callable[[sa.Connection], T]) -> Future[T]:
        """Asks for a change of the database and does not wait for it; for :class:`Run`."""
        self._check()
        return self._writer.put(change)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees all that was appended before; for :class:`Run`."""
        self._check()
        with translated(self._engine.url), self._engine.connect() as connection:
            yield connection

    def _check(self) -> None:
        if self._writer.closed:
            raise StoreError("the store is closed")
        if os.getpid() != self._process:
            raise StoreError("a forked child cannot use its parent's store; open it there again")

    def close(self) -> None:
        """Finishes what was asked for and lets go of the database; may be called twice."""
        self._writer.close()
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_server(text: str) -> sa.Engine:
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as error:
        raise StoreError(f"{text.split('@')[-1]!r} is not a database URL") from error
    if url.get_backend_name() != "postgresql":
        known = "the path of a SQLite file, or a postgresql:// URL"
        raise StoreError(f"{url.render_as_string()}: a store is {known}")
    return open_engine(url)


def _canonical(body: Any) -> str:
    """One text for equal JSON values."""
    return _text(body, sort_keys=True)


def _text(body: Any, *, sort_keys: bool = False) -> str:
    try:
        return json.dumps(body, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False, default=to_json)
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"cannot be stored as JSON: {error}") from error


def _read(kind: str, schema: int, text: str) -> Any:
    if not isinstance(text, str):
        raise StoreError(f"a {kind!r} record is damaged: it is no text")
    try:
        body = json.loads(text, parse_constant=_refuse_constant)
        if "\\ud" in text:  # halves of surrogate pairs, as of file names that are no UTF-8, cannot be written
            body = json.loads(json.dumps(body, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"a {kind!r} record is damaged: {error}") from error
    return upgrade(kind, schema, body)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _is_time(at: Any) -> bool:
    return isinstance(at, (int, float)) and 0 <= at < LATEST_S
