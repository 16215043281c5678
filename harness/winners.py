"""The winners' model files: the bytes that were proved and measured, or none."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.deployment import Kind
from harness.export import Exported
from results.output import write_whole
from results.store import Run

Known = dict[tuple[str, Kind], set[str]]


def known_hashes(run: Run) -> Known:
    """SHA-256 of the files of trained networks that were proved or measured, by trial's number and kind."""
    found: Known = defaultdict(set)

    def add(key: str, artifact: dict[str, Any]) -> None:
        kind = Kind(artifact["file_format"], artifact["precision"])
        found[key.partition("/")[0], kind].add(artifact["sha256"])

    for record in run.records("exported"):
        add(record.key, record.body["artifact"])
    for record in run.records("confirmed"):
        add(record.key, record.body["measurement"]["artifact"])
    return found


def keep_or_write(path: Path, file: Callable[[], Exported], known: set[str]) -> bool:
    """Sees to it that a path holds the file that was measured; False, and nothing changed, if that cannot be.

    Args:
        path: Where it belongs; what is there and was measured is kept.
        file: Makes it again.
        known: SHA-256 of what was measured; where nothing was, what is there already counts.
    """
    is_there = path.is_file() and not path.is_symlink()
    there = {hashlib.sha256(path.read_bytes()).hexdigest()} if is_there else set()
    if there & known:
        return True
    made = file()
    wanted = known or there
    if wanted and made.artifact.sha256 not in wanted:
        return False
    if made.artifact.sha256 not in there:
        write_whole(path, made.data)
    return True
