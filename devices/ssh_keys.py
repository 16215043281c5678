"""Keys to log in with: those in files and those that an ssh agent holds."""

from __future__ import annotations

import base64
import binascii
import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import paramiko
from paramiko.agent import AgentSSH
from paramiko.pkey import UnknownKeyType

_AGENT_LIMIT_S = 300.0
"""How long an agent may take: it may ask its user for leave."""


class OfferedKey(NamedTuple):
    """A key to be tried and how to call it when it is refused."""

    name: str
    key: paramiko.PKey


@dataclass(frozen=True)
class KeyFile:
    """What a key file holds.

    Attributes:
        path: The file.
        public: Its public key in wire format, where that can be known without unlocking it.
        key: The key; None where it is encrypted or cannot be used.
        locked: Whether it is encrypted.
        trouble: Why it cannot be used, if so.
    """

    path: Path
    public: bytes | None
    key: paramiko.PKey | None = None
    locked: bool = False
    trouble: str = ""


class Agent(AgentSSH):
    """An ssh agent at a path of our choice; paramiko's own looks at ``SSH_AUTH_SOCK`` alone."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__()
        self._socket = connected
        self._connect(connected)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()


def open_agent(path: str | None) -> Agent | None:
    """The agent, or None where none answers: its socket often outlives it."""
    if path is None:
        return None
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(_AGENT_LIMIT_S)
        connected.connect(path)
        return Agent(connected)
    except (OSError, paramiko.SSHException):
        connected.close()
        return None


def agent_keys(agent: Agent | None, files: Sequence[KeyFile], only: bool) -> Iterator[OfferedKey]:
    """The agent's keys, those that belong to a configured file first (``IdentitiesOnly``: no others)."""
    keys = agent.get_keys() if agent else ()
    configured = {file.public for file in files}
    for key in keys:
        if key.asbytes() in configured:
            yield OfferedKey(f"agent key {key.comment}", key)
    for key in keys:
        if not only and key.asbytes() not in configured:
            yield OfferedKey(f"agent key {key.comment}", key)


def read_key_file(path: Path) -> KeyFile | None:
    """What a key file holds; None where there is no such file."""
    public = _public_half(path)
    try:
        key = paramiko.PKey.from_path(str(path))
    except FileNotFoundError:
        return None
    except (TypeError, paramiko.PasswordRequiredException):  # what cryptography says of a locked key
        return KeyFile(path, public, locked=True)
    except (ValueError, paramiko.SSHException, UnknownKeyType):
        # A public key alone selects a key of the agent's.
        return KeyFile(path, public, trouble="" if public else "not a private key that can be read")
    except OSError as error:
        return KeyFile(path, public, trouble=f"{error.strerror}")
    return KeyFile(path, key.asbytes(), key)


def unlock(path: Path, passphrase: str) -> paramiko.PKey | None:
    """The key of an encrypted file; None if the passphrase is wrong."""
    try:
        return paramiko.PKey.from_path(str(path), passphrase.encode())  # type: ignore[arg-type]
    except (ValueError, paramiko.SSHException):
        return None


def _public_half(path: Path) -> bytes | None:
    """The public key in ``path`` itself or in ``path.pub``, in wire format."""
    for file in (path, Path(f"{path}.pub")):
        with contextlib.suppress(OSError, UnicodeDecodeError, binascii.Error, IndexError):
            line = file.read_text()
            if not line.startswith("-----"):
                return base64.b64decode(line.split()[1], validate=True)
    return None
