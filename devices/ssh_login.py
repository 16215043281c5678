"""Logging in: agent keys, key files, passphrases, passwords.

Tried in this order: the agent's keys (those that the configuration names before the others), key files
that are not encrypted, encrypted ones, questions.  So a passphrase or a password is asked for only when
everything that needs none was refused.  Secrets live in memory alone: in no log, argument or error.
"""

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

from devices.device import AskSecret
from devices.ssh_config import SshOptions
from results.errors import AuthenticationError

_ATTEMPTS = 3
"""How often a passphrase or a password may be mistyped, as in OpenSSH."""

_LOGIN_LIMIT_S = 30.0
_PERSON_LIMIT_S = 300.0
"""How long the answer to one step may take while a person types, or an agent asks its user for leave."""


class Secrets:
    """Keys unlocked and passwords typed for one device, kept so that a reconnection asks nobody again.

    Args:
        ask: Asks a person; None where there is nobody.
    """

    def __init__(self, ask: AskSecret | None) -> None:
        self._ask = ask
        self._keys: dict[Path, paramiko.PKey] = {}
        self._passwords: dict[str, str] = {}

    @property
    def can_ask(self) -> bool:
        """Whether there is somebody to ask."""
        return self._ask is not None

    def ask(self, question: str) -> str | None:
        """An answer; None or empty where there is none."""
        return self._ask(question) if self._ask else None

    def key(self, path: Path) -> paramiko.PKey | None:
        """The key of a file that was unlocked before."""
        return self._keys.get(path)

    def keep_key(self, path: Path, key: paramiko.PKey) -> None:
        """Keeps an unlocked key."""
        self._keys[path] = key

    def password(self, login: str) -> str | None:
        """The password that let us in before."""
        return self._passwords.get(login)

    def keep_password(self, login: str, password: str) -> None:
        """Keeps a password that let us in."""
        self._passwords[login] = password


class _Attempt(NamedTuple):
    """A key to be tried and how to call it when it is refused."""

    name: str
    key: paramiko.PKey


@dataclass(frozen=True)
class _KeyFile:
    path: Path
    public: bytes | None
    """Its public key, where it can be known without unlocking the file."""
    key: paramiko.PKey | None
    locked: bool = False
    trouble: str = ""


def log_in(transport: paramiko.Transport, options: SshOptions, secrets: Secrets, device: str) -> None:
    """Logs in over a transport whose host key has been checked.

    Raises:
        AuthenticationError: Saying what was tried and what to do.
        paramiko.SSHException: If the connection is lost meanwhile.
        OSError: Likewise.
    """
    _Login(transport, options, secrets, device).run()


class _Login:
    """One login: what the server still accepts, and what it has refused."""

    def __init__(
        self, transport: paramiko.Transport, options: SshOptions, secrets: Secrets, device: str
    ) -> None:
        self._transport = transport
        self._options = options
        self._secrets = secrets
        self._device = device
        self._tried: list[str] = []
        self._methods: set[str] = set()

    def run(self) -> None:
        self._transport.auth_timeout = _LOGIN_LIMIT_S
        try:
            self._transport.auth_none(self._options.user)
            return
        except paramiko.BadAuthenticationType as error:
            self._methods = set(error.allowed_types)
        with contextlib.ExitStack() as stack:
            agent = _open_agent(self._options.agent)
            if agent is not None:
                stack.callback(agent.close)
            try:
                done = self._try_keys(agent) or self._try_questions()
            except (paramiko.SSHException, OSError, EOFError) as error:
                if self._transport.is_active() or not self._tried:
                    raise
                # OpenSSH hangs up after MaxAuthTries (6) refusals.
                raise self._refused("it hung up: perhaps too many keys were offered") from error
        if not done:
            raise self._refused()

    def _refused(self, detail: str = "") -> AuthenticationError:
        tried = "; ".join(self._tried) or "nothing: no key was found"
        ways = ", ".join(sorted(self._methods)) or "nothing more"
        remedy = (
            "Put a public key there with `ssh-copy-id`, name the right key in the lab file (identity_file)"
        )
        if not self._secrets.can_ask:
            remedy += ", unlock an encrypted key with `ssh-add`, or run it where a password can be asked for"
        return AuthenticationError(
            self._device,
            f"{self._options} does not let us in{' (' + detail + ')' if detail else ''}."
            f" Tried: {tried}. It accepts: {ways}. {remedy}",
        )

    # ------------------------------------------------------------------ keys

    def _try_keys(self, agent: _Agent | None) -> bool:
        files = [_key_file(path, self._secrets) for path in self._options.identity_files if path.is_file()]
        offered: set[bytes] = set()
        attempts = [*_agent_attempts(agent, files, self._options.identities_only)]
        attempts += [_Attempt(str(file.path), file.key) for file in files if file.key]
        for attempt in attempts:
            if attempt.key.asbytes() not in offered and "publickey" in self._methods:
                offered.add(attempt.key.asbytes())
                if self._try_key(attempt):
                    return True
        for file in files:
            if file.trouble:
                self._tried.append(f"{file.path} ({file.trouble})")
            elif file.locked and file.public not in offered and self._try_locked(file):
                return True
        return False

    def _try_key(self, attempt: _Attempt) -> bool:
        name = f"{attempt.name} {attempt.key.fingerprint}"
        self._transport.auth_timeout = (
            _PERSON_LIMIT_S if isinstance(attempt.key, paramiko.AgentKey) else _LOGIN_LIMIT_S
        )
        # Noted before: where the server hangs up, the error must name this key too.
        self._tried.append(f"{name} (refused)")
        try:
            remaining = self._transport.auth_publickey(self._options.user, attempt.key)
        except paramiko.BadAuthenticationType as error:
            self._methods = set(error.allowed_types)
            return False
        except paramiko.AuthenticationException:
            if not self._transport.is_active():
                raise
            return False
        return self._accepted(remaining, name)

    def _accepted(self, remaining: Sequence[str], name: str) -> bool:
        """Whether the login is complete; a server may want a second proof after the first."""
        if remaining:
            self._tried[-1] = f"{name} (accepted, but more is wanted)"
            self._methods = set(remaining)
        return not remaining

    def _try_locked(self, file: _KeyFile) -> bool:
        if "publickey" not in self._methods:
            return False
        for _ in range(_ATTEMPTS):
            passphrase = self._secrets.ask(f"Passphrase for the key {file.path}: ")
            if not passphrase:
                break
            key = _unlock(file.path, passphrase)
            if key is not None:
                self._secrets.keep_key(file.path, key)
                return self._try_key(_Attempt(str(file.path), key))
        reason = "wrong passphrase" if self._secrets.can_ask else "encrypted, and nobody to ask"
        self._tried.append(f"{file.path} ({reason})")
        return False

    # ------------------------------------------------------------------ questions

    def _try_questions(self) -> bool:
        """Password or keyboard-interactive, with whoever can be asked."""
        login = str(self._options)
        kept = self._secrets.password(login)
        for attempt in range(_ATTEMPTS):
            way = next((w for w in ("password", "keyboard-interactive") if w in self._methods), None)
            if way is None:
                return False
            password = kept if kept and not attempt else self._secrets.ask(f"Password for {login}: ")
            if not password:
                return False
            self._tried.append(f"{way} (refused)")
            if self._try_password(way, password):
                self._secrets.keep_password(login, password)
                return True
        return False

    def _try_password(self, way: str, password: str) -> bool:
        self._transport.auth_timeout = _PERSON_LIMIT_S
        try:
            if way == "password":
                remaining = self._transport.auth_password(self._options.user, password, fallback=False)
            else:
                remaining = self._transport.auth_interactive(self._options.user, self._answering(password))
        except paramiko.BadAuthenticationType as error:
            self._methods = set(error.allowed_types)
            return False
        except paramiko.AuthenticationException:
            if not self._transport.is_active():
                raise
            return False
        return self._accepted(remaining, way)

    def _answering(self, password: str) -> _Answers:
        return _Answers(password, self._secrets)


class _Answers:
    """Answers a server's questions: the first with the password, further ones by asking."""

    def __init__(self, password: str, secrets: Secrets) -> None:
        self._password: str | None = password
        self._secrets = secrets

    def __call__(self, title: str, instructions: str, questions: Sequence[tuple[str, bool]]) -> list[str]:
        answers: list[str] = []
        for question, _ in questions:
            answer, self._password = self._password, None
            answers.append(answer if answer is not None else self._secrets.ask(question) or "")
        return answers


# ---------------------------------------------------------------------- agent and files


class _Agent(AgentSSH):
    """An ssh agent at a path of our choice; paramiko's own looks at ``SSH_AUTH_SOCK`` alone."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__()
        self._socket = connected
        self._connect(connected)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._socket.close()


def _open_agent(path: str | None) -> _Agent | None:
    """The agent, or None where none answers: its socket often outlives it."""
    if path is None:
        return None
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(_PERSON_LIMIT_S)
        connected.connect(path)
        return _Agent(connected)
    except (OSError, paramiko.SSHException):
        connected.close()
        return None


def _agent_attempts(agent: _Agent | None, files: Sequence[_KeyFile], only: bool) -> Iterator[_Attempt]:
    """The agent's keys, those that belong to a configured file first (``IdentitiesOnly``: no others)."""
    keys = agent.get_keys() if agent else ()
    configured = {file.public for file in files}
    for key in keys:
        if key.asbytes() in configured:
            yield _Attempt(f"agent key {key.comment}", key)
    for key in keys:
        if not only and key.asbytes() not in configured:
            yield _Attempt(f"agent key {key.comment}", key)


def _key_file(path: Path, secrets: Secrets) -> _KeyFile:
    unlocked = secrets.key(path)
    if unlocked is not None:
        return _KeyFile(path, unlocked.asbytes(), unlocked)
    public = _public_half(path)
    try:
        key = paramiko.PKey.from_path(str(path))
    except (TypeError, paramiko.PasswordRequiredException):  # what cryptography says of a locked key
        return _KeyFile(path, public, None, locked=True)
    except (ValueError, paramiko.SSHException, UnknownKeyType):
        # A public key alone selects a key of the agent's.
        return _KeyFile(path, public, None, trouble="" if public else "not a private key that can be read")
    except OSError as error:
        return _KeyFile(path, public, None, trouble=f"{error.strerror}")
    return _KeyFile(path, key.asbytes(), key)


def _unlock(path: Path, passphrase: str) -> paramiko.PKey | None:
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
