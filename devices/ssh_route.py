"""The way to a host: sockets, jump hosts, proxy commands; every host key checked, every login made.

The route is laid hop by hop, and each hop is resolved, checked and logged in to as if it were the goal.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import paramiko

from devices.host_keys import HostKey, KnownHosts
from devices.ssh_config import SshAddress, SshOptions, resolve
from devices.ssh_login import Secrets, log_in
from results.errors import ConfigError, ConnectionLost

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
"""In order of preference.  AES-GCM needs no MAC beside it and is the fastest of them here."""

DEAD_AFTER_S = 35
"""How long a machine may leave unanswered what was sent, before the connection counts as lost."""

KEEP_ALIVE_S = 15
"""Silence after which the kernel asks whether the other side is there; no process is woken for it."""

SSH_KEEP_ALIVE_S = 60
"""Silence after which the SSH layer says something, for the sake of firewalls between."""

_BANNER_LIMIT_S = 30.0
_HANDSHAKE_LIMIT_S = 30.0
_CHANNEL_LIMIT_S = 30.0
_END_LIMIT_S = 2.0
_DEEPEST = 8

# The library logs every loss with a traceback, which Python prints if nobody listens; we raise instead.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class SshSettings:
    """Where to go and what to rely on.

    Attributes:
        address: The goal.
        known_hosts: Boardwise's own known_hosts file; the user's files count too.
        identity_file: The one private key to use; None for what the user's configuration says.
        config_file: ssh configuration to read instead of the user's.
    """

    address: SshAddress
    known_hosts: Path
    identity_file: Path | None = None
    config_file: Path | None = None


class _UnknownHost(Exception):
    """A hop whose key is not known; carries the key to whoever asks the user."""

    def __init__(self, key: HostKey) -> None:
        super().__init__(key.line)
        self.key = key


class Route:
    """A chain of transports, each through the one before; the last one ends at the goal.

    Args:
        device: Name of the device, for errors.
        settings: Where to go.
        secrets: Keys and passwords.
    """

    def __init__(self, device: str, settings: SshSettings, secrets: Secrets) -> None:
        self._device = device
        self._settings = settings
        self._secrets = secrets
        self._closers: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._report_unknown = False
        self._proxy_says: IO[bytes] | None = None

    def connect(self) -> paramiko.Transport:
        """The goal's transport, logged in.

        Raises:
            ConnectionLost: If a hop cannot be reached.
            HostKeyError: If the key of a hop is unknown, revoked or another one than was trusted.
            AuthenticationError: If a hop does not let us in.
            ConfigError: If the user's configuration cannot be used.
        """
        return self._enter(self._goal(), None, 0)

    def first_unknown_key(self) -> HostKey:
        """The first key on the way that is not trusted, or else the goal's, which is; no login there.

        Raises:
            BoardError, ConfigError: As in :meth:`connect`.
        """
        self._report_unknown = True
        try:
            options = self._goal()
            key = _shown(self._reach(options, None, 0), options)
            return replace(key, trusted=self._known_hosts(options).check(key))
        except _UnknownHost as unknown:
            return unknown.key

    def close(self) -> None:
        """Closes everything, the goal first; from any thread, also while it is being laid."""
        with self._lock:
            self._closed = True
            closers, self._closers = self._closers, []
        for close in reversed(closers):
            close()

    # ------------------------------------------------------------------ one hop

    def _goal(self) -> SshOptions:
        options = resolve(self._settings.address, self._settings.config_file)
        identity = self._settings.identity_file
        if identity is None:
            return options
        if not identity.is_file():
            raise ConfigError(f"{self._device}: identity_file {identity} does not exist")
        return replace(options, identity_files=(identity,), identities_only=True)

    def _known_hosts(self, options: SshOptions) -> KnownHosts:
        return KnownHosts.read(self._device, (self._settings.known_hosts, *options.known_hosts))

    def _enter(
        self, options: SshOptions, through: paramiko.Transport | None, depth: int
    ) -> paramiko.Transport:
        """A transport to a host, its key checked, logged in."""
        transport = self._reach(options, through, depth)
        key = _shown(transport, options)
        known_hosts = self._known_hosts(options)
        if not known_hosts.check(key):
            if self._report_unknown:
                raise _UnknownHost(key)
            known_hosts.refuse_unknown(key)
        try:
            log_in(transport, options, self._secrets, self._device)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ConnectionLost(
                self._device, f"{options}: the connection was lost while logging in ({reason(error)})"
            ) from error
        transport.set_keepalive(SSH_KEEP_ALIVE_S)
        return transport

    def _reach(
        self, options: SshOptions, through: paramiko.Transport | None, depth: int
    ) -> paramiko.Transport:
        """A transport to a host, keys exchanged; whose key it is has not been checked."""
        if depth > _DEEPEST:
            raise ConfigError(f"{self._device}: ProxyJump of {options.host} leads in a circle")
        end = self._end(options, through, depth)
        transport = paramiko.Transport(end)
        self._closing(lambda: _close_transport(transport, end))
        transport.banner_timeout = _BANNER_LIMIT_S
        transport.handshake_timeout = _HANDSHAKE_LIMIT_S
        security = transport.get_security_options()
        security.ciphers = tuple(name for name in CIPHERS if name in security.ciphers)
        # As OpenSSH: a host that is known by one key must not look changed because it has others too.
        known = self._known_hosts(options).algorithms(options.known_as)
        security.key_types = tuple(sorted(security.key_types, key=lambda name: name not in known))
        try:
            transport.start_client()
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ConnectionLost(
                self._device,
                f"{options.host} port {options.port} does not speak SSH with us"
                f" ({self._proxy_error() or reason(error)}); does an SSH server run there, on that port?",
            ) from error
        return transport

    def _end(
        self, options: SshOptions, through: paramiko.Transport | None, depth: int
    ) -> socket.socket | paramiko.Channel:
        """Our end of a byte stream to a host's port."""
        for index, address in enumerate(options.jumps):
            hop = resolve(address, self._settings.config_file)
            # Only the first jump host is reached in its own way; the others through the one before.
            hop = replace(hop, jumps=(), proxy_command=None) if index else hop
            through = self._enter(hop, through, depth + 1)
        if through is not None:
            return self._tunnel(options, through)
        if options.proxy_command:
            return self._proxied(options.proxy_command)
        return self._direct(options)

    # ------------------------------------------------------------------ byte streams

    def _direct(self, options: SshOptions) -> socket.socket:
        try:
            end = socket.create_connection((options.host, options.port), options.connect_limit_s)
        except OSError as error:
            raise ConnectionLost(self._device, _unreachable(options, error)) from error
        self._closing(end.close)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", KEEP_ALIVE_S),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", (DEAD_AFTER_S - KEEP_ALIVE_S) // 5),
            ("TCP_USER_TIMEOUT", DEAD_AFTER_S * 1000),
        ):
            if hasattr(socket, name):  # Linux has them all
                end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return end

    def _tunnel(self, options: SshOptions, through: paramiko.Transport) -> paramiko.Channel:
        try:
            return through.open_channel(
                "direct-tcpip", (options.host, options.port), ("127.0.0.1", 0), timeout=_CHANNEL_LIMIT_S
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ConnectionLost(
                self._device,
                f"the jump host cannot reach {options.host} port {options.port} ({reason(error)})",
            ) from error

    def _proxied(self, command: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._closing(ours.close)
        self._proxy_says = said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the route
        self._closing(said.close)
        with theirs:
            # A session of its own: Ctrl-C at the terminal must not cut the way before we have cleaned up.
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=said.fileno(),
                start_new_session=True,
            )
        self._closing(lambda: _end_process(process))
        return ours

    def _proxy_error(self) -> str:
        """The last line that a proxy command wrote to its stderr."""
        if self._proxy_says is None:
            return ""
        self._proxy_says.seek(0)
        return self._proxy_says.read().decode(errors="replace").strip().rpartition("\n")[2]

    def _closing(self, close: Callable[[], None]) -> None:
        """Has something closed with the route; at once, if the route was closed meanwhile."""
        with self._lock:
            if not self._closed:
                self._closers.append(close)
                return
        close()
        raise ConnectionLost(self._device, "the connection was closed while it was being made")


def reason(error: BaseException) -> str:
    """What a library's error says, or its kind where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip() or ("hung up" if isinstance(error, EOFError) else type(error).__name__)


def _shown(transport: paramiko.Transport, options: SshOptions) -> HostKey:
    key = transport.get_remote_server_key()
    return HostKey(options.known_as, key.get_name(), key.asbytes())


def _unreachable(options: SshOptions, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name {options.host} is not known ({error.strerror}); is it spelled right?"
    return (
        f"cannot reach {options.host} port {options.port} ({reason(error)}); is the board on and in this"
        " network, does its SSH server run, is the port right?"
    )


def _close_transport(transport: paramiko.Transport, end: socket.socket | paramiko.Channel) -> None:
    if isinstance(end, socket.socket):
        # Wakes the library's reading thread, which else looks up only ten times a second.
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    transport.close()
    end.close()
    # After a failed handshake its timer would hold up the end of the program.
    transport.packetizer.complete_handshake()
    if transport.is_alive() and transport is not threading.current_thread():
        transport.join(_END_LIMIT_S)


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
