"""Tables that grow row by row in a CSV file, so that what made them can be stopped and gone on with."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Rows:
    """Rows of a CSV file.

    Args:
        path: The file; it need not exist.
        columns: Its columns, in order.

    Raises:
        ValueError: If the file has other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = list(columns)
        self.rows: list[dict[str, str]] = []
        if path.is_file() and path.stat().st_size:
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                self.rows = list(reader)
            if reader.fieldnames != self.columns:
                raise ValueError(f"{path} has columns {reader.fieldnames}, expected {self.columns}")

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row; it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
        self.rows.append({name: str(row[name]) for name in self.columns})

    def replace(self, place: int, row: Mapping[str, Any]) -> None:
        """Puts another row in the place of one."""
        self.replace_all([*self.rows[:place], row, *self.rows[place + 1 :]])

    def replace_all(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Puts other rows in the place of all; the file is written anew, whole or not at all."""
        self.rows = [{name: str(row[name]) for name in self.columns} for row in rows]
        written = self.path.with_suffix(self.path.suffix + ".new")
        with written.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            file.flush()
            os.fsync(file.fileno())
        written.replace(self.path)
