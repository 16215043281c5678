"""Files that a run writes for its reader."""

from __future__ import annotations

import contextlib
import re
import uuid
from pathlib import Path

from results.errors import StoreError
from results.printable import printable

_FORMULA = re.compile(r"(^|;)(?=[=+\-@])")


def inert(cell: object) -> object:
    """A cell of a CSV file that no spreadsheet takes for a formula, and no terminal for a command.

    Numbers stay what they are, also as text.  An apostrophe before other text that begins as formulas do says
    "text" to spreadsheets; so after a semicolon, at which some of them divide cells.
    """
    if not isinstance(cell, str):
        return cell
    with contextlib.suppress(ValueError):
        float(cell)
        return printable(cell)
    return _FORMULA.sub(r"\1'", printable(cell).lstrip())


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
