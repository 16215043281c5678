"""One command on a machine behind SSH: its three streams, its status, and its certain end.

An SSH server hands a command to the login's shell as one line, and it does not end a command whose
channel is closed.  Therefore each command carries a mark in its environment, by which it and all its
descendants are found in ``/proc`` and ended, whatever process group or session they have moved to.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Callable, Iterable

import paramiko

from devices.connection import Channel, Completed
from devices.ssh_route import reason
from results.errors import ConnectionLost

GRACE_S = 0.5
"""How long processes may take to end by themselves after each of: end of input, SIGTERM."""

STALL_LIMIT_S = 60.0
"""How long a process may leave what is sent to it unread before it counts as lost."""

OUTPUT_LIMIT_BYTES = 1 << 28
"""How much a command may say on stdout; more is taken for a machine gone mad."""

READ_BYTES = 1 << 18
_START_LIMIT_S = 30.0
_SWEEP_LIMIT_S = 15.0
_POLL_S = 0.05
_NOTICE_S = 0.25
_KILLS = 20

# $1: signal, $2 and $3: name and value of the mark, apart because a server with a ForceCommand puts this
# very command into the environment, and it must not find itself.  Prints the processes it has found.
_SWEEP = (
    'for f in $(grep -ls -- "$2=$3" /proc/[0-9]*/environ); do'
    ' p=${f%/environ}; p=${p#/proc/}; kill "-$1" "$p" 2>/dev/null && echo "$p"; done; true'
)

# What the library raises when a connection goes; a TimeoutError is an OSError too, so it is caught first.
LOST = (paramiko.SSHException, OSError, EOFError)


class SshChannel(Channel):
    """A running command.

    Args:
        device: Name of the device, for errors.
        channel: Its channel, the command started.
        keep_bytes: How much of the end of its stderr is kept.
        on_close: Called once, when the channel is closed, and told whether the command had ended by itself.
    """

    def __init__(
        self,
        device: str,
        channel: paramiko.Channel,
        keep_bytes: int,
        on_close: Callable[[SshChannel, bool], None],
    ) -> None:
        self._device = device
        self._channel = channel
        self._keep_bytes = keep_bytes
        self._on_close = on_close
        self._stderr = bytearray()
        self._lock = threading.Lock()
        self._complete = False
        self._closed = False
        self._drain = threading.Thread(target=self._keep_stderr, daemon=True, name=f"stderr of {device}")
        self._drain.start()

    def send(self, data: bytes) -> None:
        """See :meth:`Channel.send`."""
        sent = 0
        view = memoryview(data)
        while sent < len(data):
            try:
                self._channel.settimeout(STALL_LIMIT_S)
                # One packet's worth: the library would copy the whole rest for each packet.
                count = self._channel.send(bytes(view[sent : sent + self._channel.out_max_packet_size]))
            except TimeoutError as error:
                raise ConnectionLost(
                    self._device, f"the process has read nothing for {STALL_LIMIT_S:g} s"
                ) from error
            except LOST as error:
                what = "connection was lost" if self._transport_ends() else "process has gone"
                raise ConnectionLost(self._device, f"the {what} ({reason(error)})") from error
            if count == 0:
                raise ConnectionLost(self._device, "the process has gone")
            sent += count

    def receive(self, limit_s: float) -> bytes:
        """See :meth:`Channel.receive`."""
        if self._closed:
            raise ConnectionLost(self._device, "the channel was closed")
        try:
            self._channel.settimeout(limit_s)
            data = self._channel.recv(READ_BYTES)
        except TimeoutError as error:
            raise TimeoutError(f"{self._device}: nothing came within {limit_s:g} s") from error
        except LOST as error:
            raise ConnectionLost(self._device, f"the connection was lost ({reason(error)})") from error
        finally:
            self._channel.settimeout(None)  # the thread that drains stderr shares this setting
        if not data and not self._channel.eof_received:
            self._transport_ends()
            raise ConnectionLost(self._device, "the connection was lost in the middle")
        return data

    def stderr_tail(self) -> str:
        """See :meth:`Channel.stderr_tail`."""
        return self._kept().decode(errors="replace")

    def close(self) -> None:
        """See :meth:`Channel.close`.  Processes get time to end by themselves, then SIGTERM, then SIGKILL."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._on_close(self, self._complete)
        self.abandon()

    # ------------------------------------------------------------------ for the connection

    def complete(self, stdin: bytes, limit_s: float, name: str) -> Completed:
        """Sends all input and collects all output, until the command has ended.

        Raises:
            ConnectionLost: If that takes longer than ``limit_s``, or the connection has gone.
        """
        deadline = time.monotonic() + limit_s
        if stdin:
            threading.Thread(target=self._feed, args=(stdin,), daemon=True).start()
        else:
            self.end_input()
        try:
            stdout = self._receive_all(deadline, name)
        except TimeoutError:
            stdout = None
        if stdout is None or not self.ended(deadline - time.monotonic()):
            raise ConnectionLost(self._device, f"{name!r} took longer than {limit_s:g} s")
        status = self._status(name)
        self._drain.join()
        self._complete = True
        return Completed(status, stdout, self._kept())

    def end_input(self) -> None:
        """Closes the command's stdin."""
        with contextlib.suppress(*LOST):  # what has gone reads no more
            self._channel.shutdown_write()

    def ended(self, within_s: float) -> bool:
        """Whether the command ends, or its connection goes, in time."""
        return self._channel.status_event.wait(max(within_s, 0.0))

    def abandon(self) -> None:
        """Closes the channel and leaves the command to itself."""
        self._closed = True
        with contextlib.suppress(*LOST):  # what has gone need not be closed
            self._channel.close()
        self._drain.join()

    # ------------------------------------------------------------------ inside

    def _receive_all(self, deadline: float, name: str) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while data := self.receive(max(deadline - time.monotonic(), 0.0)):
            chunks.append(data)
            size += len(data)
            if size > OUTPUT_LIMIT_BYTES:
                raise ConnectionLost(self._device, f"{name!r} said more than {OUTPUT_LIMIT_BYTES} bytes")
        return b"".join(chunks)

    def _feed(self, stdin: bytes) -> None:
        # A command may end without having read its input; whoever reads its output sees what became of it.
        with contextlib.suppress(ConnectionLost):
            self.send(stdin)
        self.end_input()

    def _status(self, name: str) -> int:
        """The exit status; -1 if a signal ended the command, which the library does not tell further."""
        status = self._channel.recv_exit_status()
        if status == -1 and self._transport_ends():
            raise ConnectionLost(self._device, f"the connection was lost while {name!r} ran")
        return status

    def _transport_ends(self) -> bool:
        return _has_gone(self._channel.get_transport())

    def _kept(self) -> bytes:
        return bytes(self._stderr[-self._keep_bytes :])

    def _keep_stderr(self) -> None:
        while True:
            try:
                data = self._channel.recv_stderr(READ_BYTES)
            except TimeoutError:
                continue
            except LOST:
                return
            if not data:
                return
            self._stderr += data
            if len(self._stderr) > 2 * self._keep_bytes:
                del self._stderr[: -self._keep_bytes]


def launch(transport: paramiko.Transport, device: str, command: str) -> paramiko.Channel:
    """Starts a command line; the channel is open when the server has agreed.

    Raises:
        ConnectionLost: If the server does not, or the connection has gone.
    """
    # The library waits for the server's answer without a limit.
    guard = threading.Timer(_START_LIMIT_S, transport.close)
    guard.daemon = True
    guard.start()
    try:
        channel = transport.open_session(timeout=_START_LIMIT_S)
        channel.exec_command(command)
    except paramiko.ChannelException as error:
        raise ConnectionLost(
            device, f"the server starts no further command ({reason(error)}); is its MaxSessions too small?"
        ) from error
    except LOST as error:
        what = "the connection was lost" if _has_gone(transport) else "the server starts no command"
        raise ConnectionLost(device, f"{what} ({reason(error)})") from error
    finally:
        guard.cancel()
    return channel


def _has_gone(transport: paramiko.Transport) -> bool:
    """Whether a connection has gone; the library's thread may know it a moment later than its user."""
    transport.join(_NOTICE_S)
    return not transport.is_active()


def end_processes(
    transport: paramiko.Transport, device: str, mark: str, channels: Iterable[SshChannel]
) -> None:
    """Ends everything that carries a mark: end of input, then SIGTERM, then SIGKILL, with time between.

    Args:
        transport: The way there.
        device: Name of the device, for errors.
        mark: Beginning of an environment variable, ``NAME=value...``.
        channels: The commands among it that we still talk to.

    Raises:
        ConnectionLost: If the connection goes meanwhile.
    """
    commands = list(channels)
    for channel in commands:
        channel.end_input()
    deadline = time.monotonic() + GRACE_S
    for channel in commands:
        channel.ended(deadline - time.monotonic())
    if not _signal(transport, device, mark, "TERM"):
        return
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline:
        time.sleep(_POLL_S)
        if not _signal(transport, device, mark, "0"):
            return
    # Again and again, since a process may have forked meanwhile; one that hangs in the kernel stays.
    for _ in range(_KILLS):
        if not _signal(transport, device, mark, "KILL"):
            return


def _signal(transport: paramiko.Transport, device: str, mark: str, signal: str) -> bool:
    """Sends a signal to all processes with a mark; whether there were any."""
    command = shlex.join(["sh", "-c", _SWEEP, "sh", signal, *mark.split("=", 1)])
    sweep = SshChannel(device, launch(transport, device, command), READ_BYTES, lambda *_: None)
    try:
        return bool(sweep.complete(b"", _SWEEP_LIMIT_S, "sh").stdout)
    finally:
        sweep.close()
