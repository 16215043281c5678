"""The store's database: its three tables, how it is opened, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

from results.errors import StoreError
from results.upgrades import SCHEMA

METADATA = sa.MetaData()
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers rows itself for INTEGER only

RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("id", _NUMBER, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)
RECORDS = sa.Table(
    "records",
    METADATA,
    sa.Column("seq", _NUMBER, primary_key=True),
    sa.Column("run", sa.ForeignKey("runs.id"), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.UniqueConstraint("run", "kind", "key"),
)
BLOBS = sa.Table(
    "blobs",
    METADATA,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

MOUNTS = Path("/proc/self/mountinfo")
_KERNEL = "9p afs beegfs ceph cifs coda gpfs lustre ncpfs nfs nfs4 smb3 smbfs"
_FUSE = "fuse.ceph fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs"
NETWORK_FILE_SYSTEMS = frozenset(f"{_KERNEL} {_FUSE}".split())
"""Where SQLite's locks and shared memory do not hold between machines (sqlite.org/wal.html, section 1)."""

BUSY_S = 30.0
"""How long a writer waits for another process that writes to the same SQLite file."""

_REMEDIES = (
    ("database or disk is full", "the disk is full; free some space and resume, nothing stored is lost"),
    ("disk i/o error", "the disk refused to read or write; check its free space and its health"),
    ("readonly database", "it cannot be written to; check the permissions of the file and of its folder"),
    (
        "unable to open database file",
        "it cannot be opened; check that the folder exists and may be written to",
    ),
    ("file is not a database", "it is no SQLite file, or a damaged one; name another file"),
    ("could not decode", "it holds text that is not UTF-8, so it is damaged"),
    ("too big", "it holds a value that is too long to be one of ours"),
    ("malformed", "it is damaged; copy it, run `sqlite3 FILE .recover`, and check the disk"),
    ("database is locked", "another program keeps writing to it; end that program and try again"),
)


LONGEST_READ_BYTES = 256_000_000
"""Longest value that is read from a file that somebody else may have written."""


def open_engine(url: sa.URL) -> sa.Engine:
    """An engine on which the three tables exist, with durable commits.

    Raises:
        StoreError: If the database cannot be opened, or holds something else; nothing was changed then.
    """
    with translated(url):
        if url.get_backend_name() == "sqlite" and Path(str(url.database)).is_file():
            _look_before_writing(url)
        try:
            engine = _engine(url)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            install = "pip install 'boardwise[postgresql]'"
            raise StoreError(f"{url.render_as_string()}: no driver ({error}); run `{install}`") from error
        try:
            _prepare(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


def open_engine_to_read(url: sa.URL) -> sa.Engine:
    """An engine on a SQLite file that changes nothing in it or beside it.

    Raises:
        StoreError: If it cannot be opened, or does not hold the three tables.
    """
    # What a live or killed writer has left beside the file must be read as well.  Else the file is all there
    # is, and "immutable" keeps SQLite from making files of its own (sqlite.org/uri.html).
    alone = not Path(f"{url.database}-wal").exists()
    with translated(url):
        engine = _reading_engine(url, immutable=alone)
        try:
            with engine.connect() as connection:
                if missing := set(METADATA.tables) - _check_kinds(connection):
                    raise StoreError(f"{url.database} holds no runs: it has no table {min(missing)!r}")
                _check_columns(connection)
        except BaseException:
            engine.dispose()
            raise
    return engine


def _reading_engine(url: sa.URL, *, immutable: bool) -> sa.Engine:
    for tail in ("-wal", "-shm", "-journal"):
        beside = Path(f"{url.database}{tail}")
        if beside.is_symlink() or (beside.exists() and not beside.is_file()):
            raise StoreError(f"{beside} is a link, or no file; remove it")
    address = f"file:{quote(str(url.database))}?mode=ro{'&immutable=1' if immutable else ''}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, timeout=BUSY_S, check_same_thread=False)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_READ_BYTES)
        return connection

    return sa.create_engine(url, creator=connect)


def _look_before_writing(url: sa.URL) -> None:
    """Refuses another program's file before the first pragma could change it."""
    engine = _reading_engine(url, immutable=False)
    try:
        with engine.connect() as connection:
            _check_kinds(connection)
    finally:
        engine.dispose()


def _check_kinds(connection: sa.Connection) -> set[str]:
    """Names of the tables that are there; refuses what is no plain table, such as an endless view."""
    where = connection.engine.url.database
    found: set[str] = set()
    for kind, name, text in connection.exec_driver_sql("SELECT type, name, sql FROM sqlite_master"):
        if kind not in ("table", "index") or str(text).upper().startswith("CREATE VIRTUAL"):
            raise StoreError(f"{where} holds a foreign {kind} {name!r}; name another database")
        if kind == "table":
            found.add(str(name))
            columns = connection.exec_driver_sql(f"PRAGMA table_xinfo({_quoted(str(name))})")
            if any(column.hidden for column in columns):
                raise StoreError(f"{where} holds a foreign table {name!r}; name another database")
    ours = set(METADATA.tables)
    if found - {"sqlite_sequence"} and not found & ours:
        raise StoreError(f"{where} holds a foreign table {min(found)!r}; name another database")
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_S})
    sa.event.listen(engine, "connect", _set_pragmas)
    return engine


def _set_pragmas(connection: sqlite3.Connection, _: Any) -> None:
    # WAL: readers and the writer do not wait for each other.  FULL: a commit outlives a power cut.
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare(engine: sa.Engine) -> None:
    """Makes the tables unless they are there, and checks that they are ours and not too new."""
    with engine.begin() as connection:
        for table in METADATA.sorted_tables:
            connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
        _check_columns(connection)


def _check_columns(connection: sa.Connection) -> None:
    """Raises StoreError for tables that are not ours, or too new."""
    where = connection.engine.url.render_as_string()
    inspector = sa.inspect(connection)
    for table in METADATA.sorted_tables:
        if {column["name"] for column in inspector.get_columns(table.name)} != set(table.columns.keys()):
            raise StoreError(f"{where} holds a foreign table {table.name!r}; name another database")
    for table in (RUNS, RECORDS):
        newest = connection.scalar(sa.select(sa.func.max(table.c.schema))) or 0
        if not isinstance(newest, int):
            raise StoreError(f"{where} is damaged: {table.name!r} has the schema {str(newest)[:20]!r}")
        if newest > SCHEMA:
            raise StoreError(f"{where} was written by a newer version of Boardwise; upgrade this one")


def insert_new(connection: sa.Connection, table: sa.Table, row: dict[str, Any]) -> bool:
    """Inserts a row unless its unique columns are taken; whether it was inserted."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    # Inline, so without fetching the new row's number, which would hide the count of rows.
    statement = dialect.insert(table).values(row).on_conflict_do_nothing().inline()
    return connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount == 1


@contextmanager
def translated(url: sa.URL) -> Iterator[None]:
    """Turns the database library's errors into StoreError with a remedy."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise StoreError(f"store {url.database} is damaged: it holds text that is not UTF-8") from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        cause = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        remedy = next((text for sign, text in _REMEDIES if sign in cause.lower()), None)
        where = url.database if url.get_backend_name() == "sqlite" else url.render_as_string()
        raise StoreError(f"store {where}: {remedy or 'the database refused'} ({cause})") from error


def refuse_network_file_system(path: Path) -> None:
    """Raises StoreError where ``path`` lies on a file system of another machine."""
    kind = file_system(path)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"{path} is on a network file system ({kind}), where SQLite may lose data; use a folder on a "
            "local disk (--runs FOLDER; bench: --out FOLDER)"
        )


def file_system(path: Path) -> str | None:
    """Type of the file system that ``path`` lies on, as Linux names it; None where it does not say."""
    real = os.path.realpath(path)
    best, kind = "", None
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        mount, _, tail = line.partition(" - ")
        # proc(5): spaces and the like are written in octal.
        point = mount.split()[4].encode().decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # the later of two mounts on one point hides the earlier
            best, kind = point, tail.split()[0]
    return kind
