"""Unpacks wheels on a board.  Runs there, sent as text: standard library only, Python 3.8.

Arguments: the folder to make, then ``<sha256> <file>`` for each wheel.  The folder appears whole or not
at all and takes the place of an older one; the files are removed.  The last line printed is a JSON
object: ``{"ok": true}``, or ``{"error": kind, "message": text}`` with a kind of ``disk`` or ``wheel``.

Nothing but plain files inside the folder is written: absolute names, ``..`` and links are refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from pathlib import Path

MARKER = "boardwise.json"
SPARE_BYTES = 32 << 20
"""Room that must be left on the board's disk."""


class RefusedWheel(Exception):
    """A wheel that may not be unpacked."""


def main(arguments: list[str]) -> None:
    """Does what the module says and prints how it went."""
    wheels = [(sha256, Path(name)) for sha256, name in zip(arguments[1::2], arguments[2::2])]  # noqa: B905
    answer: dict[str, object] = {"ok": True}
    try:
        unpack(Path(arguments[0]), wheels)
    except (RefusedWheel, zipfile.BadZipFile) as error:
        answer = {"error": "wheel", "message": str(error)}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        answer = {"error": "disk" if full else "wheel", "message": str(error)}
    finally:
        for _, path in wheels:
            if path.exists():
                path.unlink()
    print("\n" + json.dumps(answer))


def unpack(target: Path, wheels: list[tuple[str, Path]]) -> None:
    """Makes the folder of all wheels together, with their hashes in ``boardwise.json``.

    Raises:
        RefusedWheel: If one is not what was sent, or would write outside of the folder.
        OSError: If it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        partial.chmod(0o755)
        for sha256, path in wheels:
            check_hash(path, sha256)
            with zipfile.ZipFile(path) as archive:
                extract(archive, partial)
        (partial / MARKER).write_text(json.dumps([sha256 for sha256, _ in wheels]))
        replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_hash(path: Path, sha256: str) -> None:
    """Refuses a file that was damaged on its way."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    if found.hexdigest() != sha256:
        raise RefusedWheel(f"{path} has SHA-256 {found.hexdigest()}, not {sha256}: it was damaged on its way")


def extract(archive: zipfile.ZipFile, folder: Path) -> None:
    """Unpacks what a Python needs, once it is clear that all of it may be written and has room."""
    members = [(member, place_of(member)) for member in archive.infolist() if not member.is_dir()]
    disk = os.statvfs(folder)
    needed_bytes = sum(member.file_size for member, _ in members) + SPARE_BYTES
    if disk.f_bavail * disk.f_frsize < needed_bytes:
        raise OSError(errno.ENOSPC, f"needs {needed_bytes >> 20} MB of free disk")
    for member, place in members:
        if place:
            path = folder.joinpath(*place)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)


def place_of(member: zipfile.ZipInfo) -> list[str]:
    """Where a file goes, as parts of a path; empty for what only an installer needs (scripts, headers)."""
    name = member.filename
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise RefusedWheel(f"{name!r} would be written outside of its folder")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise RefusedWheel(f"{name!r} is no plain file")
    if parts[0].endswith(".data"):
        return parts[2:] if parts[1] in ("purelib", "platlib") else []
    return parts


def replace(partial: Path, target: Path) -> None:
    """Puts a folder in the place of another, which is moved aside first: folders cannot be exchanged."""
    old = partial.with_name(partial.name + ".old")
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
