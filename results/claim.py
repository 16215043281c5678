"""The one loop of a run: a lock that the operating system (or the database) frees when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from results.database import translated
from results.errors import StoreError

_APPLICATION_NAME_LENGTH = 63
"""PostgreSQL cuts application names off after so many bytes."""

_HOLDER = sa.text(
    "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
    "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND ((l.classid::bigint << 32) | l.objid::bigint) = :key"
)


def _this_process() -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{socket.gethostname()}, process {os.getpid()}, since {now}"


def _held(run: str, holder: str) -> StoreError:
    return StoreError(
        f"run {run!r} is being worked on by {holder or 'another process'}; wait for its end, or end it"
    )


@contextmanager
def claim_file(path: Path, run: str) -> Iterator[None]:
    """Holds a lock file while the block runs; the kernel frees it when the process ends, however it ends.

    The file stays afterwards, empty: removing it would let two processes lock two files of one name.

    Raises:
        StoreError: If somebody else holds it, with who it is; or if it cannot be written.
    """
    try:
        # What lies there is emptied: never another file by way of a link.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        remedy = "it is a link; remove it" if path.is_symlink() else "check the permissions of its folder"
        raise StoreError(f"cannot write {path} ({error.strerror}); {remedy}") from error
    try:
        kept = os.fstat(descriptor)
        if not stat.S_ISREG(kept.st_mode) or kept.st_nlink != 1:
            raise StoreError(f"{path} is a link, or no file; remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(run, os.read(descriptor, 1000).decode(errors="replace")) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _this_process().encode())
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextmanager
def claim_row(engine: sa.Engine, run: str) -> Iterator[None]:
    """Holds an advisory lock of PostgreSQL while the block runs; it ends with the connection.

    Raises:
        StoreError: If somebody else holds it, with who it is.
    """
    key = int.from_bytes(hashlib.sha256(run.encode()).digest()[:8], "big", signed=True)
    with contextlib.ExitStack() as stack:
        with translated(engine.url):
            connection = stack.enter_context(engine.connect()).execution_options(isolation_level="AUTOCOMMIT")
            name = _this_process().encode()[:_APPLICATION_NAME_LENGTH].decode(errors="ignore")
            connection.execute(sa.text("SELECT set_config('application_name', :name, false)"), {"name": name})
            stack.callback(connection.invalidate)  # never back into the pool, where the lock would live on
            if not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}):
                raise _held(run, connection.scalar(_HOLDER, {"key": key}) or "")
        yield
