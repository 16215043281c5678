"""Files that a run writes for its reader."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

from results.errors import StoreError


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; a link that lies in its place is replaced, never followed.

    Raises:
        StoreError: If it cannot be written.
    """
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("xb") as file:
            file.write(data)
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
