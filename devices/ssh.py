"""The connection to a board over SSH: one long-lived transport, made on first use.

A machine is reached with the user's own ssh configuration (:mod:`devices.ssh_config`), keys, agent and
passphrases (:mod:`devices.ssh_login`), through jump hosts where it says so (:mod:`devices.ssh_route`),
and only if its host key is trusted (:mod:`devices.host_keys`).  After a loss the next use connects
again and first ends what was left behind; channels that were open stay dead.
"""

from __future__ import annotations

import contextlib
import itertools
import posixpath
import shlex
import threading
import uuid
from collections.abc import Sequence

import paramiko

from devices.connection import Completed, Connection
from devices.device import AskSecret
from devices.host_keys import HostKey
from devices.ssh_login import Secrets
from devices.ssh_process import SshChannel, end_processes, launch
from devices.ssh_route import Route, SshSettings
from results.errors import BoardDiskFull, ConnectionLost, PreflightError

TAIL_BYTES = 4096
STDERR_BYTES = 1 << 24
"""How much of a command's stderr :meth:`SshConnection.run` keeps: the end of it."""

_MARK = "BOARDWISE_COMMAND"
_PUT_LIMIT_S = 60.0
_SLOWEST_BYTES_PER_S = 50_000.0

# $1: folder, $2: file beside the goal, $3: goal, $4: size.  A cut connection looks like the end of the
# input, so only a file of the right size becomes the goal.
_PUT = (
    "export LC_ALL=C;"
    ' mkdir -p -- "$1" && cat > "$2" && [ "$(wc -c < "$2")" -eq "$4" ] && mv -f -- "$2" "$3"'
    ' || { s=$?; rm -f -- "$2"; exit "$s"; }'
)
_FULL = ("No space left on device", "Disk quota exceeded")


class SshConnection(Connection):
    """A login on a machine over SSH.

    Args:
        device: Name of the device, for errors.
        settings: Where to go and what to rely on.
        ask_secret: Asks for passphrases and passwords; None where there is nobody to ask.
    """

    def __init__(self, device: str, settings: SshSettings, *, ask_secret: AskSecret | None = None) -> None:
        self.device = device
        self._settings = settings
        self._secrets = Secrets(ask_secret)
        self._mark = f"{_MARK}={uuid.uuid4().hex}-"
        self._numbers = itertools.count()
        self._route = Route(device, settings, self._secrets)
        self._transport: paramiko.Transport | None = None
        self._channels: set[SshChannel] = set()
        self._lock = threading.Lock()
        self._used = False
        self._closed = False

    def fetch_host_key(self) -> HostKey:
        """The first host key on the way (jump hosts first) that is not trusted yet, else the board's own.

        Nothing is trusted by this, and the board is not logged in to.  To add a device, show the key, ask,
        :func:`devices.host_keys.trust` it, and call this again until it gives a trusted one.

        Raises:
            HostKeyError: If a key on the way is revoked, or another one than was trusted.
            ConnectionLost: If a machine on the way cannot be reached.
            AuthenticationError: If a jump host does not let us in.
        """
        route = Route(self.device, self._settings, self._secrets)
        try:
            return route.first_unknown_key()
        finally:
            route.close()

    def run(self, argv: Sequence[str], *, limit_s: float = 30.0, stdin: bytes = b"") -> Completed:
        """See :meth:`Connection.run`; the status of what a signal has ended is -1."""
        channel = self._start(argv, STDERR_BYTES)
        try:
            done = channel.complete(stdin, limit_s, argv[0])
        except ConnectionLost as error:
            if self._closed:
                raise self._was_closed() from error
            raise
        finally:
            channel.close()
        if self._closed:  # which has ended the command
            raise self._was_closed()
        return done

    def open(self, argv: Sequence[str]) -> SshChannel:
        """See :meth:`Connection.open`."""
        return self._start(argv, TAIL_BYTES)

    def put(self, data: bytes, path: str) -> None:
        """See :meth:`Connection.put`; one command and its stdin, so no SFTP server is needed.

        Raises:
            PreflightError: If the file may not be written there at all.
        """
        folder = posixpath.dirname(path) or "."
        beside = posixpath.join(folder, f".put-{uuid.uuid4().hex}")
        argv = ["sh", "-c", _PUT, "sh", folder, beside, path, str(len(data))]
        done = self.run(argv, limit_s=_PUT_LIMIT_S + len(data) / _SLOWEST_BYTES_PER_S, stdin=data)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            if any(sentence in said for sentence in _FULL):
                raise BoardDiskFull(self.device, f"no room for {len(data)} bytes at {path} ({said})")
            raise PreflightError(self.device, f"cannot write {path}: {said or 'it did not arrive whole'}")

    def close(self) -> None:
        """See :meth:`Connection.close`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            channels, transport = list(self._channels), self._transport
        if transport is not None and transport.is_active() and self._used:
            with contextlib.suppress(ConnectionLost):  # the connection goes anyway
                end_processes(transport, self.device, self._mark, channels)
        for channel in channels:
            channel.abandon()
        self._route.close()

    # ------------------------------------------------------------------ inside

    def _start(self, argv: Sequence[str], keep_bytes: int) -> SshChannel:
        transport = self._connected()
        mark = f"{self._mark}{next(self._numbers)}-"
        self._used = True

        def on_close(channel: SshChannel, complete: bool) -> None:
            with self._lock:
                self._channels.discard(channel)
            if not complete and not self._closed and transport.is_active():
                with contextlib.suppress(ConnectionLost):  # then the next connection ends it
                    end_processes(transport, self.device, mark, [channel])

        channel = launch(transport, self.device, shlex.join(["env", mark, *argv]))
        started = SshChannel(self.device, channel, keep_bytes, on_close)
        with self._lock:
            self._channels.add(started)
        return started

    def _was_closed(self) -> ConnectionLost:
        return ConnectionLost(self.device, "the connection was closed")

    def _connected(self) -> paramiko.Transport:
        if self._transport is not None and self._transport.is_active() and not self._closed:
            return self._transport
        self._transport = None
        self._route.close()
        route = Route(self.device, self._settings, self._secrets)
        with self._lock:
            if self._closed:
                raise self._was_closed()
            self._route = route
        try:
            transport = route.connect()
            if self._used:
                end_processes(transport, self.device, self._mark, [])
        except BaseException:
            route.close()
            raise
        self._transport = transport
        return transport
