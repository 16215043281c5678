"""Tracebacks of errors that nobody foresaw, for whoever mends them."""

from __future__ import annotations

from pathlib import Path

from results.output import write_whole
from results.printable import printable_lines
from results.shapes import records
from results.store import Run

RAISED = "raised"
"""Kind of their records; the key is the trial's number, with the target where it was confirmed there."""


def write_tracebacks(run: Run, folder: Path) -> list[Path]:
    """Writes those of a run to ``tracebacks.txt``; its path, or nothing where there are none.

    Raises:
        StoreError: If a record is damaged, or the file cannot be written.
    """
    texts = [f"trial {record.key}\n\n{record.body['traceback']}" for record in records(run, RAISED)]
    if not texts:
        return []
    path = folder / "tracebacks.txt"
    write_whole(path, printable_lines("\n\n".join(texts)).encode())
    return [path]
