"""The board is its own lock: one agent at a time, for as long as it lives."""

from __future__ import annotations

import fcntl
import os
import time
from typing import Optional

TRIES = 40
PAUSE_S = 0.05
"""An agent whose host has just left may still be ending; counted, not timed, since the clock of an
emulated board may jump."""


def take(path: str, holder: str) -> Optional[str]:
    """Takes the lock and writes who we are; the kernel frees it when this process ends, however it ends.

    Args:
        path: The lock file; it stays, only the lock on it comes and goes.
        holder: Who takes it, for others to read.

    Returns:
        None, or who holds it if somebody else does.
    """
    # Never closed: closing it would free the lock.
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for _ in range(TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_S)
            continue
        os.ftruncate(lock, 0)
        os.pwrite(lock, holder.encode("utf-8"), 0)
        return None
    return os.pread(lock, 1000, 0).decode("utf-8", "replace") or "somebody who has not written a name"
