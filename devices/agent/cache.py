"""Model files on the board, named by their hash, the least recently used ones dropped above a size."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from typing import Dict, List, Optional

from .failures import Failure

NAME = re.compile("[0-9a-f]{64}")
HEADROOM_BYTES = 1 << 20
"""What is left free on the disk beside a file."""


class Cache:
    """A folder of model files.  The agent that holds the board's lock is the only one that uses it.

    Args:
        folder: Where the files lie; made if it is not there.
        limit_bytes: Greatest sum of their sizes.
    """

    def __init__(self, folder: str, limit_bytes: int) -> None:
        os.makedirs(folder, exist_ok=True)
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._sizes: Dict[str, int] = {}
        self._verified: Dict[str, bool] = {}
        found = []
        for entry in os.scandir(folder):
            if NAME.fullmatch(entry.name):
                found.append((entry.stat().st_mtime_ns, entry.name, entry.stat().st_size))
            else:
                os.unlink(entry.path)  # what an agent that was killed did not finish receiving
        # A dictionary keeps its order: the least recently used file is its first.
        for _, name, size in sorted(found):
            self._sizes[name] = size

    def missing(self, names: List[str]) -> List[str]:
        """Those of ``names`` that are not here, or not whole."""
        return [name for name in names if not self._is_whole(name)]

    def path(self, name: str) -> str:
        """Where a file lies.

        Raises:
            Failure: ``artifact_missing`` if it is not here, or not whole.
        """
        if not self._is_whole(name):
            raise Failure("artifact_missing", "no whole file %.80s is on the board" % name)
        path = self._path(name)
        self._sizes[name] = self._sizes.pop(name)
        os.utime(path)
        return path

    def receive(self, name: str, size_bytes: int) -> Receiving:
        """Something to write a file of that size into.

        Raises:
            Failure: ``bad_request`` for a name that is no hash; ``disk_full`` if there is no room for it.
        """
        if not NAME.fullmatch(name):
            raise Failure("bad_request", "%.80r is no SHA-256" % name)
        if size_bytes > self._limit_bytes:
            message = "%d bytes are more than the %d that the board's cache may hold"
            raise Failure("disk_full", message % (size_bytes, self._limit_bytes))
        self._make_room(size_bytes)
        return Receiving(self, name, os.path.join(self._folder, ".receiving"))

    def keep(self, name: str, temporary: str, size_bytes: int) -> None:
        """Takes over a whole, verified file."""
        os.rename(temporary, self._path(name))
        self._sizes.pop(name, None)
        self._sizes[name] = size_bytes
        self._verified[name] = True

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _is_whole(self, name: str) -> bool:
        """Whether the file is here and, as seen once in an agent's life, has the hash it is named by."""
        if name not in self._sizes:
            return False
        try:
            same_size = os.stat(self._path(name)).st_size == self._sizes[name]
            if same_size and (self._verified.get(name) or _hash_of(self._path(name)) == name):
                self._verified[name] = True
                return True
        except OSError:
            same_size = False
        self._drop(name)
        return False

    def _drop(self, name: str) -> None:
        del self._sizes[name]
        self._verified.pop(name, None)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def _make_room(self, size_bytes: int) -> None:
        while self._sizes and sum(self._sizes.values()) + size_bytes > self._limit_bytes:
            self._drop(next(iter(self._sizes)))
        while self._sizes and self._free_bytes() < size_bytes + HEADROOM_BYTES:
            self._drop(next(iter(self._sizes)))

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize


class Receiving:
    """A file that is coming in.  Errors wait for :meth:`finish`, since the rest of it comes in any case."""

    def __init__(self, cache: Cache, name: str, temporary: str) -> None:
        self._cache, self._name, self._temporary = cache, name, temporary
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._error: Optional[OSError] = None
        self._file: Optional[int] = None
        try:
            self._file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self._error = error

    def write(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._hash.update(data)
        self._size_bytes += len(data)
        if self._file is None or self._error is not None:
            return
        rest = memoryview(data)
        try:
            while len(rest):
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self._error = error

    def finish(self) -> None:
        """Keeps the file if all of it came and could be written.

        Raises:
            Failure: ``disk_full``, ``disk_error`` or ``hash_mismatch``; then nothing is left of it.
        """
        if self._file is not None:
            os.close(self._file)
        if self._error is None and self._hash.hexdigest() == self._name:
            self._cache.keep(self._name, self._temporary, self._size_bytes)
            return
        if self._file is not None:
            os.unlink(self._temporary)
        if self._error is None:
            raise Failure(
                "hash_mismatch", "what came as %s has the hash %s" % (self._name, self._hash.hexdigest())
            )
        full = self._error.errno in (errno.ENOSPC, errno.EDQUOT)
        message = "%s: %s" % (self._temporary, self._error.strerror)
        raise Failure("disk_full" if full else "disk_error", message)


def _hash_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()
