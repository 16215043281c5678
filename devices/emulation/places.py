"""Where emulated boards keep their files on this host, and the lock that lets one process build."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from results.errors import ConfigError

CACHE = "BOARDWISE_CACHE"
"""Environment variable that moves everything somewhere else."""


def cache_folder() -> Path:
    """Boardwise's cache: the user's own, or where ``BOARDWISE_CACHE`` says."""
    named = os.environ.get(CACHE)
    return Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("boardwise")


def emulation_folder() -> Path:
    """Images, saved states and running boards."""
    return cache_folder() / "emulation"


def board_folder(name: str) -> Path:
    """What belongs to one emulated board."""
    return emulation_folder() / "boards" / name


@contextmanager
def alone(path: Path, say: Callable[[str], None] = lambda text: None, what: str = "") -> Iterator[None]:
    """Alone with what a lock file stands for; waits for others, and says so.

    Args:
        path: The lock file; the kernel frees the lock when its holder ends, however it ends.
        say: Told whom it waits for.
        what: What they do.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror}; set {CACHE} to a folder that can"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process {what}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
