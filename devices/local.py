"""This very machine as a device: commands are started directly, no shell and no network in between."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from devices.connection import Channel, Completed, Connection
from results.errors import BoardDiskFull, ConnectionLost, PreflightError

TAIL_BYTES = 4096
READ_BYTES = 1 << 18
GRACE_S = 0.5
"""How long a process group may take to end by itself after each of: end of input, SIGTERM."""


class LocalConnection(Connection):
    """Runs commands on this machine, each in a process group of its own.

    Args:
        device: Name of the device, for errors.
        home: Directory that relative paths start at; the user's home by default.
    """

    def __init__(self, device: str, *, home: Path | None = None) -> None:
        self.device = device
        self._home = Path.home() if home is None else home
        self._environment = None if home is None else {**os.environ, "HOME": str(home)}
        self._channels: set[LocalChannel] = set()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, argv: Sequence[str], *, limit_s: float = 30.0, stdin: bytes = b"") -> Completed:
        """See :meth:`Connection.run`; a program that is not there gives status 127, as a shell would."""
        try:
            process = self._start(argv, buffering=-1)
        except OSError as error:
            return Completed(_status_of(error), b"", f"{argv[0]}: {error.strerror}\n".encode())
        with self._lock:
            self._running.add(process)
        try:
            stdout, stderr = process.communicate(stdin, timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            raise ConnectionLost(self.device, f"{argv[0]!r} took longer than {limit_s:g} s") from error
        finally:
            self._collect(process)
        if self._closed:
            raise ConnectionLost(self.device, f"the connection was closed while {argv[0]!r} ran")
        return Completed(process.returncode, stdout, stderr)

    def open(self, argv: Sequence[str]) -> LocalChannel:
        """See :meth:`Connection.open`."""
        try:
            channel = LocalChannel(self.device, self._start(argv, buffering=0))
        except OSError as error:
            raise ConnectionLost(self.device, f"cannot start {argv[0]!r}: {error.strerror}") from error
        with self._lock:
            self._channels = {c for c in self._channels if not c.closed} | {channel}
        return channel

    def put(self, data: bytes, path: str) -> None:
        """See :meth:`Connection.put`.

        Raises:
            PreflightError: If the file may not be written there at all.
        """
        target = self._home / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(data, target)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BoardDiskFull(self.device, f"no room for {len(data)} bytes at {target}") from error
            raise PreflightError(self.device, f"cannot write {target}: {error.strerror}") from error

    def close(self) -> None:
        """See :meth:`Connection.close`."""
        with self._lock:
            self._closed = True
            channels, running = list(self._channels), list(self._running)
        for process in running:
            _signal_group(process, signal.SIGKILL)
        for channel in channels:
            channel.close()

    def _start(self, argv: Sequence[str], *, buffering: int) -> subprocess.Popen[bytes]:
        if self._closed:
            raise ConnectionLost(self.device, "the connection was closed")
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._home,
            env=self._environment,
            start_new_session=True,
            bufsize=buffering,
        )

    def _collect(self, process: subprocess.Popen[bytes]) -> None:
        """Leaves nothing of a command behind, whether it ended by itself or not."""
        with self._lock:
            self._running.discard(process)
        if process.returncode is None:
            _signal_group(process, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


class LocalChannel(Channel):
    """A process of this machine and its three pipes."""

    def __init__(self, device: str, process: subprocess.Popen[bytes]) -> None:
        self._device = device
        self._process = process
        # All three are pipes: LocalConnection._start asks for them.
        self._stdin = cast(IO[bytes], process.stdin)
        self._stdout = cast(IO[bytes], process.stdout)
        self._stderr = cast(IO[bytes], process.stderr)
        self._tail = b""
        self._reading = threading.Lock()
        self._closing = threading.Lock()
        self.closed = False
        self._drain = threading.Thread(target=self._keep_stderr, daemon=True, name=f"stderr of {device}")
        self._drain.start()

    def send(self, data: bytes) -> None:
        """See :meth:`Channel.send`."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._stdin.fileno(), rest) :]
        except (OSError, ValueError) as error:
            raise ConnectionLost(self._device, f"the process has gone: {error}") from error

    def receive(self, limit_s: float) -> bytes:
        """See :meth:`Channel.receive`."""
        with self._reading:
            deadline = time.monotonic() + limit_s
            # In slices, so that close() need not wait for something that left the group and holds stdout.
            while not self.closed:
                left_s = max(0.0, deadline - time.monotonic())
                if select.select([self._stdout], [], [], min(left_s, GRACE_S))[0]:
                    return os.read(self._stdout.fileno(), READ_BYTES)
                if left_s == 0:
                    raise TimeoutError(f"{self._device}: nothing came within {limit_s:g} s")
            raise ConnectionLost(self._device, "the channel was closed")

    def stderr_tail(self) -> str:
        """See :meth:`Channel.stderr_tail`."""
        return self._tail.decode(errors="replace")

    def close(self) -> None:
        """See :meth:`Channel.close`.  The group gets time to end by itself, then SIGTERM, then SIGKILL."""
        with self._closing:
            if self.closed:
                return
            self.closed = True
            with contextlib.suppress(BrokenPipeError):
                self._stdin.close()
            _end_group(self._process)
            with self._reading:
                self._stdout.close()
            self._drain.join(GRACE_S)

    def _keep_stderr(self) -> None:
        with self._stderr:
            while data := os.read(self._stderr.fileno(), READ_BYTES):
                self._tail = (self._tail + data)[-TAIL_BYTES:]


def _status_of(error: OSError) -> int:
    return 127 if isinstance(error, FileNotFoundError) else 126


def _write_whole(data: bytes, target: Path) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".put-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(target)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and everything in its group, with time to do so by itself, and collects it.

    The leader stays a zombie until its group has been killed, so that its number cannot have gone to
    a stranger.
    """
    if not _ended(process, GRACE_S):
        _signal_group(process, signal.SIGTERM)
        _ended(process, GRACE_S)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _ended(process: subprocess.Popen[bytes], within_s: float) -> bool:
    """Whether a child ends in time; it is not collected."""
    deadline = time.monotonic() + within_s
    pause_s = 0.001
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.02)
    return True


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
