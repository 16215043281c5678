"""What it takes to reach a machine: run a command, hold a conversation with one, put a file.

Three ways exist: :mod:`devices.ssh`, :mod:`devices.local` and :mod:`devices.replay` (no machine at
all).  One connection is opened per device and kept for as long as the device is in use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Completed:
    """A command that has ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Channel(ABC):
    """A running remote process: its stdin, its stdout, and the tail of its stderr."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Writes all of ``data`` to the process.

        Raises:
            ConnectionLost: If the process or the connection has gone.
        """

    @abstractmethod
    def receive(self, limit_s: float) -> bytes:
        """Some bytes of its stdout as soon as there are any; empty at end of file.

        Args:
            limit_s: Longest time to wait, by the host's clock.

        Raises:
            TimeoutError: If nothing came in time.
            ConnectionLost: If the connection has gone.
        """

    @abstractmethod
    def stderr_tail(self) -> str:
        """The last 4 KiB that the process wrote to its stderr, decoded with replacement."""

    @abstractmethod
    def close(self) -> None:
        """Closes its stdin and ends its process group; may be called twice."""


class Connection(ABC):
    """A way to a machine.  Safe to use from one thread at a time; ``close`` from any."""

    device: str
    """Name of the device, for errors."""

    @abstractmethod
    def run(self, argv: Sequence[str], *, limit_s: float = 30.0, stdin: bytes = b"") -> Completed:
        """Runs a command to its end.  No shell interprets ``argv``: it is quoted where one is in between.

        Raises:
            ConnectionLost: If the connection cannot be made or has gone, or the limit passed.
            AuthenticationError: If the machine lets us not in.
            HostKeyError: If the machine is not the one that was trusted.
        """

    @abstractmethod
    def open(self, argv: Sequence[str]) -> Channel:
        """Starts a command and holds a conversation with it; errors as in :meth:`run`."""

    @abstractmethod
    def put(self, data: bytes, path: str) -> None:
        """Writes a file: whole or not at all (written beside, then renamed), parents made.

        Raises:
            BoardDiskFull: If there is no room for it.
            ConnectionLost: As in :meth:`run`.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends every process started through this connection and closes it; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
