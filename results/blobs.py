"""Files under their SHA-256: there whole or not at all, after a power cut too."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from pathlib import Path

from results.errors import StoreError


def name_of(data: bytes) -> str:
    """The SHA-256 under which bytes are stored."""
    return hashlib.sha256(data).hexdigest()


def path_of(folder: Path, sha256: str) -> Path:
    """Where the file with this hash lies.

    Raises:
        StoreError: If it is no hash.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise StoreError(f"{sha256[:80]!r} is no SHA-256")
    return folder / sha256


def write(path: Path, data: bytes) -> None:
    """Writes a file durably; one that is there already is left as it is.

    Raises:
        StoreError: If the disk does not take it.
    """
    if path.exists():
        return
    new = path.with_name(f"new-{uuid.uuid4().hex}")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(exist_ok=True)
            flush_folder(path.parent.parent)
        with new.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error.strerror}; free some space and resume") from error


def read(path: Path) -> bytes | None:
    """Content of a file; None where there is none.

    Raises:
        StoreError: If it is there and cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def flush_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
