"""What a killed process leaves behind: boards that nobody looks after any more, found and ended.

A board that is to last no longer than its process has a file ``owner`` in its folder, on which that process
holds a lock; the kernel frees it however the process ends.  QEMU itself is found by the lock on its pid file.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from devices.emulation.machine import Machine
from devices.emulation.places import emulation_folder

_OWNER, _LOCK = "owner", "lock"


class Ownership:
    """This process's claim on one board.

    Args:
        folder: The board's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _OWNER
        self._descriptor: int | None = None

    @property
    def is_taken(self) -> bool:
        """Whether it stands."""
        return self._descriptor is not None

    def take(self) -> None:
        """The board is ended by whoever starts one next, once this process has gone.

        One that somebody else owns stays theirs, whoever restarts it.
        """
        if self._descriptor is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _open(self._path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return
        self._descriptor = descriptor

    def give_up(self) -> None:
        """The board has gone, or stays for good; may be called twice."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def end_leftovers() -> list[str]:
    """Ends the boards whose process has gone; their names."""
    folders = sorted((emulation_folder() / "boards").glob(f"*/{_OWNER}"))
    return [path.parent.name for path in folders if _end(path.parent)]


def clear(folder: Path, machines: Path) -> None:
    """Removes a folder that was being worked in, with a QEMU that still runs in ``machines``."""
    Machine("a leftover", machines).kill()
    shutil.rmtree(folder, ignore_errors=True)


def _end(folder: Path) -> bool:
    # Both locks: nobody starts the board now, and nobody owns it.
    with suppress(FileNotFoundError, BlockingIOError):
        starting, owner = _open(folder / _LOCK), _open(folder / _OWNER)
        try:
            for lock in (starting, owner):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            board = Machine(folder.name, folder)
            was_alive = board.is_alive
            board.kill()
            (folder / _OWNER).unlink()
            return was_alive
        finally:
            os.close(starting)
            os.close(owner)
    return False


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
